"""Save the whole run at checkpoints, and go on from the last good one.

Listens to  before_fit, checkpoint, do_validate (around it), after_fit, teardown
Changes     nothing that is learned; ends the run in order when a signal tells it to
Source      durable writes in the order of SQLite's atomic commit
            (sqlite.org/atomiccommit.html); a snapshot first and the writing behind it
            as in CheckFreq (Mohan et al., FAST 2021)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_checkpoint.callback import CheckpointCallback, read_checkpoint
from callboard_checkpoint.files import DamagedError
from callboard_checkpoint.signals import Interrupted

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = ["CheckpointCallback", "DamagedError", "Interrupted", "read_checkpoint"]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the saving of runs out."""
    from callboard.testing import Specimen

    return {
        "checkpoint": Specimen(
            make=lambda: CheckpointCallback(async_=False, overwrite=True),
            is_slow=True,
            ignore=["run"],  # every run has a name of its own
        ),
        "read_checkpoint": Specimen(
            run=lambda learner: read_checkpoint(learner, "auto")
        ),
    }
