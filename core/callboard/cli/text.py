"""Text for terminals and for pipes.

A terminal gets lines wrapped to its width. A pipe or a file gets one line each, so that
``grep`` finds what belongs together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, Any

Row = Sequence[str]


def width_of(stream: IO[Any]) -> int | None:
    """Columns of a terminal; None for a pipe or a file, which has no width."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    if not is_terminal:
        return None
    import shutil  # here, since every listing into a pipe would wait for it

    return shutil.get_terminal_size().columns


def wrapped(text: str, stream: IO[Any], indent: str = "") -> str:
    """Lines wrapped to the stream's width; lines that are indented stay so."""
    width = width_of(stream)
    lines = []
    for line in text.splitlines():
        own = line[: len(line) - len(line.lstrip())]
        lines.append(_fill(line.strip(), width, own, own + indent))
    return "\n".join(lines)


def columns(rows: Sequence[Row], stream: IO[Any]) -> str:
    """Rows of cells in columns; only the last one may be too wide, and is wrapped."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    width = width_of(stream)
    lines = []
    for row in rows:
        cells = zip(row[:-1], widths[:-1], strict=True)
        head = "".join(f"{cell.ljust(cell_width)}  " for cell, cell_width in cells)
        # A narrow terminal: better a line of its own than a column of single words.
        hang = " " * (len(head) if width is None or width - len(head) > 24 else 4)
        lines.append(_fill(row[-1], width, head, hang).rstrip())
    return "\n".join(lines)


def _fill(text: str, width: int | None, first: str, others: str) -> str:
    if width is None or not text:
        return first + text
    import textwrap

    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def short_path(path: str | os.PathLike[str]) -> str:
    """A path as seen from the working folder, where that is shorter."""
    whole = os.path.abspath(path)
    try:
        relative = os.path.relpath(whole)
    except ValueError:  # another drive
        return whole
    return min(relative, whole, key=len)
