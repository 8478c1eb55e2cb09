"""The search: sizes are doubled until one does not fit, or takes too long."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Real
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from callboard import Callback, DataLoaders
from callboard.data import batch_size, example_batch, num_batches
from callboard.errors import DataError, OptionError
from callboard_batch_size_finder.batches import resized
from callboard_batch_size_finder.memory import LiveBytes, free_bytes, is_out_of_memory
from callboard_lr_finder import untouched_plugins, untouched_training

if TYPE_CHECKING:
    from callboard import Learner

# Scratch space of kernels and what the allocator cannot use are in no count.
SHARE_OF_FREE = 0.8
# A size that trains as many samples a second as the best, but for this share, is as
# good: what is left is within the noise of the clock.
AS_GOOD = 0.95
MOST_UNKNOWN = 65536
# The first makes the optimizer's state, and torch.compile wants to see a shape twice.
NUM_WARM_UP = 2
RAN_OUT = "memory ran out"
BYTES_PER_MB, BYTES_PER_GB = 1_000_000, 1_000_000_000


@dataclass(frozen=True)
class Trial:
    """A size that was looked at.

    Attributes:
        size: Number of samples in a batch.
        peak_bytes: The most memory that a step took above weights and optimizer;
            foreseen where the size was not run.
        seconds: What a step took; None where the size was not run.
        problem: Why the size does not fit; empty where it does.
    """

    size: int
    peak_bytes: int
    seconds: float | None
    problem: str = ""

    @property
    def samples_per_second(self) -> float:
        """How many samples were trained in a second; 0 where the size was not run."""
        return self.size / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        memory = f"{self.peak_bytes / BYTES_PER_MB:>11,.1f} MB"
        if self.problem:
            return f"{self.size:>7} {memory}   {self.problem}"
        speed = f"{self.samples_per_second:>13,.0f} samples/s"
        return f"{self.size:>7} {memory} {1000 * (self.seconds or 0):>9.2f} ms {speed}"


@dataclass(frozen=True)
class BatchSizes:
    """What a search has found; prints as a table.

    Attributes:
        trials: All sizes that were looked at, the smallest first.
        reason: Why the search ended.
    """

    trials: tuple[Trial, ...]
    reason: str

    @property
    def fitting(self) -> list[Trial]:
        """The sizes that fit."""
        return [trial for trial in self.trials if not trial.problem]

    @property
    def largest(self) -> int:
        """The largest size that fits."""
        return self.fitting[-1].size

    @property
    def fastest(self) -> int:
        """The smallest size that trains as many samples a second as any, within 5 %."""
        best = max(trial.samples_per_second for trial in self.fitting)
        return next(
            trial.size
            for trial in self.fitting
            if trial.samples_per_second >= AS_GOOD * best
        )

    def __str__(self) -> str:
        lines = [str(trial) for trial in self.trials]
        ends = f"largest {self.largest}, fastest {self.fastest}: {self.reason}"
        return "\n".join([*lines, ends])


def batch_size_find(
    learner: Learner,
    *,
    start_size: int = 8,
    max_size: int | None = None,
    memory_gb: float | None = None,
    step_seconds: float = 5.0,
    num_steps: int = 3,
) -> BatchSizes:
    """Train briefly in ever larger batches, and say which size fits and which is fast.

    Weights, optimizer, random streams and what plugins hold in mind are afterwards as
    they were, however it ends. Only plugins with ``"lr-find"`` among their ``stages``
    take part, as mixed precision, which makes batches smaller.

    Args:
        learner: What is to be trained.
        start_size: Number of samples to begin with; halved while it does not fit.
        max_size: The largest size to try. Default: the number of training samples.
        memory_gb: Gigabytes that a step may take above weights and optimizer. Default:
            0.8 of what is free on the device.
        step_seconds: A step that takes longer does not fit either.
        num_steps: Training steps that are timed for each size; three more are not.

    Raises:
        OptionError: An option cannot be used; nothing was trained then.
        DataError: Not even one sample fits.
    """
    _check_number("start_size", start_size, 8)
    _check_number("num_steps", num_steps, 3)
    if max_size is not None:
        _check_number("max_size", max_size, 256)
    for name, above_zero in (("memory_gb", memory_gb), ("step_seconds", step_seconds)):
        is_right = isinstance(above_zero, Real) and above_zero > 0
        if above_zero is not None and not is_right:
            raise OptionError(
                f"batch-size-finder: {name} must be above 0, got {above_zero!r}."
            )
    with (
        learner.evaluating("lr-find"),
        untouched_plugins(learner, "lr-find"),
        untouched_training(learner, asked_by="batch-size-finder"),
    ):
        batch = example_batch(learner.dls.train)
        size = batch_size(batch)
        tries = _Tries(learner, batch, size, num_steps, step_seconds, memory_gb)
        most = max_size or _num_samples(learner.dls.train, size)
        return _search(tries, min(start_size, most), most)


def _search(tries: _Tries, size: int, most: int) -> BatchSizes:
    while tries.of(size).problem:
        if size == 1:
            raise DataError(
                "batch-size-finder: not even one sample fits: "
                f"{tries.done[1].problem}. Use a smaller model or input, or "
                "mixed-precision."
            )
        size //= 2
    while not tries.failed and size < most:
        size = min(2 * size, most)
        tries.of(size)
    reason = f"{most} is the largest that was to be tried"
    if tries.failed:
        too_large = min(tries.failed)
        problem = tries.done[too_large].problem
        reason = f"a batch of {too_large} does not fit, {problem}"
    return BatchSizes(tuple(tries.done[size] for size in sorted(tries.done)), reason)


class _Tries:
    """Tries sizes out, and foresees what the next one takes."""

    def __init__(
        self,
        learner: Learner,
        batch: Any,
        size: int,
        num_steps: int,
        step_seconds: float,
        memory_gb: float | None,
    ) -> None:
        self.learner, self.dls = learner, learner.dls
        self.batch, self.size = batch, size
        self.num_steps, self.step_seconds = num_steps, step_seconds
        self.given_bytes = memory_gb and int(memory_gb * BYTES_PER_GB)
        self.done: dict[int, Trial] = {}

    @property
    def failed(self) -> list[int]:
        return [size for size, trial in self.done.items() if trial.problem]

    def of(self, size: int) -> Trial:
        """Run a size, unless it is known that it cannot fit."""
        budget = self.given_bytes or self._free()
        foreseen = foreseen_bytes(self._peaks(), size)
        if budget is not None and foreseen > budget:
            words = f"it would take {_in_mb(foreseen)} of {_in_mb(budget)}"
            trial = Trial(size, foreseen, None, words)
        else:
            trial = self._run(size, budget)
        self.done[size] = trial
        return trial

    def _peaks(self) -> dict[int, int]:
        return {s: t.peak_bytes for s, t in self.done.items() if not t.problem}

    def _free(self) -> int | None:
        free = free_bytes(self.learner.device)
        return None if free is None else int(SHARE_OF_FREE * free)

    def _run(self, size: int, budget: int | None) -> Trial:
        meter = _Meter(self.num_steps)
        is_too_much = False
        try:
            batch = resized(self.batch, size, self.size)
            self.learner.dls = _alike(self.dls, [batch] * meter.num_batches)
            self.learner.fit(1, cbs=meter)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            is_too_much = True
        # Not in the `except`: there the error still holds what the step has made.
        batch = None
        self._let_go()
        if is_too_much:
            return Trial(size, foreseen_bytes(self._peaks(), size), None, RAN_OUT)
        problem = ""
        if budget is not None and meter.peak_bytes > budget:
            problem = f"it takes {_in_mb(meter.peak_bytes)} of {_in_mb(budget)}"
        elif meter.seconds > self.step_seconds:
            problem = f"a step takes {meter.seconds:.2g} of {self.step_seconds:g} s"
        return Trial(size, meter.peak_bytes, meter.seconds, problem)

    def _let_go(self) -> None:
        """Hold nothing of the batch that was run, nor of a step that failed."""
        learner = self.learner
        learner.dls, learner.dl = self.dls, None
        learner.xb, learner.yb = (), ()
        learner.pred = learner.loss = None
        learner.opt.zero_grad()
        gc.collect()
        if learner.device.type == "cuda":
            torch.cuda.empty_cache()


class _Meter(Callback):
    """Takes the time of some steps, and the memory of one more behind them."""

    name = "batch-size-meter"
    role = "observe"
    stages = ("lr-find",)
    run_valid = False

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.num_batches = NUM_WARM_UP + num_steps + 1
        self.seconds = 0.0
        self.peak_bytes = 0
        self._began = 0.0
        self._counting = ExitStack()

    def before_batch(self) -> None:
        device, number = self.learn.device, self.learn.iter
        if number == NUM_WARM_UP:
            _wait_for(device)
            self._began = perf_counter()
        elif number == NUM_WARM_UP + self.num_steps:
            _wait_for(device)
            self.seconds = (perf_counter() - self._began) / self.num_steps
            self._peak = self._counting.enter_context(_counting(device))

    def after_batch(self) -> None:
        if self.learn.iter + 1 == self.num_batches:
            self.peak_bytes = self._peak()
            self._counting.close()

    def teardown(self) -> None:
        self._counting.close()


@contextmanager
def _counting(device: torch.device) -> Iterator[Any]:
    """Gives what tells the most bytes that were taken on top of those taken now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    else:
        with LiveBytes() as live:
            yield lambda: live.peak


