"""What measures one metric over a phase, by the kind of metric that it is."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard.errors import OptionError
from callboard_recorder.activations import activated, as_array, in_words
from callboard_recorder.means import WeightedMean
from callboard_recorder.metrics import (
    EpochMetric,
    MeanMetric,
    MetricFunction,
    epoch_metric,
    module_of,
    name_of,
    unwrapped,
)

if TYPE_CHECKING:
    from callboard.learner import Learner


def measure_for(metric: Any) -> Measure:
    """What measures a metric, by what it is.

    Raises:
        OptionError: It is no metric, or one that must be wrapped.
    """
    if isinstance(metric, MeanMetric):
        return MeanMeasure(metric.func, metric.then)
    if isinstance(metric, EpochMetric):
        return EpochMeasure(metric)
    if isinstance(metric, type):
        name = metric.__name__
        raise OptionError(f"{name} is a class; give an instance, {name}(...).")
    if _has_methods(metric, "reset", "accumulate"):
        return ProtocolMeasure(metric)
    if _has_methods(metric, "reset", "update", "compute"):
        return TorchMeasure(metric)
    if not callable(metric):
        raise OptionError(
            f"{metric!r} is no metric; give a function of (prediction, target), such "
            "as callboard_recorder.accuracy."
        )
    if module_of(unwrapped(metric)).split(".")[0] == "sklearn":
        return EpochMeasure(_wrapped_sklearn(metric))
    return MeanMeasure(metric)


def _has_methods(metric: Any, *names: str) -> bool:
    return all(callable(getattr(metric, name, None)) for name in names)


def _wrapped_sklearn(func: MetricFunction) -> EpochMetric:
    """Take a function of classes or values; one of scores asks what they are."""
    plain = unwrapped(func)
    name = name_of(plain)
    second = list(inspect.signature(plain).parameters)[1:2]
    # The latter two called their probabilities y_pred before scikit-learn 1.9.
    if second != ["y_pred"] or name in ("log_loss", "d2_log_loss_score"):
        raise OptionError(
            f"{name} takes scores or probabilities, and only you know whether the "
            f"model returns them: give epoch_metric({name}, activation='softmax') for "
            "logits, activation=None for predictions that are scores already."
        )
    return epoch_metric(func)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a metric sees of one batch."""

    prediction: Any
    targets: tuple[Any, ...]
    num_samples: int
    learner: Learner


class Measure(ABC):
    """Measures one metric over a phase."""

    @abstractmethod
    def reset(self, device: torch.device) -> None:
        """Begin a phase."""

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Take in one batch."""

    @abstractmethod
    def result(self) -> Tensor | float | None:
        """The value over the phase, where it is; None when nothing was measured."""

    def finish(self, number: float) -> float:
        """The value, from the result as it was read from the device."""
        return number

    def share(self) -> Any:
        """This process's share of what was measured, for ``join``.

        Raises:
            OptionError: It cannot be joined with those of other processes.
        """
        raise OptionError(
            "what it measures in one process cannot be joined with the others; give a "
            "function or a metric of torchmetrics, or measure in one process."
        )

    def join(self, shares: Sequence[Any]) -> None:
        """Become what all processes have measured together."""
        raise NotImplementedError  # only where it has a share

    @abstractmethod
    def state(self) -> dict[str, Any] | None:
        """What to remember in the middle of a phase, or None when it cannot be told."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take back what ``state`` returned."""


class MeanMeasure(Measure):
    """The mean over samples of a function of prediction and labels."""

    def __init__(
        self, func: MetricFunction, then: Callable[[float], float] | None = None
    ) -> None:
        self.func = func
        self.then = then
        self.mean = WeightedMean()

    def reset(self, device: torch.device) -> None:
        self.mean = WeightedMean()

    def add(self, batch: Batch) -> None:
        value = scalar(self.func(batch.prediction, *batch.targets))
        self.mean.add(value, batch.num_samples)

    def result(self) -> Tensor | float | None:
        return self.mean.result()

    def share(self) -> tuple[float, int]:
        return self.mean.share()

    def join(self, shares: Sequence[tuple[float, int]]) -> None:
        self.mean.join(shares)

    def finish(self, number: float) -> float:
        return number if self.then is None else float(self.then(number))

    def state(self) -> dict[str, Any]:
        return self.mean.state_dict()

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.mean.load_state_dict(state)


