"""fastai's metrics, and what measures one: ``reset``, ``accumulate``, ``value``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from fastcore.basics import class2attr
from torch import Tensor

from callboard_fastai.torch_core import find_bs, tensor


class Metric:
    """Base of fastai's metrics: ``reset``, ``accumulate`` and a ``value``.

    ``accumulate`` is given the Learner with fastai's surface, whoever calls it.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "accumulate" in vars(cls):
            cls.accumulate = _with_fastais_learner(cls.accumulate)  # type: ignore[method-assign]

    def reset(self) -> None:
        """Forget what was accumulated."""

    def accumulate(self, learn: Any) -> None:
        """Take in the batch that the Learner holds."""

    @property
    def value(self) -> Any:
        """What was measured."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The class name in snake case, without ``Metric``."""
        return str(class2attr(self, "Metric"))


def _with_fastais_learner(accumulate: Callable[..., None]) -> Callable[..., None]:
    @wraps(accumulate)
    def accumulate_seen(self: Any, learn: Any) -> None:
        from callboard_fastai.learner import as_fastais

        accumulate(self, as_fastais(learn))

    return accumulate_seen


class AvgMetric(Metric):
    """The mean of a function over the samples of an epoch.

    Args:
        func: Takes prediction and labels of a batch.
    """

    def __init__(self, func: Any) -> None:
        self.func = func
        self.reset()

    def reset(self) -> None:
        self.total: Any = 0.0
        self.count = 0

    def accumulate(self, learn: Any) -> None:
        size = find_bs(learn.yb)
        self.total += learn.to_detach(self.func(learn.pred, *learn.yb)) * size
        self.count += size

    @property
    def value(self) -> Any:
        return self.total / self.count if self.count else None

    @property
    def name(self) -> str:
        return str(getattr(self.func, "func", self.func).__name__)


class AvgLoss(Metric):
    """The mean of the loss over the samples of an epoch."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total: Any = 0.0
        self.count = 0

    def accumulate(self, learn: Any) -> None:
        size = find_bs(learn.yb)
        self.total += learn.loss.detach().mean() * size
        self.count += size

    @property
    def value(self) -> Any:
        return self.total / self.count if self.count else None

    @property
    def name(self) -> str:
        return "loss"


class AvgSmoothLoss(Metric):
    """The exponential moving average of the loss, without its start at zero.

    Args:
        beta: Share of the past, from 0 up to 1.
    """

    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self.reset()

    def reset(self) -> None:
        self.count, self.val = 0, tensor(0.0)

    def accumulate(self, learn: Any) -> None:
        self.count += 1
        loss = learn.loss.detach().mean()
        self.val = torch.lerp(loss, self.val.to(loss), self.beta)

    @property
    def value(self) -> Tensor:
        return self.val / (1 - self.beta**self.count)


class ValueMetric(Metric):
    """A value that somebody else measured.

    Args:
        func: Gives it.
        metric_name: What it is called; default: as the function.
    """

    def __init__(self, func: Callable[[], Any], metric_name: str | None = None) -> None:
        self.func, self.metric_name = func, metric_name

    @property
    def value(self) -> Any:
        return self.func()

    @property
    def name(self) -> str:
        return self.metric_name or str(getattr(self.func, "__name__", "value"))


def mk_metric(m: Any) -> Any:
    """A ``Metric`` of a function, or of a class of one."""
    m = m() if isinstance(m, type) else m
    return m if isinstance(m, Metric) or hasattr(m, "accumulate") else AvgMetric(m)


def _maybe_item(metric: Any) -> Any:
    value = metric.value
    return value.item() if hasattr(value, "item") and _is_scalar(value) else value


def _is_scalar(value: Any) -> bool:
    return bool(getattr(value, "size", 1) == 1) or getattr(value, "ndim", 1) == 0


class Measured(Metric):
    """A metric that Callboard's recorder measured.

    Args:
        name: What it is called.
        value: What was measured last.
    """

    name: Any = None
    value: Any = None

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
