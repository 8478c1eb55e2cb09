"""Callbacks that change how a step is taken, and on what."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fastai.callback import training as fastai_training
from fastai.callback.channelslast import ChannelsLast as FastaiChannelsLast
from fastai.callback.data import PartialDL as FastaiPartialDL
from fastai.callback.data import WeightedDL as FastaiWeightedDL
from torch import nn
from torch.utils.data import TensorDataset

import callboard_parallel_trainer
from callboard_bn_freeze import BnFreeze
from callboard_channels_last import ChannelsLast
from callboard_gradient_accumulation import GradientAccumulation
from callboard_gradient_clip import GradientClip
from callboard_parallel_trainer import ParallelTrainer
from callboard_short_epoch import ShortEpochCallback
from callboard_weighted_dl import PartialDL, WeightedDL
from parity.cases import case, difference
from parity.problems import (
    MOMENTUM,
    Problem,
    a_convolution,
    images,
    in_two,
    numbers,
    our_watch,
    state_of,
    their_watch,
)


def gradients(learner: Any) -> list[torch.Tensor]:
    """Norms of the gradients of all weights."""
    return [p.grad.norm() for p in learner.model.parameters() if p.grad is not None]


def fits(problem: Problem, ours: Any, theirs: Any, num_epochs: int = 3) -> float:
    """The difference in gradients of every step, losses and weights."""
    our_steps = our_watch("after_step", gradients)
    their_steps = their_watch("after_step", gradients)
    learner, learn = problem.ours(ours, our_steps), problem.theirs(theirs, their_steps)
    learner.fit(num_epochs)
    learn.fit(num_epochs)
    return max(
        difference(our_steps.seen, their_steps.seen),
        difference(learner.recorder.smooth_losses, learn.recorder.losses),
        difference(state_of(learner), state_of(learn)),
    )


@case("GradientAccumulation", "gradients of every step, losses and weights, by `n_acc`")
def accumulated(folder: Path) -> float:
    # 24 items come out even for all of these.
    problem = Problem(train=numbers(24, 0), opt_func=MOMENTUM)
    return max(
        fits(
            problem,
            GradientAccumulation(n_acc),
            fastai_training.GradientAccumulation(n_acc),
        )
        for n_acc in (4, 8, 12, 24)
    )


@case("GradientClip", "gradients of every step, losses and weights, by two norms")
def clipped(folder: Path) -> float:
    options: tuple[dict[str, float], ...] = (
        {"max_norm": 0.1},
        {"max_norm": 0.5, "norm_type": 1.0},
    )
    return max(
        fits(Problem(), GradientClip(**o), fastai_training.GradientClip(**o))
        for o in options
    )


@case("BnFreeze", "weights and running statistics with a frozen body")
def frozen(folder: Path) -> float:
    problem = Problem(splitter=in_two, train_bn=False)
    ours = problem.ours(BnFreeze())
    theirs = problem.theirs(fastai_training.BnFreeze())
    for learner in (ours, theirs):
        learner.freeze()
        learner.fit(2)
        learner.unfreeze()
        learner.fit(1)
    return difference(state_of(ours), state_of(theirs))


@case("ShortEpochCallback", "weights where both end behind the same batch")
def short(folder: Path) -> float:
    # fastai stops once the share is exceeded, which is one batch later.
    problem = Problem(train=numbers(32, 0), valid=numbers(32, 1))
    ours = problem.ours(ShortEpochCallback(3 / 8))
    theirs = problem.theirs(fastai_training.ShortEpochCallback(2 / 8))
    ours.fit(2)
    theirs.fit(2)
    counts = ours.train_iter, theirs.train_iter
    return max(difference(*counts), difference(state_of(ours), state_of(theirs)))


@case("ChannelsLast", "memory format of weights, losses and weights")
def channels_last(folder: Path) -> float:
    def is_last(learner: Any) -> bool:
        weight = learner.model[0].weight
        return bool(weight.is_contiguous(memory_format=torch.channels_last))

    problem = Problem(
        model=a_convolution,
        train=images(16, 0),
        valid=images(8, 1),
        loss_func=nn.CrossEntropyLoss,
        metrics=(),
    )
    ours, theirs = our_watch("after_pred", is_last), their_watch("after_pred", is_last)
    learner, learn = (
        problem.ours(ChannelsLast(), ours),
        problem.theirs(FastaiChannelsLast(), theirs),
    )
    learner.fit(2)
    learn.fit(2)
    return max(
        difference([any(ours.seen), *ours.seen], [True, *theirs.seen]),
        difference(state_of(learner), state_of(learn)),
    )


class InHalves(nn.Module):
    """Stands for DataParallel on two GPUs: predicts each half of a batch by itself."""

    def __init__(self, module: nn.Module, device_ids: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.module(half) for half in inputs.chunk(2)])


def fastai_distributed() -> Any:
    """fastai's module, which cannot be imported without accelerate."""
    accelerate = types.ModuleType("accelerate")
    vars(accelerate)["Accelerator"] = object
    with mock.patch.dict(sys.modules, {"accelerate": accelerate}):
        from fastai import distributed
    return distributed


