"""From a model's scores to predictions, from predictions to decisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Any], Any]


def activation_of(loss_func: Any) -> Activation:
    """What makes predictions of scores for a loss: its ``activation``, if it has one.

    Else a softmax over classes for a cross entropy, a sigmoid for a binary one from
    logits, and nothing for any other.
    """
    if hasattr(loss_func, "activation"):
        activation: Activation = loss_func.activation
        return activation
    if _is_one_of(loss_func, nn.CrossEntropyLoss, functional.cross_entropy):
        return class_probabilities
    if _is_one_of(loss_func, *BINARY_LOSSES):
        return torch.sigmoid
    return _unchanged


def decoder_of(loss_func: Any) -> Activation:
    """What makes decisions of predictions for a loss: its ``decodes``, if it has it."""
    if hasattr(loss_func, "decodes"):
        decodes: Activation = loss_func.decodes
        return decodes
    if _is_one_of(loss_func, nn.CrossEntropyLoss, functional.cross_entropy):
        return partial(torch.argmax, dim=1)
    if _is_one_of(loss_func, *BINARY_LOSSES):
        return _above_one_half
    return _unchanged


BINARY_LOSSES = (nn.BCEWithLogitsLoss, functional.binary_cross_entropy_with_logits)


def class_probabilities(scores: Tensor) -> Tensor:
    """A softmax over dimension 1, where torch's cross entropy has the classes."""
    return torch.softmax(scores, dim=1)


def _above_one_half(probability: Tensor) -> Tensor:
    return probability > 0.5


def _unchanged(pred: Any) -> Any:
    return pred


def _is_one_of(loss_func: Any, loss_class: type, function: Any) -> bool:
    plain = loss_func.func if isinstance(loss_func, partial) else loss_func
    return isinstance(plain, loss_class) or plain is function


def applied(function: Activation, preds: Any) -> Any:
    """Of all predictions, or of each batch of them where they could not be joined."""
    return (
        [function(pred) for pred in preds]
        if isinstance(preds, list)
        else function(preds)
    )
