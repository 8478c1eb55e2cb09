"""Train convolutions with the channels last in memory, which many devices do faster.

Listens to  before_fit, before_validate, before_batch
Changes     the memory format of the model's weights and of the batch; no value
Source      fastai's ``ChannelsLast`` (Apache-2.0), written anew; torch's memory format
            tutorial
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callboard import Callback

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen


def with_channels_last(part: Any) -> Any:
    """A tensor of four dimensions with its channels last; all else as it is."""
    if isinstance(part, Tensor) and part.ndim == 4:
        return part.contiguous(memory_format=torch.channels_last)
    return part


def turn(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Put the four-dimensional weights and buffers of a model into a memory format."""
    model.to(memory_format=memory_format)  # type: ignore[call-overload]


class ChannelsLast(Callback):
    """Keeps the model's four-dimensional weights, and the inputs, with channels last.

    Values and shapes stay what they are, and so does the model after a fit:
    ``learn.to_contiguous()`` puts the weights back.
    """

    name = "channels-last"
    role = "modify"
    run_after = ("mixup", "cutmix")
    stages = ("fit", "lr-find", "validate", "predict")

    def before_fit(self) -> None:
        """Turn the weights."""
        turn(self.learn.model, torch.channels_last)

    def before_validate(self) -> None:
        """Turn the weights of a model that no fit has turned."""
        turn(self.learn.model, torch.channels_last)

    def before_batch(self) -> None:
        """Turn the inputs."""
        xb = self.learn.xb
        if isinstance(xb, dict):
            turned = {name: with_channels_last(part) for name, part in xb.items()}
            self.learn.xb = turned
        else:
            self.learn.xb = tuple(with_channels_last(part) for part in xb)


def to_channelslast(learner: Learner) -> Learner:
    """Train with the channels last in memory from now on; returns the Learner."""
    if not any(isinstance(callback, ChannelsLast) for callback in learner.cbs):
        learner.add_cb(ChannelsLast())
    return learner


def to_contiguous(learner: Learner) -> Learner:
    """Undo ``to_channelslast``, weights included; returns the Learner."""
    if any(isinstance(callback, ChannelsLast) for callback in learner.cbs):
        learner.remove_cb(ChannelsLast)
    turn(learner.model, torch.contiguous_format)
    return learner


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the memory format out."""
    from callboard.testing import Specimen

    return {
        "channels-last": Specimen(
            learner="images",
            exempt={
                "removable": "weights keep their format after a fit, and sums are "
                "rounded another way; learn.to_contiguous() puts them back"
            },
        ),
        "to_channelslast": Specimen(
            learner="images",
            exempt={"removable": "it adds the callback, which stays until removed"},
        ),
    }
