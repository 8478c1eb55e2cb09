"""Find the largest batch that fits, and the one that trains most samples a second.

Listens to  before_batch, after_batch (of the short fits that try a size out)
Changes     nothing: afterwards all is as it was
Source      doubling until it fits no more, as in Lightning's ``BatchSizeFinder``
            (Apache-2.0), written anew; what fits is foreseen, and not only tried
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_batch_size_finder.batches import resized, with_batch_size
from callboard_batch_size_finder.memory import LiveBytes, free_bytes
from callboard_batch_size_finder.search import (
    BatchSizes,
    Trial,
    batch_size_find,
    foreseen_bytes,
)

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = [
    "BatchSizes",
    "LiveBytes",
    "Trial",
    "batch_size_find",
    "foreseen_bytes",
    "free_bytes",
    "resized",
    "with_batch_size",
]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the search out."""
    from callboard.testing import Specimen

    return {
        "batch_size_find": Specimen(
            run=lambda learner: batch_size_find(learner, max_size=8, num_steps=1)
        )
    }
