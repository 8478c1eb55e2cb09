"""Counts what a training step does: Python calls, tensor operations, host reads.

Counts hold on any machine, where times do not. A run is counted twice, with few and
with many steps; the difference is the cost of the steps, without what a run costs once.
"""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import cycle, islice
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from callboard import DataLoaders, Learner
from callboard.testing.learners import tiny_learner

# Tensor methods that wait for the device and hand values to Python.
HOST_READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__")


@dataclass(frozen=True)
class StepCost:
    """What one step does, on average.

    Attributes:
        python_calls: Python functions entered, generators resumed included.
        tensor_operations: Operations that reach torch's dispatcher.
        host_reads: Reads of a tensor's value by Python.
    """

    python_calls: float
    tensor_operations: float
    host_reads: float

    def __str__(self) -> str:
        return (
            f"{self.python_calls:.1f} Python calls, {self.tensor_operations:.1f} "
            f"tensor operations and {self.host_reads:.2f} host reads a step"
        )

    def __sub__(self, other: StepCost) -> StepCost:
        return StepCost(
            self.python_calls - other.python_calls,
            self.tensor_operations - other.tensor_operations,
            self.host_reads - other.host_reads,
        )


def cost_per_step(
    run: Callable[[int], object], *, few: int = 16, many: int = 144
) -> StepCost:
    """What one step of ``run`` costs.

    Args:
        run: Does the given number of steps; called six times, and twice to warm up.
        few: A number of steps.
        many: A larger number of steps.
    """
    run(few)
    run(many)
    steps = many - few
    counted = [
        (_count(run, many) - _count(run, few)) / steps
        for _count in (count_python_calls, count_tensor_operations, count_host_reads)
    ]
    return StepCost(*counted)


def cost_of(
    make: Callable[[], Any],
    learner: Callable[..., Learner] = tiny_learner,
    *,
    few: int = 8,
    many: int = 72,
) -> StepCost:
    """What one training step costs more because of a plugin.

    The numbers of steps lie 64 apart, which is how often plugins read from the device
    that wait with it.

    Args:
        make: Makes the plugin: ``MyCallback``, or ``lambda: MyCallback(0.5)``.
        learner: Makes the Learner that it is in; takes ``cbs``.
        few: A number of steps.
        many: A larger number of steps.
    """
    with_it = cost_of_a_fit(lambda: learner(cbs=make()), few=few, many=many)
    return with_it - cost_of_a_fit(lambda: learner(cbs=None), few=few, many=many)


def cost_of_a_fit(
    make_learner: Callable[[], Learner], *, few: int = 8, many: int = 72
) -> StepCost:
    """What one training step of a Learner costs, with all plugins that it has.

    It takes dozens of fits, so what these print is not shown.

    Args:
        make_learner: Makes the Learner; its batches are repeated as often as needed.
        few: A number of steps.
        many: A larger number of steps.
    """

    def fit(num_steps: int) -> None:
        learner = make_learner()
        batches = list(islice(cycle(list(learner.dls.train)), num_steps))
        dls = learner.dls
        learner.dls = DataLoaders(
            batches, dls.valid, num_inputs=dls.num_inputs, labels=dls.labels
        )
        learner.fit(1)

    with redirect_stdout(io.StringIO()):
        return cost_per_step(fit, few=few, many=many)


def count_python_calls(run: Callable[[int], object], num_steps: int) -> int:
    """Python functions entered while ``run(num_steps)`` runs."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    # A collection in between would count finalizers.
    gc.disable()
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run(num_steps)
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count_tensor_operations(run: Callable[[int], object], num_steps: int) -> int:
    """Operations that reach torch's dispatcher while ``run(num_steps)`` runs."""
    operations = _Operations()
    with operations:
        run(num_steps)
    return operations.count


def count_host_reads(run: Callable[[int], object], num_steps: int) -> int:
    """Reads of a tensor's value by Python while ``run(num_steps)`` runs."""
    with _counted_reads() as reads:
        run(num_steps)
    return reads[0]


@contextmanager
def _counted_reads() -> Iterator[list[int]]:
    reads = [0]

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            reads[0] += 1
            return original(*args, **kwargs)

        return read

    own = {name: vars(torch.Tensor).get(name) for name in HOST_READS}
    for name in HOST_READS:
        setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
    try:
        yield reads
    finally:
        for name, original in own.items():
            if original is None:
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, original)
