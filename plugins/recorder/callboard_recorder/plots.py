"""Pictures of a fit; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from callboard.errors import CallboardError
from callboard_recorder.history import StepHistory


def draw_losses(
    history: StepHistory,
    first: int,
    valid: Sequence[tuple[int, float]],
    ax: Any = None,
) -> Any:
    """Training loss by step, raw and smoothed, and validation loss at its steps.

    Args:
        history: The steps.
        first: How many of them to leave out at the start.
        valid: Step and validation loss of each epoch that has one.
        ax: Axes of matplotlib to draw in; new ones by default.
    """
    if ax is None:
        ax = _pyplot().subplots(layout="constrained")[1]
    steps = history.steps[first:]
    ax.plot(steps, history.losses[first:], color="C0", alpha=0.25, lw=1)
    smooth_losses = history.smooth_losses[first:]
    ax.plot(steps, smooth_losses, color="C0", label="train (smoothed)")
    if valid:
        ax.plot(*zip(*valid, strict=True), color="C1", marker="o", label="valid")
    ax.set(xlabel="step", ylabel="loss")
    ax.legend(frameon=False)
    return ax


def draw_hypers(steps: Sequence[int], hypers: Mapping[str, Sequence[Any]]) -> Any:
    """Each hyper-parameter by step, side by side."""
    figure, axes = _pyplot().subplots(
        ncols=len(hypers),
        figsize=(5 * len(hypers), 3.5),
        layout="constrained",
        squeeze=False,
    )
    for ax, (name, values) in zip(axes[0], hypers.items(), strict=True):
        ax.plot(steps, values)
        ax.set(xlabel="step", ylabel=name)
    return figure


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise CallboardError(
            "recorder: plots need matplotlib: python -m pip install matplotlib."
        ) from error
    return plt
