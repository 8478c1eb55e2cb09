"""Step once for many small batches, whose gradients add up to those of a big one.

Listens to  before_fit, before_train, before_batch, before_backward, before_step,
            after_step, after_train
Changes     loss_grad and gradients; cancels the batches after which nothing steps
Source      fastai's ``GradientAccumulation`` (Apache-2.0), written anew
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from callboard import Callback, CancelBatchException, CancelStepException
from callboard.data import batch_size
from callboard.errors import OptionError, StateError
from callboard.losses import reduction_of
from callboard.optim import needs_closure

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from callboard import Learner

Unit = Literal["samples", "batches"]
UNITS = ("samples", "batches")


def expected_samples(n_acc: int, unit: Unit, size: int) -> int:
    """Number of samples of a step whose batches are all as large as the first.

    Args:
        n_acc: What must come together at least, in ``unit``.
        unit: ``"samples"`` or ``"batches"``.
        size: Number of samples in the first batch.
    """
    num_batches = n_acc if unit == "batches" else math.ceil(n_acc / max(size, 1))
    return num_batches * size


@torch.no_grad()
def scale_gradients(parameters: Iterable[Parameter], factor: float) -> None:
    """Multiply the gradients of these parameters, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


class GradientAccumulation(Callback):
    """Steps once for many batches, with the gradient that one big batch would have.

    A batch enters with the weight of its samples, so that batches of different sizes
    add up rightly too. What is left over at the end of an epoch is stepped there.

    Args:
        n_acc: How much must come together before a step, from 1 on.
        unit: What ``n_acc`` counts: ``"samples"`` or ``"batches"``.

    Attributes:
        num_batches: Number of batches since the last step.
        num_samples: Number of samples in them.
    """

    name = "gradient-accumulation"
    role = "modify"
    run_before = ("mixed-precision", "gradient-clip")
    stages = ("fit", "lr-find")
    run_valid = False

    def __init__(self, n_acc: int = 32, unit: Unit = "samples") -> None:
        if unit not in UNITS:
            raise OptionError(
                f'{self.name}: unit must be "samples" or "batches", got {unit!r}.'
            )
        if not isinstance(n_acc, int) or isinstance(n_acc, bool) or n_acc < 1:
            raise OptionError(
                f"{self.name}: n_acc must be a whole number of {unit} from 1 on, got "
                f"{n_acc!r}. Use 4 * the batch size to step every fourth batch, or "
                'n_acc=4 with unit="batches".'
            )
        self.n_acc = n_acc
        self.unit: Unit = unit
        self.num_batches = 0
        self.num_samples = 0
        self._expected = 1
        self._is_mean = True
        self._is_last_step = False
        self._saved: Mapping[str, Any] | None = None

    def before_fit(self) -> None:
        """Start with nothing accumulated; the loop has set the gradients to zero."""
        if needs_closure(self.learn.opt):
            raise OptionError(
                f"{self.name}: {type(self.learn.opt).__name__} works the loss out "
                "again while it steps, and only for the batch at hand. Use another "
                "optimizer, or larger batches."
            )
        self.num_batches = self.num_samples = 0

    def before_train(self) -> None:
        """Drop what a cancelled epoch has left, or take back what was saved."""
        learner = self.learn
        if self.num_batches:
            learner.opt.zero_grad()
            self.num_batches = self.num_samples = 0
        self._is_mean = reduction_of(learner.loss_func) != "sum"  # type: ignore[arg-type]
        saved, self._saved = self._saved, None
        if saved and saved["position"] == [learner.epoch, learner.train_iter]:
            self._resume(saved)

    def before_batch(self) -> None:
        """Let several processes sum their gradients only where a step follows."""
        learner = self.learn
        if learner.world_size > 1:
            count = self._size() if self.unit == "samples" else 1
            is_enough = self._count() + count >= self.n_acc
            # Where the last batch is not known to be one, any may be.
            may_be_last = learner.n_iter is None or self._is_last_batch()
            learner.processes.sums_gradients = is_enough or may_be_last

    def _size(self) -> int:
        """Number of samples in the batch, of all processes."""
        learner = self.learn
        if learner.world_size > 1:
            return int(learner.processes.sizes(learner)[1])
        return batch_size(learner.yb or learner.xb)

    def before_backward(self) -> None:
        """Weigh the loss by its share of the samples of the step."""
        learner = self.learn
        size = self._size()
        if not self.num_batches:
            self._expected = expected_samples(self.n_acc, self.unit, size)
        self.num_batches += 1
        self.num_samples += size
        if self._is_mean and size != self._expected:
            assert learner.loss_grad is not None
            learner.loss_grad = learner.loss_grad * (size / self._expected)

    def before_step(self) -> None:
        """Let the step pass only when enough has come together, or nothing will."""
        if not (self._is_enough() or self._is_last_batch() or self._is_last_step):
            raise CancelBatchException("gradients are accumulated")
        if self._is_mean and self.num_samples not in (0, self._expected):
            factor = self._expected / self.num_samples
            scale_gradients(parameters_of(self.learn.opt), factor)

    def after_step(self) -> None:
        """Begin anew: gradients are about to be set to zero."""
        self.num_batches = self.num_samples = 0

    def after_train(self) -> None:
        """Step what is left where the last batch was not known to be the last."""
        if not self.num_batches:
            return
        self._is_last_step = True
        try:
            take_step(self.learn)
        finally:
            self._is_last_step = False

    def _is_enough(self) -> bool:
        return self._count() >= self.n_acc

    def _count(self) -> int:
        return self.num_samples if self.unit == "samples" else self.num_batches

    def _is_last_batch(self) -> bool:
        num_batches: int | None = self.learn.n_iter
        return num_batches is not None and self.learn.iter + 1 >= num_batches

    def state_dict(self) -> dict[str, Any]:
        """The gradients that have come together, and of how many samples they are."""
        if not self.num_batches:
            return {}
        learner = self.learn
        gradients = [
            None if p.grad is None else _own_part(p.grad).clone()
            for p in parameters_of(learner.opt)
        ]
        if learner.world_size > 1:  # they are not summed yet, and each has its own
            gradients = learner.processes.gather(gradients)
        return {
            "position": [learner.epoch, learner.train_iter],
            "num_batches": self.num_batches,
            "num_samples": self.num_samples,
            "expected": self._expected,
            "gradients": gradients,
            "num_processes": learner.world_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned, once training goes on there."""
        self._saved = state or None

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self.num_batches = saved["num_batches"]
        self.num_samples = saved["num_samples"]
        self._expected = saved["expected"]
        learner = self.learn
        num_processes = saved.get("num_processes", 1)
        if num_processes != learner.world_size:
            raise StateError(
                f"{self.name}: it was saved between two steps, with the gradients of "
                f"{num_processes} processes; now there are {learner.world_size}. Start "
                "as many, or go on from a checkpoint at the end of an epoch."
            )
        gradients = saved["gradients"]
        if num_processes > 1:
            gradients = gradients[learner.rank]
        for parameter, gradient in zip(
            parameters_of(learner.opt), gradients, strict=True
        ):
            if gradient is not None:
                parameter.grad = torch.zeros_like(parameter)
                _own_part(parameter.grad).copy_(gradient)


def _own_part(tensor: Tensor) -> Tensor:
    """What of a tensor is in this process, where it is spread over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def parameters_of(opt: Optimizer) -> Iterator[Parameter]:
    """All parameters that an optimizer steps."""
    for group in opt.param_groups:
        yield from group["params"]


def take_step(learner: Learner) -> None:
    """Step outside of a batch, with all the events that belong to a step."""
    plan = learner.plan
    with suppress(CancelBatchException):
        try:
            for call in plan.before_step:
                call()
            (plan.do_step or learner.opt.step)()
        except CancelStepException:
            for call in plan.after_cancel_step:
                call()
        for call in plan.after_step:
            call()
        (plan.do_zero_grad or learner.opt.zero_grad)()
