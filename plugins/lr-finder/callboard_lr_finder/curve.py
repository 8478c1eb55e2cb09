"""The curve that a search for a learning rate gives, and its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callboard.errors import CallboardError
from callboard_lr_finder.suggestions import Suggestion

# At the start the smoothed loss still moves, at the end it has diverged.
SHARE_LEFT_OUT = 10
NUM_LEFT_OUT_AT_END = 5


@dataclass(frozen=True)
class LRCurve:
    """Smoothed losses over rising learning rates.

    Attributes:
        lrs: Rate of every training batch, of the last parameter group.
        losses: Smoothed loss after it.
        num_it: Number of batches that were asked for.
        num_it_done: Number of batches that the search would have lasted, had it not
            ended early for a loss that was no number any more.
    """

    lrs: list[float]
    losses: list[float]
    num_it: int
    num_it_done: int

    def trimmed(self, skip_end: int = NUM_LEFT_OUT_AT_END) -> LRCurve:
        """Without the first tenth, the end, and all from the first NaN or infinity on.

        Args:
            skip_end: Number of batches to leave out at the end.
        """
        first, end = self.num_it // SHARE_LEFT_OUT, self.num_it_done - skip_end
        lrs, losses = self.lrs[first : max(end, 0)], self.losses[first : max(end, 0)]
        finite = next(
            (i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses)
        )
        return LRCurve(lrs[:finite], losses[:finite], self.num_it, finite)

    def plot(
        self, suggestions: Mapping[str, Suggestion] | None = None, *, ax: Any = None
    ) -> Any:
        """Draw it; see ``plot_lr_find``."""
        return plot_lr_find(self, suggestions, ax=ax)


def plot_lr_find(
    curve: LRCurve,
    suggestions: Mapping[str, Suggestion] | None = None,
    *,
    ax: Any = None,
) -> Any:
    """Draw the loss over the rate, and the points that suggestions looked at.

    Args:
        curve: What a search found; its unusable ends are left out.
        suggestions: Name -> the rate, and the point (rate, loss) that it comes from.
        ax: Axes of matplotlib to draw in; new ones by default.

    Returns:
        The axes.

    Raises:
        CallboardError: matplotlib is not installed.
    """
    if ax is None:
        ax = _pyplot().subplots(layout="constrained")[1]
    shown = curve.trimmed()
    ax.plot(shown.lrs, shown.losses, color="C0")
    for number, (name, (lr, point)) in enumerate((suggestions or {}).items(), 1):
        ax.plot(*point, "o", color=f"C{number}", label=f"{name} ({lr:.2e})")
    ax.set_xscale("log")
    ax.set(xlabel="learning rate", ylabel="loss (smoothed)")
    ax.grid(alpha=0.3)
    if suggestions:
        ax.legend(frameon=False)
    return ax


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise CallboardError(
            "lr-finder: the plot needs matplotlib: "
            'python -m pip install "callboard-lr-finder[plot]".'
        ) from error
    return plt
