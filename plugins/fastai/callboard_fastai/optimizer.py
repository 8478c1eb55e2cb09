"""fastai's optimizers by name, as torch optimizers with fastai's hyper-parameters.

A callback sees every optimizer through ``OptimizerView``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from callboard_fastai.exports import exporting
from callboard_fastai.stepping import (
    LayerwiseAdam,
    LayerwiseSGD,
    Lookahead,
    MomentumSGD,
    QuasiHyperbolicAdam,
    RectifiedAdam,
    ScaledSGD,
    Sparing,
)
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


class _AdamW(Sparing, torch.optim.AdamW):
    """Adam whose weight decay shrinks weights and leaves gradients alone."""


class _Adam(Sparing, torch.optim.Adam):
    """Adam whose weight decay goes into the gradients."""


def SGD(
    params: Any, lr: Any, mom: float = 0.0, wd: float = 0.0, decouple_wd: bool = True
) -> torch.optim.Optimizer:
    """Stochastic gradient descent.

    As in fastai, one that is made without momentum has none, whatever a schedule sets.
    """
    return MomentumSGD(
        _groups(params), lr=lr, mom=mom, wd=wd, decoupled_weight_decay=decouple_wd
    )


def RMSProp(
    params: Any,
    lr: Any,
    mom: float = 0.0,
    sqr_mom: float = 0.99,
    eps: float = 1e-8,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """RMSProp; momentum is that of the gradients."""
    return ScaledSGD(
        _groups(params),
        lr=lr,
        momentum=mom,
        alpha=sqr_mom,
        eps=eps,
        weight_decay=wd,
        has_momentum=mom != 0,
        decoupled_weight_decay=decouple_wd,
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
    cls: Any = _AdamW if decouple_wd else _Adam
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
    beta: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Rectified Adam (arXiv:1908.03265); with ``beta`` SAdam (arXiv:1908.00700)."""
    return RectifiedAdam(
        _groups(params),
        lr=lr,
        betas=(mom, sqr_mom),
        eps=eps,
        beta=beta,
        weight_decay=wd,
        decoupled_weight_decay=decouple_wd,
    )


def QHAdam(
    params: Any,
    lr: Any,
    mom: float = 0.999,
    sqr_mom: float = 0.999,
    nu_1: float = 0.7,
    nu_2: float = 1.0,
    eps: float = 1e-8,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Quasi-hyperbolic Adam (arXiv:1810.06801)."""
    return QuasiHyperbolicAdam(
        _groups(params),
        lr=lr,
        betas=(mom, sqr_mom),
        nu_1=nu_1,
        nu_2=nu_2,
        eps=eps,
        weight_decay=wd,
        decoupled_weight_decay=decouple_wd,
    )


def Larc(
    params: Any,
    lr: Any,
    mom: float = 0.9,
    clip: bool = True,
    trust_coeff: float = 0.02,
    eps: float = 1e-8,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """A rate for every layer (LARS, arXiv:1708.03888); at most ``lr`` with ``clip``."""
    return LayerwiseSGD(
        _groups(params),
        lr=lr,
        momentum=mom,
        clip=clip,
        trust_coeff=trust_coeff,
        eps=eps,
        weight_decay=wd,
        has_momentum=mom != 0,
        decoupled_weight_decay=decouple_wd,
    )


def Lamb(
    params: Any,
    lr: Any,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Adam with a rate for every layer (arXiv:1904.00962)."""
    return LayerwiseAdam(
        _groups(params),
        lr=lr,
        betas=(mom, sqr_mom),
        eps=eps,
        weight_decay=wd,
        decoupled_weight_decay=decouple_wd,
    )


def ranger(
    params: Any,
    lr: Any,
    mom: float = 0.95,
    wd: float = 0.01,
    eps: float = 1e-6,
    k: int = 6,
    alpha: float = 0.5,
    **kwargs: Any,
) -> Lookahead:
    """RAdam with ``Lookahead``; ``kwargs`` are options of RAdam."""
    opt = RAdam(params, lr=lr, mom=mom, wd=wd, eps=eps, **kwargs)
    return Lookahead(opt, k=k, alpha=alpha)


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
