"""The loss of every single item, for plugins that weigh losses or report them.

A loss function makes one number of a batch. Those of ``torch.nn`` have a ``reduction``,
and those of ``torch.nn.functional`` take one, which says how; with ``"none"`` they give
the numbers that go into it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from callboard.data import batch_size
from callboard.errors import OptionError

LossFunction = Callable[..., Tensor]


def item_losses(loss_func: LossFunction, pred: Any, labels: Sequence[Any]) -> Tensor:
    """The losses of a batch before they are reduced; the first dimension is the items.

    Args:
        loss_func: A loss with a ``reduction``, or a function that takes one.
        pred: The prediction for the batch.
        labels: The labels of the batch, as ``learner.yb`` holds them.

    Raises:
        OptionError: This loss function gives no losses of single items.
    """
    if hasattr(loss_func, "reduction"):
        with _unreduced(loss_func):
            losses = loss_func(pred, *labels)
    elif _default_reduction(loss_func) is not None:
        losses = loss_func(pred, *labels, reduction="none")
    else:
        raise OptionError(_no_item_losses(loss_func, "it has no reduction"))
    num_items = batch_size(labels)
    if losses.ndim == 0 or losses.shape[0] != num_items:
        problem = (
            f'with reduction="none" it gives a tensor of shape {tuple(losses.shape)} '
            f"for {num_items} items"
        )
        raise OptionError(_no_item_losses(loss_func, problem))
    return losses


def reduction_of(loss_func: LossFunction) -> str | None:
    """How a loss function makes one number of a batch: ``"mean"``, ``"sum"``.

    None where it does not say.
    """
    if hasattr(loss_func, "reduction"):
        return str(loss_func.reduction)
    return _default_reduction(loss_func)


@contextmanager
def _unreduced(loss_func: Any) -> Iterator[None]:
    reduction = loss_func.reduction
    loss_func.reduction = "none"
    try:
        yield
    finally:
        loss_func.reduction = reduction


def _default_reduction(loss_func: LossFunction) -> str | None:
    """What a function, or a partial of one, does when it is given no reduction."""
    try:
        parameters = inspect.signature(loss_func).parameters
    except (TypeError, ValueError):  # a built-in that does not tell
        return None
    parameter = parameters.get("reduction")
    return None if parameter is None else str(parameter.default)


def _no_item_losses(loss_func: LossFunction, problem: str) -> str:
    name = getattr(loss_func, "__name__", type(loss_func).__name__)
    return (
        f"The loss function {name} gives no loss of each single item: {problem}. Give "
        "the Learner a loss of torch.nn, as nn.CrossEntropyLoss(), or a function that "
        'takes reduction="none", as torch.nn.functional.cross_entropy.'
    )
