"""What a Learner is made of and a fit is given, looked at before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from callboard.errors import CallboardError, OptionError

if TYPE_CHECKING:
    from callboard.learner import Learner


def is_whole_number(number: object) -> bool:
    """Whether it is an integer of any kind, and no truth value."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def as_list(metrics: Any) -> list[Any]:
    """None, one or many metrics as a list."""
    if metrics is None:
        return []
    is_many = isinstance(metrics, Sequence) and not isinstance(metrics, str)
    return list(metrics) if is_many else [metrics]


def single(parts: Any) -> Any:
    """The one element of a sequence of one, else what was given."""
    return parts[0] if isinstance(parts, tuple | list) and len(parts) == 1 else parts


def as_seed(seed: object) -> int:
    """A seed as a plain number."""
    if not is_whole_number(seed):
        raise OptionError(f"seed must be a whole number, got {seed!r}.")
    return int(seed)  # type: ignore[call-overload, no-any-return]


def refuse_meta(model: nn.Module, device: torch.device) -> None:
    """Refuse weights that have a shape and no value, and cannot be moved."""
    if device.type == "meta":
        return
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise OptionError(
                f"model: {name} is on the meta device, where tensors have no values. "
                f'Call model.to_empty(device="{device}") and set its weights before '
                "you train."
            )


def check_parts(model: object, loss_func: object, opt_func: object) -> None:
    """Refuse what would only fail in the first batch, and then in other words."""
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise OptionError(f"model must be a torch.nn.Module, got {kind}.")
    if isinstance(loss_func, type) and issubclass(loss_func, nn.Module):
        name = loss_func.__name__
        raise OptionError(f"loss_func: {name} is a class; give an instance: {name}().")
    if loss_func is not None and not callable(loss_func):
        raise OptionError(f"loss_func must be a function or None, got {loss_func!r}.")
    if not callable(opt_func):
        raise OptionError(
            f"opt_func must make an optimizer, got {type(opt_func).__name__}: give a "
            "class, as torch.optim.Adam, or functools.partial of one with its options."
        )


def check_fit(learner: Learner, n_epoch: int, start_epoch: int) -> None:
    """Refuse numbers of epochs that are none, and a fit inside of a fit."""
    if not is_whole_number(n_epoch) or n_epoch < 0:
        message = f"fit: n_epoch must be a whole number from 0 on, got {n_epoch!r}."
        raise OptionError(message)
    if not is_whole_number(start_epoch) or not 0 <= start_epoch <= n_epoch:
        raise OptionError(
            f"fit: start_epoch must be from 0 to n_epoch ({n_epoch}), got "
            f"{start_epoch!r}."
        )
    if learner._depth and learner.stage == "fit":
        raise CallboardError(
            "fit was called inside a fit of the same Learner. Use "
            "learner.evaluating(stage) around it, or a Learner of its own."
        )
