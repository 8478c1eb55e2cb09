"""Callbacks that set hyper-parameters as functions of how much of the run is done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastcore.xtras import is_listy

from callboard.control import CancelFitException, CancelValidException
from callboard_fastai.callback.core import Callback
from callboard_fastai.predefined import Predefined

MIN_ITERATIONS = 6


class ParamScheduler(Callback, metaclass=Predefined, plugin="ParamScheduler"):
    """Sets hyper-parameters before every training batch.

    Args:
        scheds: Hyper-parameter to function of the share of the run that is done.

    Attributes:
        hps: Hyper-parameter to its values, by step.
    """

    order = 60
    run_valid = False

    def __init__(self, scheds: Mapping[str, Callable[[float], Any]]) -> None:
        self.scheds = scheds

    def before_fit(self) -> None:
        """Record anew."""
        self.hps: dict[str, list[Any]] = {name: [] for name in self.scheds}

    def before_batch(self) -> None:
        """Set what is scheduled."""
        self._update_val(self.pct_train)

    def _update_val(self, pct: float) -> None:
        for name, schedule in self.scheds.items():
            self.opt.set_hyper(name, schedule(pct))

    def after_batch(self) -> None:
        """Record what was set."""
        for name, values in self.hps.items():
            values.append(self.opt.hypers[-1][name])

    def after_fit(self) -> None:
        """Hand the record to the recorder."""
        if hasattr(self.learn, "recorder") and hasattr(self, "hps"):
            self.recorder.hps = self.hps


class LRFinder(ParamScheduler, metaclass=Predefined, plugin="LRFinder"):
    """Trains with an exponentially growing rate, and puts the weights back at the end.

    Args:
        start_lr: Rate of the first step.
        end_lr: Rate of the last step.
        num_it: Number of steps.
        stop_div: End when the smoothed loss is four times its lowest value.
    """

    def __init__(
        self,
        start_lr: Any = 1e-7,
        end_lr: Any = 10,
        num_it: int = 100,
        stop_div: bool = True,
    ) -> None:
        super().__init__({"lr": _exponential(start_lr, end_lr)})
        self.num_it, self.stop_div = max(num_it, MIN_ITERATIONS), stop_div

    def before_fit(self) -> None:
        """Save the weights."""
        super().before_fit()
        folder = Path(self.path) / self.model_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.tmp_d = tempfile.TemporaryDirectory(dir=folder)
        self.tmp_p = Path(self.tmp_d.name).stem
        self.learn.save(f"{self.tmp_p}/_tmp")
        self.best_loss: Any = float("inf")

    def before_batch(self) -> None:
        """Set the rate."""
        self._update_val(self.train_iter / self.num_it)

    def after_batch(self) -> None:
        """Look at the loss."""
        super().after_batch()
        self.best_loss = min(self.best_loss, self.smooth_loss)
        if self.stop_div and self.smooth_loss > 4 * self.best_loss:
            raise CancelFitException
        if self.train_iter >= self.num_it:
            raise CancelFitException

    def before_validate(self) -> None:
        """Skip validation."""
        raise CancelValidException

    def after_fit(self) -> None:
        """Put the weights back."""
        self.learn.opt.zero_grad()
        if Path(self.tmp_d.name, "_tmp.pth").exists():
            self.learn.load(f"{self.tmp_p}/_tmp", with_opt=True)
            self.tmp_d.cleanup()


def _exponential(start: Any, end: Any) -> Callable[[float], Any]:
    if is_listy(start):
        pairs = list(zip(start, end, strict=True))
        return lambda pct: [low * (high / low) ** pct for low, high in pairs]
    return lambda pct: start * (end / start) ** pct
