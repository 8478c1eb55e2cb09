"""Predictions: gathered, fetched in a fit, with dropout, with augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import FetchPredsCallback as FastaiFetchPreds
from fastai.callback.preds import MCDropoutCallback as FastaiMCDropout
from fastai.data.core import DataLoaders as FastaiDataLoaders
from fastai.data.core import Datasets
from fastai.losses import BCEWithLogitsLossFlat
from fastai.torch_core import TensorImage
from fasttransform import Transform
from torch import Tensor, nn

from callboard_fetch_preds import FetchPredsCallback
from callboard_gather_preds import get_preds, tta
from callboard_mc_dropout import MCDropoutCallback
from parity.cases import case, difference
from parity.mixing import CLASSES, IMAGES
from parity.problems import Problem, numbers


@case("GatherPredsCallback", "inputs, predictions, targets, decisions and losses")
def gathered(folder: Path) -> float:
    def of(problem: Problem) -> float:
        ours, theirs = problem.ours(), problem.theirs()
        ours.fit(1)
        theirs.fit(1)
        options = {"with_input": True, "with_decoded": True, "with_loss": True}
        return max(
            difference(
                list(get_preds(ours, ds_idx=i, **options)),
                list(theirs.get_preds(ds_idx=i, **options)),
            )
            for i in (0, 1)
        )

    binary = Problem(
        loss_func=nn.BCEWithLogitsLoss,
        fastai_loss_func=lambda: BCEWithLogitsLossFlat(thresh=0.5),
        train=above_zero(27, 0),
        valid=above_zero(10, 1),
    )
    return max(map(of, (CLASSES, binary)))


def above_zero(num_items: int, seed: int) -> Any:
    inputs, targets = numbers(num_items, seed).tensors
    return torch.utils.data.TensorDataset(inputs, (targets > 0).float())


@case("FetchPredsCallback", "predictions and targets after every validation")
def fetched(folder: Path) -> float:
    ours, theirs = CLASSES.ours(), CLASSES.theirs()
    seen: dict[str, list[Any]] = {"ours": [], "theirs": []}
    ours.fit(1, cbs=FetchPredsCallback(with_decoded=True))
    fetch = FetchPredsCallback(with_decoded=True)
    ours.fit(1, cbs=fetch)
    seen["ours"].append(list(fetch.preds))
    theirs.fit(1, cbs=FastaiFetchPreds(with_decoded=True))
    their_fetch = FastaiFetchPreds(with_decoded=True)
    theirs.fit(1, cbs=their_fetch)
    seen["theirs"].append(list(their_fetch.preds))
    return difference(seen["ours"], seen["theirs"])


class HalvingDropout(nn.Dropout):
    """Drops the second half of the features, so that nothing is drawn."""

    def forward(self, inputs: Tensor) -> Tensor:
        keep = torch.arange(inputs.shape[1]) < inputs.shape[1] // 2
        return inputs * keep if self.training else inputs


@case("MCDropoutCallback", "predictions of a model whose dropout draws nothing")
def dropped_out(folder: Path) -> float:
    def model() -> nn.Module:
        layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), HalvingDropout(), nn.Linear(8, 4)]
        return nn.Sequential(*layers)

    problem = CLASSES.but(model=model)
    ours, theirs = problem.ours(), problem.theirs()
    ours.fit(1)
    theirs.fit(1)
    found = list(get_preds(ours, cbs=MCDropoutCallback()))
    plain = list(get_preds(ours))
    if difference(found, plain) == 0:
        return float("inf")  # then dropout was not at work
    return difference(
        [found, plain],
        [
            list(theirs.get_preds(cbs=FastaiMCDropout())),
            list(theirs.get_preds()),
        ],
    )


class Mirror(Transform):
    """Turns images left to right, in training only as fastai has it."""

    split_idx = 0

    def encodes(self, image: TensorImage) -> Any:
        return image.flip(-1)


@case("Learner.tta", "predictions by mean, with `beta` 0.25 and None, and by `use_max`")
def augmented(folder: Path) -> float:
    ours, theirs = IMAGES.ours(), IMAGES.theirs()
    inputs, targets = IMAGES.valid.tensors

    def image(index: int) -> TensorImage:
        return TensorImage(inputs[index])

    def label(index: int) -> Tensor:
        return targets[index]

    items = Datasets(range(len(inputs)), [[image], [label]])
    theirs.dls = FastaiDataLoaders.from_dsets(items, items, bs=4, num_workers=0)
    options: tuple[dict[str, Any], ...] = ({}, {"beta": None}, {"use_max": True})

    def between(option: dict[str, Any]) -> float:
        mine = tta(ours, batch_tfms=lambda images: images.flip(-1), n=2, **option)
        fastais = theirs.tta(batch_tfms=[Mirror()], n=2, **option)
        return difference(list(mine), list(fastais))

    return max(map(between, options))
