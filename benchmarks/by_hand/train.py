"""What ``callboard fit`` is given: the same, as a Learner.

callboard fit benchmarks.by_hand.train:digits --epochs 40 --fast
"""

from __future__ import annotations

import torch

from benchmarks.by_hand.clock import Clock
from benchmarks.by_hand.tasks import TASKS, Task
from callboard import Callback, Learner


class UntilLossIsDown(Callback):
    """Notes times and losses, and ends the fit when the validation loss is down."""

    role = "control"
    requires = "recorder"
    run_after = "recorder"

    def __init__(self, task: Task, clock: Clock) -> None:
        self.task = task
        self.clock = clock

    def after_epoch(self) -> None:
        """Note the loss."""
        valid_loss = self.learn.results["valid_loss"]
        self.clock.note(valid_loss)
        if valid_loss <= self.task.goal:
            self.learn.stop("the validation loss is down")

    def after_fit(self) -> None:
        """Tell what was measured."""
        self.clock.tell()


def learner_of(name: str) -> Learner:
    """A Learner for a task."""
    task = TASKS[name]
    data, model = task.data(), task.model()
    # As in the loop by hand: what makes a Learner ready counts.
    cbs = ["recorder", UntilLossIsDown(task, Clock())]
    parts = (data, model, task.loss_func, torch.optim.AdamW, task.lr)
    return Learner(*parts, cbs=cbs, device="cpu")


def digits() -> Learner:
    """A Learner for the digits."""
    return learner_of("digits")


def transformer() -> Learner:
    """A Learner for the transformer."""
    return learner_of("transformer")
