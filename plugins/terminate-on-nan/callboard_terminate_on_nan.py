"""End the fit in order when the loss becomes NaN or infinite.

Listens to  before_fit, after_loss, after_train, after_validate, teardown
Changes     ``learner.on_non_finite``, for the fit; asks the loop to stop
Source      fastai's ``TerminateOnNaNCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callboard import Callback
from callboard.callback import Role
from callboard.errors import OptionError


class TerminateOnNaNCallback(Callback):
    """Stops the fit when a loss of training or validation is no finite number.

    The losses are added up on their device, since NaN and infinity stay what they are
    in a sum, and the sum is read every ``every`` batches and behind each phase.

    Args:
        every: After how many batches to look, from 1 on. Looking waits for the device;
            1 stops before the weights of the next batch are ruined too.

    Raises:
        OptionError: ``every`` is no such number.
    """

    name = "terminate-on-nan"
    role: Role = "control"

    def __init__(self, every: int = 50) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(
                f"terminate-on-nan: every must be a whole number of batches from 1 on, "
                f"got {every!r}. Use 50, or 1 to look at each."
            )
        self.every = every
        self._total: Tensor | None = None
        self._before: Any = "raise"

    def before_fit(self) -> None:
        """Let whoever finds such a loss first stop the fit in order, too."""
        self._total = None
        self._before, self.learn.on_non_finite = self.learn.on_non_finite, "stop"

    def teardown(self) -> None:
        """Leave the Learner as it was."""
        self.learn.on_non_finite = self._before

    def after_loss(self) -> None:
        """Add the loss up, and look at the sum where it is time."""
        loss = self.learn.loss
        if loss is None:
            return
        loss = loss.detach()
        loss = loss.mean() if loss.ndim else loss
        self._total = loss if self._total is None else self._total + loss
        if (self.learn.iter + 1) % self.every == 0:
            self._look()

    def after_train(self) -> None:
        """Look at what was not looked at yet."""
        self._look()

    def after_validate(self) -> None:
        """Look at what was not looked at yet."""
        self._look()

    def _look(self) -> None:
        total, self._total = self._total, None
        if total is None or bool(torch.isfinite(total)):
            return
        learner = self.learn
        phase = "training" if learner.training else "validation"
        learner.stop(
            f"the {phase} loss is no finite number any more, by batch {learner.iter} "
            f"of epoch {learner.epoch}"
        )
