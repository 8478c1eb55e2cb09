"""Show bars with loss and time left, and a table that grows by one row an epoch.

In a terminal the rows of the table are printed above two live bars, in a notebook both
are HTML, and everywhere else (a file, a pipe, a dumb terminal) there are plain lines
and no bars. Bars are drawn by the clock, in the thread that trains; only then is a loss
read from the device.

Listens to  before_fit, before_epoch, before_train, after_batch, after_train,
            before_validate, after_epoch, teardown
Changes     nothing
Source      fastai's ProgressCallback (fastai/callback/progress.py), for what is shown
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from callboard import Callback
from callboard.errors import OptionError, suggestion

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

Mode = Literal["auto", "terminal", "plain", "notebook"]
MODES = ("auto", "terminal", "plain", "notebook")
# Drawing takes at most this share of the time, however slow the terminal is.
MAX_DRAWING_SHARE = 0.02
# Reading a loss waits for the device: once in so many batches, or so many seconds.
BATCHES_PER_LOSS = 32
SECONDS_PER_LOSS = 2.0
# With a loss beside them the longest bars fit into 80 columns.
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 36
MIN_NUMBER_WIDTH = 10
# So that bars of training and of validation mostly start in the same column.
MIN_COUNT_WIDTH = len("120/400")


class ProgressCallback(Callback):
    """Shows how far training is: bars while it runs, and a table of the epochs.

    Args:
        refresh_per_second: How often the bars are drawn anew at most, above 0.
        console: Where to write. Default: rich's own console, on stdout.
        mode: ``"terminal"``, ``"plain"`` or ``"notebook"``; ``"auto"`` looks where the
            output goes.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "progress"
    role = "observe"
    run_after = "recorder"

    def __init__(
        self,
        *,
        refresh_per_second: float = 10,
        console: Console | None = None,
        mode: Mode = "auto",
    ) -> None:
        _check_options(refresh_per_second, console, mode)
        self.refresh_per_second = refresh_per_second
        self.console = console
        self.mode = mode
        self._display: Display | None = None
        self._next_drawing = math.inf

    def before_fit(self) -> None:
        is_first_process = os.environ.get("RANK", "0") == "0"
        display = choose_display(self.mode, self.console) if is_first_process else None
        if display is None:
            self.run = False
            return
        self._display = display
        self._columns: tuple[str, ...] = ()
        self._train_loss: float | None = None
        self._num_epochs_done = self.learn.epoch
        self._fit_started = monotonic()
        self._first_share = self.learn.pct_train
        self._enter_phase("")
        if display.has_bars:
            display.open()
            self._draw(num_batches_done=0)
        else:
            self.run_train = self.run_valid = False

    def before_epoch(self) -> None:
        self._epoch_started = monotonic()

    def before_train(self) -> None:
        self._enter_phase("train")

    def before_validate(self) -> None:
        self._enter_phase("valid")

    def after_batch(self) -> None:
        # This runs for every batch: one look at the clock, and nothing else.
        if monotonic() >= self._next_drawing:
            self._draw(num_batches_done=self.learn.iter + 1)

    def after_train(self) -> None:
        if "train_loss" not in self.learn.results:
            self._train_loss = _as_float(self.learn.loss)

    def after_epoch(self) -> None:
        if self._display is None:
            return
        self._num_epochs_done = self.learn.epoch + 1
        row = self._row()
        self._columns = joined_columns(self._columns, row)
        self._display.show_bars(self._bars(self.learn.iter + 1), draw=False)
        self._display.add_row(self._columns, row)

    def teardown(self) -> None:
        self._next_drawing = math.inf
        display, self._display = self._display, None
        if display is None:
            return
        display.close()
        if not self._has_failed():
            for note in self._notes():
                display.add_note(one_line(note))

    def _enter_phase(self, phase: str) -> None:
        self._phase = phase
        self._phase_started = monotonic()
        self._loss: float | None = None
        self._loss_read_at = -math.inf
        self._loss_read_after = 0
        if self._phase_started >= self._next_drawing:
            self._draw(num_batches_done=0)

    def _draw(self, num_batches_done: int) -> None:
        self._read_loss(num_batches_done)
        started = monotonic()
        if self._display is not None:
            self._display.show_bars(self._bars(num_batches_done), draw=True)
        ended = monotonic()
        pause = (ended - started) / MAX_DRAWING_SHARE
        self._next_drawing = ended + max(1 / self.refresh_per_second, pause)

    def _read_loss(self, num_batches_done: int) -> None:
        now = monotonic()
        num_batches = num_batches_done - self._loss_read_after
        is_due = num_batches >= BATCHES_PER_LOSS
        is_due |= now - self._loss_read_at >= SECONDS_PER_LOSS
        if num_batches and is_due:
            loss = self._running_loss()
            self._loss = self._loss if loss is None else loss
            self._loss_read_at, self._loss_read_after = now, num_batches_done

    def _running_loss(self) -> float | None:
        """The recorder's running mean in training, else the loss of the last batch."""
        learner = self.learn
        if learner.training and "recorder" in learner.cbs:
            smooth_loss = getattr(learner.cbs["recorder"], "smooth_loss", None)
            if smooth_loss is not None:
                return _as_float(smooth_loss)
        return _as_float(learner.loss)

    def _bars(self, num_batches_done: int) -> list[Bar]:
        now = monotonic()
        share = self.learn.pct_train
        elapsed = now - self._fit_started
        left = seconds_left(elapsed, share - self._first_share, 1 - share)
        epochs = (self._num_epochs_done, self.learn.n_epoch)
        bars = [Bar("epoch", *epochs, share=share, elapsed=elapsed, left=left)]
        if self._phase:
            bars.append(self._phase_bar(num_batches_done, now - self._phase_started))
        return bars

    def _phase_bar(self, num_batches_done: int, elapsed: float) -> Bar:
        batches = (num_batches_done, self.learn.n_iter)
        if not self.learn.n_iter:  # a loader without a length, before its first end
            return Bar(self._phase, *batches, None, elapsed, None, self._loss)
        share = min(1.0, num_batches_done / self.learn.n_iter)
        left = seconds_left(elapsed, share, 1 - share)
        return Bar(self._phase, *batches, share, elapsed, left, self._loss)

    def _row(self) -> dict[str, Any]:
        row = {"epoch": self.learn.epoch, **self.learn.results}
        is_measured = "train_loss" in row or "valid_loss" in row
        if "loss" in self._columns or not (self._columns or is_measured):
            # Nobody measures the epoch: the loss of its last training batch must do.
            row["loss"] = self._train_loss
            row["time"] = monotonic() - self._epoch_started
        return row

    def _has_failed(self) -> bool:
        cbs = self.learn.cbs
        keys = [failure.plugin for failure in self.learn.record.failures]
        return any(key in cbs and cbs[key] is self for key in keys)

    def _notes(self) -> Iterator[str]:
        for reason in self.learn.record.reasons:
            if reason.what in ("stop", "fit"):
                who = f" by {reason.plugin}" if reason.plugin else ""
                why = f": {reason.reason}" if reason.reason else ""
                yield f"Stopped in epoch {reason.epoch}{who}{why}"
        for failure in self.learn.record.failures:
            yield (
                f"Switched off in epoch {failure.epoch}: {failure.plugin} failed in "
                f"{failure.event}: {failure.error}"
            )


