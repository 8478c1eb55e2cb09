"""fastai's Recorder, and the one that stands beside fastai's callbacks here."""

from __future__ import annotations

import time
from copy import copy
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from callboard_fastai.adapter import RECORDER
from callboard_fastai.callback.core import Callback
from callboard_fastai.measuring import (
    AvgLoss,
    AvgSmoothLoss,
    Measured,
    _maybe_item,
)
from callboard_fastai.predefined import Predefined

FIT_STAGES = ("fit", "lr-find")


def format_time(seconds: float) -> str:
    """Minutes and seconds, and hours where there are some."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes:02}:{left:02}"


class Recorder(Callback, metaclass=Predefined, plugin="Recorder"):
    """Records losses, rates and metrics in the shapes that fastai's callbacks expect.

    Metrics are measured by Callboard's recorder where it takes part.

    Args:
        add_time: Give the rows a column with the time.
        train_metrics: Measure on training data too.
        valid_metrics: Measure on validation data.
        beta: Share of the past in the smoothed loss.

    Attributes:
        lrs: The learning rate of every step.
        losses: The smoothed loss after every step.
        values: Losses and metrics of every epoch, without its number and its time.
        iters: The number of steps done at the end of every epoch.
        log: The row of the current epoch, as far as it goes.
        metric_names: The names of the columns of a row.
    """

    _stateattrs = ("lrs", "iters", "losses", "values")
    remove_on_fetch = True
    order = 50

    def __init__(
        self,
        add_time: bool = True,
        train_metrics: bool = False,
        valid_metrics: bool = True,
        beta: float = 0.98,
    ) -> None:
        self.add_time, self.train_metrics = add_time, train_metrics
        self.valid_metrics = valid_metrics
        self.loss, self.smooth_loss = AvgLoss(), AvgSmoothLoss(beta=beta)
        self.lrs: list[float] = []
        self.iters: list[int] = []
        self.losses: list[Tensor] = []
        self.values: list[Any] = []
        self.log: Any = L()
        self.metric_names: Any = L()
        self.start_epoch: float | None = None

    def before_fit(self) -> None:
        """Start anew."""
        self.lrs, self.iters, self.losses, self.values = [], [], [], []
        self.metric_names = self._column_names()
        self.smooth_loss.reset()

    def _column_names(self) -> Any:
        names = [metric.name for metric in self.learn.metrics]
        if self.train_metrics and self.valid_metrics:
            both = ["loss", *names]
            columns = [f"{phase}_{n}" for phase in ("train", "valid") for n in both]
        elif self.valid_metrics:
            columns = ["train_loss", "valid_loss", *names]
        else:
            columns = ["train_loss", *names]
        return L(["epoch", *columns, *(["time"] if self.add_time else [])])

    def before_epoch(self) -> None:
        """Open a row."""
        self.cancel_train = self.cancel_valid = False
        self.start_epoch = time.time()
        self.log = L(self.learn.epoch)

    def before_train(self) -> None:
        """Measure anew on training data."""
        for metric in self._train_mets[1:]:
            metric.reset()

    def before_validate(self) -> None:
        """Measure anew on validation data."""
        for metric in self._valid_mets:
            metric.reset()

    def after_batch(self) -> None:
        """Take in the batch."""
        learn = self.learn
        if len(learn.yb) == 0:
            return
        for metric in self._train_mets if learn.training else self._valid_mets:
            metric.accumulate(learn)
        if learn.training:
            self.lrs.append(learn.opt.hypers[-1]["lr"])
            self.losses.append(self.smooth_loss.value)

    def after_train(self) -> None:
        """Write down what was measured in training."""
        self._bring_losses_home()
        self.log += [_maybe_item(metric) for metric in self._train_mets]

    def after_validate(self) -> None:
        """Write down what was measured in validation."""
        self.log += [_maybe_item(metric) for metric in self._valid_mets]

    def after_cancel_train(self) -> None:
        """Leave the columns of training out."""
        self.cancel_train = True

    def after_cancel_validate(self) -> None:
        """Leave the columns of the validation out."""
        self.cancel_valid = True

    def after_epoch(self) -> None:
        """Close the row and hand it to the logger."""
        if self.start_epoch is None:  # cancelled by one that runs before this
            Recorder.before_epoch(self)
        seconds = time.time() - (self.start_epoch or 0.0)
        self.start_epoch = None
        self.learn.final_record = L(self.log[1:])
        self.values.append(self.learn.final_record)
        if self.add_time:
            self.log.append(format_time(seconds))
        self.learn.logger(self.log)
        self.iters.append(self.smooth_loss.count)

    @property
    def _train_mets(self) -> Any:
        if getattr(self, "cancel_train", False):
            return L()
        return L(self.smooth_loss) + (
            self._metrics_of_learner if self.train_metrics else L()
        )

    @property
    def _valid_mets(self) -> Any:
        if getattr(self, "cancel_valid", False) or not self.valid_metrics:
            return L()
        return L(self.loss) + self._metrics_of_learner

    @property
    def _metrics_of_learner(self) -> Any:
        return self.learn.metrics

    def _bring_losses_home(self) -> None:
        """Move losses that stand on a device to the CPU, in one read."""
        first = len(self.losses)
        while first and self.losses[first - 1].device.type != "cpu":
            first -= 1
        if first < len(self.losses):
            self.losses[first:] = torch.stack(self.losses[first:]).cpu().unbind()

    def plot_loss(
        self,
        skip_start: int = 5,
        with_valid: bool = True,
        log: bool = False,
        show_epochs: bool = False,
        ax: Any = None,
    ) -> Any:
        """Draw the training loss by step, and the validation loss of each epoch."""
        if ax is None:
            from matplotlib import pyplot as plt

            ax = plt.gca()
        steps = list(range(skip_start, len(self.losses)))
        draw = ax.loglog if log else ax.plot
        draw(steps, [float(v) for v in self.losses[skip_start:]], label="train")
        for end in self.iters if show_epochs else ():
            ax.axvline(end, color="grey", ls=":")
        if with_valid and "valid_loss" in self.metric_names:
            place = list(self.metric_names).index("valid_loss") - 1
            ends = [n for n, end in enumerate(self.iters) if end >= skip_start]
            ax.plot(
                [self.iters[n] for n in ends],
                [self.values[n][place] for n in ends],
                label="valid",
            )
            ax.legend()
        ax.set(ylabel="loss", xlabel="steps", title="learning curve")
        return ax


class LoopRecorder(Recorder):
    """The Recorder that stands beside fastai's callbacks in every Learner.

    A validation outside a fit, or a search for a learning rate, is recorded as in
    fastai and forgotten afterwards: it costs nobody the history of the fit.
    """

    key = RECORDER
    name = key
    KEPT = ("lrs", "iters", "losses", "values", "log", "metric_names")

    def __init__(self) -> None:
        # Files replace Recorder.__init__, and theirs may set less.
        self.add_time = self.valid_metrics = True
        self.train_metrics = False
        self.lrs, self.iters, self.losses, self.values = [], [], [], []
        self.log, self.metric_names = L(), L()
        self.start_epoch = None
        super().__init__()
        #: Loss and metrics of the latest validation, whoever asked for it.
        self.evaluated: Any = L()
        self._before_evaluation: dict[str, Any] | None = None
        self._beside: list[Any] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # A user's callback may have the name of one of these columns.
        object.__setattr__(self, name, value)

    @property
    def _is_beside(self) -> bool:
        """Whether this is somebody else's validation inside a fit."""
        front = self.learn
        is_nested = front.callboard.stage not in FIT_STAGES and front._is_in_fit
        return is_nested and not front._is_recording

    def before_fit(self) -> None:
        learn = self.learn
        native = self._native_recorder()
        if native is not None:
            self.train_metrics = native.train_metrics
            self.valid_metrics = native.valid_metrics
            self.add_time = native.add_time
            self.smooth_loss.beta = native.beta
        if learn.callboard.stage != "fit":
            kept = {name: getattr(self, name) for name in self.KEPT}
            kept["smooth"] = self.smooth_loss.count, self.smooth_loss.val
            self._before_evaluation = kept
        super().before_fit()

    def after_fit(self) -> None:
        """Take back the history of the fit after a validation."""
        kept, self._before_evaluation = self._before_evaluation, None
        if kept is not None:
            self.smooth_loss.count, self.smooth_loss.val = kept.pop("smooth")
            for name, value in kept.items():
                setattr(self, name, value)

    def _native_recorder(self) -> Any:
        for member in self.learn.callboard.cbs.members:
            if member.name == "recorder" and hasattr(member.subject, "names"):
                return member.subject
        return None

    @property
    def _metrics_of_learner(self) -> Any:
        """The Learner's metrics, measured here only where nobody else does."""
        native = self._native_recorder()
        if native is None:
            return self.learn.metrics
        results = self.learn.callboard.results
        prefix = "train_" if self.learn.training else ""
        return L(
            Measured(measured.name, results.get(prefix + measured.name))
            for measured in native.metrics
        )

    def before_epoch(self) -> None:
        if not self._is_beside:
            super().before_epoch()

    def before_validate(self) -> None:
        if self._is_beside:
            self._beside = [AvgLoss(), *map(copy, self._metrics_of_learner)]
            for metric in self._beside:
                metric.reset()
        else:
            super().before_validate()

    def after_batch(self) -> None:
        front = self.learn
        if not self._is_beside:
            super().after_batch()
        elif len(front.yb):
            for metric in self._beside:
                metric.accumulate(front)
        front._end_batch()

    def after_validate(self) -> None:
        if self._is_beside:
            self.evaluated = L(_maybe_item(metric) for metric in self._beside)
            return
        num_before = len(self.log)
        super().after_validate()
        self.evaluated = L(self.log[num_before:])

    def after_cancel_validate(self) -> None:
        if not self._is_beside:
            super().after_cancel_validate()
