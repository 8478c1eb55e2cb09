"""Callboard: the loop of this repository."""

from typing import Any

import torch

from benchmarks.problem import LEARNING_RATE, Problem, loss_function
from callboard import Callback, Learner


class Nothing(Callback):
    """Does nothing when a batch begins and ends."""

    role = "observe"

    def before_batch(self) -> None:
        pass

    def after_batch(self) -> None:
        pass


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    cbs: list[Any] = [Nothing() for _ in range(problem.num_observers)]
    if problem.is_everyday:
        from callboard.callbacks import EarlyStoppingCallback, SaveModelCallback

        cbs = ["recorder", "progress", "csv-logger"]
        cbs += [EarlyStoppingCallback("train_loss"), SaveModelCallback("train_loss")]
    learner = Learner(
        *(problem.loader(), problem.model(), loss_function),
        *(torch.optim.SGD, LEARNING_RATE),
        cbs=cbs,
        path=problem.folder,
    )
    if problem.is_everyday:
        learner.fit_one_cycle(1)
    else:
        learner.fit(1)
