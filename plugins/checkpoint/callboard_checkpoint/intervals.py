"""How often: ``"1 epoch"``, ``"500 steps"``, ``"10 min"``, or several of these."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from callboard.errors import OptionError

MINUTE, HOUR = 60, 3600
SECONDS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": MINUTE,
    "minute": MINUTE,
    "h": HOUR,
    "hour": HOUR,
}
EXAMPLES = '"1 epoch", "500 steps", "10 min", or several: ["1 epoch", "10 min"]'


@dataclass(frozen=True)
class Interval:
    """A number of ``"epoch"``, ``"step"`` or ``"second"``."""

    count: float
    unit: str


def read_intervals(every: str | Sequence[str]) -> list[Interval]:
    """The intervals that somebody wrote.

    Raises:
        OptionError: One of them cannot be read.
    """
    texts = every.split(",") if isinstance(every, str) else list(every)
    return [_read_interval(text) for text in texts]


def _read_interval(text: object) -> Interval:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)?\s*([a-z]+?)s?\s*", str(text).lower())
    count = float(match[1] or 1) if match else 0.0
    unit = match[2] if match else ""
    is_whole = count == int(count)
    if count > 0 and unit in ("epoch", "step") and is_whole:
        return Interval(int(count), unit)
    if count > 0 and unit in SECONDS:
        return Interval(count * SECONDS[unit], "second")
    raise OptionError(f"checkpoint: every={text!r} is no interval. Give {EXAMPLES}.")


class Timer:
    """Says when an interval is over."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        self.intervals = intervals
        self.started = time.monotonic()

    def restart(self, seconds: float) -> None:
        """Count the time from now on, which is so many seconds by some clock."""
        self.started = seconds

    def is_due(
        self, *, seconds: float, num_epochs: int, num_steps: int, is_epoch_end: bool
    ) -> bool:
        """Whether it is time.

        Args:
            seconds: What that clock says.
            num_epochs: Epochs that are done.
            num_steps: Training batches that are done.
            is_epoch_end: Whether an epoch has just ended.
        """
        for interval in self.intervals:
            if interval.unit == "second":
                if seconds - self.started >= interval.count:
                    return True
            elif interval.unit == "epoch":
                if is_epoch_end and num_epochs % interval.count == 0:
                    return True
            elif not is_epoch_end and num_steps % interval.count == 0:
                return True
        return False
