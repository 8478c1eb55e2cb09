"""Collect predictions, targets and losses over a whole loader: ``learn.get_preds()``.

Listens to  before_validate, after_batch, after_validate; in the stage "predict" only
Changes     nothing; ``tta`` changes xb of the batches that it augments
Source      fastai's ``GatherPredsCallback``, ``Learner.get_preds``, ``predict`` and
            ``tta`` (Apache-2.0), written anew
"""

from __future__ import annotations

from callboard_gather_preds.augmented import tta
from callboard_gather_preds.decisions import activation_of, decoder_of
from callboard_gather_preds.gather import GatherPredsCallback, get_preds
from callboard_gather_preds.joining import joined, on_cpu
from callboard_gather_preds.loaders import in_order, loader_over_all
from callboard_gather_preds.single import predict

__all__ = [
    "GatherPredsCallback",
    "activation_of",
    "decoder_of",
    "get_preds",
    "in_order",
    "joined",
    "loader_over_all",
    "on_cpu",
    "predict",
    "tta",
]
