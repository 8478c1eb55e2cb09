"""Record every event of a fit: who ran, how long, and what each plugin changed.

Listens to  do_fit (around it), checkpoint, teardown; watches every hookimpl besides
Changes     nothing
Source      the trace event format that Perfetto reads (Google, "Trace Event Format",
            2016), for the export
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_trace.callback import TraceCallback
from callboard_trace.command import command
from callboard_trace.file import TraceError

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = ["TraceCallback", "TraceError", "command"]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to know: a trace waits for the disk."""
    from callboard.testing import Specimen

    return {"trace": Specimen(is_slow=True)}