def _check_options(refresh_per_second: object, console: object, mode: object) -> None:
    is_number = isinstance(refresh_per_second, int | float)
    if not (is_number and 0 < refresh_per_second < math.inf):  # type: ignore[operator]
        raise OptionError(
            "progress: refresh_per_second must be a number above 0, got "
            f"{refresh_per_second!r}. Use 10 to draw the bars ten times a second."
        )
    if console is not None and not hasattr(console, "print"):
        raise OptionError(
            "progress: console must be a rich.console.Console, got "
            f"{type(console).__name__}. Leave it out to write to stdout."
        )
    if mode not in MODES:
        known = ", ".join(f'"{known}"' for known in MODES)
        message = f"progress: mode must be one of {known}, got {mode!r}."
        raise OptionError(message + suggestion(str(mode), MODES))
    if mode == "notebook" and importlib.util.find_spec("IPython") is None:
        raise OptionError(
            'progress: mode "notebook" needs IPython, which is not installed. Leave '
            'mode at "auto", or `pip install ipython`.'
        )


# ---- what is shown, as text ----------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """How far one piece of work is.

    Attributes:
        label: What is being done.
        done: How many of it are done.
        total: How many there are, or None when nobody knows.
        share: Share that is done, 0..1, or None.
        elapsed: Seconds since it began.
        left: Seconds until it is done, or None.
        loss: The loss at this point, or None.
    """

    label: str
    done: int
    total: int | None
    share: float | None
    elapsed: float
    left: float | None
    loss: float | None = None

    @property
    def count(self) -> str:
        """How many are done, of how many: ``3/10``, or ``3``."""
        return f"{self.done}" if self.total is None else f"{self.done}/{self.total}"

    @property
    def time(self) -> str:
        """The time left, or the time that went by where the end is not known."""
        if self.left is None:
            return format_duration(self.elapsed)
        return f"{format_duration(self.left)} left"

    @property
    def loss_in_words(self) -> str:
        """The loss with its name, or nothing."""
        return "" if self.loss is None else f"loss {format_number(self.loss)}"


def seconds_left(elapsed: float, share_done: float, share_left: float) -> float | None:
    """Time for the rest, at the pace of what is done; None before anything is.

    >>> seconds_left(30.0, 0.25, 0.5)
    60.0
    """
    return elapsed / share_done * max(0.0, share_left) if share_done > 0 else None


def lay_out(bars: Sequence[Bar], width: int) -> tuple[list[str], int, list[str]]:
    """Heads, width of the bars, and tails of the lines that fit into ``width``.

    What does not fit is left out: first the bar, then the time where there is a loss,
    then both; the count stays.
    """
    labels = max(len(bar.label) for bar in bars)
    counts = max(MIN_COUNT_WIDTH, *(len(bar.count) for bar in bars))
    heads = [f"{bar.label:{labels}} {bar.count:>{counts}}" for bar in bars]
    room = width - len(heads[0])
    full = ["  ".join(filter(None, (bar.time, bar.loss_in_words))) for bar in bars]
    brief = [bar.loss_in_words or bar.time for bar in bars]
    for tails in (full, brief, [""] * len(bars)):
        # Two blanks between bar and tail; one more keeps the last column free, where
        # some terminals break the line.
        space = room - max(map(len, tails)) - 3
        if space >= 0:
            break
    bar_width = min(space - 1, MAX_BAR_WIDTH)
    return heads, bar_width if bar_width >= MIN_BAR_WIDTH else 0, tails


def joined_columns(columns: Sequence[str], row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns with those of a row added: ``epoch`` first, ``time`` last."""
    names = dict.fromkeys([*columns, *row])
    ends = {"epoch": -1, "time": 1}
    return tuple(sorted(names, key=lambda name: ends.get(name, 0)))


