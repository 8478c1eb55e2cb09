"""The steps of a fit in bounded memory, and the smoothed loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Hypers = Mapping[str, float]


class StepHistory:
    """Values by step in bounded memory, and the smoothed loss.

    Kept are every ``stride``-th step from the first on, and the latest. The stride is 1
    and doubles whenever more than ``max_points`` would be held.

    Args:
        beta: Share of the past in the smoothed loss, 0 <= beta < 1.
        max_points: Most steps that are held, from 2 on.

    Attributes:
        steps: Numbers of the steps that are held.
        losses: The loss of each.
        smooth_losses: The smoothed loss after each.
        hypers: The hyper-parameters of each.
    """

    def __init__(self, beta: float = 0.98, max_points: int = 10_000) -> None:
        self.beta = beta
        self.max_points = max_points
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.smooth_losses: list[float] = []
        self.hypers: list[Hypers] = []
        self.clear()

    @property
    def _columns(self) -> tuple[list[Any], ...]:
        return self.steps, self.losses, self.smooth_losses, self.hypers

    def clear(self) -> None:
        """Forget everything."""
        for column in self._columns:
            column.clear()
        self.stride = 1
        self.num_steps = 0
        self.average = 0.0
        self.num_averaged = 0

    @property
    def smooth_loss(self) -> float | None:
        """Exponential moving average of the loss, without its start at zero.

        Dividing by ``1 - beta**n`` takes the start out (Kingma & Ba 2015, section 3).
        """
        if self.num_averaged == 0:
            return None
        return self.average / (1 - self.beta**self.num_averaged)

    def extend(
        self,
        steps: Sequence[int],
        losses: Sequence[float],
        all_hypers: Sequence[Hypers],
    ) -> None:
        """Add steps, in their order."""
        # Written out, since a call would be paid for at every step.
        for step, loss, hypers in zip(steps, losses, all_hypers, strict=True):
            self.average = loss + self.beta * (self.average - loss)
            self.num_averaged += 1
            smooth_loss = self.average / (1 - self.beta**self.num_averaged)
            if self.steps and (self.num_steps - 1) % self.stride:
                # The step before was held as the latest only.
                del self.steps[-1], self.losses[-1]
                del self.smooth_losses[-1], self.hypers[-1]
            self.steps.append(step)
            self.losses.append(loss)
            self.smooth_losses.append(smooth_loss)
            self.hypers.append(hypers)
            self.num_steps += 1
            if len(self.steps) > self.max_points:
                self._thin()

    def _thin(self) -> None:
        self.stride *= 2
        for column in self._columns:
            is_latest_left_out = len(column) % 2 == 0
            latest = column[-1]
            column[:] = column[::2]
            if is_latest_left_out:
                column.append(latest)

    def cut(self, step: int) -> None:
        """Forget what came after a step; after step 0 that is everything."""
        if step == 0:
            self.clear()
        elif self.steps and self.steps[-1] > step:
            num_kept = sum(held <= step for held in self.steps)
            for column in self._columns:
                del column[num_kept:]
            self.num_steps = max(0, (num_kept - 1) * self.stride + 1)

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "steps": list(self.steps),
            "losses": list(self.losses),
            "smooth_losses": list(self.smooth_losses),
            "hypers": [dict(values) for values in self.hypers],
            "stride": self.stride,
            "num_steps": self.num_steps,
            "average": self.average,
            "num_averaged": self.num_averaged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.steps, self.losses = list(state["steps"]), list(state["losses"])
        self.smooth_losses = list(state["smooth_losses"])
        self.hypers = [dict(values) for values in state["hypers"]]
        self.stride, self.num_steps = state["stride"], state["num_steps"]
        self.average, self.num_averaged = state["average"], state["num_averaged"]
