"""Metrics for users: functions of (prediction, target), and how others are wrapped.

A metric that is a plain function returns its mean over a batch. ``mean_metric`` and
``epoch_metric`` say what a function alone cannot: what to do with the mean, and that
the whole epoch is wanted at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from callboard.errors import OptionError
from callboard_recorder.means import widest_float

MetricFunction = Callable[..., Any]
Activation = (
    Literal["auto", "argmax", "softmax", "sigmoid"] | Callable[[Any], Tensor] | None
)
ACTIVATIONS = ("auto", "argmax", "softmax", "sigmoid")


@dataclass(frozen=True)
class MeanMetric:
    """A metric that is the mean of ``func`` over all samples, then ``then`` of it."""

    func: MetricFunction
    name: str
    then: Callable[[float], float] | None = None
    higher_is_better: bool | None = None

    def __call__(self, prediction: Any, *targets: Any) -> Any:
        value = self.func(prediction, *targets)
        if self.then is None:
            return value
        return self.then(value.item() if isinstance(value, Tensor) else float(value))


@dataclass(frozen=True)
class EpochMetric:
    """A metric that is ``func(y_true, y_pred)`` of a whole epoch."""

    func: MetricFunction
    name: str
    higher_is_better: bool | None = None
    activation: Activation = "auto"


def mean_metric(
    func: MetricFunction,
    name: str | None = None,
    *,
    then: Callable[[float], float] | None = None,
    higher_is_better: bool | None = None,
) -> MeanMetric:
    """A metric that is averaged over all samples first and finished afterwards.

    ``mean_metric(cross_entropy, "perplexity", then=math.exp)`` is the exponential of
    the mean, where a function alone would give a mean of exponentials.

    Args:
        func: Takes (prediction, target); returns its mean over the batch.
        name: Its column; by default the function's name.
        then: Takes the mean over all samples; returns the value.
        higher_is_better: Its direction; by default what the function says of itself.
    """
    if higher_is_better is None:
        higher_is_better = direction_of(func)
    return MeanMetric(func, name or name_of(func), then, higher_is_better)


def epoch_metric(
    func: MetricFunction,
    name: str | None = None,
    *,
    higher_is_better: bool | None = None,
    activation: Activation = "auto",
) -> EpochMetric:
    """A metric that is computed once over a whole epoch, in scikit-learn's manner.

    Args:
        func: Takes the numpy arrays (y_true, y_pred); returns a number.
        name: Its column; by default the function's name.
        higher_is_better: Its direction; by default what the function says of itself.
        activation: What y_pred is made of. ``"auto"``: class numbers where the
            prediction has a class dimension and the labels are whole numbers, else the
            prediction as it is. ``"argmax"``: class numbers. ``"softmax"``: the
            probabilities that logits mean; of two classes that of the second.
            ``"sigmoid"``: the probabilities that logits mean, each by itself. None: the
            prediction as it is. Or a function of the prediction of a batch.

    Raises:
        OptionError: There is no such activation.
    """
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        known = ", ".join(repr(each) for each in ACTIVATIONS)
        raise OptionError(
            f"epoch_metric: activation must be one of {known}, None or a function, got "
            f"{activation!r}."
        )
    if higher_is_better is None:
        higher_is_better = direction_of(func)
    return EpochMetric(func, name or name_of(func), higher_is_better, activation)


def name_of(metric: Any) -> str:
    """The name of a metric: its own, its function's, or its class's."""
    own = getattr(metric, "name", None)
    if isinstance(own, str):
        return own
    plain = unwrapped(metric)
    name = getattr(plain, "__name__", None)
    return name if isinstance(name, str) else type(plain).__name__


def direction_of(metric: Any) -> bool | None:
    """Whether higher values are better; None where nothing says so for certain.

    Certain are an attribute ``higher_is_better`` (torchmetrics' objects have it; any
    function can be given it) and the endings that scikit-learn's documentation gives a
    meaning for its own functions (user guide, "Metrics and scoring").
    """
    plain = unwrapped(metric)
    for subject in (metric, plain):
        declared = getattr(subject, "higher_is_better", None)
        if isinstance(declared, bool):
            return declared
    name = getattr(plain, "__name__", "")
    if not f"{module_of(plain)}.".startswith("sklearn.metrics."):
        return None
    if name.endswith("_score"):
        return True
    return False if name.endswith(("_error", "_loss", "_deviance")) else None


def unwrapped(func: Any) -> Any:
    """The function inside of ``functools.partial``."""
    while isinstance(func, partial):
        func = func.func
    return func


def module_of(func: Any) -> str:
    """The module that a function comes from, or an empty string."""
    return getattr(func, "__module__", None) or ""


def _directed(*, higher_is_better: bool) -> Callable[[MetricFunction], MetricFunction]:
    def declare(func: MetricFunction) -> MetricFunction:
        vars(func)["higher_is_better"] = higher_is_better
        return func

    return declare


@_directed(higher_is_better=True)
def accuracy(prediction: Tensor, target: Tensor, axis: int = -1) -> Tensor:
    """Share of the labels that are the class with the highest prediction.

    Args:
        prediction: A value for each class along ``axis``.
        target: Class numbers, as many as the prediction holds without ``axis``.
        axis: The dimension of the classes.
    """
    chosen, target = _of_one_size(prediction.argmax(dim=axis), target)
    return _share(chosen == target)


@_directed(higher_is_better=False)
def error_rate(prediction: Tensor, target: Tensor, axis: int = -1) -> Tensor:
    """Share of the labels that are not the class with the highest prediction."""
    chosen, target = _of_one_size(prediction.argmax(dim=axis), target)
    return _share(chosen != target)


@_directed(higher_is_better=True)
def top_k_accuracy(
    prediction: Tensor, target: Tensor, k: int = 5, axis: int = -1
) -> Tensor:
    """Share of the labels that are among the ``k`` classes with highest predictions."""
    best = prediction.topk(k=k, dim=axis).indices
    return _share((best == target.unsqueeze(axis)).any(dim=axis))


@_directed(higher_is_better=False)
def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared error."""
    prediction, target = _of_one_size(prediction, target)
    return (prediction - target).square().mean()


@_directed(higher_is_better=False)
def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of the absolute error."""
    prediction, target = _of_one_size(prediction, target)
    return (prediction - target).abs().mean()


# The root of the mean over all samples, not a mean of the batches' roots.
rmse = mean_metric(mse, "rmse", then=math.sqrt)


def _share(is_so: Tensor) -> Tensor:
    """Share of the True, as exact as the device can tell it."""
    return is_so.to(widest_float(is_so.device)).mean()


def _of_one_size(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both flat, since (8, 1) and (8,) would broadcast to (8, 8) without a word."""
    prediction, target = prediction.flatten(), target.flatten()
    if len(prediction) != len(target):
        raise OptionError(
            f"there are {len(prediction)} predictions for {len(target)} labels."
        )
    return prediction, target
