"""Keep inputs, labels, prediction and loss of every batch, to look at or to test with.

Listens to  before_fit, after_batch
Changes     nothing
Source      fastai's ``CollectDataCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from callboard import Callback


class CollectedBatch(NamedTuple):
    """What one batch of a fit was made of, on the CPU and detached.

    Attributes:
        xb: The inputs that the model was given.
        yb: The labels.
        pred: The prediction; None where the batch was cancelled before it.
        loss: The loss; None where there is none.
    """

    xb: Any
    yb: Any
    pred: Any
    loss: Tensor | None


def on_cpu(data: Any) -> Any:
    """A copy of every tensor in tuples, lists and mappings, on the CPU and detached.

    Copied there too, since a plugin or a loader may write its next batch into the same
    memory.
    """
    if isinstance(data, Tensor):
        return data.detach().to("cpu", copy=True)
    if isinstance(data, Mapping):
        return {key: on_cpu(part) for key, part in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(on_cpu(part) for part in data))
    if isinstance(data, tuple | list):
        return type(data)(on_cpu(part) for part in data)
    return data


class CollectDataCallback(Callback):
    """Keeps inputs, labels, prediction and loss of every batch of a fit.

    Attributes:
        data: A ``CollectedBatch`` for every batch of training and validation, in their
            order; emptied when a fit begins.
    """

    name = "collect-data"
    role = "observe"

    def __init__(self) -> None:
        self.data: list[CollectedBatch] = []

    def before_fit(self) -> None:
        """Forget the last fit."""
        self.data = []

    def after_batch(self) -> None:
        """Keep the batch. Waits for the device, as a copy from it must."""
        learner = self.learn
        parts = (learner.xb, learner.yb, learner.pred, learner.loss)
        self.data.append(CollectedBatch(*map(on_cpu, parts)))
