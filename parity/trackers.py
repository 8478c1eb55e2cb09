"""Callbacks that decide by a result: which epoch is best, and when it is enough."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback import tracker as fastai_tracker
from torch import Tensor

from callboard_early_stopping import EarlyStoppingCallback
from callboard_reduce_lr_on_plateau import ReduceLROnPlateau
from callboard_save_model import SaveModelCallback
from callboard_terminate_on_nan import TerminateOnNaNCallback
from callboard_tracker import TrackerCallback
from parity.cases import case, difference
from parity.problems import (
    OWN_SGD,
    Problem,
    hypers_of,
    in_two,
    numbers,
    our_watch,
    state_of,
    their_watch,
)

NUM_EPOCHS = 10
Make = Callable[[Any], Any]


def scripted(values: list[float]) -> Any:
    """A metric that measures what was written down, a value an epoch."""
    left: Iterator[float] = iter(values)

    def score(pred: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(next(left))

    return score


def scripts() -> list[list[float]]:
    """Courses of a metric, with ties and with an epoch that measured NaN."""
    courses = []
    for seed in range(6):
        draw = random.Random(seed)
        courses.append([round(draw.uniform(0, 1), 1) for _ in range(NUM_EPOCHS)])
    courses[0][3] = float("nan")
    return courses


OPTIONS: tuple[dict[str, Any], ...] = (
    {"comp": np.greater},
    {"comp": np.less, "patience": 2},
    {"comp": np.greater, "min_delta": 0.15, "patience": 3},
)


def fits(
    ours: type, theirs: type, read: Any, folder: Path, *options: dict[str, Any]
) -> float:
    """The largest difference in what is read of fits with every course and option."""
    largest = 0.0
    for course in scripts():
        for option in options:
            # One batch of validation, so that a value belongs to an epoch.
            problem = Problem(
                valid=numbers(4, 1), splitter=in_two, fastai_opt_func=OWN_SGD
            )
            learner = problem.but(metrics=[scripted(course)]).ours(
                ours(monitor="score", **option), path=folder / "ours"
            )
            learn = problem.but(metrics=[scripted(course)]).theirs(
                theirs(monitor="score", **option), path=folder / "theirs"
            )
            watch = our_watch("before_train", rates), their_watch("before_train", rates)
            learner.fit(NUM_EPOCHS, cbs=watch[0])
            learn.fit(NUM_EPOCHS, cbs=watch[1])
            largest = max(
                largest,
                difference(watch[0].seen, watch[1].seen),
                difference(read(learner), read(learn)),
                difference(state_of(learner), state_of(learn)),
            )
    return largest


def rates(learner: Any) -> list[list[float]]:
    return hypers_of(learner, "lr")


def without_patience() -> list[dict[str, Any]]:
    return [
        {name: value for name, value in option.items() if name != "patience"}
        for option in OPTIONS
    ]


@case("TrackerCallback", "best value and `new_best` after 18 fits")
def best(folder: Path) -> float:
    def read(learner: Any) -> list[Any]:
        return [learner.tracker.best, learner.tracker.new_best]

    kinds = TrackerCallback, fastai_tracker.TrackerCallback
    return fits(*kinds, read, folder, *without_patience())


@case("EarlyStoppingCallback", "epochs that were run, and weights, in 18 fits")
def stopped(folder: Path) -> float:
    def read(learner: Any) -> Any:
        return len(learner.recorder.values)

    kinds = EarlyStoppingCallback, fastai_tracker.EarlyStoppingCallback
    return fits(*kinds, read, folder, *OPTIONS)


@case("SaveModelCallback", "best value, and weights loaded at the end, in 18 fits")
def saved(folder: Path) -> float:
    def read(learner: Any) -> Any:
        return learner.save_model.best

    kinds = SaveModelCallback, fastai_tracker.SaveModelCallback
    return fits(*kinds, read, folder, *without_patience())


@case("SaveModelCallback", "names of files with `every_epoch` 1 and 3, and `at_end`")
def files(folder: Path) -> float:
    def left(option: dict[str, Any]) -> float:
        name = next(iter(option.items()))
        ours, theirs = (folder / f"{name}-{whose}" for whose in ("ours", "theirs"))
        Problem().ours(SaveModelCallback(**option), path=ours).fit(4)
        saver = fastai_tracker.SaveModelCallback(**option)
        Problem().theirs(saver, path=theirs).fit(4)
        stems = [
            sorted({file.name.partition(".")[0] for file in path.rglob("*.*")})
            for path in (ours, theirs)
        ]
        return difference(*stems)

    return max(map(left, ({"every_epoch": True}, {"every_epoch": 3}, {"at_end": True})))


@case("ReduceLROnPlateau", "rates of every epoch and group, and weights, in 24 fits")
def reduced(folder: Path) -> float:
    more = {"comp": np.less, "factor": 3.0, "min_lr": 0.004}
    kinds = ReduceLROnPlateau, fastai_tracker.ReduceLROnPlateau
    return fits(*kinds, lambda learner: None, folder, *OPTIONS, more)


@case("TerminateOnNaNCallback", "epochs and finite losses before the end")
def terminated(folder: Path) -> float:
    """The 11th training batch is no number, in the second epoch."""

    class Poisoned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)
            self.num_seen = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.num_seen += self.training
            outputs: Tensor = self.layer(inputs)
            return outputs * (float("nan") if self.num_seen == 11 else 1.0)

    problem = Problem(model=Poisoned)
    ours = problem.ours(TerminateOnNaNCallback(every=1))
    theirs = problem.theirs(fastai_tracker.TerminateOnNaNCallback())

    def loss(learner: Any) -> float:
        return float(learner.loss.detach())

    watch = our_watch("after_loss", loss), their_watch("after_loss", loss)
    ours.fit(5, cbs=watch[0])
    theirs.fit(5, cbs=watch[1])
    seen = [[value for value in w.seen if value == value] for w in watch]
    return max(difference(*seen), difference(ours.epoch, theirs.epoch))
