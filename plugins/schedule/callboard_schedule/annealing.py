"""Schedules: functions of how much of the run is done, and combinations of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from numbers import Real
from typing import Any, NamedTuple

from callboard.errors import OptionError

Value = float | tuple[float, ...]
Endpoint = float | Sequence[float]
Schedule = Callable[[float], float | Sequence[float]]
# Rounding that the shares of a combined schedule may be off by.
TOLERANCE = 1e-6
# Epoch 3 of 5 begins at 0.6, three shares of 0.2 end at 0.6000000000000001: without
# slack the first batch of the epoch would get the last value of the piece before.
SLACK = 1e-9


def sched_lin(start: float, end: float, pct: float) -> float:
    """``start + (end - start) * pct``: the same step every time."""
    return start + (end - start) * pct


def sched_cos(start: float, end: float, pct: float) -> float:
    """Half a cosine wave from ``start`` to ``end``: slow, fast, slow."""
    return start + (end - start) * (1 - math.cos(math.pi * pct)) / 2


def sched_no(start: float, end: float, pct: float) -> float:
    """``start``, all the time."""
    return start


def sched_exp(start: float, end: float, pct: float) -> float:
    """``start * (end / start) ** pct``: the same factor every time."""
    return float(start * (end / start) ** pct)


def sched_poly(start: float, end: float, pct: float, *, power: float) -> float:
    """``start + (end - start) * pct ** power``."""
    return float(start + (end - start) * pct**power)


def SchedLin(start: Endpoint, end: Endpoint) -> Schedule:
    """Linear from ``start`` to ``end``; numbers, or one for each parameter group."""
    return _curve("SchedLin", sched_lin, start, end)


def SchedCos(start: Endpoint, end: Endpoint) -> Schedule:
    """Cosine from ``start`` to ``end``."""
    return _curve("SchedCos", sched_cos, start, end)


def SchedNo(start: Endpoint, end: Endpoint) -> Schedule:
    """Constant at ``start``; ``end`` is there so that it can stand for the others."""
    return _curve("SchedNo", sched_no, start, end)


def SchedExp(start: Endpoint, end: Endpoint) -> Schedule:
    """Exponential from ``start`` to ``end``; both must be above 0."""
    for pair in _paired("SchedExp", start, end):
        if min(pair) <= 0:
            raise OptionError(
                f"schedule: SchedExp needs values above 0, got {min(pair):g}; use 1e-7 "
                "to start from nearly nothing."
            )
    return _curve("SchedExp", sched_exp, start, end)


def SchedPoly(start: Endpoint, end: Endpoint, power: float = 1.0) -> Schedule:
    """Polynomial from ``start`` to ``end``: ``pct ** power`` of the way.

    Args:
        start: A number, or one for each parameter group.
        end: A number, or one for each parameter group.
        power: Above 0; above 1 changes most at the end, below 1 at the start.
    """
    check_above_zero("SchedPoly", power=power)
    return _curve("SchedPoly", partial(sched_poly, power=power), start, end)


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """One schedule after the other.

    Args:
        pcts: Share of the run that each takes; they add up to 1.
        scheds: As many schedules.

    Raises:
        OptionError: The shares do not add up to 1, or are not as many.
    """
    shares = [float(pct) for pct in pcts]
    if len(shares) != len(scheds) or not shares:
        raise OptionError(
            f"schedule: combine_scheds got {len(shares)} shares for {len(scheds)} "
            "schedules; give one for each."
        )
    if min(shares) < 0 or abs(math.fsum(shares) - 1) > TOLERANCE:
        raise OptionError(
            f"schedule: the shares of combine_scheds must add up to 1, got {shares} "
            f"(sum {math.fsum(shares):g})."
        )
    return CombinedSchedule(shares, scheds)


def combined_cos(
    pct: float, start: Endpoint, middle: Endpoint, end: Endpoint
) -> Schedule:
    """Cosine from ``start`` to ``middle`` over ``pct`` of the run, then to ``end``."""
    check_share("combined_cos", "pct", pct)
    return combine_scheds(
        [pct, 1 - pct], [SchedCos(start, middle), SchedCos(middle, end)]
    )


class Piece(NamedTuple):
    """A part of training and the schedule that is followed in it.

    Attributes:
        first: Where it begins, as a share of the run.
        length: What share of the run it lasts, above 0.
        entered_at: From where on it is followed; by rounding, less than ``first``.
        left_at: Where the next one is entered; infinity for the last.
        schedule: A function of the share of the piece that is done.
    """

    first: float
    length: float
    entered_at: float
    left_at: float
    schedule: Schedule


class CombinedSchedule:
    """Schedules one after another; made by ``combine_scheds``.

    Attributes:
        pieces: What is followed when; a schedule with a share of 0 has none.
    """

    def __init__(self, shares: Sequence[float], scheds: Sequence[Schedule]) -> None:
        parts = [(s, f) for s, f in zip(shares, scheds, strict=True) if s > 0]
        firsts = [0.0, *accumulate(share for share, _ in parts)][:-1]
        self._entries = [first - SLACK for first in firsts]
        exits = [*self._entries[1:], math.inf]
        self.pieces = [
            Piece(first, share, entry, left, schedule)
            for first, entry, left, (share, schedule) in zip(
                firsts, self._entries, exits, parts, strict=True
            )
        ]

    def piece_at(self, pct: float) -> Piece:
        """The piece that is followed when this share of the run is done."""
        return self.pieces[max(bisect_right(self._entries, pct) - 1, 0)]

    def __call__(self, pct: float) -> float | Sequence[float]:
        piece = self.piece_at(pct)
        return piece.schedule(max((pct - piece.first) / piece.length, 0.0))


def piece_at(schedule: Schedule, pct: float) -> Piece:
    """The piece of a schedule that is followed when this share of the run is done."""
    if isinstance(schedule, CombinedSchedule):
        return schedule.piece_at(pct)
    return Piece(0.0, 1.0, -math.inf, math.inf, schedule)


def _curve(
    owner: str, formula: Callable[[float, float, float], float], start: Any, end: Any
) -> Schedule:
    """A formula with its ends: one number, or one for each parameter group."""
    curves = [partial(formula, *pair) for pair in _paired(owner, start, end)]
    is_one_number = is_number(start) and is_number(end)
    # Partials and not closures, so that schedules can be pickled.
    return curves[0] if is_one_number else partial(_group_by_group, curves)


def _group_by_group(
    curves: Sequence[Callable[[float], float]], pct: float
) -> tuple[float, ...]:
    return tuple([curve(pct) for curve in curves])


def _paired(owner: str, start: Any, end: Any) -> list[tuple[float, float]]:
    starts, ends = numbers_of(owner, "start", start), numbers_of(owner, "end", end)
    num_groups = max(len(starts), len(ends))
    if is_number(start):
        starts *= num_groups
    if is_number(end):
        ends *= num_groups
    if len(starts) != len(ends):
        raise OptionError(
            f"schedule: {owner}: start has {len(starts)} values and end {len(ends)}; "
            "give one for each parameter group in both, or a number for all."
        )
    return list(zip(starts, ends, strict=True))


def numbers_of(owner: str, option: str, value: Any) -> list[float]:
    try:
        if is_number(value):
            return [float(value)]
        numbers = [float(number) for number in value if is_number(number)]
        if numbers and len(numbers) == len(value):
            return numbers
    except TypeError:
        pass
    is_slice = isinstance(value, slice)
    hint = " callboard.optim.spread makes numbers of a slice." if is_slice else ""
    raise OptionError(
        f"schedule: {owner}: {option} must be a number, or one for each parameter "
        f"group, got {value!r}.{hint}"
    )


def is_number(value: Any) -> bool:
    """Whether this is one number; arrays and tensors without a dimension are."""
    return isinstance(value, Real) or getattr(value, "ndim", None) == 0


def check_share(method: str, name: str, value: float) -> None:
    if not is_number(value) or not 0 <= value <= 1:
        raise OptionError(
            f"schedule: {method}: {name} is a share of the run, from 0 to 1, got "
            f"{value!r}; 0.25 is usual."
        )


def check_above_zero(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not is_number(value) or not value > 0:
            raise OptionError(
                f"schedule: {owner}: {name} must be above 0, got {value!r}."
            )
