"""Callbacks that follow one value from epoch to epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from callboard.control import CancelFitException
from callboard_fastai.callback.core import Callback
from callboard_fastai.predefined import Predefined


class TerminateOnNaNCallback(
    Callback, metaclass=Predefined, plugin="TerminateOnNaNCallback"
):
    """Ends the fit when the loss of a batch is no finite number."""

    order = -9

    def after_batch(self) -> None:
        """Look at the loss."""
        if not torch.isfinite(self.loss).all():
            raise CancelFitException


class TrackerCallback(Callback, metaclass=Predefined, plugin="TrackerCallback"):
    """Keeps the best value of one column of the recorder.

    Args:
        monitor: The column.
        comp: ``numpy.less`` where lower is better, else ``numpy.greater``.
        min_delta: By how much a value must be better.
        reset_on_fit: Forget the best when a fit begins.

    Attributes:
        best: The best value so far.
        new_best: Whether the last epoch brought it.
        idx: The place of the column in a row of values.
    """

    order = 60
    remove_on_fetch = True
    _only_train_loop = True

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Any = None,
        min_delta: float = 0.0,
        reset_on_fit: bool = True,
    ) -> None:
        if comp is None:
            is_lower = "loss" in monitor or "error" in monitor
            comp = np.less if is_lower else np.greater
        self.monitor, self.comp, self.reset_on_fit = monitor, comp, reset_on_fit
        self.min_delta = -min_delta if comp == np.less else min_delta
        self.best: Any = None
        self.new_best = False

    def before_fit(self) -> None:
        """Find the column; take no part in what is no training."""
        self.run = not hasattr(self, "lr_finder") and not hasattr(self, "gather_preds")
        if self.reset_on_fit or self.best is None:
            self.best = float("inf") if self.comp == np.less else -float("inf")
        columns = list(self.recorder.metric_names[1:])
        assert self.monitor in columns, (
            f"{self.monitor!r} is not among the columns {columns} of the recorder"
        )
        self.idx = columns.index(self.monitor)

    def after_epoch(self) -> None:
        """Compare the value of the epoch with the best so far."""
        value = self.recorder.values[-1][self.idx]
        self.new_best = bool(self.comp(value - self.min_delta, self.best))
        if self.new_best:
            self.best = value

    def after_fit(self) -> None:
        """Take part again."""
        self.run = True


class _PatientTracker(TrackerCallback):
    """A tracker that counts the epochs without a new best."""

    patience: int
    wait: int

    def before_fit(self) -> None:
        self.wait = 0
        super().before_fit()

    def after_epoch(self) -> None:
        super().after_epoch()
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait >= self.patience:
            self._lose_patience()

    def _lose_patience(self) -> None:
        """Act after ``patience`` epochs without a new best."""


class EarlyStoppingCallback(
    _PatientTracker, metaclass=Predefined, plugin="EarlyStoppingCallback"
):
    """Ends the fit when a column has not improved for ``patience`` epochs."""

    order = TrackerCallback.order + 3

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Any = None,
        min_delta: float = 0.0,
        patience: int = 1,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        self.patience = patience

    def _lose_patience(self) -> None:
        epoch = self.epoch - self.wait
        print(f"No improvement since epoch {epoch}: early stopping")
        raise CancelFitException


class SaveModelCallback(
    TrackerCallback, metaclass=Predefined, plugin="SaveModelCallback"
):
    """Saves the model when a column is at its best, and loads it back at the end.

    Args:
        monitor: The column.
        comp: ``numpy.less`` where lower is better, else ``numpy.greater``.
        min_delta: By how much a value must be better.
        fname: Name of the file.
        every_epoch: Instead of the best, save every epoch, or every so many.
        at_end: Instead of the best, save what the end of the fit leaves.
        with_opt: Save the optimizer too.
        reset_on_fit: Forget the best when a fit begins.
    """

    order = TrackerCallback.order + 1

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Any = None,
        min_delta: float = 0.0,
        fname: str = "model",
        every_epoch: bool | int = False,
        at_end: bool = False,
        with_opt: bool = False,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        assert not (every_epoch and at_end), (
            "every_epoch and at_end cannot both be set to True"
        )
        self.fname, self.every_epoch = fname, every_epoch
        self.at_end, self.with_opt = at_end, with_opt
        self.last_saved_path: Any = None

    def _save(self, name: str) -> None:
        self.last_saved_path = self.learn.save(name, with_opt=self.with_opt)

    def after_epoch(self) -> None:
        """Save a new best, or the epoch whose turn it is."""
        if self.every_epoch:
            if self.epoch % self.every_epoch == 0:
                self._save(f"{self.fname}_{self.epoch}")
            return
        super().after_epoch()
        if self.new_best:
            print(
                f"Better model found at epoch {self.epoch} with {self.monitor} value: "
                f"{self.best}."
            )
            self._save(f"{self.fname}")

    def after_fit(self, **kwargs: Any) -> None:
        """Save what the end leaves, or load the best back."""
        if self.at_end:
            self._save(f"{self.fname}")
        elif not self.every_epoch:
            self.learn.load(f"{self.fname}", with_opt=self.with_opt)


class ReduceLROnPlateau(
    _PatientTracker, metaclass=Predefined, plugin="ReduceLROnPlateau"
):
    """Divides the learning rate when a column has not improved for some epochs."""

    order = TrackerCallback.order + 2

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Any = None,
        min_delta: float = 0.0,
        patience: int = 1,
        factor: float = 10.0,
        min_lr: float = 0,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        self.patience, self.factor, self.min_lr = patience, factor, min_lr

    def _lose_patience(self) -> None:
        self.wait = 0
        before = self.opt.hypers[-1]["lr"]
        for hyper in self.opt.hypers:
            hyper["lr"] = max(hyper["lr"] / self.factor, self.min_lr)
        after = self.opt.hypers[-1]["lr"]
        if after < before:
            print(f"Epoch {self.epoch}: reducing lr to {after}")
