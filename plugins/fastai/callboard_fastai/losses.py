"""fastai's losses: torch's, with predictions and labels flattened first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callboard_fastai.exports import exporting
from callboard_fastai.torch_core import Module


class BaseLoss:
    """A loss of torch that flattens predictions and labels first.

    Args:
        loss_cls: The class of the loss; further arguments are for it.
        axis: Where the classes are; it becomes the last dimension.
        flatten: Whether to flatten at all.
        floatify: Make labels floating point numbers.
        is_2d: Keep the dimension of the classes of predictions.
    """

    y_int = False

    def __init__(
        self,
        loss_cls: Any,
        *args: Any,
        axis: int = -1,
        flatten: bool = True,
        floatify: bool = False,
        is_2d: bool = True,
        **kwargs: Any,
    ) -> None:
        self.axis, self.flatten = axis, flatten
        self.floatify, self.is_2d = floatify, is_2d
        self.func = loss_cls(*args, **kwargs)
        self.__name__ = loss_cls.__name__

    def __repr__(self) -> str:
        return f"FlattenedLoss of {self.func}"

    def __getattr__(self, name: str) -> Any:
        if name == "func" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.func, name)

    @property
    def reduction(self) -> str:
        """``"mean"``, ``"sum"`` or ``"none"``."""
        return str(self.func.reduction)

    @reduction.setter
    def reduction(self, reduction: str) -> None:
        self.func.reduction = reduction

    def __call__(self, inp: Any, targ: Any, **kwargs: Any) -> Any:
        inp, targ = self._classes_last(inp), self._classes_last(targ)
        if self.floatify and targ.dtype != torch.float16:
            targ = targ.float()
        if targ.dtype in (torch.int8, torch.int16, torch.int32):
            targ = targ.long()
        if self.flatten:
            inp = inp.view(-1, inp.shape[-1]) if self.is_2d else inp.view(-1)
            targ = targ.view(-1)
        return self.func(inp, targ, **kwargs)

    def _classes_last(self, x: Any) -> Any:
        return x.transpose(self.axis, -1).contiguous() if isinstance(x, Tensor) else x

    def to(self, device: Any) -> None:
        """Move what tensors the loss holds."""
        if isinstance(self.func, nn.Module):
            self.func.to(device)

    def activation(self, x: Any) -> Any:
        """Predictions of what the model gives."""
        return x

    def decodes(self, x: Any) -> Any:
        """Decisions of predictions."""
        return x


class _OverClasses(BaseLoss):
    """A loss of scores over classes, labels being whole numbers."""

    y_int = True

    def activation(self, x: Tensor) -> Tensor:
        return F.softmax(x, dim=self.axis)

    def decodes(self, x: Tensor) -> Tensor:
        return x.argmax(dim=self.axis)


class CrossEntropyLossFlat(_OverClasses):
    """``nn.CrossEntropyLoss``, flattened."""

    def __init__(self, *args: Any, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(nn.CrossEntropyLoss, *args, axis=axis, **kwargs)


class FocalLoss(Module):
    """Cross entropy that counts hard items more (Lin et al. 2017, arXiv:1708.02002)."""

    y_int = True

    def __init__(
        self, gamma: float = 2.0, weight: Tensor | None = None, reduction: str = "mean"
    ) -> None:
        self.gamma, self.weight, self.reduction = gamma, weight, reduction

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        entropy = F.cross_entropy(inp, targ, weight=self.weight, reduction="none")
        loss = (1 - torch.exp(-entropy)) ** self.gamma * entropy
        return _reduced(loss, self.reduction)


class FocalLossFlat(_OverClasses):
    """``FocalLoss``, flattened."""

    def __init__(
        self, *args: Any, gamma: float = 2.0, axis: int = -1, **kwargs: Any
    ) -> None:
        super().__init__(FocalLoss, *args, gamma=gamma, axis=axis, **kwargs)


class LabelSmoothingCrossEntropy(Module):
    """Cross entropy with a share ``eps`` of every label spread over all classes."""

    y_int = True

    def __init__(
        self, eps: float = 0.1, weight: Tensor | None = None, reduction: str = "mean"
    ) -> None:
        self.eps, self.weight, self.reduction = eps, weight, reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            output,
            target.long(),
            weight=self.weight,
            reduction=self.reduction,
            label_smoothing=self.eps,
        )

    def activation(self, x: Tensor) -> Tensor:
        """Predictions of what the model gives."""
        return F.softmax(x, dim=-1)

    def decodes(self, x: Tensor) -> Tensor:
        """Decisions of predictions."""
        return x.argmax(dim=-1)


class LabelSmoothingCrossEntropyFlat(_OverClasses):
    """``LabelSmoothingCrossEntropy``, flattened."""

    def __init__(
        self, *args: Any, axis: int = -1, eps: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(
            LabelSmoothingCrossEntropy, *args, axis=axis, eps=eps, **kwargs
        )


class BCEWithLogitsLossFlat(BaseLoss):
    """``nn.BCEWithLogitsLoss``, flattened."""

    def __init__(
        self,
        *args: Any,
        axis: int = -1,
        floatify: bool = True,
        thresh: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            nn.BCEWithLogitsLoss,
            *args,
            axis=axis,
            floatify=floatify,
            is_2d=False,
            **kwargs,
        )
        self.thresh = thresh

    def activation(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def decodes(self, x: Tensor) -> Tensor:
        return x > self.thresh


def BCELossFlat(
    *args: Any, axis: int = -1, floatify: bool = True, **kwargs: Any
) -> BaseLoss:
    """``nn.BCELoss``, flattened."""
    return BaseLoss(
        nn.BCELoss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs
    )


def MSELossFlat(
    *args: Any, axis: int = -1, floatify: bool = True, **kwargs: Any
) -> BaseLoss:
    """``nn.MSELoss``, flattened."""
    return BaseLoss(
        nn.MSELoss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs
    )


def L1LossFlat(
    *args: Any, axis: int = -1, floatify: bool = True, **kwargs: Any
) -> BaseLoss:
    """``nn.L1Loss``, flattened."""
    return BaseLoss(
        nn.L1Loss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs
    )


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss


__getattr__, __dir__ = exporting(__name__)
