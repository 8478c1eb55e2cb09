"""Plain lines, for a file, a pipe or a terminal that knows no control signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from callboard_progress.bars import Bar
from callboard_progress.texts import aligned, cells


class PlainDisplay:
    """Lines of text, without bars and control characters."""

    has_bars = False

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.columns: tuple[str, ...] = ()

    def open(self) -> None:
        """Nothing to take over."""

    def show_bars(self, bars: Sequence[Bar], *, draw: bool) -> None:
        """There are none."""

    def add_row(self, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Write the row, below a header where the columns are new."""
        if tuple(columns) != self.columns:
            self.columns = tuple(columns)
            self.add_note(aligned(columns, columns))
        self.add_note(aligned(columns, cells(columns, row)))

    def add_note(self, note: str) -> None:
        """Write a line."""
        encoding = getattr(self.file, "encoding", None) or "utf-8"
        line = note.encode(encoding, "replace").decode(encoding)
        print(line, file=self.file, flush=True)

    def close(self) -> None:
        """Nothing to undo."""
