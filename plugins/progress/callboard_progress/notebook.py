"""Bars and a table in HTML, in the output of a cell."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from callboard_progress.bars import Bar
from callboard_progress.texts import aligned, cells


class NotebookDisplay:
    """HTML in the output of a notebook's cell: a table, and bars below it."""

    has_bars = True

    def __init__(self) -> None:
        self.columns: tuple[str, ...] = ()
        self.rows: list[Mapping[str, Any]] = []
        self.bars: Sequence[Bar] = ()

    def open(self) -> None:
        """Make two places in the output, which are written anew from now on."""
        display = importlib.import_module("IPython.display").display
        # Apart, so that the bars do not send the whole table each time.
        self.table_place = display(self._table(), raw=True, display_id=True)
        self.bars_place = display(self._bars(), raw=True, display_id=True)

    def show_bars(self, bars: Sequence[Bar], *, draw: bool) -> None:
        """Take over new bars."""
        self.bars = bars
        if draw:
            self.bars_place.update(self._bars(), raw=True)

    def add_row(self, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Write the table anew with one row more."""
        self.columns = tuple(columns)
        self.rows.append(row)
        self.table_place.update(self._table(), raw=True)

    def add_note(self, note: str) -> None:
        """Write a line below the table."""
        print(note)

    def close(self) -> None:
        """Take the bars away."""
        self.bars = ()
        self.bars_place.update(self._bars(), raw=True)

    def _table(self) -> dict[str, str]:
        texts = [cells(self.columns, row) for row in self.rows]
        lines = [aligned(self.columns, line) for line in (self.columns, *texts)]
        return {
            "text/html": html_table(self.columns, texts) if texts else "",
            "text/plain": "\n".join(lines) if texts else "",
        }

    def _bars(self) -> dict[str, str]:
        plain = [f"{bar.label} {bar.count}  {bar.time}" for bar in self.bars]
        html = "".join(html_bar(bar) for bar in self.bars)
        return {"text/html": html, "text/plain": "\n".join(plain)}


def html_table(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    """A table in HTML, which notebooks style by its class."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>"
        for line in texts
    )
    return (
        f'<table class="dataframe"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def html_bar(bar: Bar) -> str:
    """One bar in HTML with its count, time and loss."""
    words = "  ".join(filter(None, (bar.count, bar.time, bar.loss_in_words)))
    bar_share = "" if bar.share is None else f' value="{bar.share:.4f}"'
    return (
        f'<div style="font-family:monospace;white-space:pre">{escape(bar.label)} '
        f'<progress max="1"{bar_share} style="width:20em"></progress>  '
        f"{escape(words)}</div>"
    )
