"""Live bars below the rows of a table, drawn by rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from callboard_progress.bars import Bar, lay_out
from callboard_progress.texts import aligned, cells

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live


class TerminalDisplay:
    """Rows that stay, and below them bars that move, drawn by rich."""

    has_bars = True

    def __init__(self, console: Console | None, *, is_forced: bool = False) -> None:
        self.console = console or rich_console(is_forced=is_forced)
        self.columns: tuple[str, ...] = ()
        self.lines = _BarLines()
        self.live: Live | None = None

    def open(self) -> None:
        """Draw bars below all that is printed from now on."""
        from rich.errors import LiveError
        from rich.live import Live

        live = Live(
            self.lines,
            console=self.console,
            # A thread that draws would hold locks while loaders fork their workers.
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            # What is printed to a terminal goes above the bars; files get their own.
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        )
        with _without_exit():
            try:
                live.start()
            except LiveError:
                return  # rich before 14.1 has one at a time, and somebody else has it
            self.live = live
            # rich hides the cursor; a run that is killed would leave it hidden.
            self.console.show_cursor(True)

    def show_bars(self, bars: Sequence[Bar], *, draw: bool) -> None:
        """Take over new bars."""
        self.lines.bars = bars
        if draw and self.live is not None:
            with _without_exit():
                self.live.refresh()

    def add_row(self, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Print the row above the bars, below a header where the columns are new."""
        if tuple(columns) != self.columns:
            self.columns = tuple(columns)
            self._print(aligned(columns, columns), style="bold")
        self._print(aligned(columns, cells(columns, row)))

    def add_note(self, note: str) -> None:
        """Print a line."""
        self._print(note)

    def close(self) -> None:
        """Take the bars away and give stdout and stderr back."""
        if self.live is not None:
            with _without_exit():
                self.live.stop()

    def _print(self, line: str, style: str | None = None) -> None:
        from rich.text import Text

        with _without_exit():
            self.console.print(Text(line, style=style or ""), soft_wrap=True)


@contextmanager
def _without_exit() -> Iterator[None]:
    """Let an error out as one: rich answers a broken pipe with ``SystemExit``."""
    try:
        yield
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):
            raise BrokenPipeError("the output was closed") from leaving
        raise


class _BarLines:
    """The bars as rich draws them, as wide as the terminal is at that moment."""

    def __init__(self) -> None:
        self.bars: Sequence[Bar] = ()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.segment import Segment
        from rich.text import Text

        if not self.bars:
            return
        heads, bar_width, tails = lay_out(self.bars, options.max_width)
        for bar, head, tail in zip(self.bars, heads, tails, strict=True):
            yield Text(head + " ", style="bold", end="")
            if bar_width and bar.share is not None:
                yield ProgressBar(total=1.0, completed=bar.share, width=bar_width)
            elif bar_width:
                yield Text(" " * bar_width, end="")
            yield Text("  " + tail, end="", no_wrap=True, overflow="crop")
            yield Segment.line()


def rich_console(*, is_forced: bool = False) -> Console:
    # rich takes 60 ms to import, and a run without a terminal has no use for it.
    import rich
    from rich.console import Console

    console = rich.get_console()
    if is_forced and not console.is_interactive:
        return Console(force_terminal=True, force_interactive=True)
    return console


def is_terminal(file: TextIO | None) -> bool:
    isatty = getattr(file, "isatty", None)
    return bool(isatty is not None and isatty())
