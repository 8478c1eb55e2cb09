"""Pictures of activations; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from callboard.errors import CallboardError


def draw_color_dim(
    counts: Tensor,
    steps: Sequence[int],
    layer: str,
    end: float,
    figsize: tuple[float, float],
    ax: Any = None,
) -> Any:
    """Histograms side by side as one image, batches from left to right.

    Args:
        counts: ``log(1 + count)``, shape (bins, batches).
        steps: Number of each batch.
        layer: Its name, for the title.
        end: Upper end of the last bin; the first begins at 0.
        figsize: Width and height in inches.
        ax: Axes of matplotlib to draw in; new ones by default.
    """
    if ax is None:
        ax = _pyplot().subplots(figsize=figsize, layout="constrained")[1]
    first, last = (steps[0], steps[-1] + 1) if steps else (0, 1)
    ax.imshow(
        counts.numpy(), origin="lower", aspect="auto", extent=(first, last, 0, end)
    )
    ax.set(xlabel="training batch", ylabel="activation", title=f"layer {layer}")
    return ax


def draw_layer_stats(
    columns: Sequence[Sequence[float]], steps: Sequence[int], layer: str, near: float
) -> Any:
    """Mean, standard deviation and share near zero, side by side.

    Args:
        columns: The three, batch by batch.
        steps: Number of each batch.
        layer: Its name, for the title.
        near: Up to where a value counts as near zero.

    Returns:
        The three axes.
    """
    figure, axes = _pyplot().subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    titles = ("mean", "standard deviation", f"share of values up to {near:g}")
    for ax, values, title in zip(axes, columns, titles, strict=True):
        ax.plot(steps, values)
        ax.set(xlabel="training batch", title=title)
        ax.grid(alpha=0.3)
    axes[2].set_ylim(-0.02, 1.02)
    figure.suptitle(f"layer {layer}")
    return axes


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise CallboardError(
            "hooks: plots need matplotlib: "
            'python -m pip install "callboard-hooks[plot]".'
        ) from error
    return plt
