"""Steps whose losses stay on the device until many are read at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

# Share of the past in the smoothed loss, as in fastai: roughly the last 50 steps.
BETA = 0.98
# Reading a loss waits until the device has caught up, so they are read in bulk.
STEPS_PER_READ = 50


@dataclass(frozen=True)
class Step:
    """The numbers of one optimizer step.

    Attributes:
        number: Which step of the run, from 1; goes on from fit to fit.
        epoch: Epochs of the fit that are done, with the part of the one running.
        loss: Training loss of the batch.
        smooth_loss: Its exponential moving average, without its start at zero.
        hypers: Hyper-parameters by name and number of the parameter group: ``lr_0``.
    """

    number: int
    epoch: float
    loss: float
    smooth_loss: float
    hypers: Mapping[str, float]


class StepBuffer:
    """Steps that wait to be read and sent.

    Attributes:
        waiting: Number, epoch, loss and hyper-parameters, as they were noted; losses
            and some hyper-parameters may be tensors on a device.
        unsent: Steps that were read and not sent yet.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[int, float, Tensor, dict[str, Any]]] = []
        self.unsent: list[Step] = []
        self.average = 0.0
        self.num_averaged = 0

    def start_anew(self) -> None:
        """Begin the smoothed loss of another fit."""
        self.average, self.num_averaged = 0.0, 0

    def read(self) -> None:
        """Bring what waits on the device to the host, in one read."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        on_device = [loss.mean() if loss.ndim else loss for _, _, loss, _ in waiting]
        for *_, hypers in waiting:
            on_device += [v for v in hypers.values() if isinstance(v, Tensor)]
        numbers = iter(torch.stack([v.float() for v in on_device]).tolist())
        losses = [next(numbers) for _ in waiting]
        for (number, epoch, _, hypers), loss in zip(waiting, losses, strict=True):
            values = {
                name: next(numbers) if isinstance(value, Tensor) else value
                for name, value in hypers.items()
            }
            self.unsent.append(Step(number, epoch, loss, self._smoothed(loss), values))

    def _smoothed(self, loss: float) -> float:
        """Take a loss into the average (Kingma & Ba 2015, section 3, for its start)."""
        self.average = loss + BETA * (self.average - loss)
        self.num_averaged += 1
        return self.average / (1 - BETA**self.num_averaged)

    def take(self) -> list[Step]:
        """The steps to send; they are not given a second time."""
        self.read()
        steps, self.unsent = self.unsent, []
        return steps

    def state_dict(self) -> dict[str, Any]:
        """The average, and the steps that are not sent yet: plain data."""
        self.read()
        unsent = [{**asdict(step), "hypers": dict(step.hypers)} for step in self.unsent]
        return {
            "unsent": unsent,
            "average": self.average,
            "num_averaged": self.num_averaged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.waiting = []
        self.unsent = [Step(**step) for step in state["unsent"]]
        self.average, self.num_averaged = state["average"], state["num_averaged"]