def foreseen_bytes(peaks: dict[int, int], size: int) -> int:
    """What a size takes, by a straight line through the two largest known ones.

    Args:
        peaks: Bytes by size, of those that were run.
        size: The size in question. 0 is foreseen while only one size is known.
    """
    if len(peaks) < 2:
        return 0
    smaller, larger = sorted(peaks)[-2:]
    per_sample = (peaks[larger] - peaks[smaller]) / (larger - smaller)
    return int(peaks[larger] + per_sample * (size - larger))


def _wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given: for a clock only."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _alike(dls: DataLoaders, train: Sequence[Any]) -> DataLoaders:
    return DataLoaders(train, num_inputs=dls.num_inputs, labels=dls.labels)


def _num_samples(loader: Any, size: int) -> int:
    """Number of samples, as far as it is known; one batch has ``size`` of them."""
    dataset = getattr(loader, "dataset", None)
    try:
        return max(len(dataset), 1)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return (num_batches(loader) or MOST_UNKNOWN) * size


def _in_mb(number: int) -> str:
    return f"{number / BYTES_PER_MB:,.1f} MB"


def _check_number(name: str, number: object, good: int) -> None:
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if not is_whole or number < 1:  # type: ignore[operator]
        raise OptionError(
            f"batch-size-finder: {name} must be a whole number from 1 on, got "
            f"{number!r}. Use {good}."
        )
