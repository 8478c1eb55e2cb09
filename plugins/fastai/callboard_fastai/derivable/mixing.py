"""Callbacks that blend the items of a batch with each other."""

from __future__ import annotations

from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor
from torch.distributions import Beta

from callboard_fastai.callback.core import Callback
from callboard_fastai.layers import NoneReduce
from callboard_fastai.predefined import Predefined
from callboard_fastai.torch_core import tensor, unsqueeze


def reduce_loss(loss: Tensor, reduction: str = "mean") -> Tensor:
    """The mean or the sum of a loss, or the loss itself."""
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss


class MixHandler(Callback):
    """Replaces the loss by a blend of that for both labels where these are classes.

    A class derived from it sets ``yb1``, the other labels, and ``lam``, the share of
    the item's own.

    Args:
        alpha: Both parameters of the Beta distribution that shares are drawn from.
    """

    run_valid = False

    def __init__(self, alpha: float = 0.5) -> None:
        self.distrib = Beta(tensor(alpha), tensor(alpha))
        self.stack_y = False

    def before_train(self) -> None:
        """Replace the loss."""
        self.stack_y = getattr(self.learn.loss_func, "y_int", False)
        if self.stack_y:
            self.old_lf, self.learn.loss_func = self.learn.loss_func, self.lf

    def after_train(self) -> None:
        """Put the loss back."""
        if self.stack_y:
            self.learn.loss_func = self.old_lf

    def after_cancel_train(self) -> None:
        """Put the loss back."""
        self.after_train()

    def after_cancel_fit(self) -> None:
        """Put the loss back."""
        self.after_train()

    def lf(self, pred: Any, *yb: Any) -> Any:
        """The blended loss."""
        if not self.training:
            return self.old_lf(pred, *yb)
        with NoneReduce(self.old_lf) as of_items:
            loss = torch.lerp(of_items(pred, *self.yb1), of_items(pred, *yb), self.lam)
        return reduce_loss(loss, getattr(self.old_lf, "reduction", "mean"))

    def _blend_labels(self) -> None:
        if not self.stack_y:
            share = (
                unsqueeze(self.lam, n=self.y.ndim - 1) if self.lam.ndim else self.lam
            )
            pairs = zip(self.yb1, self.yb, strict=True)
            self.learn.yb = tuple(torch.lerp(other, own, share) for other, own in pairs)


class MixUp(MixHandler, metaclass=Predefined, plugin="MixUp"):
    """Blends every item with another one (Zhang et al. 2018, arXiv:1710.09412)."""

    def __init__(self, alpha: float = 0.4) -> None:
        super().__init__(alpha)

    def before_batch(self) -> None:
        """Blend inputs and labels."""
        size = self.y.size(0)
        drawn = self.distrib.sample((size,)).squeeze().to(self.x.device)
        self.lam = torch.maximum(drawn, 1 - drawn)
        shuffle = torch.randperm(size).to(self.x.device)
        others, self.yb1 = (
            tuple(part[shuffle] for part in batch) for batch in (self.xb, self.yb)
        )
        share = unsqueeze(self.lam, n=self.x.ndim - 1)
        pairs = zip(others, self.xb, strict=True)
        self.learn.xb = tuple(L(torch.lerp(other, own, share) for other, own in pairs))
        self._blend_labels()


class CutMix(MixHandler, metaclass=Predefined, plugin="CutMix"):
    """Pastes a box of another item into every item (arXiv:1905.04899)."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def before_batch(self) -> None:
        """Paste boxes and blend labels."""
        size, _, height, width = self.x.size()
        self.lam = self.distrib.sample((1,)).to(self.x.device)
        shuffle = torch.randperm(size).to(self.x.device)
        others, self.yb1 = self.x[shuffle], (self.y[shuffle],)
        x1, y1, x2, y2 = self.rand_bbox(width, height, self.lam)
        pasted = self.x.clone()
        pasted[..., y1:y2, x1:x2] = others[..., y1:y2, x1:x2]
        self.learn.xb = (pasted,)
        self.lam = 1 - ((x2 - x1) * (y2 - y1)) / float(width * height)
        self._blend_labels()

    def rand_bbox(self, W: int, H: int, lam: Tensor) -> tuple[Tensor, ...]:
        """Left, top, right and bottom of a box with a share ``1 - lam`` of the area."""
        ratio = torch.sqrt(1.0 - lam)
        sides = []
        for length in (W, H):
            half = torch.round(length * ratio).long() // 2
            centre = torch.randint(0, length, (1,), device=lam.device)
            sides.append(((centre - half).clamp(0, length), half, centre, length))
        (x1, half_w, x, _), (y1, half_h, y, _) = sides
        return x1, y1, (x + half_w).clamp(0, W), (y + half_h).clamp(0, H)
