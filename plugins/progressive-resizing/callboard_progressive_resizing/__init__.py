"""Train on small images or short sequences first, and on whole ones later.

Listens to  before_batch, of training batches
Changes     xb, and yb where labels have the same extent
Source      Howard 2018 (DAWNBench); Tan & Le 2021, arXiv:2104.00298; Li, Zhang & He
            2021, arXiv:2108.06084
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_progressive_resizing.growth import Growth
from callboard_progressive_resizing.images import ProgressiveResizing, resized
from callboard_progressive_resizing.sequences import SequenceLength, shortened

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = ["Growth", "ProgressiveResizing", "SequenceLength", "resized", "shortened"]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs: images and sequences that are large enough."""
    from callboard.testing import Specimen

    return {
        "progressive-resizing": Specimen(learner="images"),
        "sequence-length": Specimen(
            make=lambda: SequenceLength(multiple_of=1), learner="sequences"
        ),
    }
