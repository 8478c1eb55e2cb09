"""The Recorder: when what is measured, and where it is to be read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from callboard.callback import Callback, hookimpl
from callboard.data import batch_size
from callboard.errors import CallboardError, OptionError
from callboard.optim import HYPERS, hypers, locate_hyper
from callboard_recorder.history import StepHistory
from callboard_recorder.means import means_of_all, read_numbers
from callboard_recorder.phases import Column, Phase, columns_of
from callboard_recorder.plots import draw_hypers, draw_losses

if TYPE_CHECKING:
    from callboard.learner import Learner

Row = dict[str, Any]
# Losses stay on the device for so many steps: reading one waits until the device has
# caught up.
STEPS_PER_READ = 64


@dataclass
class MetricValue:
    """A metric as it was measured last; formats as its value: ``f"{metric:.4f}"``."""

    name: str
    value: float | None = None

    def __float__(self) -> float:
        return math.nan if self.value is None else self.value

    def __format__(self, spec: str) -> str:
        return "none" if self.value is None else format(self.value, spec)

    def __str__(self) -> str:
        return format(self, "")


class Recorder(Callback):
    """Records the losses, metrics and hyper-parameters of a fit.

    Args:
        train_metrics: Measure the metrics on the training batches too, in columns
            named ``train_<metric>``.
        valid_metrics: Measure the metrics on the validation data.
        beta: Share of the past in ``smooth_loss``, from 0 to below 1.
        add_time: Add the column ``time``, the seconds that the epoch took.
        max_points: Most steps of which values are kept, from 2 on; when there are
            more, every second one is dropped. The first and the latest always stay.

    Attributes:
        metrics: One for each of the Learner's metrics, with ``name`` and the latest
            ``value``; formats as its value.
        values: One row an epoch: a dict of column to number, None where not measured.
        names: The columns, in order.
        higher_is_better: Column -> direction, where that is certain.
        history: The steps.
    """

    name = "recorder"
    role = "observe"
    ranks = "all"
    stages = ("fit", "validate")
    metrics: list[MetricValue]

    def __init__(
        self,
        *,
        train_metrics: bool = False,
        valid_metrics: bool = True,
        beta: float = 0.98,
        add_time: bool = True,
        max_points: int = 10_000,
    ) -> None:
        if not 0 <= beta < 1:
            raise OptionError(
                f"recorder: beta must be at least 0 and below 1, got {beta!r}.\n"
                "Use 0.98 to smooth the loss over roughly the last 50 steps."
            )
        if max_points < 2:
            raise OptionError(
                f"recorder: max_points must be at least 2, got {max_points!r}.\n"
                "Use 10000 to keep enough for any picture."
            )
        self.train_metrics = train_metrics
        self.valid_metrics = valid_metrics
        self.beta = beta
        self.add_time = add_time
        self.max_points = max_points
        # As in fastai these are the metrics with their values, not the Learner's
        # functions; set past the setter, which would warn that they hide the latter.
        vars(self)["metrics"] = []
        self.values: list[Row] = []
        self.names: list[str] = []
        self.higher_is_better: dict[str, bool] = {}
        self.history = StepHistory(beta, max_points)
        self._epoch_ends: dict[int, int] = {}
        self._columns: list[Column] = []
        self._places: list[tuple[str, str, int | None]] = []
        self._pending: list[tuple[int, int, Tensor, dict[str, Any]]] = []
        self._train: Phase | None = None
        self._valid: Phase | None = None
        self._saved_phase: Mapping[str, Any] | None = None
        self._started: float | None = None
        self._sizes: Callable[[Learner], tuple[int, int]] | None = None

    # ---- what was recorded ----------------------------------------------------

    @property
    def metric_names(self) -> list[str]:
        """The columns, by fastai's name for ``names``."""
        return self.names

    @property
    def log(self) -> Row:
        """The row of the current epoch; None where nothing was measured yet."""
        return self.values[-1] if self.values else {}

    @property
    def final_record(self) -> Row:
        """Losses and metrics of the latest row, without epoch and time."""
        return {k: v for k, v in self.log.items() if k not in ("epoch", "time")}

    @property
    def steps(self) -> list[int]:
        """Numbers of the steps whose values are kept, from 1."""
        return list(self._read_steps().steps)

    @property
    def losses(self) -> list[float]:
        """The training loss of each kept step."""
        return list(self._read_steps().losses)

    @property
    def smooth_losses(self) -> list[float]:
        """The smoothed training loss after each kept step."""
        return list(self._read_steps().smooth_losses)

    @property
    def smooth_loss(self) -> float | None:
        """The smoothed training loss of this moment, None before the first step."""
        return self._read_steps().smooth_loss

    @property
    def hps(self) -> dict[str, list[float | None]]:
        """Hyper-parameter -> its value in the last parameter group, by kept step."""
        kept = self._read_steps().hypers
        names = dict.fromkeys(name for values in kept for name in values)
        return {name: [values.get(name) for values in kept] for name in names}

    @property
    def lrs(self) -> list[float | None]:
        """The learning rate of the last parameter group at each kept step."""
        return self.hps.get("lr", [])

    @property
    def iters(self) -> list[int]:
        """Number of steps done at the end of each epoch's training."""
        return list(self._epoch_ends.values())

    # ---- the fit --------------------------------------------------------------

    def before_fit(self) -> None:
        """Start a new history, or go on with what came before the first epoch."""
        learner = self.learn
        self._pending, self._train, self._valid = [], None, None
        self.values = [row for row in self.values if row["epoch"] < learner.epoch]
        ends = self._epoch_ends.items()
        self._epoch_ends = {epoch: n for epoch, n in ends if epoch < learner.epoch}
        if self._saved_phase is None:
            self.history.cut(learner.train_iter)
        self._columns = columns_of(learner.metrics, learner)
        self._name_columns()

    def before_epoch(self) -> None:
        """Open the row of the epoch."""
        self._started = time.perf_counter()
        self._row()

    def before_train(self) -> None:
        """Begin to measure on the training batches."""
        learner = self.learn
        self._sizes = learner.processes.sizes if learner.world_size > 1 else None
        self.history.cut(learner.train_iter)
        self._train = Phase(self._columns if self.train_metrics else [], learner)
        self._resume_phase()
        self._places = [
            (name, *locate_hyper(learner.opt, name))
            for name in hypers(learner.opt)
            if name in HYPERS
        ]

    def after_batch(self) -> None:
        """Take in the batch, without reading from the device."""
        learner = self.learn
        if not learner.training:
            if self._valid is not None:
                self._valid.add_loss()
                self._valid.add_metrics()
            return
        loss = learner.loss
        if loss is not None:
            group, values = learner.opt.param_groups[-1], {}
            for name, key, place in self._places:
                value = group[key] if place is None else group[key][place]
                # Capturable optimizers change their rate in place, on the device.
                values[name] = value.clone() if isinstance(value, Tensor) else value
            # One process saves the call, which every step would pay for.
            sizes = self._sizes
            size = sizes(learner)[0] if sizes else batch_size(learner.xb)
            self._pending.append((learner.train_iter, size, loss.detach(), values))
            if len(self._pending) >= STEPS_PER_READ:
                self._read_steps(all_are_here=True)
        if self._train is not None and self._train.columns:
            self._train.add_metrics()

    def after_cancel_train(self) -> None:
        """Leave the columns of training empty."""
        if self._train is not None:
            self._train.is_cancelled = True

    def after_train(self) -> None:
        """Publish what was measured in training."""
        self._read_steps(all_are_here=True)
        self._epoch_ends[self.learn.epoch] = self.learn.train_iter
        phase, self._train = self._train, None
        self._sizes = None  # other processes go into no copy
        if phase is not None:
            loss, measured = phase.read(is_loss_joined=True)
            names = [column.train_name for column in phase.columns]
            self._publish({"train_loss": loss}, names, measured)
            if not self.valid_metrics:
                self._show(measured)

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, object, object]:
        """Measure this validation apart from one that it may be inside of.

        A wrapper, since a nested validation may end by an error.
        """
        outer, learner, columns = self._valid, self.learn, self._columns
        if learner.stage != "fit":
            columns = columns_of(learner.metrics, learner, are_copies=True)
        self._valid = Phase(columns if self.valid_metrics else [], learner)
        try:
            return (yield)
        finally:
            self._valid = outer

    def after_cancel_validate(self) -> None:
        """Leave the columns of the validation empty."""
        if self._valid is not None:
            self._valid.is_cancelled = True

    def after_validate(self) -> None:
        """Publish what was measured in the validation."""
        phase = self._valid
        if phase is not None:
            loss, measured = phase.read()
            names = [column.name for column in phase.columns]
            self._publish({"valid_loss": loss}, names, measured)
            if self.learn.stage == "fit" and self.valid_metrics:
                self._show(measured)

    def after_epoch(self) -> None:
        """Close the row, also of an epoch that was cancelled."""
        self._read_steps(all_are_here=True)
        self._train = None
        if self._row().get("time") is None:
            self._publish({}, [], [])
        self._started = None

    def teardown(self) -> None:
        """Read the steps that still wait on the device."""
        self._read_steps()

    def _name_columns(self) -> None:
        self.higher_is_better = {"train_loss": False, "valid_loss": False}
        for column in self._columns:
            if column.higher_is_better is not None:
                for name in (column.name, column.train_name):
                    self.higher_is_better[name] = column.higher_is_better
        train = [c.train_name for c in self._columns if self.train_metrics]
        valid = [c.name for c in self._columns if self.valid_metrics]
        end = ["time"] if self.add_time else []
        self.names = ["epoch", "train_loss", *train, "valid_loss", *valid, *end]
        shown = valid or train or [column.name for column in self._columns]
        self.metrics = [
            MetricValue(column.name, self.log.get(name))
            for column, name in zip(self._columns, shown, strict=True)
        ]

    def _row(self) -> Row:
        """The row of the epoch that is running."""
        epoch = self.learn.epoch
        if not self.values or self.values[-1]["epoch"] != epoch:
            self.values.append({**dict.fromkeys(self.names), "epoch": epoch})
        return self.values[-1]

    def _publish(
        self, row: Row, names: Sequence[str], measured: Sequence[float | None]
    ) -> None:
        row = {**row, **dict(zip(names, measured, strict=True))}
        if self.learn.stage == "fit":
            if self.add_time and self._started is not None:
                row["time"] = time.perf_counter() - self._started
            self._row().update(row)
        results = self.learn.results
        results.pop("time", None)  # put back as the last of all
        results.update({name: v for name, v in row.items() if v is not None})

    def _show(self, measured: Sequence[float | None]) -> None:
        for metric, value in zip(self.metrics, measured, strict=False):
            metric.value = value

    def _read_steps(self, *, all_are_here: bool = False) -> StepHistory:
        """Move the steps that wait on the device into the history, in one read.

        Of several processes each has its part of the losses. Where one alone asks, its
        history is what all have read together last.
        """
        learner: Learner | None = self.learn
        is_one = learner is None or learner.world_size == 1
        if not (is_one or all_are_here):
            return self.history
        pending, self._pending = self._pending, []
        if pending:
            steps, sizes, losses, all_hypers = zip(*pending, strict=True)
            waiting = [loss.mean() if loss.ndim else loss for loss in losses]
            waiting += [value for values in all_hypers for value in values.values()]
            numbers = iter(read_numbers(waiting))
            read_losses = [next(numbers) for _ in losses]
            if learner is not None and not is_one:
                read_losses, sizes = means_of_all(read_losses, sizes, learner.processes)
            # Each step takes its share and leaves the rest, so lengths differ.
            read_hypers = [dict(zip(names, numbers)) for names in all_hypers]  # noqa: B905
            self.history.extend(steps, read_losses, read_hypers)
            self._tell_of_non_finite(steps, read_losses)
            if self._train is not None:
                self._train.loss.add_all(read_losses, sizes)
        return self.history

    def _tell_of_non_finite(
        self, steps: Sequence[int], losses: Sequence[float]
    ) -> None:
        learner: Learner | None = self.learn
        for step, loss in zip(steps, losses, strict=True):
            if learner is not None and not math.isfinite(loss):
                learner.note_non_finite(step, loss)
                return

    # ---- state ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The whole history, and the sums of a training phase that is under way.

        Of several processes all must ask.
        """
        self._read_steps(all_are_here=True)
        return {
            "values": [dict(row) for row in self.values],
            "epoch_ends": list(self._epoch_ends.items()),
            "history": self.history.state_dict(),
            "phase": self._phase_state(),
        }

    def _phase_state(self) -> dict[str, Any] | None:
        learner: Learner | None = self.learn
        if self._train is None or learner is None:
            return None
        started = self._started
        return {
            "epoch": learner.epoch,
            "train_iter": learner.train_iter,
            "seconds": 0.0 if started is None else time.perf_counter() - started,
            "measured": self._train.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self._pending = []
        self.values = [dict(row) for row in state["values"]]
        self._epoch_ends = dict(state["epoch_ends"])
        self.history.load_state_dict(state["history"])
        self._saved_phase = state["phase"]

    def _resume_phase(self) -> None:
        """Go on with the sums of a saved training phase, where this is the same one."""
        learner, saved, self._saved_phase = self.learn, self._saved_phase, None
        position = (learner.epoch, learner.train_iter)
        if saved is None or (saved["epoch"], saved["train_iter"]) != position:
            return
        assert self._train is not None
        self._train.load_state_dict(saved["measured"])
        if self._started is not None:
            self._started -= saved["seconds"]

    # ---- pictures -------------------------------------------------------------

    def plot_loss(
        self, skip_start: int = 5, with_valid: bool = True, ax: Any = None
    ) -> Any:
        """Draw the training loss by step, and the validation loss of each epoch.

        Args:
            skip_start: Number of first steps to leave out, where losses are high.
            with_valid: Draw the validation loss too.
            ax: Axes of matplotlib to draw in; new ones by default.

        Returns:
            The axes.

        Raises:
            CallboardError: Nothing was recorded yet, or matplotlib is missing.
        """
        history = self._history_to_draw()
        first = sum(step <= skip_start for step in history.steps)
        valid = [
            (self._epoch_ends[row["epoch"]], row["valid_loss"])
            for row in self.values
            if row["epoch"] in self._epoch_ends and row.get("valid_loss") is not None
        ]
        return draw_losses(history, first, valid if with_valid else [], ax)

    def plot_sched(self) -> Any:
        """Draw the learning rate by step, and the hyper-parameters that changed.

        Returns:
            The figure.

        Raises:
            CallboardError: Nothing was recorded yet, or matplotlib is missing.
        """
        history = self._history_to_draw()
        drawn = {
            name: values
            for name, values in self.hps.items()
            if name == "lr" or len(set(values)) > 1
        }
        return draw_hypers(history.steps, drawn)

    def _history_to_draw(self) -> StepHistory:
        history = self._read_steps()
        if not history.steps:
            raise CallboardError("recorder: no step was recorded yet; call fit first.")
        return history
