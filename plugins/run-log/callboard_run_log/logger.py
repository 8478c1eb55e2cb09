"""The abstract base of plugins that hand the numbers of a run to a tracker."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from callboard import Callback
from callboard.callback import Role
from callboard.errors import ActivationError, OptionError
from callboard.optim import HYPERS, hypers, locate_hyper
from callboard.state import untouched_random_state
from callboard_run_log.samples import Sample, SampleCollector
from callboard_run_log.steps import STEPS_PER_READ, Step, StepBuffer

Outcome = Literal["finished", "failed", "unreachable"]


def require_client(plugin: str, module: str, distribution: str) -> None:
    """Refuse a plugin whose client is not installed, before an epoch was paid for.

    Raises:
        ActivationError: It is not.
    """
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:  # the package that a submodule would be in
        is_there = False
    if not is_there:
        raise ActivationError(
            f"{plugin}: its client, {distribution}, is not installed: "
            f"python -m pip install {distribution}"
        )


class RunLogger(Callback, ABC):
    """Counts the steps of a run, and hands on its numbers some fifty steps at a time.

    A tracker implements ``open_run``, ``log_steps``, ``log_results`` and ``close_run``,
    and ``log_samples`` where it can show samples. Each fit opens the run and closes it;
    all fits of one object, and those that go on from its state, are one run.

    Args:
        hyper_names: Hyper-parameters of the optimizer that go with every step, by
            fastai's names; those that the optimizer lacks are left out.
        log_every: Which steps are handed on: every one, every tenth, ...; from 1.
        num_samples: How many samples of the validation to show; 0 for none.
        sample_seed: Draws which samples; None for the first.
        samples_each_epoch: Show them after every epoch, else at the end of the fit.

    Attributes:
        run_id: What the tracker calls the run; None before the first fit, and where it
            has no names for runs.
        last_step: Number of the last step that was handed on.
    """

    role: Role = "observe"
    run_after = ("recorder", "save-model")

    def __init__(
        self,
        *,
        hyper_names: Sequence[str] = ("lr", "mom"),
        log_every: int = 1,
        num_samples: int = 0,
        sample_seed: int | None = None,
        samples_each_epoch: bool = True,
    ) -> None:
        self.hyper_names = self._checked_names(hyper_names)
        self.log_every = self._checked_count("log_every", log_every, least=1)
        num_samples = self._checked_count("n_preds", num_samples, least=0)
        self.run_id: str | None = None
        self.last_step = 0
        self._first_step = 0
        self._samples_each_epoch = samples_each_epoch
        self._steps = StepBuffer()
        self._samples = SampleCollector(num_samples, sample_seed)
        self._places: list[tuple[str, int, str, int | None]] = []
        self._outcome: Outcome = "finished"
        self._is_open = self._is_in_epoch = self._is_sampling = False

    def _checked_names(self, names: Sequence[str]) -> tuple[str, ...]:
        checked = (names,) if isinstance(names, str) else tuple(names)
        unknown = [name for name in checked if name not in HYPERS]
        if unknown:
            raise OptionError(
                f"{self.name}: hyper_names must be among {', '.join(HYPERS)}, got "
                f'{unknown[0]!r}. Use ("lr", "mom").'
            )
        return checked

    def _checked_count(self, option: str, count: int, *, least: int) -> int:
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise OptionError(
                f"{self.name}: {option} must be a whole number from {least} on, got "
                f"{count!r}. Use {10 if least else 9}."
            )
        return count

    # ---- what a tracker implements --------------------------------------------

    @abstractmethod
    def open_run(self) -> None:
        """Open the run, or the one of ``run_id`` again where it is not None."""

    @abstractmethod
    def log_steps(self, steps: Sequence[Step]) -> None:
        """Write the numbers of steps, in their order; there is at least one."""

    @abstractmethod
    def log_results(self, results: Mapping[str, float]) -> None:
        """Write the results of the epoch ``learner.epoch``, at ``last_step``."""

    def log_samples(self, samples: Sequence[Sample]) -> None:
        """Show samples, at ``last_step``."""

    def finish_fit(self) -> None:
        """Write what is known when a fit has come to its end."""

    @abstractmethod
    def close_run(self, outcome: Outcome) -> None:
        """Let go of the run, however the fit ended.

        Args:
            outcome: ``"failed"`` where an error ends the fit; ``"unreachable"`` where
                writing failed, so that a server should not be waited for once more.
        """

    # ---- the fit --------------------------------------------------------------

    def before_fit(self) -> None:
        """Open the run, which goes on from where the last fit left it."""
        learner = self.learn
        if os.environ.get("RANK", "0") != "0":
            self.run = False  # the first of several processes writes
            return
        self._is_in_epoch, self._is_open = False, True
        with self._reaching_out():
            self.open_run()
        if learner.epoch == 0 and learner.train_iter == 0:
            self._send_steps()  # of a fit before this one, from its state
            self._first_step = self.last_step
            self._steps.start_anew()

    def before_epoch(self) -> None:
        """Note that an epoch has results to come."""
        self._is_in_epoch = True

    def before_train(self) -> None:
        """Look up where the optimizer keeps its hyper-parameters."""
        opt = self.learn.opt
        self._places = [
            (f"{name}_{group}", group, *locate_hyper(opt, name))
            for name in self.hyper_names
            if name in hypers(opt)
            for group in range(len(opt.param_groups))
        ]

    def after_batch(self) -> None:
        """Take in the step, without reading from the device."""
        learner = self.learn
        if not learner.training:
            if self._is_sampling:
                self._add_samples()
            return
        loss = learner.loss
        if loss is None:
            return
        groups, values = learner.opt.param_groups, {}
        for name, group, key, place in self._places:
            value = groups[group][key] if place is None else groups[group][key][place]
            # Capturable optimizers change their rate in place, on the device.
            values[name] = value.clone() if isinstance(value, Tensor) else value
        step = self._first_step + learner.train_iter
        epoch = learner.pct_train * learner.n_epoch
        self._steps.waiting.append((step, epoch, loss.detach(), values))
        if len(self._steps.waiting) >= STEPS_PER_READ:
            self._send_steps()

    def after_train(self) -> None:
        """Hand on the steps of the epoch."""
        self._send_steps()

    def _send_steps(self) -> None:
        steps = self._steps.take()
        if not steps:
            return
        self.last_step = steps[-1].number
        chosen = [s for s in steps if s.number == 1 or s.number % self.log_every == 0]
        if chosen:
            with self._reaching_out():
                self.log_steps(chosen)

    @contextmanager
    def _reaching_out(self) -> Iterator[None]:
        """Remember it where the tracker fails; leave random streams alone.

        Clients draw names for runs and pauses between attempts from them.
        """
        self._outcome = "unreachable"
        with untouched_random_state():
            yield
        self._outcome = "finished"

    # ---- the validation and the end of an epoch -------------------------------

    def before_validate(self) -> None:
        """Choose the samples, where some are to be shown after this epoch."""
        is_last = self.learn.epoch + 1 == self.learn.n_epoch
        wanted = self._samples.count > 0 and (self._samples_each_epoch or is_last)
        if wanted:
            self._samples.start(self.learn.dl)
        self._is_sampling = wanted

    def _add_samples(self) -> None:
        learner = self.learn
        if isinstance(learner.pred, Tensor) and learner.pred.ndim:
            self._samples.add(learner.xb, learner.yb, learner.pred)
        self._is_sampling = not self._samples.is_complete

    def after_epoch(self) -> None:
        """Hand on the results, and the samples where there are some."""
        self._send_steps()  # where a cancel has hidden the end of training
        self._is_in_epoch = self._is_sampling = False
        numbers = numbers_in(self.learn.results)
        samples = self._samples.take(self.learn)
        with self._reaching_out():
            if numbers:
                self.log_results(numbers)
            if samples:
                self.log_samples(samples)

    def after_cancel_fit(self) -> None:
        """Hand on what a cancel in the middle of an epoch has left."""
        if self._is_in_epoch:
            self.after_epoch()

    def after_fit(self) -> None:
        """Let the tracker write what belongs to the end."""
        with self._reaching_out():
            self.finish_fit()

    def on_exception(self) -> None:
        """Hand on the steps up to the error."""
        self._send_steps()
        self._outcome = "failed"

    def teardown(self) -> None:
        """Close the run, however the fit ended."""
        was_open, self._is_open = self._is_open, False
        if was_open:
            with untouched_random_state():
                self.close_run(self._outcome)

    # ---- state ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Which run it is, how far it has come, and what is not handed on yet."""
        return {
            "run_id": self.run_id,
            "first_step": self._first_step,
            "last_step": self.last_step,
            "steps": self._steps.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next fit go on in that run."""
        self.run_id = state["run_id"]
        self._first_step, self.last_step = state["first_step"], state["last_step"]
        self._steps.load_state_dict(state["steps"])


def numbers_in(results: Mapping[str, Any]) -> dict[str, float]:
    """The results that are numbers.

    >>> numbers_in({"accuracy": 0.5, "note": "slow", "matrix": [1, 2]})
    {'accuracy': 0.5}
    """
    return {
        name: float(value)
        for name, value in results.items()
        if isinstance(value, Real)
        or (hasattr(value, "item") and getattr(value, "ndim", 0) == 0)
    }
