"""The loop: its counters and modes, its events, what a cancel skips, its start."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from fastai.callback import core as fastai_core
from fastai.test_utils import VerboseCallback as FastaiVerbose
from torch import Tensor

import callboard
from callboard_cast_to_tensor import CastToTensor
from callboard_schedule import fit_one_cycle
from callboard_verbose import VerboseCallback
from parity.cases import case, difference
from parity.problems import (
    MOMENTUM,
    Problem,
    hypers_of,
    numbers,
    our_watch,
    state_of,
    their_watch,
)

# Events that fastai has not; `after_create` fires there for the constructor's only.
OF_OURS_ALONE = {"after_create", "checkpoint", "teardown", "on_exception"}


def place(learner: Any) -> list[Any]:
    """Where the loop is, and in which mode."""
    counts = [learner.epoch, learner.n_epoch, learner.iter, learner.n_iter]
    counts += [learner.train_iter, learner.pct_train, learner.training]
    return [*counts, learner.model.training]


def places(event: str) -> float:
    ours, theirs = our_watch(event, place), their_watch(event, place)
    Problem().ours(ours).fit(3)
    Problem().theirs(theirs).fit(3)
    return difference(ours.seen, theirs.seen)


@case(
    "TrainEvalCallback",
    "`epoch`, `iter`, `n_iter`, `train_iter`, `pct_train` and modes at every batch",
)
def counters(folder: Path) -> float:
    return max(map(places, ("before_batch", "after_loss", "after_step", "after_train")))


@case("TrainEvalCallback", "losses and weights of 3 epochs")
def weights(folder: Path) -> float:
    problem = Problem(opt_func=MOMENTUM)
    ours, theirs = problem.ours(), problem.theirs()
    ours.fit(3)
    theirs.fit(3)
    losses = difference(ours.recorder.smooth_losses, theirs.recorder.losses)
    return max(losses, difference(state_of(ours), state_of(theirs)))


def printed(run: Any) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        run()
    return [line for line in output.getvalue().split() if line not in OF_OURS_ALONE]


def events(*cbs: tuple[Any, Any]) -> float:
    ours = Problem().ours(*(cb for cb, _ in cbs))
    theirs = Problem().theirs(*(cb for _, cb in cbs))
    theirs.logger = fastai_core.noop
    return difference(
        printed(lambda: ours.fit(2, cbs=VerboseCallback())),
        printed(lambda: theirs.fit(2, cbs=FastaiVerbose())),
    )


@case("VerboseCallback", "names of the events of 2 epochs, in order")
def names(folder: Path) -> float:
    return events()


def cancelling(level: str, event: str, *, training: bool) -> tuple[Any, Any]:
    """Callbacks of both frameworks that cancel at the first event of a kind."""

    def made(framework: Any) -> Any:
        cancel = getattr(framework, f"Cancel{level}Exception")

        def act(self: Any) -> None:
            if not self.is_done and self.learn.training is training:
                self.is_done = True
                raise cancel

        body = {event: act, "is_done": False, "order": 900}
        return type("Canceller", (framework.Callback,), body)()

    return made(callboard), made(fastai_core)


CANCELS = (
    *(("Batch", event) for event in ("before_batch", "after_pred", "after_loss")),
    *(("Batch", event) for event in ("after_backward", "before_step", "after_step")),
    *(("Step", "before_step"), ("Backward", "before_backward")),
    *(("Train", event) for event in ("before_train", "before_batch", "after_batch")),
    *(("Epoch", event) for event in ("before_batch", "after_train")),
    *(("Fit", event) for event in ("before_batch", "before_step", "after_batch")),
)
CANCELS_IN_VALIDATION = (
    *(("Batch", "after_pred"), ("Valid", "before_validate"), ("Valid", "before_batch")),
    *(("Valid", "after_batch"), ("Epoch", "before_batch"), ("Fit", "after_batch")),
)


@case(
    "VerboseCallback",
    f"the same with a cancel at {len(CANCELS) + len(CANCELS_IN_VALIDATION)} places",
)
def cancels(folder: Path) -> float:
    places = [(*cancel, True) for cancel in CANCELS]
    places += [(*cancel, False) for cancel in CANCELS_IN_VALIDATION]
    return max(
        events(cancelling(level, event, training=training))
        for level, event, training in places
    )


@case("SkipToEpoch", "rates, momenta and weights of one-cycle from epoch 2 of 4")
def start_epoch(folder: Path) -> float:
    def rates(learner: Any) -> list[list[float]]:
        return hypers_of(learner, "lr", "mom")

    problem = Problem(opt_func=MOMENTUM)
    ours, theirs = problem.ours(), problem.theirs()
    our_rates, their_rates = (
        our_watch("after_step", rates),
        their_watch("after_step", rates),
    )
    fit_one_cycle(ours, 4, 0.1, cbs=our_rates, start_epoch=2)
    theirs.fit_one_cycle(4, 0.1, cbs=their_rates, start_epoch=2)
    return max(
        difference(our_rates.seen, their_rates.seen),
        difference(state_of(ours), state_of(theirs)),
    )


class Marked(Tensor):
    """A subclass of tensors, as fastai's loaders give."""


class MarkedData(torch.utils.data.Dataset[Any]):
    """Numbers, as such tensors."""

    def __init__(self, num_items: int, seed: int) -> None:
        self.plain = numbers(num_items, seed)

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> Any:
        return tuple(part.as_subclass(Marked) for part in self.plain[index])


@case("CastToTensor", "types of inputs, labels and predictions, and weights")
def plain_tensors(folder: Path) -> float:
    def kinds(learner: Any) -> list[str]:
        return [type(part).__name__ for part in (learner.x, learner.y, learner.pred)]

    problem = Problem(train=MarkedData(27, 0), valid=MarkedData(10, 1))
    ours, theirs = our_watch("after_pred", kinds), their_watch("after_pred", kinds)
    learner, learn = problem.ours(CastToTensor(), ours), problem.theirs(theirs)
    learner.fit(2)
    learn.fit(2)
    return max(
        difference(ours.seen, theirs.seen),
        difference(state_of(learner), state_of(learn)),
    )
