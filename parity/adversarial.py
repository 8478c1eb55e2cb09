"""Generative adversarial networks: whose turn it is, losses and weights."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import callboard_gan
from parity.cases import case, difference
from parity.problems import OWN_SGD, Problem, state_of

Make = Callable[[Any], list[Any]]


def fastai_gan() -> Any:
    """fastai's module, whose callbacks need no torchvision though it imports it."""
    from fastai.callback import all as callbacks
    from fastai.vision import core, data

    stand_in = types.ModuleType("fastai.vision.all")
    for module in (callbacks, core, data):
        vars(stand_in).update(vars(module))
    stand_in.__name__ = "fastai.vision.all"
    with mock.patch.dict(sys.modules, {stand_in.__name__: stand_in}):
        from fastai.vision import gan
    return gan


def pairs(num_items: int, seed: int) -> TensorDataset:
    """Noise, and real items."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_items, 2, generator=draw)
    return TensorDataset(noise, torch.randn(num_items, 3, generator=draw) + 1)


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))


def critic() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))


def fooling(fake_pred: Tensor, output: Tensor, target: Tensor) -> Tensor:
    return ((fake_pred - 1) ** 2).mean()


def telling(real_pred: Tensor, fake_pred: Tensor) -> Tensor:
    return ((real_pred - 1) ** 2).mean() + (fake_pred**2).mean()


def in_two(model: Any) -> list[Any]:
    return [list(model.generator.parameters()), list(model.critic.parameters())]


def fits(cbs: Make, num_epochs: int = 1) -> float:
    """The difference in smoothed losses of both networks and in the generator."""
    theirs_module = fastai_gan()

    def ready(module: Any) -> Problem:
        return Problem(
            model=lambda: module.GANModule(generator(), critic()),
            train=pairs(28, 0),
            valid=pairs(8, 1),
            metrics=(),
            splitter=in_two,
            fastai_opt_func=OWN_SGD,
        )

    ours = ready(callboard_gan).ours(*cbs(callboard_gan))
    theirs = ready(theirs_module).theirs(*cbs(theirs_module))
    for module, learner in ((callboard_gan, ours), (theirs_module, theirs)):
        learner.loss_func = module.GANLoss(fooling, telling, learner.model)
        learner.fit(num_epochs)
    seen = [
        [
            learner.gan_trainer.gen_losses,
            learner.gan_trainer.crit_losses,
            list(state_of(learner).items())[:4],
        ]
        for learner in (ours, theirs)
    ]
    return difference(*seen)


@case("GANTrainer", "losses of both networks and the generator, by `gen_first`")
def trained(folder: Path) -> float:
    def of(gen_first: bool) -> float:
        # Of 7 batches an epoch the last leaves the turn to the generator, with which
        # fastai begins every epoch that follows a validation.
        return fits(
            lambda module: [
                module.GANTrainer(gen_first=gen_first, beta=0.9),
                module.FixedGANSwitcher(),
            ],
            num_epochs=1 if gen_first else 2,
        )

    return max(of(True), of(False))


@case("GANTrainer", "the same with `clip`")
def clipped(folder: Path) -> float:
    return fits(
        lambda module: [module.GANTrainer(clip=0.05), module.FixedGANSwitcher()]
    )


@case("FixedGANSwitcher", "the same with turns of several batches")
def fixed(folder: Path) -> float:
    return max(
        fits(lambda module, t=turns: [module.GANTrainer(), module.FixedGANSwitcher(*t)])
        for turns in ((2, 1), (1, 3))
    )


@case("AdaptiveGANSwitcher", "the same with turns that end by a threshold")
def adaptive(folder: Path) -> float:
    return max(
        fits(
            lambda module, t=limits: [
                module.GANTrainer(),
                module.AdaptiveGANSwitcher(*t),
            ]
        )
        for limits in ((0.9, 1.2), (None, 1.0), (0.7, None))
    )


@case("GANDiscriminativeLR", "the same with a rate of its own for the critic")
def discriminative(folder: Path) -> float:
    # Before the switcher, or fastai would leave the higher rate to the generator.
    return fits(
        lambda module: [
            module.GANTrainer(),
            module.GANDiscriminativeLR(3.0),
            module.FixedGANSwitcher(),
        ]
    )