@case("ParallelTrainer", "losses and weights, with a stand-in for two GPUs")
def shared_out(folder: Path) -> float:
    # Batches are of 4, and normalised by halves; one of 3 would leave one item alone.
    problem = Problem(train=numbers(24, 0), valid=numbers(8, 1))
    of_two_gpus = mock.patch.multiple(
        callboard_parallel_trainer,
        replicated=InHalves,
        _with_number=lambda device: torch.device("cuda", 0),
    )
    ours = problem.ours(ParallelTrainer([0, 1]))
    distributed = fastai_distributed()
    theirs = problem.theirs(distributed.ParallelTrainer([0, 1]))
    plain = problem.ours()
    plain.fit(2)
    with of_two_gpus, mock.patch.object(torch.cuda, "device_count", return_value=2):
        ours.fit(2)
    with mock.patch.object(distributed, "DataParallel", InHalves):
        theirs.fit(2)
    if difference(state_of(ours), state_of(plain)) == 0:
        return float("inf")  # then no batch was shared
    return max(
        difference(ours.recorder.smooth_losses, theirs.recorder.losses),
        difference(state_of(ours), state_of(theirs)),
    )


def items_of(loader: Any) -> list[int]:
    return sorted(int(item) for (batch,) in loader for item in batch)


@case("WeightedDL", "items of an epoch: how many, and none of weight 0")
def weighted(folder: Path) -> float:
    data = TensorDataset(torch.arange(40))
    weights = [float(item % 4 > 0) for item in range(40)]
    options: dict[str, Any] = {"bs": 8, "wgts": weights, "num_workers": 0}
    loaders = (
        WeightedDL(data, **options),
        FastaiWeightedDL(data, shuffle=True, **options),
    )
    facts = []
    for loader in loaders:
        items = items_of(loader)
        facts.append([len(items), len(loader), all(item % 4 for item in items)])
    return difference(*facts)


@case("PartialDL", "items and batches of an epoch, no item twice")
def partial(folder: Path) -> float:
    data = TensorDataset(torch.arange(40))
    options: dict[str, Any] = {"bs": 8, "partial_n": 21, "num_workers": 0}
    loaders = PartialDL(data, **options), FastaiPartialDL(data, shuffle=True, **options)
    facts = []
    for loader in loaders:
        items = items_of(loader)
        facts.append([len(items), len(loader), len(set(items)) == len(items)])
    return difference(*facts)


@case("Learner.freeze", "which weights learn, group by group, and weights")
def freezing(folder: Path) -> float:
    def learning(learner: Any) -> list[bool]:
        return [p.requires_grad for p in learner.model.parameters()]

    problem = Problem(splitter=in_two, opt_func=MOMENTUM)
    ours, theirs = problem.ours(), problem.theirs()
    for learner in (ours, theirs):
        learner.fit(1)
        learner.freeze()
        learner.fit(1)
    frozen = difference(learning(ours), learning(theirs))
    for learner in (ours, theirs):
        learner.unfreeze()
        learner.fit(1)
    return max(frozen, difference(state_of(ours), state_of(theirs)))
