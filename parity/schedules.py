"""Schedules of hyper-parameters, fine-tuning, and the search for a learning rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback import schedule as fastai_schedule

import callboard_schedule
from callboard_fine_tune import fine_tune
from callboard_lr_finder import lr_find, minimum, slide, steep, valley
from callboard_schedule import (
    ParamScheduler,
    fit_flat_cos,
    fit_one_cycle,
    fit_sgdr,
)
from parity.cases import case, difference
from parity.problems import (
    MOMENTUM,
    Problem,
    a_smooth_network,
    hypers_of,
    in_two,
    our_watch,
    state_of,
    their_watch,
)

Fit = Callable[[Any, Any], Any]
TWO_GROUPS = Problem(a_smooth_network, opt_func=MOMENTUM, splitter=in_two)
ADAM = partial(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-5)


def momenta(learner: Any) -> list[list[float]]:
    return hypers_of(learner, "lr", "mom")


def between(problem: Problem, our_fit: Fit, their_fit: Fit) -> float:
    """The difference between rates of all steps, losses and weights of two fits."""
    ours, theirs = problem.ours(), problem.theirs()
    our_steps, their_steps = (
        our_watch("after_step", momenta),
        their_watch("after_step", momenta),
    )
    our_fit(ours, our_steps)
    their_fit(theirs, their_steps)
    losses = difference(ours.recorder.smooth_losses, theirs.recorder.losses)
    return max(
        difference(our_steps.seen, their_steps.seen),
        losses,
        difference(state_of(ours), state_of(theirs)),
    )


@case("Learner.fit_one_cycle", "rates and momenta of every step, losses, weights")
def one_cycle(folder: Path) -> float:
    return between(
        TWO_GROUPS,
        lambda learner, cb: fit_one_cycle(learner, 3, 0.1, cbs=cb),
        lambda learn, cb: learn.fit_one_cycle(3, 0.1, cbs=cb),
    )


@case("Learner.fit_one_cycle", "the same with all options, a rate a group, and Adam")
def one_cycle_of_adam(folder: Path) -> float:
    options: dict[str, Any] = {"div": 7.0, "div_final": 300.0, "pct_start": 0.4}
    options |= {"moms": (0.9, 0.7, 0.8)}
    groups = slice(1e-3, 1e-2)
    return between(
        TWO_GROUPS.but(opt_func=ADAM),
        lambda learner, cb: fit_one_cycle(learner, 3, groups, cbs=cb, **options),
        lambda learn, cb: learn.fit_one_cycle(3, groups, cbs=cb, **options),
    )


@case("Learner.fit_flat_cos", "rates of every step, losses, weights")
def flat_cos(folder: Path) -> float:
    return between(
        TWO_GROUPS,
        lambda learner, cb: fit_flat_cos(learner, 3, slice(0.01, 0.1), cbs=cb),
        lambda learn, cb: learn.fit_flat_cos(3, slice(0.01, 0.1), cbs=cb),
    )


@case("Learner.fit_sgdr", "rates of every step, losses, weights")
def sgdr(folder: Path) -> float:
    # Cycles of 1 and 3, and of 1 and 7 epochs: these shares are exact in float32.
    return max(
        between(
            TWO_GROUPS,
            lambda learner, cb, m=mult: fit_sgdr(
                learner, 2, 1, 0.05, cycle_mult=m, cbs=cb
            ),
            lambda learn, cb, m=mult: learn.fit_sgdr(2, 1, 0.05, cycle_mult=m, cbs=cb),
        )
        for mult in (3, 7)
    )


@case("Learner.fine_tune", "rates of every step of both fits, losses, weights")
def fine_tuned(folder: Path) -> float:
    return between(
        TWO_GROUPS,
        lambda learner, cb: fine_tune(learner, 3, 0.1, freeze_epochs=2, cbs=cb),
        lambda learn, cb: learn.fine_tune(3, 0.1, freeze_epochs=2, cbs=cb),
    )


def curves(module: Any) -> list[Any]:
    """One of each kind of schedule."""
    combined = module.combine_scheds(
        [0.2, 0.3, 0.5],
        [
            module.SchedLin(0.01, 0.1),
            module.SchedNo(0.1, 0.1),
            module.SchedCos(0.1, 0.01),
        ],
    )
    poly, exp = module.SchedPoly(0.1, 0.01, 2.0), module.SchedExp(0.1, 0.01)
    return [combined, poly, exp, module.combined_cos(0.3, 0.01, 0.1, 0.0)]


@case(
    "ParamScheduler", "rates of every step, losses, weights, by each kind of schedule"
)
def scheduled(folder: Path) -> float:
    pairs = zip(curves(callboard_schedule), curves(fastai_schedule), strict=True)
    return max(
        between(
            TWO_GROUPS,
            lambda learner, cb, s=ours: learner.fit(
                3, cbs=[ParamScheduler({"lr": s}), cb]
            ),
            lambda learn, cb, s=theirs: learn.fit(
                3, cbs=[fastai_schedule.ParamScheduler({"lr": s}), cb]
            ),
        )
        for ours, theirs in pairs
    )


@case("LRFinder", "rates and smoothed losses of 60 steps, and weights put back")
def curve(folder: Path) -> float:
    problem = Problem(opt_func=MOMENTUM)
    ours, theirs = problem.ours(path=folder), problem.theirs(path=folder)
    found = lr_find(ours, num_it=60, end_lr=1.0, show_plot=False)
    theirs.lr_find(num_it=60, end_lr=1.0, show_plot=False)
    recorder, curve = theirs.recorder, found.curve
    return max(
        difference(curve.lrs, recorder.lrs),
        difference(curve.losses, recorder.losses),
        difference(state_of(ours), state_of(theirs)),
    )


@case(
    "Learner.lr_find", "`valley`, `slide`, `minimum` and `steep`, when it diverges too"
)
def suggestions(folder: Path) -> float:
    def suggested(end_lr: float) -> float:
        problem = Problem(opt_func=MOMENTUM)
        ours, theirs = problem.ours(path=folder), problem.theirs(path=folder)
        options: dict[str, Any] = {"num_it": 80, "end_lr": end_lr, "show_plot": False}
        found = lr_find(ours, suggest_funcs=(valley, slide, minimum, steep), **options)
        names = ("valley", "slide", "minimum", "steep")
        functions = tuple(getattr(fastai_schedule, name) for name in names)
        return difference(
            list(found), list(theirs.lr_find(suggest_funcs=functions, **options))
        )

    return max(map(suggested, (0.5, 10.0, 1000.0)))
