"""A trace in the trace event format, which Perfetto and Chrome open.

Every piece of work is a complete event (``"ph": "X"``) with ``ts`` and ``dur`` in
microseconds, on one thread of one process, so that pieces show within one another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from callboard.errors import OptionError
from callboard.watching import THE_LOOP
from callboard_trace.file import Trace
from callboard_trace.words import in_short

PROCESS, THREAD = 1, 1
BEGINNING = '{"displayTimeUnit": "ms", "traceEvents": [\n'
COLUMNS = (
    "id, plugin, event, begin_ns, duration_ns, fit, step, epoch, stage, phase, error"
)


def export(trace: Trace, place: Path) -> int:
    """Write a trace as JSON for Perfetto; returns the number of events.

    The file is put in its place whole; one of an earlier export is replaced.

    Raises:
        OptionError: Nothing can be written there, or the file is something else.
        TraceError: The trace is damaged.
    """
    if place.exists() and not _is_export(place):
        raise OptionError(
            f"{place} is there already and was not exported from a trace. Give another "
            "file."
        )
    fresh = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as output:
            num_events = _write(trace, output)
        os.replace(fresh, place)
    except OSError as error:
        raise OptionError(f"{place} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):  # a folder that is not there has no file, either
            fresh.unlink(missing_ok=True)
    return num_events


def _is_export(place: Path) -> bool:
    try:
        with place.open(encoding="utf-8", errors="replace") as content:
            return content.read(len(BEGINNING)) in ("", BEGINNING)
    except OSError:
        return False  # such as a folder


def _write(trace: Trace, output: TextIO) -> int:
    num_events = 0
    output.write(BEGINNING)
    for event in events(trace):
        output.write(",\n" if num_events else "")
        output.write(json.dumps(event))
        num_events += 1
    other = json.dumps(trace.fact("environment", {}))
    output.write(f'\n], "otherData": {other}}}\n')
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
