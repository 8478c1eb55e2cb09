"""Numbers of a run for a function of the user's own, or for Python's ``logging``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from callboard_run_log.logger import Outcome, RunLogger
from callboard_run_log.steps import Step

LogFunction = Callable[[int, Mapping[str, float]], Any]


class RunLogCallback(RunLogger):
    """Gives the numbers of steps and epochs to a function.

    Args:
        log: Called with the number of the step and a dict of numbers. Default: a line
            of Python's ``logging``, logger ``callboard.run``, level INFO.
        log_every: Which steps are given: every one, every tenth, ...; from 1.
        hyper_names: Hyper-parameters of the optimizer that go with every step.
    """

    name = "run-log"

    def __init__(
        self,
        log: LogFunction | None = None,
        *,
        log_every: int = 50,
        hyper_names: Sequence[str] = ("lr", "mom"),
    ) -> None:
        super().__init__(hyper_names=hyper_names, log_every=log_every)
        self.log = log_line if log is None else log

    def open_run(self) -> None:
        """Nothing needs opening."""

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Call the function once a step."""
        for step in steps:
            self.log(step.number, step_numbers(step))

    def log_results(self, results: Mapping[str, float]) -> None:
        """Call the function once."""
        self.log(self.last_step, epoch_numbers(self.learn.epoch, results))

    def close_run(self, outcome: Outcome) -> None:
        """Nothing needs closing."""


def step_numbers(step: Step) -> dict[str, float]:
    """The numbers of a step by fastai's names: ``train_loss`` is the smoothed one."""
    return {
        "epoch": step.epoch,
        "train_loss": step.smooth_loss,
        "raw_loss": step.loss,
        **step.hypers,
    }


def epoch_numbers(epoch: int, results: Mapping[str, float]) -> dict[str, float]:
    """Results with the name ``train_loss``, which steps have, left to the steps."""
    named = {
        "epoch_train_loss" if name == "train_loss" else name: value
        for name, value in results.items()
    }
    return {"epoch": epoch + 1, **named}


def log_line(step: int, numbers: Mapping[str, float]) -> None:
    """Write one line: the step, then every number by its name."""
    text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    logging.getLogger("callboard.run").info("step %d  %s", step, text)
