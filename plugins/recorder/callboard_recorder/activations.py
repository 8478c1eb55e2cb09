"""Predictions and labels as a metric over a whole epoch wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from callboard.errors import OptionError
from callboard_recorder.metrics import Activation


def activated(
    prediction: Any, target: Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """Predictions and labels of one batch; see ``epoch_metric`` for the activations.

    Raises:
        OptionError: The prediction does not fit the activation.
    """
    if callable(activation):
        return activation(prediction), target
    if not isinstance(prediction, Tensor):
        raise OptionError(
            f"the prediction is a {type(prediction).__name__}; give "
            "epoch_metric(..., activation=...) a function that takes the tensor out."
        )
    if activation is None:
        return prediction, target
    if activation == "sigmoid":
        return prediction.float().sigmoid(), target
    dimension = class_dimension(prediction, target)
    holds_classes = not target.is_floating_point() and prediction.is_floating_point()
    if activation == "auto" and (dimension is None or not holds_classes):
        return prediction, target
    if dimension is None:
        raise OptionError(
            f"activation={activation!r} needs a class dimension; the prediction is "
            f"{in_words(prediction)}, the labels are {in_words(target)}."
        )
    if activation == "softmax":
        return _probabilities(prediction, dimension), target.flatten()
    return prediction.argmax(dimension).flatten(), target.flatten()


def class_dimension(prediction: Tensor, target: Tensor) -> int | None:
    """Which dimension of a prediction counts classes, where the labels lack it.

    The second, as PyTorch's losses have it, or else the last; None where there is none
    or only one class.
    """
    shape = list(prediction.shape)
    if len(shape) != target.ndim + 1 or len(shape) < 2:
        return None
    for dimension in (1, len(shape) - 1):
        if shape[:dimension] + shape[dimension + 1 :] == list(target.shape):
            return dimension if shape[dimension] > 1 else None
    return None


def _probabilities(logits: Tensor, dimension: int) -> Tensor:
    """One row a label; for two classes that of the second, as scikit-learn asks."""
    shares = logits.float().softmax(dimension).movedim(dimension, -1)
    shares = shares.reshape(-1, shares.shape[-1])
    return shares[:, 1] if shares.shape[1] == 2 else shares


def as_array(batches: Sequence[Tensor]) -> Any:
    """One numpy array of the tensors of all batches."""
    whole = torch.cat([b.reshape(1) if b.ndim == 0 else b for b in batches])
    # numpy has no bfloat16, and would sum halves as halves.
    is_half = whole.dtype in (torch.bfloat16, torch.float16)
    return (whole.float() if is_half else whole).numpy()


def detached(value: Any) -> Any:
    """The same without gradients, in tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(detached(part) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(detached(part) for part in value)
    if isinstance(value, dict):
        return {key: detached(part) for key, part in value.items()}
    return value


def in_words(value: Any) -> str:
    """Type and shape of what a batch holds.

    >>> in_words((torch.zeros(8, 3), 1))
    '(float32 of shape (8, 3), int)'
    """
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {in_words(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        parts = [in_words(part) for part in value]
        return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
    return type(value).__name__
