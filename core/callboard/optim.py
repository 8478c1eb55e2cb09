"""Parameter groups, freezing, and hyper-parameters by one name for any optimizer.

The names are fastai's: ``lr``, ``mom`` (``momentum``, or the first of ``betas``),
``sqr_mom`` (the second of ``betas``, or ``alpha``), ``wd`` (``weight_decay``), ``eps``.
A real key of the optimizer's parameter groups works too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from callboard.errors import CallboardWarning, OptionError, suggestion

Rate = float | Sequence[float] | slice
Splitter = Callable[[nn.Module], Iterable[Any]]
# Name -> the keys of a parameter group that may hold it, and the place in a tuple.
HYPERS: dict[str, tuple[tuple[str, int | None], ...]] = {
    "lr": (("lr", None),),
    "mom": (("betas", 0), ("momentum", None)),
    "sqr_mom": (("betas", 1), ("alpha", None)),
    "wd": (("weight_decay", None),),
    "eps": (("eps", None),),
}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def trainable_params(model: nn.Module) -> list[Parameter]:
    """All parameters that take gradients, as one group: the default splitter."""
    return [p for p in model.parameters() if p.requires_grad]


def split_parameters(model: nn.Module, splitter: Splitter) -> list[list[Parameter]]:
    """The parameter groups that a splitter makes, first layers first.

    A splitter returns parameters (one group), or a list of groups, each of parameters
    or modules.

    Raises:
        OptionError: It gives no parameter, or one parameter in two groups.
    """
    made = list(splitter(model))
    if made and all(isinstance(p, Parameter) for p in made):
        made = [made]
    groups = [_parameters_of(group) for group in made]
    every = [id(p) for group in groups for p in group]
    if not every:
        raise OptionError(
            f"The splitter found no parameter to train in {type(model).__name__}."
        )
    if len(every) != len(set(every)):
        raise OptionError("The splitter put one parameter into two groups.")
    return groups


def _parameters_of(group: Any) -> list[Parameter]:
    if isinstance(group, Parameter):
        return [group]
    if isinstance(group, nn.Module):
        return list(group.parameters())
    return [p for part in group for p in _parameters_of(part)]


def spread(value: Rate, num_groups: int) -> list[float]:
    """One value per parameter group.

    A number is the same for all; ``slice(low, high)`` goes from the first group to the
    last in equal ratios; ``slice(high)`` is ``high`` for the last and a tenth of it for
    the others (Howard & Ruder 2018, arXiv:1801.06146, discriminative fine-tuning).

    Raises:
        OptionError: A sequence of another length than the groups.
    """
    if isinstance(value, slice):
        return _spread_slice(value, num_groups)
    if isinstance(value, str):
        raise OptionError(f"{value!r} is no number, nor a sequence of numbers.")
    if isinstance(value, int | float) or getattr(value, "ndim", None) == 0:
        return [float(value)] * num_groups  # type: ignore[arg-type]
    values = [float(v) for v in value]
    if len(values) != num_groups:
        raise OptionError(
            f"got {len(values)} values for {num_groups} parameter groups: give one for "
            "each, a number for all, or slice(low, high)."
        )
    return values


def _spread_slice(value: slice, num_groups: int) -> list[float]:
    if value.stop is None:
        raise OptionError("slice() needs at least the highest rate: slice(1e-3).")
    high = float(value.stop)
    if value.start is None:
        return [high / 10] * (num_groups - 1) + [high]
    low = float(value.start)
    if low <= 0 or high <= 0:
        raise OptionError(
            f"slice({low:g}, {high:g}) goes up in equal ratios: both must be above 0."
        )
    if num_groups == 1:
        return [high]
    if low <= 0 or high <= 0:
        raise OptionError(
            f"slice({low:g}, {high:g}): both must be above 0, since the groups between "
            "go from one to the other in equal ratios."
        )
    ratio = (high / low) ** (1 / (num_groups - 1))
    return [low * ratio**i for i in range(num_groups)]


def spread_rate(lr: Rate, num_groups: int) -> list[float]:
    """One learning rate per parameter group, as ``spread``.

    Raises:
        OptionError: One is below 0, or there are too many or too few.
    """
    rates = spread(lr, num_groups)
    if min(rates) < 0:
        raise OptionError(f"lr must be at least 0, got {min(rates):g}.")
    return rates


def own_rate(opt_func: Any, default: float = 1e-3) -> Rate:
    """The learning rate that a partial ``opt_func`` was given, else the default."""
    rate: Rate = getattr(opt_func, "keywords", {}).get("lr", default)
    return rate


def is_about(opt: Optimizer | None, model: nn.Module) -> bool:
    """Whether an optimizer trains at least one of the model's parameters."""
    if opt is None:
        return False
    known = {id(p) for group in opt.param_groups for p in group["params"]}
    return any(id(p) in known for p in model.parameters())


