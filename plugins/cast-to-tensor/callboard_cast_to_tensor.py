"""Make plain tensors of the tensor subclasses that fastai's data loaders give.

Listens to  before_batch
Changes     xb and yb; the same numbers in the same memory
Source      fastai's ``CastToTensor`` (Apache-2.0), written anew

torch refuses operations on two subclasses of which neither derives from the other:
inputs of one kind and labels of another have no loss. And every operation on a subclass
takes a way through Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from callboard import Callback


def as_plain(data: Any) -> Any:
    """The same tuples, lists and mappings with plain tensors for tensor subclasses.

    A subclass that is another way to hold numbers (nested, distributed, quantised) has
    operations of its own and stays.
    """
    kind = type(data)
    if kind is Tensor:
        return data
    if isinstance(data, Tensor):
        is_plain = kind.__torch_dispatch__ is Tensor.__torch_dispatch__
        is_cast = is_plain and not isinstance(data, nn.Parameter)
        return data.as_subclass(Tensor) if is_cast else data
    if isinstance(data, Mapping):
        return {key: as_plain(part) for key, part in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return kind(*(as_plain(part) for part in data))
    if kind in (tuple, list):
        return kind(as_plain(part) for part in data)
    return data


class CastToTensor(Callback):
    """Makes plain tensors of the inputs and labels of every batch."""

    name = "cast-to-tensor"
    role = "modify"
    stages = ("fit", "validate", "predict", "lr-find")

    def before_batch(self) -> None:
        """Cast inputs and labels; nothing is copied."""
        learner = self.learn
        learner.xb, learner.yb = as_plain(learner.xb), as_plain(learner.yb)
