"""Schedules as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from callboard.errors import OptionError
from callboard_schedule.annealing import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_schedule(
    scheds: Schedule | Mapping[str, Schedule],
    *,
    num_points: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw one schedule, or several by name, each on axes of its own.

    Args:
        scheds: A schedule, or hyper-parameter -> schedule.
        num_points: Points of each line, at least 2.
        ax: Where to draw a single one. Default: a new figure.

    Raises:
        OptionError: One axes was given for several schedules, or too few points.
    """
    named = scheds if isinstance(scheds, Mapping) else {"value": scheds}
    if ax is not None and len(named) > 1:
        raise OptionError(
            f"schedule: ax is one axes, for {len(named)} schedules "
            f"({', '.join(named)}); leave it out, or draw them one by one."
        )
    if num_points < 2:
        message = f"schedule: num_points must be at least 2, got {num_points!r}."
        raise OptionError(message)
    row = _new_axes(len(named)) if ax is None else [ax]
    for axis, (hyper, schedule) in zip(row, named.items(), strict=True):
        _draw(hyper, schedule, num_points, axis)
    return row[0]


def _new_axes(count: int) -> list[Axes]:
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        error.add_note(
            "callboard: drawing a schedule needs matplotlib: "
            'python -m pip install "callboard-schedule[plot]"'
        )
        raise
    _, axes = plt.subplots(
        1, count, figsize=(5 * count, 3.2), squeeze=False, layout="tight"
    )
    return list(axes[0])


def _draw(hyper: str, schedule: Schedule, num_points: int, axis: Axes) -> None:
    points = [number / (num_points - 1) for number in range(num_points)]
    values: Any = [schedule(pct) for pct in points]
    lines = axis.plot(points, values)
    if len(lines) > 1:
        labels = [f"group {number}" for number, _ in enumerate(lines, 1)]
        labels[0], labels[-1] = f"{labels[0]} (first)", f"{labels[-1]} (last)"
        axis.legend(lines, labels, frameon=False)
    axis.set(xlabel="share of the run", ylabel=hyper)
    axis.grid(alpha=0.3)