def hypers(opt: Optimizer) -> tuple[str, ...]:
    """Names of the hyper-parameters that this optimizer has."""
    group = opt.param_groups[0]
    named, keys = [], {"params"}
    for name, places in HYPERS.items():
        found = [key for key, _ in places if key in group]
        if found:
            named.append(name)
            keys.update(found)
    others = [
        key
        for key, value in group.items()
        if key not in keys
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ]
    return (*named, *others)


def locate_hyper(opt: Optimizer, name: str) -> tuple[str, int | None]:
    """The key of the parameter groups that holds a hyper-parameter, and its place.

    Raises:
        OptionError: The optimizer has no such hyper-parameter.
    """
    group = opt.param_groups[0]
    for key, place in (*HYPERS.get(name, ()), (name, None)):
        if key in group and key != "params":
            return key, place
    known = hypers(opt)
    raise OptionError(
        f"{type(opt).__name__} has no hyper-parameter {name!r}; it has "
        f"{', '.join(known)}.{suggestion(name, known)}"
    )


def get_hyper(opt: Optimizer, name: str) -> list[float]:
    """The value of a hyper-parameter in every parameter group."""
    key, place = locate_hyper(opt, name)
    values = [group[key] for group in opt.param_groups]
    return [value if place is None else value[place] for value in values]


def set_hyper(opt: Optimizer, name: str, value: Rate) -> None:
    """Set a hyper-parameter: a number for all groups, or one for each."""
    key, place = locate_hyper(opt, name)
    values = spread(value, len(opt.param_groups))
    for group, number in zip(opt.param_groups, values, strict=True):
        if place is not None:
            parts = list(group[key])
            parts[place] = number
            group[key] = tuple(parts)
        elif isinstance(group[key], torch.Tensor):
            group[key].fill_(number)  # capturable optimizers keep lr on the device
        else:
            group[key] = number


def needs_closure(opt: Optimizer) -> bool:
    """Whether ``opt.step`` works the loss out again itself, as LBFGS does."""
    return isinstance(opt, torch.optim.LBFGS)


def freeze_groups(
    model: nn.Module, groups: Sequence[Sequence[Parameter]], n: int, *, train_bn: bool
) -> None:
    """Train the groups from number ``n`` on and freeze those before, in place.

    Args:
        model: The model whose normalisation layers ``train_bn`` is about.
        groups: Parameter groups, first layers first.
        n: First group to train; negative counts from the end.
        train_bn: Keep batch and instance normalisation trainable when frozen.
    """
    first = n if n >= 0 else len(groups) + n
    if len(groups) == 1 and n < 0:
        warnings.warn(
            "freeze: the model has one parameter group, so nothing is frozen; give the "
            "Learner a splitter that makes several.",
            CallboardWarning,
            stacklevel=3,
        )
    if first >= len(groups):
        warnings.warn(
            f"freeze_to({n}): the model has {len(groups)} parameter groups, so the "
            "whole model is frozen.",
            CallboardWarning,
            stacklevel=3,
        )
    kept = {
        id(p)
        for module in model.modules()
        if train_bn and isinstance(module, NORMS)
        for p in module.parameters(recurse=False)
    }
    for number, group in enumerate(groups):
        for parameter in group:
            trains = number >= first or id(parameter) in kept
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None
