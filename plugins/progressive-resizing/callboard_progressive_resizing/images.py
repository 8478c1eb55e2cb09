"""Images that grow in the course of the training."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn.functional import interpolate

from callboard import Callback
from callboard.errors import OptionError
from callboard_progressive_resizing.growth import Growth

Mode = Literal["bilinear", "bicubic", "nearest", "area"]
IMAGE_NDIM = 4


class ProgressiveResizing(Callback):
    """Shrinks the images of training batches, less and less.

    Args:
        start: First side, as a share of the whole, above 0 and below 1.
        full_from: Share of the training from which on images are whole.
        num_sizes: How many sizes there are, the whole one included, from 2 on.
        multiple_of: What sides are rounded to, in pixels.
        mode: How pixels are made: as ``torch.nn.functional.interpolate`` knows them.
        with_labels: Shrink masks as well, by taking the nearest pixel: labels of shape
            (N, H, W) or (N, C, H, W).

    Attributes:
        sides: Height and width of the last training batch that was looked at.

    Raises:
        OptionError: An option has a value that it cannot have.
    """

    name = "progressive-resizing"
    role = "modify"
    run_before = ("mixup", "cutmix", "channels-last")
    run_valid = False

    def __init__(
        self,
        *,
        start: float = 0.5,
        full_from: float = 0.8,
        num_sizes: int = 4,
        multiple_of: int = 4,
        mode: Mode = "bilinear",
        with_labels: bool = False,
    ) -> None:
        if mode not in get_args(Mode):
            known = ", ".join(f'"{known}"' for known in get_args(Mode))
            raise OptionError(
                f"{self.name}: mode must be one of {known}, got {mode!r}."
            )
        self.growth = Growth(self.name, start, full_from, num_sizes, multiple_of)
        self.mode = mode
        self.with_labels = with_labels
        self.sides: tuple[int, int] | None = None

    def before_batch(self) -> None:
        """Shrink the images, as long as it is not yet time for whole ones."""
        learner = self.learn
        pct = learner.pct_train
        if self.growth.share(pct) == 1:
            self.sides = None
            return
        xb: Any = learner.xb
        if isinstance(xb, dict):
            learner.xb = {key: self._shrunk(part, pct) for key, part in xb.items()}
        else:
            learner.xb = tuple(self._shrunk(part, pct) for part in xb)
        if self.with_labels:
            learner.yb = tuple(self._shrunk_mask(part, pct) for part in learner.yb)

    def _shrunk(self, part: Any, pct: float) -> Any:
        if not isinstance(part, Tensor) or part.ndim != IMAGE_NDIM:
            return part
        self.sides = self._sides(part, pct)
        return resized(part, self.sides, self.mode)

    def _shrunk_mask(self, part: Any, pct: float) -> Any:
        if not isinstance(part, Tensor) or part.ndim < IMAGE_NDIM - 1:
            return part
        return resized(part, self._sides(part, pct), "nearest")

    def _sides(self, images: Tensor, pct: float) -> tuple[int, int]:
        height, width = images.shape[-2:]
        return self.growth.size(height, pct), self.growth.size(width, pct)


def resized(images: Tensor, sides: tuple[int, int], mode: Mode) -> Tensor:
    """Images of another height and width, of the same type.

    Shrinking averages over what lies in between (antialiasing), where torch can.

    Args:
        images: (N, C, H, W) or (N, H, W); numbers of any type.
        sides: Height and width.
        mode: How pixels are made.
    """
    if tuple(images.shape[-2:]) == sides:
        return images
    dtype = images.dtype
    pixels = images if images.ndim == IMAGE_NDIM else images[:, None]
    pixels = pixels if dtype.is_floating_point else pixels.double()
    antialias = mode in ("bilinear", "bicubic")
    pixels = interpolate(pixels, sides, mode=mode, antialias=antialias)
    if not dtype.is_floating_point:
        pixels = pixels.round().to(dtype)
    return pixels if images.ndim == IMAGE_NDIM else pixels[:, 0]
