"""fastai's metrics: functions of predictions and labels, and what accumulates both."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from callboard_fastai.exports import exporting
from callboard_fastai.measuring import AvgMetric, Metric
from callboard_fastai.torch_core import find_bs, flatten_check, to_detach


class ActivationType(Enum):
    """What is done to predictions before a metric sees them."""

    No = "no"
    Sigmoid = "sigmoid"
    Softmax = "softmax"
    BinarySoftmax = "binary-softmax"


class AccumMetric(Metric):
    """A function of all predictions and labels of an epoch.

    Args:
        func: Takes predictions and labels.
        dim_argmax: Where the classes are, to take the highest.
        activation: What is done to predictions first.
        thresh: From where on a prediction counts as true.
        to_np: Give arrays instead of tensors.
        invert_arg: Give labels before predictions.
        flatten: Make vectors of both.
        name: What it is called; default: as the function.
        kwargs: More arguments for the function.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        dim_argmax: int | None = None,
        activation: ActivationType = ActivationType.No,
        thresh: float | None = None,
        to_np: bool = False,
        invert_arg: bool = False,
        flatten: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.func, self.dim_argmax, self.activation = func, dim_argmax, activation
        self.thresh, self.to_np, self.invert_args = thresh, to_np, invert_arg
        self.flatten, self.kwargs = flatten, kwargs
        self._name = name or getattr(func, "func", func).__name__
        self.reset()

    def reset(self) -> None:
        self.preds: list[Tensor] = []
        self.targs: list[Tensor] = []

    def accumulate(self, learn: Any) -> None:
        self.accum_values(self._activated(learn.pred), learn.y, learn)

    def _activated(self, pred: Tensor) -> Tensor:
        if self.activation in (ActivationType.Softmax, ActivationType.BinarySoftmax):
            pred = F.softmax(
                pred, dim=-1 if self.dim_argmax is None else self.dim_argmax
            )
            if self.activation is ActivationType.BinarySoftmax:
                pred = pred[:, -1]
        elif self.activation is ActivationType.Sigmoid:
            pred = torch.sigmoid(pred)
        elif self.dim_argmax is not None:
            pred = pred.argmax(dim=self.dim_argmax)
        return pred >= self.thresh if self.thresh else pred

    def accum_values(self, preds: Tensor, targs: Tensor, learn: Any = None) -> None:
        """Keep predictions and labels of one batch."""
        detach = to_detach if learn is None else learn.to_detach
        preds, targs = detach(preds), detach(targs)
        if self.flatten:
            preds, targs = flatten_check(preds, targs)
        self.preds.append(preds)
        self.targs.append(targs)

    def __call__(self, preds: Tensor, targs: Tensor) -> Any:
        self.reset()
        self.accum_values(preds, targs)
        return self.value

    @property
    def value(self) -> Any:
        if not self.preds:
            return None
        pair: tuple[Any, Any] = torch.cat(self.preds), torch.cat(self.targs)
        if self.to_np:
            pair = pair[0].numpy(), pair[1].numpy()
        return self.func(*(pair[::-1] if self.invert_args else pair), **self.kwargs)

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name


def skm_to_fastai(
    func: Callable[..., Any],
    is_class: bool = True,
    thresh: float | None = None,
    axis: int = -1,
    activation: ActivationType | None = None,
    **kwargs: Any,
) -> AccumMetric:
    """A function of ``sklearn.metrics`` as a metric over the epoch."""
    is_decided = is_class and thresh is not None
    if activation is None:
        activation = ActivationType.Sigmoid if is_decided else ActivationType.No
    return AccumMetric(
        func,
        dim_argmax=axis if is_class and thresh is None else None,
        activation=activation,
        thresh=thresh,
        to_np=True,
        invert_arg=True,
        **kwargs,
    )


def accuracy(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """The share of items whose highest score is that of their label."""
    pred, targ = flatten_check(inp.argmax(dim=axis), targ)
    return (pred == targ).float().mean()


def error_rate(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """The share of items whose highest score is not that of their label."""
    return 1 - accuracy(inp, targ, axis=axis)


def top_k_accuracy(inp: Tensor, targ: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """The share of items whose label is among the ``k`` highest scores."""
    best = inp.topk(k=k, dim=axis)[1]
    return (best == targ.unsqueeze(dim=axis)).sum(dim=-1).float().mean()


def accuracy_multi(
    inp: Tensor, targ: Tensor, thresh: float = 0.5, sigmoid: bool = True
) -> Tensor:
    """The share of right decisions where every item has several labels."""
    inp, targ = flatten_check(inp, targ)
    if sigmoid:
        inp = inp.sigmoid()
    return ((inp > thresh) == targ.bool()).float().mean()


def mse(inp: Tensor, targ: Tensor) -> Tensor:
    """The mean squared error."""
    return F.mse_loss(*flatten_check(inp, targ))


def mae(inp: Tensor, targ: Tensor) -> Tensor:
    """The mean absolute error."""
    inp, targ = flatten_check(inp, targ)
    return torch.abs(inp - targ).mean()


def msle(inp: Tensor, targ: Tensor) -> Tensor:
    """The mean squared error of the logarithms."""
    inp, targ = flatten_check(inp, targ)
    return F.mse_loss(torch.log(1 + inp), torch.log(1 + targ))


def _root_of_mse(inp: Tensor, targ: Tensor) -> Tensor:
    return torch.sqrt(F.mse_loss(inp, targ))


#: The root of the mean squared error over the epoch.
rmse = AccumMetric(_root_of_mse, name="_rmse")


class Perplexity(AvgMetric):
    """The exponential of the mean loss."""

    def __init__(self) -> None:
        super().__init__(None)

    def accumulate(self, learn: Any) -> None:
        size = find_bs(learn.yb)
        self.total += learn.to_detach(learn.loss.mean()) * size
        self.count += size

    @property
    def value(self) -> Any:
        return torch.exp(self.total / self.count) if self.count else None

    @property
    def name(self) -> str:
        return "perplexity"


perplexity = Perplexity()


class LossMetric(AvgMetric):
    """The mean of what the loss function keeps as an attribute.

    Args:
        attr: The attribute.
        nm: What the metric is called; default: as the attribute.
    """

    def __init__(self, attr: str, nm: str | None = None) -> None:
        super().__init__(None)
        self.attr, self.nm = attr, nm

    def accumulate(self, learn: Any) -> None:
        size = find_bs(learn.yb)
        self.total += learn.to_detach(getattr(learn.loss_func, self.attr, 0)) * size
        self.count += size

    @property
    def name(self) -> str:
        return self.attr if self.nm is None else self.nm


def LossMetrics(attrs: Any, nms: Any = None) -> list[LossMetric]:
    """One ``LossMetric`` an attribute; several are given as one text with commas."""
    names = attrs.split(",") if isinstance(attrs, str) else list(attrs)
    shown = names if nms is None else nms
    shown = shown.split(",") if isinstance(shown, str) else list(shown)
    return [LossMetric(name, nm) for name, nm in zip(names, shown, strict=True)]


__getattr__, __dir__ = exporting(__name__)
