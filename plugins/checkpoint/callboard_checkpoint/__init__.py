"""Save the whole run at checkpoints, and go on from the last good one.

Listens to  before_fit, checkpoint, do_validate (around it), after_fit, teardown
Changes     nothing that is learned; ends the run in order when a signal tells it to
Source      durable writes in the order of SQLite's atomic commit
            (sqlite.org/atomiccommit.html); a snapshot first and the writing behind it
            as in CheckFreq (Mohan et al., FAST 2021)
"""

from __future__ import annotations

from callboard_checkpoint.callback import CheckpointCallback, read_checkpoint
from callboard_checkpoint.files import DamagedError
from callboard_checkpoint.signals import Interrupted

__all__ = ["CheckpointCallback", "DamagedError", "Interrupted", "read_checkpoint"]
