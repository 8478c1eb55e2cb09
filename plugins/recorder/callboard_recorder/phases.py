"""The columns of the metrics, and what is measured in one phase of an epoch."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard.errors import CallboardError, ObserverWarning
from callboard_recorder.activations import detached, in_words
from callboard_recorder.means import WeightedMean, read_numbers
from callboard_recorder.measures import Batch, Measure, measure_for
from callboard_recorder.metrics import direction_of, name_of

if TYPE_CHECKING:
    from callboard.learner import Learner

OWN_COLUMNS = ("epoch", "train_loss", "valid_loss", "time")


@dataclass
class Column:
    """One metric of the Learner.

    Attributes:
        name: Its column, of values on the validation data.
        train_name: Its column of values on the training batches.
        higher_is_better: Its direction, or None where that is not certain.
        measure: What measures it, or None once it failed.
        is_partial: Whether part of the phase was measured before a resume that could
            not bring it back.
    """

    name: str
    train_name: str
    higher_is_better: bool | None
    measure: Measure | None = None
    is_partial: bool = False


def columns_of(
    metrics: Iterable[Any], learner: Learner, *, are_copies: bool = False
) -> list[Column]:
    """A column for each metric; a name that comes again is numbered.

    Args:
        metrics: The Learner's metrics. A mapping of names to metrics, or a collection
            of torchmetrics, is one column for each of its entries.
        learner: The Learner, for saying where a metric failed.
        are_copies: Measure on copies, so that no metric of the user's is touched.
    """
    named = list(_named(metrics))
    names = numbered([name for name, _ in named], taken=OWN_COLUMNS)
    train_names = numbered([f"train_{n}" for n in names], taken=(*OWN_COLUMNS, *names))
    columns = []
    for name, train_name, (_, metric) in zip(names, train_names, named, strict=True):
        column = Column(name, train_name, direction_of(metric))
        with _switched_off_if_it_fails(column, learner):
            has_sums = callable(getattr(metric, "reset", None))
            is_copied = are_copies and has_sums and not isinstance(metric, type)
            own = copy.deepcopy(metric) if is_copied else metric
            column.measure = measure_for(own)
        columns.append(column)
    return columns


def _named(metrics: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for metric in metrics:
        is_collection = isinstance(metric, torch.nn.Module) and hasattr(metric, "items")
        if is_collection or isinstance(metric, Mapping):
            yield from ((str(name), part) for name, part in metric.items())
        else:
            yield name_of(metric), metric


def numbered(names: Iterable[str], *, taken: Iterable[str] = ()) -> list[str]:
    """Names that differ from each other and from those taken, in their order.

    >>> numbered(["<lambda>", "mse", "<lambda>"])
    ['<lambda>', 'mse', '<lambda>_2']
    """
    used, unique = set(taken), []
    for name in names:
        candidate, number = name, 1
        while candidate in used:
            number += 1
            candidate = f"{name}_{number}"
        used.add(candidate)
        unique.append(candidate)
    return unique


class Phase:
    """What is being measured in one training or validation phase."""

    def __init__(self, columns: list[Column], learner: Learner) -> None:
        self.loss = WeightedMean()
        self.columns = columns
        self.learner = learner
        self.is_cancelled = False
        for column in columns:
            column.is_partial = False
            if column.measure is not None:
                with _switched_off_if_it_fails(column, learner):
                    column.measure.reset(learner.device)

    def add_loss(self) -> None:
        """Take in the loss of the batch."""
        if self.learner.loss is not None:
            loss = self.learner.loss.detach()
            size, _ = self.learner.processes.sizes(self.learner)
            self.loss.add(loss.mean() if loss.ndim else loss, size)

    def add_metrics(self) -> None:
        """Take in the prediction and the labels of the batch, where it has both."""
        learner = self.learner
        if learner.pred is None or len(learner.yb) == 0:
            return
        prediction = detached(learner.pred) if learner.training else learner.pred
        size, _ = learner.processes.sizes(learner)
        if not size:  # it is there to keep in step with other processes
            return
        batch = Batch(prediction, tuple(learner.yb), size, learner)
        with torch.no_grad():
            for column in self.columns:
                if column.measure is not None:
                    with _switched_off_if_it_fails(column, learner, batch):
                        column.measure.add(batch)

    def read(
        self, *, is_loss_joined: bool = False
    ) -> tuple[float | None, list[float | None]]:
        """The loss and the metrics, in one read of the device.

        Args:
            is_loss_joined: Whether the loss is that of all processes already.

        Returns:
            None for what was not measured, and for all of a phase that was cancelled.
        """
        if self.is_cancelled:
            return None, [None for _ in self.columns]
        if self.learner.world_size > 1:
            self._join(is_loss_joined)
        results = [self.loss.result(), *(self._result(c) for c in self.columns)]
        loss, *numbers = read_numbers(results)
        pairs = zip(self.columns, numbers, strict=True)
        return loss, [self._finished(column, number) for column, number in pairs]

    def _join(self, is_loss_joined: bool) -> None:
        """Join what each process has measured; a metric that one lacks, all leave."""
        losses, *by_column = zip(
            *self.learner.processes.gather(
                [self.loss.share(), *(self._share(column) for column in self.columns)]
            ),
            strict=True,
        )
        if not is_loss_joined:
            self.loss.join(losses)
        for column, shares in zip(self.columns, by_column, strict=True):
            if any(share is None for share in shares):
                column.measure = None
            elif column.measure is not None:
                column.measure.join(shares)

    def _share(self, column: Column) -> Any:
        share = None
        if column.measure is not None:
            with _switched_off_if_it_fails(column, self.learner):
                share = column.measure.share()
        return share

    def _result(self, column: Column) -> Tensor | float | None:
        result = None
        if column.measure is not None and not column.is_partial:
            with _switched_off_if_it_fails(column, self.learner):
                result = column.measure.result()
        return result

    def _finished(self, column: Column, number: float | None) -> float | None:
        finished = None
        if column.measure is not None and number is not None:
            with _switched_off_if_it_fails(column, self.learner):
                finished = column.measure.finish(number)
        return finished

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; None for a metric that cannot tell its state."""
        return {
            "loss": self.loss.state_dict(),
            "metrics": {column.name: self._state(column) for column in self.columns},
        }

    def _state(self, column: Column) -> dict[str, Any] | None:
        # Of several processes each has its own, and one alone is saved.
        if column.measure is None or self.learner.world_size > 1:
            return None
        return column.measure.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.loss.load_state_dict(state["loss"])
        for column in self.columns:
            saved = state["metrics"].get(column.name)
            column.is_partial = saved is None
            if column.measure is not None and saved is not None:
                with _switched_off_if_it_fails(column, self.learner):
                    column.measure.load_state(saved, self.learner.device)


@contextmanager
def _switched_off_if_it_fails(
    column: Column, learner: Learner, batch: Batch | None = None
) -> Iterator[None]:
    """Keep the error of one metric from the other columns, and say whose it is."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        column.measure = None
        warnings.warn(_failure_in_words(column, learner, batch, error), stacklevel=3)


def _failure_in_words(
    column: Column, learner: Learner, batch: Batch | None, error: Exception
) -> ObserverWarning:
    where = f"in epoch {learner.epoch}"
    if batch is not None:
        phase = "training" if learner.training else "validation"
        where += f", {phase} batch {learner.iter} (prediction "
        where += f"{in_words(batch.prediction)}; labels {in_words(batch.targets)})"
    problem = f"{type(error).__name__}: {error}"
    if not isinstance(error, CallboardError):
        place = traceback.extract_tb(error.__traceback__)[-1]
        problem += f" ({place.filename}, line {place.lineno})"
    return ObserverWarning(
        f"recorder: the metric {column.name!r} failed {where}: {problem}\n"
        "Its column stays empty from here on; training and the other columns go on."
    )
