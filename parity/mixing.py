"""Mixed items and labels, with what was drawn the same for both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fastai.callback import mixup as fastai_mixup
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor, nn

import callboard_cutmix
import callboard_mixup
from callboard.state import RandomStream
from callboard_cutmix import CutMix, box_around
from callboard_mixup import Blend, MixHandler, MixUp
from parity.cases import case, difference
from parity.problems import (
    Problem,
    a_convolution,
    a_network,
    classes,
    images,
    our_watch,
    state_of,
    their_watch,
)

CLASSES = Problem(
    model=lambda: a_network(4),
    train=classes(24, 0),
    valid=classes(8, 1),
    loss_func=nn.CrossEntropyLoss,
    fastai_loss_func=CrossEntropyLossFlat,
    metrics=(),
)
NUMBERS = Problem(metrics=())
IMAGES = CLASSES.but(model=a_convolution, train=images(24, 0), valid=images(8, 1))


class Drawn:
    """Numbers drawn beforehand, for either framework to take.

    Plain numbers, since ours sets streams that it finds anew for every batch.
    """

    def __init__(self) -> None:
        stream = RandomStream()
        stream.manual_seed(5)
        self.betas = iter(stream.beta(0.4, 0.4, 1000).tolist())
        self.evenly = iter(torch.rand(1000, generator=stream).tolist())

    def shares(self, count: int) -> Tensor:
        return torch.tensor([next(self.betas) for _ in range(count)])

    def permutation(self, count: int, **options: Any) -> Tensor:
        return torch.argsort(torch.tensor([next(self.evenly) for _ in range(count)]))

    def place(self, limit: int) -> int:
        return int(next(self.evenly) * limit)


def compared(problem: Problem, ours: Any, theirs: Any, *patches: Any) -> float:
    """The difference in inputs, losses and weights of two fits."""

    def batch(learner: Any) -> list[Tensor]:
        return [learner.x.clone(), learner.loss.detach()]

    seen = our_watch("after_loss", batch), their_watch("after_loss", batch)
    learner, learn = problem.ours(ours, seen[0]), problem.theirs(theirs, seen[1])
    for run, patch in zip((learner, learn), patches, strict=True):
        with patch:
            run.fit(2)
    return max(
        difference(seen[0].seen, seen[1].seen),
        difference(state_of(learner), state_of(learn)),
    )


@contextlib.contextmanager
def our_blends() -> Iterator[None]:
    drawn = Drawn()

    def draw(stream: Any, alpha: float, num_items: int, device: Any) -> Blend:
        share = drawn.shares(num_items)
        partner = drawn.permutation(num_items)
        return Blend(torch.maximum(share, 1 - share), partner)

    with mock.patch.object(callboard_mixup, "draw_blend", draw):
        yield


class Shares:
    """Takes the place of fastai's Beta distribution."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        return self.drawn.shares(shape[0])


def their_blends(drawn: Drawn) -> Any:
    return mock.patch.object(torch, "randperm", drawn.permutation)


def mixed_up(problem: Problem) -> float:
    drawn, theirs = Drawn(), fastai_mixup.MixUp(0.4)
    theirs.distrib = Shares(drawn)
    patches = our_blends(), their_blends(drawn)
    return compared(problem, MixUp(0.4), theirs, *patches)


@case("MixUp", "blended inputs, losses and weights, labels that are classes")
def classes_blended(folder: Path) -> float:
    return mixed_up(CLASSES)


@case("MixUp", "the same, labels that are numbers")
def numbers_blended(folder: Path) -> float:
    return mixed_up(NUMBERS)


@contextlib.contextmanager
def our_boxes() -> Iterator[None]:
    drawn = Drawn()

    def draw(stream: Any, alpha: float, height: int, width: int) -> Any:
        share = float(drawn.shares(1))
        partners.append(drawn.permutation(4))
        column, row = drawn.place(width), drawn.place(height)
        return box_around(row, column, share, height, width)

    def permutation(count: int, **options: Any) -> Tensor:
        return partners.pop()

    partners: list[Tensor] = []
    with (
        mock.patch.object(callboard_cutmix, "draw_box", draw),
        mock.patch.object(torch, "randperm", permutation),
    ):
        yield


@contextlib.contextmanager
def their_boxes(drawn: Drawn) -> Iterator[None]:
    def place(low: int, high: int, shape: Any) -> Tensor:
        return torch.tensor([drawn.place(high)])

    with their_blends(drawn), mock.patch.object(torch, "randint", place):
        yield


@case("CutMix", "pasted images, losses and weights")
def boxes_pasted(folder: Path) -> float:
    drawn, theirs = Drawn(), fastai_mixup.CutMix(0.4)
    theirs.distrib = Shares(drawn)
    return compared(IMAGES, CutMix(0.4), theirs, our_boxes(), their_boxes(drawn))


class OurMirror(MixHandler):
    """Blends every item with that from the other end of the batch."""

    name = "mirror"

    def mix(self, labels: Any) -> Blend:
        learner, count = self.learn, len(labels[0])
        blend = Blend(torch.full((count,), 0.7), torch.arange(count).flip(0))
        learner.xb = tuple(blend.numbers(part) for part in learner.xb)
        return blend


class TheirMirror(fastai_mixup.MixHandler):
    """The same for fastai."""

    def before_batch(self) -> None:
        self.lam = torch.full((len(self.x),), 0.7)
        self.yb1 = tuple(part.flip(0) for part in self.yb)
        self.learn.xb = tuple(torch.lerp(x.flip(0), x, 0.7) for x in self.xb)


@case("MixHandler", "losses and weights with a way of mixing of one's own")
def mirrored(folder: Path) -> float:
    nothing = contextlib.nullcontext()
    return compared(CLASSES, OurMirror(), TheirMirror(), nothing, nothing)
