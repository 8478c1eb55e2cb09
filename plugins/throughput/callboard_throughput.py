"""Measure samples, tokens and model FLOPs a second, of the training of each epoch.

Listens to  before_fit, before_train, before_batch, after_batch, after_train, teardown
Changes     nothing; publishes what it measured in ``learner.results``
Source      model FLOPs by ``torch.utils.flop_counter``; their use as a measure:
            Chowdhery et al. 2022, arXiv:2204.02311, appendix B
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from callboard import Callback
from callboard.callback import Role
from callboard.data import batch_size
from callboard.errors import OptionError

TOKEN_DTYPES = (torch.int64, torch.int32)
PUBLISHED = (
    "samples_per_second",
    "tokens_per_second",
    "model_tflops_per_second",
    "model_flops_utilization",
)


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries it out: no run is as fast as another."""
    from callboard.testing import Specimen

    return {"throughput": Specimen(ignore=PUBLISHED)}


class Throughput(Callback):
    """Publishes how much is trained on in a second.

    ``learner.results`` gets ``samples_per_second``; ``tokens_per_second`` where batches
    hold tokens; ``model_tflops_per_second`` where the model multiplies matrices; and
    ``model_flops_utilization``, a share from 0 to 1, where ``peak_tflops`` is given.

    The first batch of a fit is not timed, since its FLOPs are counted and workers and
    compilers start in it, unless it is the only one of its epoch.

    Args:
        flops: Count the FLOPs of the first training batch, forward and backward.
        peak_tflops: What the device can do in 10^12 FLOPs a second, at the precision
            of the training.
        count_tokens: Gives the number of tokens of a batch's inputs, a tuple or a
            dict. Default: the elements of ``input_ids``, or else of the first tensor of
            int64 or int32 with two dimensions or more.

    Attributes:
        flops_per_sample: What was counted; None before that.
        higher_is_better: For all that is published: True.

    Raises:
        OptionError: ``peak_tflops`` is no positive number.
    """

    name = "throughput"
    role: Role = "observe"
    run_valid = False
    higher_is_better: ClassVar[Mapping[str, bool]] = dict.fromkeys(PUBLISHED, True)

    def __init__(
        self,
        *,
        flops: bool = True,
        peak_tflops: float | None = None,
        count_tokens: Callable[[Any], int] | None = None,
    ) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise OptionError(
                f"throughput: peak_tflops must be above 0, got {peak_tflops!r}. The "
                "data sheet of the device has it; 989 for an H100 in bfloat16."
            )
        self.flops = flops
        self.peak_tflops = peak_tflops
        self.count_tokens = count_tokens or num_tokens
        self.flops_per_sample: float | None = None
        self._counter: Any = None
        self._is_first = True
        self._forget()

    def _forget(self) -> None:
        self._begin: Any = None
        self._num_samples = self._num_tokens = 0

    def before_fit(self) -> None:
        """Count the first batch anew: model and data may be others by now."""
        self._is_first, self.flops_per_sample = True, None

    def before_train(self) -> None:
        """Begin to time."""
        self._forget()
        self._begin = self._moment()

    def before_batch(self) -> None:
        """Begin to count FLOPs, in the first batch of a fit."""
        if self._is_first and self.flops and self._counter is None:
            counter: Any = FlopCounterMode(display=False)
            self._counter = counter.__enter__()

    def after_batch(self) -> None:
        """Count the batch's samples and tokens, by the shapes of its tensors."""
        inputs = self.learn.xb
        self._num_samples += batch_size(inputs)
        self._num_tokens += self.count_tokens(inputs)
        if self._is_first:
            self._end_first_batch()

    def _end_first_batch(self) -> None:
        self._is_first = False
        flops = self._stop_counting()
        if flops:
            self.flops_per_sample = flops / max(1, self._num_samples)
        learner = self.learn
        if learner.n_iter is None or learner.n_iter - learner.iter > 1:
            self.before_train()

    def _stop_counting(self) -> int:
        counter, self._counter = self._counter, None
        if counter is None:
            return 0
        counter.__exit__(None, None, None)
        return int(counter.get_total_flops())

    def after_train(self) -> None:
        """Publish, having waited for a GPU once to know when it was done."""
        begin, self._begin = self._begin, None
        if begin is None or not self._num_samples:
            return
        rates = rates_of(
            self._seconds_since(begin),
            num_samples=self._num_samples,
            num_tokens=self._num_tokens,
            flops_per_sample=self.flops_per_sample,
            peak_tflops=self.peak_tflops,
        )
        self.learn.results.update(rates)

    def teardown(self) -> None:
        """End the counting of a batch that an error broke off."""
        self._stop_counting()

    def _moment(self) -> Any:
        """This moment on the device: a clock's time, or an event in a GPU's stream."""
        if self.learn.device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds_since(self, begin: Any) -> float:
        end = self._moment()
        if isinstance(begin, float):
            return float(end - begin)
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000


def rates_of(
    seconds: float,
    *,
    num_samples: int,
    num_tokens: int = 0,
    flops_per_sample: float | None = None,
    peak_tflops: float | None = None,
) -> dict[str, float]:
    """What is published, by name; what is not known is left out.

    Args:
        seconds: Time that it took.
        num_samples: Samples in that time.
        num_tokens: Tokens in that time.
        flops_per_sample: Floating point operations that a sample takes.
        peak_tflops: What the device can do in 10^12 of them a second.
    """
    seconds = max(seconds, 1e-9)
    rates = {"samples_per_second": num_samples / seconds}
    if num_tokens:
        rates["tokens_per_second"] = num_tokens / seconds
    if flops_per_sample:
        tflops = flops_per_sample * rates["samples_per_second"] / 1e12
        rates["model_tflops_per_second"] = tflops
        if peak_tflops:
            rates["model_flops_utilization"] = tflops / peak_tflops
    return rates


def num_tokens(inputs: Any) -> int:
    """Number of tokens in a batch's inputs, padding included; 0 where it holds none."""
    if isinstance(inputs, Mapping):
        named = inputs.get("input_ids")
        inputs = [named] if isinstance(named, Tensor) else inputs.values()
    for part in inputs:
        if isinstance(part, Tensor) and part.ndim > 1 and part.dtype in TOKEN_DTYPES:
            return part.numel()
    return 0
