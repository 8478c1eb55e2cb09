"""Train on images with a box of another image of the batch pasted in (CutMix).

Listens to  before_fit, before_batch, do_loss
Changes     xb; yb where labels are numbers or maps; the loss where they are classes
Source      Yun et al. 2019, arXiv:1905.04899; one box and one share for all items of a
            batch, rounded as in fastai
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from callboard.errors import DataError
from callboard.state import RandomStream
from callboard_mixup import Blend, MixHandler, tensors_in, with_changed_tensors

if TYPE_CHECKING:
    from callboard.testing import Specimen

# Items, channels, height, width; a video has frames in between.
MIN_IMAGE_DIMENSIONS = 4


class Box(NamedTuple):
    """Rows and columns of an image, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    def share_outside(self, height: int, width: int) -> float:
        """What share of an image of this size lies outside the box, from 0 to 1."""
        inside = (self.bottom - self.top) * (self.right - self.left)
        return 1 - inside / (height * width)

    def pasted(self, images: Tensor, partner: Tensor) -> Tensor:
        """New images: each with the box of its partner's.

        Args:
            images: Shape (items, ..., height, width); left as they are.
            partner: Number of the item that gives the box, shape (items,).
        """
        pasted = images.clone()
        rows, columns = slice(self.top, self.bottom), slice(self.left, self.right)
        pasted[..., rows, columns] = images[..., rows, columns][partner]
        return pasted


def box_around(row: int, column: int, share: float, height: int, width: int) -> Box:
    """The box that leaves ``share`` of an image, as far as it fits into it.

    It has the image's proportions: each side is ``sqrt(1 - share)`` of the image's,
    rounded, and halved on both sides of the centre. What lies beyond the edge of the
    image is cut off, so that more than ``share`` may be left.

    Args:
        row: Centre of the box, 0 <= row < height.
        column: Centre of the box, 0 <= column < width.
        share: Share of the image outside the box, from 0 to 1.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    ratio = math.sqrt(1 - share)
    half_height, half_width = round(height * ratio) // 2, round(width * ratio) // 2
    return Box(
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def draw_box(stream: RandomStream, alpha: float, height: int, width: int) -> Box:
    """Draw the share that is left from Beta(alpha, alpha), and a centre evenly.

    Args:
        stream: Where the random numbers come from.
        alpha: Strength, above 0.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """
    share = stream.beta(alpha, alpha)
    row = torch.randint(height, (), generator=stream)
    column = torch.randint(width, (), generator=stream)
    return box_around(int(row), int(column), float(share), height, width)


class CutMix(MixHandler):
    """Trains on images with a box of another image pasted in.

    Args:
        alpha: Strength, above 0: the share of an image that is left is drawn from
            Beta(alpha, alpha). At 1 all shares are as likely.
    """

    name = "cutmix"
    conflicts_with: Mapping[str, str] = {"mixup": "both would mix the labels"}
    usual_alpha = 1.0

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def mix(self, labels: Sequence[Tensor]) -> Blend | None:
        """Paste the box into every image, and into labels that are maps of them."""
        learner, num_items = self.learn, len(labels[0])
        height, width = self._image_size(num_items)
        box = draw_box(self.rng, self.alpha, height, width)
        device = labels[0].device
        partner = torch.randperm(num_items, generator=self.rng)
        partner = partner.to(device, non_blocking=True)

        def pasted(tensor: Tensor) -> Tensor:
            return (
                box.pasted(tensor, partner) if is_image(tensor, num_items) else tensor
            )

        learner.xb = with_changed_tensors(learner.xb, pasted)
        if self._are_maps(labels, height, width):
            learner.yb = with_changed_tensors(
                learner.yb, lambda label: box.pasted(label, partner)
            )
            return None
        share = box.share_outside(height, width)
        return Blend(torch.full((num_items,), share, device=device), partner)

    def _image_size(self, num_items: int) -> tuple[int, int]:
        inputs = list(tensors_in(self.learn.xb))
        sizes = {tuple(t.shape[-2:]) for t in inputs if is_image(t, num_items)}
        if not sizes:
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs) or "no tensor"
            raise DataError(
                f"{self.name}: no input is a batch of images, of shape "
                f"({num_items}, channels, height, width); this batch has {shapes}. "
                "Boxes can be cut from images only: use mixup for other inputs, or "
                "give grey images a dimension of one channel."
            )
        if len(sizes) > 1:
            in_words = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
            raise DataError(
                f"{self.name}: the inputs are images of several sizes ({in_words}), "
                "and one box does not fit all. Resize them to one size, or use mixup."
            )
        height, width = sizes.pop()
        return height, width

    def _are_maps(self, labels: Sequence[Tensor], height: int, width: int) -> bool:
        num_maps = sum(is_map(label, height, width) for label in labels)
        if 0 < num_maps < len(labels):
            raise DataError(
                f"{self.name}: {num_maps} of {len(labels)} labels tell something of "
                "every pixel and the rest of the whole image, which no loss over all "
                "of them blends rightly. Use mixup, or give labels of one kind."
            )
        return num_maps > 0


def is_image(tensor: Tensor, num_items: int) -> bool:
    """Whether a tensor is a batch of images: (items, channels, ..., height, width)."""
    return tensor.ndim >= MIN_IMAGE_DIMENSIONS and len(tensor) == num_items


def is_map(label: Tensor, height: int, width: int) -> bool:
    """Whether labels tell something of every pixel: (items, ..., height, width)."""
    return label.ndim >= 3 and tuple(label.shape[-2:]) == (height, width)


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try CutMix out."""
    from callboard.testing import Specimen

    return {"cutmix": Specimen(learner="images")}
