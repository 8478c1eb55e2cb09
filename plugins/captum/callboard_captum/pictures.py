"""Images and attributions as matplotlib shows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIGNS = ("all", "positive", "negative", "absolute_value")
# From none to much; darker than the default of matplotlib's, to stand out on white.
COLORS = ((0.0, "#ffffff"), (0.3, "#6fa8dc"), (1.0, "#0b2e59"))


def displayable(image: Tensor) -> Any:
    """An image for showing: (height, width, 3), numbers from 0 to 1, as numpy array.

    What is in that range stays as it is; else it is stretched to it. One channel is
    shown as grey; of two, or more than three, their mean.
    """
    shown = image.detach().float().cpu()
    if shown.ndim == 2:
        shown = shown[None]
    if shown.shape[0] != 3:
        shown = shown.mean(0, keepdim=True).expand(3, -1, -1)
    low, high = shown.min(), shown.max()
    if low < 0 or high > 1:
        shown = (shown - low) / (high - low).clamp(min=torch.finfo(shown.dtype).tiny)
    return shown.permute(1, 2, 0).numpy()


def has_any(values: Tensor, sign: str) -> bool:
    summed = values.sum(0)
    if sign == "positive":
        return bool((summed > 0).any())
    return bool((summed < 0).any()) if sign == "negative" else bool(summed.any())