class EpochMeasure(Measure):
    """A function of all labels and predictions of a phase, as numpy arrays."""

    def __init__(self, metric: EpochMetric) -> None:
        self.metric = metric
        self.predictions: list[Tensor] = []
        self.targets: list[Tensor] = []

    def reset(self, device: torch.device) -> None:
        self.predictions, self.targets = [], []

    def add(self, batch: Batch) -> None:
        if len(batch.targets) != 1:
            raise OptionError(
                "a metric over a whole epoch takes one tensor of labels, the batch "
                f"has {len(batch.targets)}."
            )
        prediction, target = activated(
            batch.prediction, batch.targets[0], self.metric.activation
        )
        self.predictions.append(prediction.detach().cpu())
        self.targets.append(target.detach().cpu())

    def result(self) -> Tensor | float | None:
        """The value; what was collected is let go of, since it may be large."""
        if not self.targets:
            return None
        y_true, y_pred = as_array(self.targets), as_array(self.predictions)
        self.predictions, self.targets = [], []
        return scalar(self.metric.func(y_true, y_pred))

    def share(self) -> tuple[list[Tensor], list[Tensor]]:
        return self.predictions, self.targets

    def join(self, shares: Sequence[tuple[list[Tensor], list[Tensor]]]) -> None:
        self.predictions = [each for share in shares for each in share[0]]
        self.targets = [each for share in shares for each in share[1]]

    def state(self) -> dict[str, Any]:
        return {"predictions": list(self.predictions), "targets": list(self.targets)}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.predictions = [prediction.cpu() for prediction in state["predictions"]]
        self.targets = [target.cpu() for target in state["targets"]]


class TorchMeasure(Measure):
    """An object with ``update``, ``compute`` and ``reset``, as torchmetrics has."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.num_updates = 0

    def reset(self, device: torch.device) -> None:
        if hasattr(self.metric, "to"):
            self.metric.to(device)
        self.metric.reset()
        self.num_updates = 0

    def add(self, batch: Batch) -> None:
        self.metric.update(batch.prediction, *batch.targets)
        self.num_updates += 1

    def result(self) -> Tensor | float | None:
        if not self.num_updates:
            return None
        with warnings.catch_warnings():
            # torchmetrics does not know of updates from before a resume.
            early = ".*was called before the ``update`` method"
            warnings.filterwarnings("ignore", early)
            return scalar(self.metric.compute())

    def share(self) -> int:
        # torchmetrics joins its states itself, where it computes.
        return self.num_updates if self._parts() else super().share()

    def join(self, shares: Sequence[int]) -> None:
        self.num_updates = sum(shares)

    def _parts(self) -> list[Any]:
        """The metric and those it is made of: a wrapper keeps no state itself."""
        is_module = isinstance(self.metric, torch.nn.Module)
        parts = self.metric.modules() if is_module else [self.metric]
        return [part for part in parts if hasattr(part, "metric_state")]

    def state(self) -> dict[str, Any] | None:
        # Not its state_dict(), which leaves the states out unless told otherwise.
        parts = [
            {
                name: list(value) if isinstance(value, list) else value.detach().clone()
                for name, value in part.metric_state.items()
            }
            for part in self._parts()
        ]
        return {"num_updates": self.num_updates, "parts": parts} if parts else None

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        for part, saved in zip(self._parts(), state["parts"], strict=True):
            for name, value in saved.items():
                is_list = isinstance(value, list)
                moved = [v.to(device) for v in value] if is_list else value.to(device)
                setattr(part, name, moved)
        self.num_updates = state["num_updates"]


class ProtocolMeasure(Measure):
    """An object with ``reset``, ``accumulate(learn)`` and ``value``, as fastai has."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.num_batches = 0

    def reset(self, device: torch.device) -> None:
        self.metric.reset()
        self.num_batches = 0

    def add(self, batch: Batch) -> None:
        self.metric.accumulate(batch.learner)
        self.num_batches += 1

    def result(self) -> Tensor | float | None:
        value = self.metric.value if self.num_batches else None
        return None if value is None else scalar(value)

    def state(self) -> dict[str, Any] | None:
        if not _has_methods(self.metric, "state_dict", "load_state_dict"):
            return None
        return {"num_batches": self.num_batches, "metric": self.metric.state_dict()}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.metric.load_state_dict(state["metric"])
        self.num_batches = state["num_batches"]


def scalar(value: Any) -> Tensor | float:
    """One number, as a tensor without dimensions where it is a tensor.

    Raises:
        OptionError: It is not one number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach() if value.ndim == 0 else value.detach().reshape(())
    if not isinstance(value, Tensor | str):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass  # told below
    size = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    kind = in_words(value) if isinstance(value, Tensor) else type(value).__name__ + size
    raise OptionError(f"it returned {kind}; a metric returns one number.")
