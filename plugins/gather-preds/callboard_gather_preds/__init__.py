"""Collect predictions, targets and losses over a whole loader: ``learn.get_preds()``.

Listens to  before_validate, after_batch, after_validate; in the stage "predict" only
Changes     nothing; ``tta`` changes xb of the batches that it augments
Source      fastai's ``GatherPredsCallback``, ``Learner.get_preds``, ``predict`` and
            ``tta`` (Apache-2.0), written anew
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callboard.data import example_batch
from callboard_gather_preds.augmented import tta
from callboard_gather_preds.decisions import activation_of, decoder_of
from callboard_gather_preds.gather import GatherPredsCallback, get_preds
from callboard_gather_preds.joining import joined, on_cpu
from callboard_gather_preds.loaders import in_order, loader_over_all
from callboard_gather_preds.single import first_item, predict

if TYPE_CHECKING:
    from callboard.testing import Specimen

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


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try predictions out."""
    from callboard.testing import Specimen

    def an_item(loader: Any) -> Any:
        batch = example_batch(loader)
        return first_item(batch if isinstance(batch, dict) else batch[0])

    def unchanged(inputs: Any) -> Any:
        return inputs

    return {
        "predict": Specimen(
            run=lambda learner: predict(learner, an_item(learner.dls.train))
        ),
        "tta": Specimen(run=lambda learner: tta(learner, batch_tfms=unchanged)),
    }