def cells(columns: Sequence[str], row: Mapping[str, Any]) -> list[str]:
    """The values of a row as text, ``-`` where there is none."""
    return [format_value(name, row.get(name)) for name in columns]


def aligned(columns: Sequence[str], texts: Sequence[str]) -> str:
    """One line of a table: every text right-aligned in its column."""
    pairs = zip(map(one_line, texts), map(_column_width, columns), strict=True)
    return "  ".join(text.rjust(width) for text, width in pairs)


def _column_width(name: str) -> int:
    widths = {"epoch": len("epoch"), "time": len("1:23:45")}
    return widths.get(name) or max(len(one_line(name)), MIN_NUMBER_WIDTH)


def format_value(name: str, value: Any) -> str:
    """A value of ``learner.results`` as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool | int | str):
        return str(value)
    number = _as_float(value)
    if number is None:
        return str(value)
    return format_duration(number) if name == "time" else format_number(number)


def format_number(number: float) -> str:
    """A number in at most ten characters, with as many digits as a reader can use.

    >>> [format_number(n) for n in (0.5, 1234.5, 0.00001234, float("nan"))]
    ['0.500000', '1234.50', '1.234e-05', 'nan']
    """
    size = abs(number)
    if size and (size < 1e-3 or size >= 1e6):
        return f"{number:.3e}" if math.isfinite(number) else f"{number}"
    return f"{number:.6f}" if size < 100 else f"{number:.2f}"


def format_duration(seconds: float) -> str:
    """Seconds as ``m:ss``, from an hour on as ``h:mm:ss``.

    >>> [format_duration(s) for s in (7.4, 65, 3700)]
    ['0:07', '1:05', '1:01:40']
    """
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def one_line(text: str) -> str:
    """A text without line breaks and other control characters."""
    visible = (letter if letter.isprintable() else " " for letter in text)
    return " ".join("".join(visible).split())


def _as_float(value: Any) -> float | None:
    """A number, or a tensor's (mean) value, read from its device; else None."""
    if hasattr(value, "numel"):
        value = (value if value.numel() == 1 else value.float().mean()).item()
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# ---- where it is shown ---------------------------------------------------------------


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
    if not _is_terminal(file):
        return False
    if os.name != "nt" and os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return (console or _rich_console()).is_interactive


def _is_terminal(file: TextIO | None) -> bool:
    isatty = getattr(file, "isatty", None)
    return bool(isatty is not None and isatty())


def _rich_console(*, is_forced: bool = False) -> Console:
    # rich takes 60 ms to import, and a run without a terminal has no use for it.
    import rich
    from rich.console import Console

    console = rich.get_console()
    if is_forced and not console.is_interactive:
        return Console(force_terminal=True, force_interactive=True)
    return console


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


class TerminalDisplay:
    """Rows that stay, and below them bars that move, drawn by rich."""

    has_bars = True

    def __init__(self, console: Console | None, *, is_forced: bool = False) -> None:
        self.console = console or _rich_console(is_forced=is_forced)
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
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),
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
