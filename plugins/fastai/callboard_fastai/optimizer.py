"""fastai's optimizers by name, as torch optimizers with fastai's hyper-parameters.

A callback sees every optimizer through ``OptimizerView``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from callboard_fastai.exports import exporting
from callboard_fastai.views import OptimizerView

Optimizer = OptimizerView


def _groups(params: Any) -> list[dict[str, Any]] | list[nn.Parameter]:
    """Parameters, or lists of them, as torch takes both."""
    parts = list(params)
    if (
        parts
        and isinstance(parts[0], list | tuple | Iterable)
        and not isinstance(parts[0], torch.Tensor | dict)
    ):
        return [{"params": list(part)} for part in parts]
    return parts


class _DecoupledSGD(torch.optim.SGD):
    """SGD whose weight decay shrinks weights and leaves gradients alone."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = 0
            for p in group["params"]:
                if p.grad is not None and decay:
                    p.mul_(1 - group["lr"] * decay)
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def SGD(
    params: Any, lr: Any, mom: float = 0.0, wd: float = 0.0, decouple_wd: bool = True
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    cls = _DecoupledSGD if decouple_wd else torch.optim.SGD
    return cls(_groups(params), lr=lr, momentum=mom, weight_decay=wd)


def RMSProp(
    params: Any,
    lr: Any,
    mom: float = 0.0,
    sqr_mom: float = 0.99,
    eps: float = 1e-8,
    wd: float = 0.0,
) -> torch.optim.Optimizer:
    """RMSProp; weight decay goes into the gradients."""
    return torch.optim.RMSprop(
        _groups(params), lr=lr, momentum=mom, alpha=sqr_mom, eps=eps, weight_decay=wd
    )


def Adam(
    params: Any,
    lr: Any,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.01,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Adam, by default with decoupled weight decay, which is AdamW."""
    cls: Any = torch.optim.AdamW if decouple_wd else torch.optim.Adam
    made: torch.optim.Optimizer = cls(
        _groups(params), lr=lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd
    )
    return made


def RAdam(
    params: Any,
    lr: Any,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Rectified Adam."""
    return torch.optim.RAdam(
        _groups(params),
        lr=lr,
        betas=(mom, sqr_mom),
        eps=eps,
        weight_decay=wd,
        decoupled_weight_decay=decouple_wd,
    )


def OptimWrapper(
    params: Any = None,
    opt: Callable[..., torch.optim.Optimizer] | torch.optim.Optimizer | None = None,
    hp_map: Any = None,
    convert_groups: bool = True,
    **kwargs: Any,
) -> OptimizerView:
    """A torch optimizer with fastai's surface.

    Args:
        params: Parameters or groups of them, where ``opt`` is a class.
        opt: An optimizer, or a class of one.
        hp_map: There for fastai's signature; names are those of ``callboard.optim``.
        convert_groups: Take lists of parameters as groups.
        kwargs: Options of the optimizer.
    """
    if isinstance(opt, torch.optim.Optimizer):
        return OptimizerView(opt)
    if opt is None or params is None:
        raise ValueError("OptimWrapper takes an optimizer, or its class and params.")
    groups = _groups(params) if convert_groups else params
    return OptimizerView(opt(groups, **kwargs))


__getattr__, __dir__ = exporting(__name__)
