"""fastai: a Learner with its callbacks."""

from contextlib import nullcontext
from functools import partial

import torch
from fastai.callback import schedule  # noqa: F401, gives Learner its fit_one_cycle
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper

from benchmarks.problem import LEARNING_RATE, Problem, loss_function


class Nothing(Callback):
    """Does nothing when a batch begins and ends."""

    def before_batch(self) -> None:
        pass

    def after_batch(self) -> None:
        pass


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    cbs = [Nothing() for _ in range(problem.num_observers)]
    if problem.is_everyday:
        cbs = [
            CSVLogger(),
            EarlyStoppingCallback(monitor="train_loss"),
            SaveModelCallback(monitor="train_loss"),
        ]
    learner = Learner(
        DataLoaders(problem.loader(), problem.validation(), device="cpu"),
        problem.model(),
        loss_func=loss_function,
        opt_func=partial(OptimWrapper, opt=torch.optim.SGD),
        lr=LEARNING_RATE,
        cbs=cbs,
        path=problem.folder,
    )
    if problem.is_everyday:
        learner.fit_one_cycle(1, LEARNING_RATE)
        return
    with learner.no_bar() if hasattr(learner, "no_bar") else nullcontext():
        learner.fit(1)
