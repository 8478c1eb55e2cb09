"""What was before the loop when it failed, in words, and what usually helps."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callboard.data import batches

if TYPE_CHECKING:
    from callboard.learner import Learner

MOST_TENSORS = 6
DEAD_WORKER = ("exited unexpectedly", "is killed by signal")


def scene(learner: Learner, error: BaseException) -> str:
    """Batch and model as the failing step saw them, and a way out where one is known.

    Empty between the batches, where there is nothing to show.
    """
    # Where the loader failed, the batch that is there is the one before.
    batch = () if _was_loading(error) else _batch_in_words(learner)
    return "\n".join([*batch, *_remedies(learner, error)])


def _was_loading(error: BaseException) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is batches.__code__ for frame, _ in frames)


def _batch_in_words(learner: Learner) -> Iterator[str]:
    parts = [
        f"{name} {found}"
        for name, held in (
            ("inputs", learner.xb),
            ("labels", learner.yb),
            ("prediction", learner.pred),
        )
        if (found := in_words(held))
    ]
    if parts:
        yield f"The batch: {'; '.join(parts)}. The model: {_name(learner.model)}."


def in_words(held: Any) -> str:
    """The tensors in a batch or prediction: ``float32 (8, 4)``; empty for none.

    >>> in_words((torch.zeros(8, 4), {"mask": torch.ones(8, dtype=torch.bool)}))
    'float32 (8, 4), mask bool (8,)'
    """
    tensors = list(_tensors(held))
    shown = [
        f"{f'{name} ' if name else ''}{_one_in_words(tensor)}"
        for name, tensor in tensors[:MOST_TENSORS]
    ]
    more = len(tensors) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _one_in_words(tensor: Tensor) -> str:
    where = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}{where}"


def _tensors(held: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(held, Tensor):
        yield name, held
    elif isinstance(held, Mapping):
        for key, part in held.items():
            yield from _tensors(part, str(key))
    elif isinstance(held, tuple | list):
        for part in held:
            yield from _tensors(part, name)


def _remedies(learner: Learner, error: BaseException) -> Iterator[str]:
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        yield (
            "Smaller batches, gradient accumulation or mixed precision need less "
            "memory."
        )
    if "DataLoader worker" in text and any(part in text for part in DEAD_WORKER):
        yield (
            "A worker process of the loader died: its code crashed, or memory ran out. "
            "With num_workers=0 the data is made in this process and the cause shows."
        )
    loss = learner.loss
    if isinstance(loss, Tensor) and loss.ndim:
        yield (
            f"The loss has shape {tuple(loss.shape)} and must be a scalar: let "
            "loss_func take the mean, as with reduction='mean'."
        )
    if learner.loss_func is None and len(learner.xb) > 1 and learner.pred is None:
        yield (
            "The Learner has no loss_func, so the model was called with all of the "
            "batch, labels included, and has to return its loss. Give "
            "Learner(loss_func=...) to train on labels."
        )
    yield from _devices(learner)


def _devices(learner: Learner) -> Iterator[str]:
    """What is where, if not all is in one place."""
    where: dict[torch.device, str] = {}
    for owner, module in (("model", learner.model), ("loss_func", learner.loss_func)):
        if isinstance(module, nn.Module):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                where.setdefault(tensor.device, f"{owner}.{name}")
    for owner, held in (("the inputs", learner.xb), ("the labels", learner.yb)):
        for _, tensor in _tensors(held):
            where.setdefault(tensor.device, owner)
    if len(where) > 1:
        found = ", ".join(f"{name} on {device}" for device, name in where.items())
        yield f"Not all is on one device: {found}."


def _name(module: nn.Module) -> str:
    return type(module).__name__
