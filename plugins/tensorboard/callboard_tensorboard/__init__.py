"""Write a run to TensorBoard: numbers, the model, samples and embeddings.

Listens to  the events of run-log's RunLogger, and do_validate, after_pred
Changes     nothing
Source      fastai's ``TensorBoardCallback``, ``TensorBoardProjectorCallback`` and
            ``projector_word_embeddings`` (Apache-2.0), written anew
"""

from __future__ import annotations

from typing import Any

from callboard_tensorboard.callback import TensorBoardCallback
from callboard_tensorboard.graph import write_graph
from callboard_tensorboard.projector import (
    TensorBoardProjectorCallback,
    projector_word_embeddings,
)
from callboard_tensorboard.tables import markdown_table

__all__ = [
    "TensorBoardCallback",
    "TensorBoardProjectorCallback",
    "callboard_specimens",
    "markdown_table",
    "projector_word_embeddings",
    "write_graph",
]


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries them out: the name of a run is the time."""
    from callboard.testing import Specimen

    return {
        "tensorboard": Specimen(is_slow=True, ignore=("run_id",)),
        "tensorboard-projector": Specimen(is_slow=True),
    }
