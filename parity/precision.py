"""Half precision, in which fastai is told to train on the CPU."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fastai.callback import fp16 as fastai_fp16
from fastai.callback import training as fastai_training
from torch import nn

from callboard_gradient_accumulation import GradientAccumulation
from callboard_gradient_clip import GradientClip
from callboard_mixed_precision import MixedPrecision
from parity.cases import case, difference
from parity.mixing import CLASSES
from parity.problems import MOMENTUM, Problem, numbers, our_watch, state_of, their_watch


def on_the_cpu() -> AbstractContextManager[Any]:
    """fastai's own steps, where it would name CUDA, which need not be there."""

    def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast("cpu", dtype)

    def scaler(device: str, **options: Any) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", **options)

    return mock.patch.multiple(fastai_fp16, autocast=autocast, GradScaler=scaler)


def seen(learner: Any) -> list[Any]:
    """Prediction and loss as callbacks get them, and where they were calculated."""
    loss = learner.loss
    return [str(learner.pred.dtype), learner.pred, loss.detach().float()]


def fits(
    problem: Problem,
    amp_mode: Any,
    *others: tuple[Any, Any],
    **options: float,
) -> float:
    """The difference in predictions, losses, scales and weights of two fits.

    Args:
        others: Callbacks of both frameworks that take part too.
    """
    low = f"torch.{'bfloat16' if amp_mode == 'bf16' else 'float16'}"
    kinds: list[str] = []

    def spy(module: nn.Module, inputs: Any, output: Any) -> None:
        kinds.append(str(output.dtype))

    def our_scale(learner: Any) -> float:
        return float(learner.mixed_precision.scale)

    def their_scale(learner: Any) -> float:
        return float(learner.scaler.get_scale())

    ours = problem.ours(MixedPrecision(amp_mode, **options), *(o for o, _ in others))
    theirs = problem.theirs(
        fastai_fp16.MixedPrecision(amp_mode, **options), *(o for _, o in others)
    )
    watches = our_watch("after_loss", seen), their_watch("after_loss", seen)
    scales = (
        our_watch("after_batch", our_scale),
        their_watch("after_batch", their_scale),
    )
    for learner in (ours, theirs):
        learner.model.register_forward_hook(spy)
    ours.fit(3, cbs=[watches[0], scales[0]])
    with on_the_cpu():
        theirs.fit(3, cbs=[watches[1], scales[1]])
    if set(kinds) != {low}:
        return math.inf  # then half precision was not at work
    return max(
        difference(watches[0].seen, watches[1].seen),
        difference(scales[0].seen, scales[1].seen),
        difference(state_of(ours), state_of(theirs)),
    )


ADAM = partial(torch.optim.Adam, eps=1e-5)


@case("MixedPrecision", "predictions, losses and weights in bf16, on the CPU")
def bf16(folder: Path) -> float:
    return max(
        fits(Problem(opt_func=MOMENTUM), "bf16"),
        fits(CLASSES.but(opt_func=ADAM), "bf16"),
    )


@case(
    "MixedPrecision",
    "predictions, losses, scales and weights in fp16, on the CPU, with overflows",
)
def fp16(folder: Path) -> float:
    growing: dict[str, Any] = {"init_scale": 2.0**24, "growth_interval": 3}
    return max(
        fits(Problem(opt_func=MOMENTUM), "fp16", **growing),
        fits(CLASSES.but(opt_func=ADAM), "fp16", init_scale=128.0),
    )


@case("MixedPrecision", "the same where gradients are accumulated and clipped")
def accumulated_and_clipped(folder: Path) -> float:
    others = (
        (GradientAccumulation(8), fastai_training.GradientAccumulation(8)),
        (GradientClip(0.1), fastai_training.GradientClip(0.1)),
    )
    problem = Problem(train=numbers(24, 0), opt_func=MOMENTUM)
    return fits(problem, "fp16", *others, init_scale=2.0**20, growth_interval=3)
