"""A GAN of a few weights, for the conformance suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from callboard import DataLoaders, Learner
from callboard_gan.learners import gan_splitter
from callboard_gan.losses import GANLoss, gan_loss_from_func
from callboard_gan.networks import GANModule

if TYPE_CHECKING:
    from callboard.testing import Specimen


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the callbacks of a GAN out."""
    from callboard.testing import Specimen

    names = ("fixed-gan-switcher", "adaptive-gan-switcher", "gan-discriminative-lr")
    return {
        "gan-trainer": Specimen(learner=tiny_gan),
        **{n: Specimen(learner=tiny_gan, companions=["gan-trainer"]) for n in names},
    }


def tiny_gan(*, cbs: Any, path: str | Path) -> Learner:
    """A Learner whose generator turns points, and whose critic looks at them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        critic = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        points = torch.randn(10, 2)
    model = GANModule(generator, critic, gen_mode=True)
    judge = functional.binary_cross_entropy_with_logits
    losses = gan_loss_from_func(functional.l1_loss, judge, (1, 0))
    data = TensorDataset(points, points.flip(1) + 3)
    return Learner(
        DataLoaders(DataLoader(data, 4, shuffle=True), DataLoader(data, 4)),
        model,
        GANLoss(*losses, model),
        lr=0.01,
        cbs=cbs,
        splitter=gan_splitter,
        path=path,
        device="cpu",
        seed=0,
    )
