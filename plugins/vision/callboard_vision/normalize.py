"""Normalise images on the device, with the statistics a body was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from callboard import Callback
from callboard.errors import DataError, OptionError

Stats = tuple[Sequence[float], Sequence[float]]
IMAGENET_STATS: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalize(Callback):
    """Normalises images channel by channel: ``(image - mean) / std``.

    Every input that is a floating-point tensor of shape (N, C, H, W), with as many
    channels as there are numbers, is normalised; in training and in evaluations.

    Args:
        mean: Mean of each channel. Default: that of ImageNet, for values from 0 to 1.
        std: Standard deviation of each channel, above 0.
    """

    name = "normalize"
    role = "modify"
    run_after = "progressive-resizing"
    run_before = ("mixup", "cutmix", "channels-last")
    stages = ("fit", "validate", "predict", "lr-find")

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_STATS[0],
        std: Sequence[float] = IMAGENET_STATS[1],
    ) -> None:
        if not mean or len(mean) != len(std):
            raise OptionError(
                f"normalize: mean and std must have one number for each channel, got "
                f"{len(mean)} and {len(std)}. Use (0.5, 0.5, 0.5) for both."
            )
        if not all(each > 0 for each in std):
            raise OptionError(
                f"normalize: std must be above 0, got {tuple(std)}. Use (0.5, 0.5, "
                "0.5), or the deviations of your data."
            )
        self.mean = tuple(float(each) for each in mean)
        self.std = tuple(float(each) for each in std)
        self._placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def before_batch(self) -> None:
        """Normalise the images of this batch."""
        learner = self.learn
        parts: Any = learner.xb
        is_mapping = isinstance(parts, dict)
        values = list(parts.values()) if is_mapping else list(parts)
        changed = [self._normalized(v) if self._is_image(v) else v for v in values]
        if not any(self._is_image(value) for value in values):
            raise DataError(self._no_images(values))
        if is_mapping:
            learner.xb = dict(zip(parts, changed, strict=True))
        else:
            learner.xb = tuple(changed)

    def _is_image(self, value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.ndim == 4
            and value.shape[1] == len(self.mean)
        )

    def _normalized(self, images: Tensor) -> Tensor:
        key = (images.device, images.dtype)
        if key not in self._placed:
            shape = (1, -1, 1, 1)
            options: Any = {"device": images.device, "dtype": images.dtype}
            self._placed[key] = (
                torch.tensor(self.mean, **options).view(shape),
                torch.tensor(self.std, **options).view(shape),
            )
        mean, std = self._placed[key]
        return (images - mean) / std

    def _no_images(self, values: list[Any]) -> str:
        seen = ", ".join(
            f"{tuple(value.shape)} of {value.dtype}"
            if isinstance(value, Tensor)
            else type(value).__name__
            for value in values
        )
        return (
            "normalize: no input is a floating-point tensor of shape (N, "
            f"{len(self.mean)}, H, W); got {seen}. Turn images into floats from 0 to "
            "1, and give Normalize(mean, std) with a number for each of their channels."
        )
