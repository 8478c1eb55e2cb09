"""Answers in words, as the command line and a notebook print them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from callboard.cli.text import columns

if TYPE_CHECKING:
    from callboard_trace.answers import Answer, Summary, Writer


def answer_in_words(answer: Answer) -> Iterator[str]:
    """Lines that tell who wrote an attribute last, with before and after."""
    where = f"step {answer.step}" if answer.step else "the beginning"
    if not answer.writers:
        yield f"Nobody changed {answer.attribute} up to {where}. It was:"
        rows = [(name, *value_cells(v)) for name, v in answer.first_seen.items()]
        yield from _aligned(rows, "  ")
        return
    last = answer.writers[0]
    if answer.is_in_step:
        head = f"{answer.attribute} in {where} (epoch {last.epoch})"
        yield f"{head}, the last write first:"
    else:
        at = f"step {last.step}" if last.step else "before the first step"
        yield f"Nobody wrote {answer.attribute} in {where}. The last write was at {at}:"
    for number, writer in enumerate(answer.writers, 1):
        is_other = writer.attribute != answer.attribute
        which = f"{writer.attribute}: " if is_other else ""
        yield ""
        yield f"{number}. {which}{blame(writer)}"
        rows = [
            ("before", *value_cells(writer.before)),
            ("after", *value_cells(writer.after)),
        ]
        yield from _aligned(rows, "     ")


def _aligned(rows: list[tuple[str, ...]], indent: str) -> Iterator[str]:
    num_cells = max(map(len, rows), default=0)
    full = [(*row, *[""] * (num_cells - len(row))) for row in rows]
    # As for a pipe, which has no width: lines are wrapped later.
    for line in columns(full, io.StringIO()).splitlines():
        yield (indent + line).rstrip()


def summary_in_words(summary: Summary, stream: IO[str]) -> Iterator[str]:
    """Lines that tell who took how long, as wide as a terminal is."""
    if not summary.shares:
        yield summary.why_empty
        return
    steps = f"Steps {summary.first_step} to {summary.last_step}"
    yield f"{steps}, {summary.total_ms:.1f} ms without what tracing took"
    yield ""
    yield columns(list(_table(summary)), stream)


def _table(summary: Summary) -> Iterator[tuple[str, ...]]:
    by_event = any(share.event for share in summary.shares)
    titles = ("who", "ms", "share", "calls", "us a call", "changed")
    yield (titles[0], "event", *titles[1:]) if by_event else titles
    for share in summary.shares:
        changed = ", ".join(f"{name} {count}x" for name, count in share.changes.items())
        raised = f"raised {share.errors}x" if share.errors else ""
        cells = (
            f"{share.own_ms:.1f}",
            f"{share.own_ms / summary.total_ms:.1%}" if summary.total_ms else "",
            str(share.calls),
            f"{share.own_ms / share.calls * 1000:.1f}",
            "; ".join(filter(None, (changed, raised))),
        )
        who = (share.plugin, share.event) if by_event else (share.plugin,)
        yield (*who, *cells)


def printable(text: str) -> str:
    """Without what a terminal would obey: a trace may come from anywhere."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def in_short(value: dict[str, Any] | None) -> str:
    """A value in a word or two."""
    if value is None:
        return "absent"
    is_scalar = not value.get("shape")
    return str(value.get("text")) if is_scalar else f"mean {value.get('text')}"


def value_cells(value: dict[str, Any] | None) -> tuple[str, ...]:
    """What is shown of a value: type and shape, mean, digest; or its text."""
    if value is None:
        return ("absent",)
    if value.get("digest") is None:
        return (str(value.get("text")),)
    shape = ", ".join(map(str, value.get("shape") or ()))
    return (
        f"{value.get('dtype') or 'no tensor'} [{shape}]",
        f"mean {value.get('text')}",
        f"digest {value.get('digest')}",
    )


def blame(writer: Writer) -> str:
    """Who, where from, and in which event."""
    source = f" ({writer.origin})" if writer.origin else ""
    verb = "put it back" if writer.is_put_back else "wrote it"
    inside = "" if writer.stage == "fit" else f" of a nested {writer.stage}"
    return f"{writer.plugin}{source} {verb} in {writer.event}{inside}"
