"""Small callbacks that fastai keeps beside its Learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from callboard.control import CancelEpochException
from callboard_fastai.callback.core import Callback
from callboard_fastai.predefined import Predefined


class SkipToEpoch(Callback):
    """Cancels the epochs before one.

    Args:
        epoch: The first epoch to run.
    """

    order = 70

    def __init__(self, epoch: int) -> None:
        self._skip_to = epoch

    def before_epoch(self) -> None:
        """Cancel an epoch that comes too early."""
        if self.epoch < self._skip_to:
            raise CancelEpochException


def _cast_tensor(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_cast_tensor(part) for part in x)
    return x.as_subclass(Tensor) if isinstance(x, Tensor) else x


class CastToTensor(Callback, metaclass=Predefined, plugin="CastToTensor"):
    """Makes plain tensors of all inputs and labels."""

    order = 9

    def before_batch(self) -> None:
        """Cast what tuples hold."""
        self.learn.xb = _cast_tensor(self.learn.xb)
        self.learn.yb = _cast_tensor(self.learn.yb)


def before_batch_cb(f: Callable[..., Any]) -> Callback:
    """A callback of a function that takes a callback, inputs and labels.

    What it returns becomes inputs and labels of the batch.
    """

    def before_batch(self: Any) -> None:
        self.learn.xb, self.learn.yb = f(self, self.xb, self.yb)

    return Callback(before_batch=before_batch)


@contextmanager
def replacing_yield(o: Any, attr: str, val: Any) -> Iterator[None]:
    """An attribute with another value inside the ``with`` block."""
    old = getattr(o, attr)
    try:
        setattr(o, attr, val)
        yield
    finally:
        setattr(o, attr, old)
