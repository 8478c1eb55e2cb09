"""What a bar shows, and how bars stand one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from callboard_progress.texts import format_duration, format_number

# With a loss beside them the longest bars fit into 80 columns.
MIN_BAR_WIDTH = 8
MAX_BAR_WIDTH = 36
# So that bars of training and of validation mostly start in the same column.
MIN_COUNT_WIDTH = len("120/400")


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
