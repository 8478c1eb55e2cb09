"""Whose turn it is, and at which rate the critic learns in its turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from numbers import Integral, Real
from typing import Any

from callboard import Callback, Learner, hookimpl
from callboard.errors import OptionError
from callboard.optim import get_hyper, set_hyper
from callboard_gan.trainer import GANTrainer

# A number of batches, or a function of how many the other network just had.
Turn = int | Callable[[int], int]


def _trainer_of(learner: Learner) -> GANTrainer:
    plugins = (member.plugin for member in learner.cbs.members)
    return next(plugin for plugin in plugins if isinstance(plugin, GANTrainer))


class FixedGANSwitcher(Callback):
    """Trains the critic for some batches, then the generator for some, in turns.

    Turns go on where they were when an epoch ends.

    Args:
        n_crit: How many batches the critic has a turn; or a function of how many the
            generator just had.
        n_gen: How many batches the generator has; or a function, likewise.
    """

    name = "fixed-gan-switcher"
    role = "modify"
    stages = ("fit", "lr-find")
    requires = "gan-trainer"
    run_after = "gan-trainer"
    conflicts_with: Mapping[str, str] = {
        "adaptive-gan-switcher": "both would say when a turn ends"
    }

    def __init__(self, n_crit: Turn = 1, n_gen: Turn = 1) -> None:
        for option, turn in (("n_crit", n_crit), ("n_gen", n_gen)):
            is_number = isinstance(turn, Integral) and not isinstance(turn, bool)
            if not callable(turn) and not (is_number and turn >= 1):
                raise OptionError(
                    f"{self.name}: {option} must be a number of batches from 1 on, or "
                    f"a function that returns one, got {turn!r}. Use 1."
                )
        self.n_crit = n_crit
        self.n_gen = n_gen
        self.num_done = 0
        self.num_before = 0

    def before_fit(self) -> None:
        """Begin a first turn."""
        self._trainer = _trainer_of(self.learn)
        self.num_done = self.num_before = 0

    def after_batch(self) -> None:
        """End the turn when it is over."""
        if not self.learn.training:
            return
        self.num_done += 1
        turn = self.n_gen if self._trainer.gen_mode else self.n_crit
        length = turn(self.num_before) if callable(turn) else turn
        if self.num_done >= length:
            self._trainer.switch()
            self.num_before, self.num_done = self.num_done, 0

    def state_dict(self) -> dict[str, Any]:
        """How far the turn is."""
        return {"num_done": self.num_done, "num_before": self.num_before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.num_done, self.num_before = state["num_done"], state["num_before"]


class AdaptiveGANSwitcher(Callback):
    """Trains a network until its loss falls below a threshold, then the other one.

    Args:
        gen_thresh: The generator's turn ends when its loss is below. None: after every
            batch.
        critic_thresh: The critic's, likewise.
    """

    name = "adaptive-gan-switcher"
    role = "modify"
    stages = ("fit", "lr-find")
    requires = "gan-trainer"
    run_after = "gan-trainer"

    def __init__(
        self, gen_thresh: float | None = None, critic_thresh: float | None = None
    ) -> None:
        for option, value in (
            ("gen_thresh", gen_thresh),
            ("critic_thresh", critic_thresh),
        ):
            if value is not None and (
                not isinstance(value, Real) or math.isnan(float(value))
            ):
                raise OptionError(
                    f"{self.name}: {option} must be a loss or None, got {value!r}. Use "
                    "0.65."
                )
        self.gen_thresh = gen_thresh
        self.critic_thresh = critic_thresh

    def before_fit(self) -> None:
        """Find whom to switch."""
        self._trainer = _trainer_of(self.learn)

    def after_batch(self) -> None:
        """End the turn when the loss is low enough."""
        loss = self.learn.loss
        if not self.learn.training or loss is None:
            return
        is_gen = self._trainer.gen_mode
        threshold = self.gen_thresh if is_gen else self.critic_thresh
        # Comparing waits for the device, and is only done where it was asked for.
        if threshold is None or bool(loss.detach() < threshold):
            self._trainer.switch()


class GANDiscriminativeLR(Callback):
    """Multiplies the learning rate in the steps of the critic.

    Args:
        mult_lr: By how much, above 0.
    """

    name = "gan-discriminative-lr"
    role = "control"
    stages = ("fit", "lr-find")
    requires = "gan-trainer"

    def __init__(self, mult_lr: float = 5.0) -> None:
        if not 0 < mult_lr < math.inf:
            raise OptionError(
                f"{self.name}: mult_lr must be a number above 0, got {mult_lr!r}. "
                "Use 5."
            )
        self.mult_lr = mult_lr

    def before_fit(self) -> None:
        """Find out whose turn it is."""
        self._trainer = _trainer_of(self.learn)

    @hookimpl(wrapper=True)
    def do_step(self) -> Generator[None, Any, Any]:
        """Take the critic's steps at its own rate, whoever sets the rate."""
        if self._trainer.gen_mode:
            return (yield)
        opt = self.learn.opt
        rates = get_hyper(opt, "lr")
        set_hyper(opt, "lr", [rate * self.mult_lr for rate in rates])
        try:
            return (yield)
        finally:
            set_hyper(opt, "lr", rates)
