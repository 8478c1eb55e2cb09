"""Samples of what a model is given, what was asked for and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from callboard import Learner
from callboard_gather_preds import activation_of, decoder_of

MAX_NUMBERS = 8  # that a cell of a table shows


@dataclass(frozen=True)
class Sample:
    """One item of the validation data.

    Attributes:
        input: What the model was given.
        target: What was asked for; the name of the class where the data has names.
        prediction: What the model decided, likewise.
    """

    input: Any
    target: Any
    prediction: Any


class SampleCollector:
    """Picks items out of the batches of a validation, where they pass by anyway.

    Args:
        count: How many to pick.
        seed: Which ones: drawn from the whole data by this seed; None for the first.
    """

    def __init__(self, count: int, seed: int | None = None) -> None:
        self.count = count
        self.seed = seed
        self._positions: list[int] = []
        self._num_seen = 0
        self._parts: list[tuple[Any, Any, Any]] = []

    @property
    def is_complete(self) -> bool:
        """Whether no later batch holds an item to pick."""
        return not self._positions

    def start(self, loader: Any) -> None:
        """Choose the positions of the items in the data."""
        self._num_seen, self._parts = 0, []
        dataset: Any = getattr(loader, "dataset", None)
        size = len(dataset) if hasattr(dataset, "__len__") else None
        self._positions = positions(self.count, size, self.seed)

    def add(self, inputs: Any, targets: Any, preds: Tensor) -> None:
        """Keep what this batch holds of them, on its device."""
        stop = self._num_seen + len(preds)
        chosen = [p - self._num_seen for p in self._positions if p < stop]
        self._positions = [p for p in self._positions if p >= stop]
        self._num_seen = stop
        if chosen:
            self._parts.append(
                (picked(inputs, chosen), picked(targets, chosen), preds[chosen])
            )

    def take(self, learner: Learner) -> list[Sample]:
        """The samples, with decisions for predictions, on the host."""
        parts, self._parts = self._parts, []
        return [
            sample
            for inputs, targets, preds in parts
            for sample in samples_of(learner, inputs, targets, preds)
        ]


def positions(count: int, size: int | None, seed: int | None) -> list[int]:
    """Which items to pick: ``count`` of ``size``, in their order.

    >>> positions(3, 10, None), positions(5, 2, 0)
    ([0, 1, 2], [0, 1])
    """
    if seed is None or size is None:
        return list(range(count if size is None else min(count, size)))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(size, generator=generator)[:count]
    return sorted(int(position) for position in drawn)


def picked(data: Any, chosen: Sequence[int]) -> Any:
    """Items of a batch of any structure, copied; what holds no items stays as it is."""
    if isinstance(data, Tensor) and data.ndim:
        return data.detach()[list(chosen)]
    if isinstance(data, Mapping):
        return {name: picked(part, chosen) for name, part in data.items()}
    if isinstance(data, tuple):
        return tuple(picked(part, chosen) for part in data)
    if isinstance(data, list):
        return [data[place] for place in chosen]
    return data


def samples_of(
    learner: Learner, inputs: Any, targets: Any, preds: Tensor
) -> list[Sample]:
    """Items of a batch apart, with decisions for predictions.

    Args:
        learner: Whose loss says what makes a decision of a prediction.
        inputs: Inputs of all items.
        targets: Labels of all items; an empty tuple or None where there are none.
        preds: Predictions of all items, as the model made them.
    """
    loss_func = learner.loss_func
    decisions = decoder_of(loss_func)(activation_of(loss_func)(preds))
    names = class_names(learner)
    return [
        Sample(
            item_of(inputs, place),
            named(item_of(targets, place), names),
            named(item_of(decisions, place), names),
        )
        for place in range(len(preds))
    ]


def item_of(data: Any, place: int) -> Any:
    """One item of a batch of any structure, on the host."""
    if isinstance(data, Tensor):
        return data.detach()[place].cpu() if data.ndim else data.detach().cpu()
    if isinstance(data, Mapping):
        return {name: item_of(part, place) for name, part in data.items()}
    if isinstance(data, tuple):
        parts = tuple(item_of(part, place) for part in data)
        return None if not parts else parts[0] if len(parts) == 1 else parts
    return data[place] if isinstance(data, list) else data


def class_names(learner: Learner) -> Sequence[Any] | None:
    """The names of the classes where a dataset has ``classes``, as torchvision's do."""
    for loader in (learner.dls.valid, learner.dls.train):
        dataset = getattr(loader, "dataset", None)
        while dataset is not None:
            classes: Sequence[Any] | None = getattr(dataset, "classes", None)
            if classes is not None:
                return classes
            dataset = getattr(dataset, "dataset", None)  # inside a Subset
    return None


def named(value: Any, names: Sequence[Any] | None) -> Any:
    """The name of a class, or a plain number, where a tensor is one."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        return value
    number = value.item()
    is_place = isinstance(number, int) and not isinstance(number, bool)
    if names is not None and is_place and 0 <= number < len(names):
        return names[int(number)]
    return number


def as_picture(value: Any) -> Tensor | None:
    """Something to look at, channels first, from 0 to 1; None where it is no picture.

    A picture has one or three channels and more than one row and column. Its darkest
    value becomes 0 and its brightest 1, since a batch is normalised in ways unknown.
    """
    if not isinstance(value, Tensor) or value.ndim not in (2, 3):
        return None
    picture = value if value.ndim == 3 else value[None]
    if picture.shape[0] not in (1, 3) or min(picture.shape[1:]) < 2:
        return None
    picture = picture.detach().float().cpu()
    low, high = picture.min(), picture.max()
    return (picture - low) / (high - low).clamp(min=1e-12)


def as_text(value: Any) -> str:
    """What a cell of a table shows of an input, a target or a prediction."""
    if value is None:
        return ""
    if isinstance(value, Tensor):
        if value.numel() > MAX_NUMBERS:
            return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
        return str(_rounded(value.tolist()))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
