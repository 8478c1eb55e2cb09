"""Where progress is shown: which display fits the output."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from callboard_progress.bars import Bar
from callboard_progress.notebook import NotebookDisplay
from callboard_progress.plain import PlainDisplay
from callboard_progress.terminal import TerminalDisplay, is_terminal, rich_console

if TYPE_CHECKING:
    from rich.console import Console

Mode = Literal["auto", "terminal", "plain", "notebook"]
MODES = ("auto", "terminal", "plain", "notebook")


class Display(Protocol):
    """A place to show progress on; opened only where it has bars."""

    has_bars: bool

    def open(self) -> None:
        """Take the place over."""

    def show_bars(self, bars: Sequence[Bar], *, draw: bool) -> None:
        """Take over new bars; draw them at once, or with what is drawn next."""

    def add_row(self, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Let the table grow by one row."""

    def add_note(self, note: str) -> None:
        """Show a line below the table, after ``close``."""

    def close(self) -> None:
        """Take the bars away and undo what ``open`` did; the table stays."""


def choose_display(mode: Mode, console: Console | None) -> Display | None:
    """The display for where the output goes, or None where it goes nowhere."""
    if mode == "notebook" or (mode == "auto" and console is None and is_in_notebook()):
        return NotebookDisplay()
    file: TextIO | None = sys.stdout if console is None else console.file  # type: ignore[assignment]
    if file is None or getattr(file, "closed", False):
        return None
    if mode == "terminal" or (mode == "auto" and understands_control(file, console)):
        return TerminalDisplay(console, is_forced=mode == "terminal")
    return PlainDisplay(file)


def is_in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; IPython is not imported to find out."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    kinds = [kind.__name__ for kind in type(shell).__mro__]
    return "ZMQInteractiveShell" in kinds


def understands_control(file: TextIO, console: Console | None) -> bool:
    """Whether a file is a terminal on which the cursor can be moved."""
    if not is_terminal(file):
        return False
    if os.name != "nt" and os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return (console or rich_console()).is_interactive
