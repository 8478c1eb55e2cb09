"""The layers and model helpers of ``fastai.layers`` that callbacks use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from callboard_fastai.exports import exporting
from callboard_fastai.torch_core import Module


class Identity(Module):
    """Does nothing."""

    def forward(self, x: Any) -> Any:
        return x


class Lambda(Module):
    """A function as a module."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def forward(self, x: Any) -> Any:
        return self.func(x)

    def __repr__(self) -> str:
        return f"Lambda({self.func})"


class PartialLambda(Lambda):
    """A function with some of its arguments as a module."""

    def __init__(self, func: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(partial(func, **kwargs))


class Flatten(Module):
    """One vector an item, or one for the whole batch."""

    def __init__(self, full: bool = False) -> None:
        self.full = full

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1) if self.full else x.reshape(x.size(0), -1)


class View(Module):
    """A fixed shape for the whole batch."""

    def __init__(self, *size: int) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.view(self.size)


class ResizeBatch(Module):
    """A fixed shape for every item."""

    def __init__(self, *size: int) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.view((x.size(0), *self.size))


class Mish(nn.Mish):
    """``x * tanh(softplus(x))``."""


class Swish(nn.SiLU):
    """``x * sigmoid(x)``."""


def sigmoid(input: Tensor, eps: float = 1e-7) -> Tensor:
    """The sigmoid, kept away from 0 and 1."""
    return input.sigmoid().clamp(eps, 1 - eps)


def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """The sigmoid from ``low`` to ``high``."""
    return torch.sigmoid(x) * (high - low) + low


class SigmoidRange(Module):
    """The sigmoid from ``low`` to ``high`` as a module."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid_range(x, self.low, self.high)


class AdaptiveConcatPool1d(Module):
    """Adaptive maximum and average pooling, one behind the other."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or 1
        self.ap = nn.AdaptiveAvgPool1d(self.size)
        self.mp = nn.AdaptiveMaxPool1d(self.size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.mp(x), self.ap(x)], 1)


class AdaptiveConcatPool2d(Module):
    """Adaptive maximum and average pooling, one behind the other."""

    def __init__(self, size: Any = None) -> None:
        self.size = size or 1
        self.ap = nn.AdaptiveAvgPool2d(self.size)
        self.mp = nn.AdaptiveMaxPool2d(self.size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.mp(x), self.ap(x)], 1)


def trunc_normal_(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal numbers folded into two deviations, in place."""
    return x.normal_().fmod_(2).mul_(std).add_(mean)


class Embedding(nn.Embedding):
    """An embedding that starts with small numbers."""

    def __init__(self, ni: int, nf: int, std: float = 0.01, **kwargs: Any) -> None:
        super().__init__(ni, nf, **kwargs)
        trunc_normal_(self.weight.data, std=std)


class LinBnDrop(nn.Sequential):
    """Batch normalisation, dropout and a linear layer in one."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        bn: bool = True,
        p: float = 0.0,
        act: nn.Module | None = None,
        lin_first: bool = False,
    ) -> None:
        normed: list[nn.Module] = []
        if bn:
            normed.append(nn.BatchNorm1d(n_out if lin_first else n_in))
        if p:
            normed.append(nn.Dropout(p))
        linear: list[nn.Module] = [nn.Linear(n_in, n_out, bias=not bn)]
        if act is not None:
            linear.append(act)
        super().__init__(*(linear + normed if lin_first else normed + linear))


class ParameterModule(Module):
    """A parameter on its own as a module."""

    def __init__(self, p: nn.Parameter) -> None:
        self.val = p

    def forward(self, x: Any) -> Any:
        return x


def children_and_parameters(m: nn.Module) -> list[nn.Module]:
    """The children of a module, and its own parameters as modules."""
    children = list(m.children())
    known = {id(p) for child in children for p in child.parameters()}
    return children + [ParameterModule(p) for p in m.parameters() if id(p) not in known]


def has_children(m: nn.Module) -> bool:
    """Whether there are modules in a module."""
    return next(m.children(), None) is not None


def flatten_model(m: nn.Module) -> list[nn.Module]:
    """All modules in a module that hold no other, and parameters on their own."""
    if not has_children(m):
        return [m]
    return [leaf for part in children_and_parameters(m) for leaf in flatten_model(part)]


def in_channels(m: nn.Module) -> int:
    """The number of channels that the first convolution of a model takes."""
    for layer in flatten_model(m):
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 4:
            return int(weight.shape[1])
    raise StopIteration("No weight layer")


class NoneReduce:
    """A loss function that gives the loss of every item, inside a ``with`` block."""

    def __init__(self, loss_func: Any) -> None:
        self.loss_func = loss_func
        self.old_red: str | None = None

    def __enter__(self) -> Any:
        if not hasattr(self.loss_func, "reduction"):
            return partial(self.loss_func, reduction="none")
        self.old_red, self.loss_func.reduction = self.loss_func.reduction, "none"
        return self.loss_func

    def __exit__(self, *error: object) -> None:
        if self.old_red is not None:
            self.loss_func.reduction = self.old_red


def sequential(*args: Any) -> nn.Sequential:
    """Modules one after the other; functions are taken along as modules."""
    return nn.Sequential(*(a if isinstance(a, nn.Module) else Lambda(a) for a in args))


__getattr__, __dir__ = exporting(__name__)
