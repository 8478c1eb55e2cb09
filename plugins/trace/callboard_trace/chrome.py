"""A trace in the trace event format, which Perfetto and Chrome open.

Every piece of work is a complete event (``"ph": "X"``) with ``ts`` and ``dur`` in
microseconds, on one thread of one process, so that pieces show within one another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from callboard.errors import OptionError
from callboard.watching import THE_LOOP
from callboard_trace.answers import in_short
from callboard_trace.file import Trace

PROCESS, THREAD = 1, 1
COLUMNS = (
    "id, plugin, event, begin_ns, duration_ns, fit, step, epoch, stage, phase, error"
)


def export(trace: Trace, place: Path) -> int:
    """Write a trace as JSON for Perfetto; returns the number of events.

    Raises:
        OptionError: Nothing can be written there.
    """
    num_events = 0
    try:
        with place.open("w", encoding="utf-8") as output:
            output.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
            for event in events(trace):
                output.write(",\n" if num_events else "")
                output.write(json.dumps(event))
                num_events += 1
            other = json.dumps(trace.fact("environment", {}))
            output.write(f'\n], "otherData": {other}}}\n')
    except OSError as error:
        raise OptionError(f"{place} cannot be written: {error.strerror}.") from error
    return num_events


def events(trace: Trace) -> Iterator[dict[str, Any]]:
    """The events of the format, metadata first, then by time."""
    yield _metadata("process_name", "callboard fit")
    yield _metadata("thread_name", "the loop and its plugins")
    ((start,),) = trace.rows("SELECT min(begin_ns) FROM calls")
    changed: dict[int, dict[str, str]] = {}
    writes = trace.rows("SELECT call, attribute, after FROM writes")
    for call, attribute, after in writes:
        changed.setdefault(call, {})[attribute] = in_short(trace.plain(after))
    for row in trace.rows(f"SELECT {COLUMNS} FROM calls ORDER BY begin_ns, id"):
        number, plugin, event, begin_ns, duration_ns, *where, error = row
        names = ("fit", "step", "epoch", "stage", "phase")
        arguments: dict[str, Any] = dict(zip(names, where, strict=True))
        if number in changed:
            arguments["changed"] = changed[number]
        if error:
            arguments["raised"] = error
        is_loop = plugin == THE_LOOP
        yield {
            "name": event if is_loop else f"{plugin}: {event}",
            "cat": "loop" if is_loop else "plugin",
            "ph": "X",
            "ts": (begin_ns - start) / 1000,
            "dur": duration_ns / 1000,
            "pid": PROCESS,
            "tid": THREAD,
            "args": arguments,
        }


def _metadata(what: str, name: str) -> dict[str, Any]:
    return {
        "name": what,
        "ph": "M",
        "ts": 0,
        "pid": PROCESS,
        "tid": THREAD,
        "args": {"name": name},
    }
