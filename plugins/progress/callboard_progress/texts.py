"""Numbers, times and rows of the table as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MIN_NUMBER_WIDTH = 10


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
    number = as_float(value)
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


def as_float(value: Any) -> float | None:
    """A number, or a tensor's (mean) value, read from its device; else None."""
    if hasattr(value, "numel"):
        value = (value if value.numel() == 1 else value.float().mean()).item()
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
