"""Keep the best value of one result of a fit, and the epoch that brought it.

Listens to  before_fit, after_epoch
Changes     nothing; ``best``, ``best_epoch`` and ``new_best`` are there to be read
Source      fastai's ``TrackerCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from callboard import Callback
from callboard.callback import Role
from callboard.errors import OptionError, suggestion

if TYPE_CHECKING:
    from callboard.testing import Specimen

Direction = Literal["min", "max"]
Comparison = Direction | Callable[[Any, Any], Any] | None
# A cancel or stop of one of these levels may leave an epoch without a result.
CUTTING_SHORT = ("stop", "train", "validate", "epoch", "fit")


def is_better(
    value: float | None, best: float | None, *, direction: Direction, min_delta: float
) -> bool:
    """Whether a value beats the best one so far.

    Nothing measured, NaN, and the infinity that is worse than any number never do.

    Args:
        value: What the epoch measured.
        best: The best so far, None before the first.
        direction: ``"min"`` where lower is better, ``"max"`` where higher is.
        min_delta: By how much it must be better, in the unit of the value, from 0 on.
    """
    if value is None or math.isnan(value):
        return False
    worst = -math.inf if direction == "max" else math.inf
    if best is None:
        return value != worst
    gain = value - best if direction == "max" else best - value
    return gain > min_delta


def direction_of(comp: Comparison) -> Direction | None:
    """The direction that ``comp`` means; None leaves it to the plugin that measures.

    A function is asked: ``numpy.less`` and ``operator.lt`` prefer 0 to 1, so lower is
    better.

    Raises:
        ValueError: It means none.
    """
    if comp is None or comp in ("min", "max"):
        return comp
    if callable(comp):
        prefers = bool(comp(0.0, 1.0)), bool(comp(1.0, 0.0))
        if prefers == (True, False):
            return "min"
        if prefers == (False, True):
            return "max"
    raise ValueError(comp)


def published_directions(plugins: Iterable[object]) -> dict[str, Direction]:
    """Whether lower or higher is better, for every result whose measurer is certain.

    A plugin that measures says so in an attribute ``higher_is_better``, a mapping from
    the names of its results to True or False.
    """
    directions: dict[str, Direction] = {}
    for plugin in plugins:
        published = getattr(plugin, "higher_is_better", None)
        if isinstance(published, Mapping):
            for name, is_higher in published.items():
                directions[name] = "max" if is_higher else "min"
    return directions


class TrackerCallback(Callback):
    """Keeps the best value of one result; base of plugins that decide by it.

    Args:
        monitor: Name of the result: ``"valid_loss"`` or a metric's.
        comp: ``"min"`` where lower is better, ``"max"`` where higher is; or
            ``numpy.less``, ``numpy.greater``. Default: as the plugin that measures it
            says; where none does, it must be given.
        min_delta: By how much a value must be better to be a new best, from 0 on.
        reset_on_fit: Forget the best when a fit starts at epoch 0. A fit with
            ``start_epoch`` goes on with what there was.

    Attributes:
        value: What the last epoch measured; None where it measured nothing.
        best: The best value so far, None before the first.
        best_epoch: The epoch that brought it.
        new_best: Whether the last epoch brought it.
        direction: ``"min"`` or ``"max"``; None until it is certain.
    """

    name = "tracker"
    role: Role = "control"
    run_after = "recorder"

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Comparison = None,
        min_delta: float = 0.0,
        reset_on_fit: bool = True,
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise OptionError(
                f"{self.name}: monitor must be the name of a result, got {monitor!r}. "
                'Use "valid_loss" or the name of a metric.'
            )
        if not 0 <= min_delta < math.inf:
            raise OptionError(
                f"{self.name}: min_delta must be a number from 0 on, got "
                f"{min_delta!r}. comp, not its sign, says which direction is better."
            )
        self.monitor = monitor
        self.comp = self._checked_direction(comp)
        self.min_delta = min_delta
        self.reset_on_fit = reset_on_fit
        self.direction: Direction | None = self.comp
        self.value: float | None = None
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.new_best = False
        self._has_been_measured = False

    def _checked_direction(self, comp: Comparison) -> Direction | None:
        try:
            return direction_of(comp)
        except (TypeError, ValueError):
            raise OptionError(
                f'{self.name}: comp must be "min" where lower is better or "max" where '
                f"higher is (numpy.less and numpy.greater mean the same), got {comp!r}."
            ) from None

    def before_fit(self) -> None:
        """Settle which direction is better, while no epoch has been paid for yet."""
        self.value, self.new_best, self._has_been_measured = None, False, False
        if self.reset_on_fit and self.learn.epoch == 0:
            self.best, self.best_epoch = None, None
        self.direction = self._settled_direction()

    def after_epoch(self) -> None:
        """Compare what the epoch measured with the best so far."""
        # One that was added during the fit has seen no before_fit.
        direction = self.direction = self.direction or self._settled_direction()
        self.value = self._measured()
        self.new_best = is_better(
            self.value, self.best, direction=direction, min_delta=self.min_delta
        )
        if self.new_best:
            self.best, self.best_epoch = self.value, self.learn.epoch

    def _settled_direction(self) -> Direction:
        if self.comp is not None:
            return self.comp
        directions = published_directions(self.learn.cbs)
        if self.monitor not in directions:
            raise OptionError(self._unknown_direction(directions))
        return directions[self.monitor]

    def _measured(self) -> float | None:
        results = self.learn.results
        if self.monitor in results:
            self._has_been_measured = True
        elif not self._has_been_measured and not self._was_cut_short():
            raise OptionError(self._unknown_monitor(results))
        value = results.get(self.monitor)
        return None if value is None else float(value)

    def _was_cut_short(self) -> bool:
        """Whether a cancel or a stop may be why a result of this epoch is missing."""
        return any(
            reason.epoch == self.learn.epoch and reason.what in CUTTING_SHORT
            for reason in self.learn.record.reasons
        )

    def _unknown_direction(self, directions: Mapping[str, Direction]) -> str:
        known = ", ".join(f"{name} ({best})" for name, best in directions.items())
        return (
            f"{self.name}: no active plugin says whether a lower or a higher "
            f'{self.monitor!r} is better; give comp="min" or comp="max". Known: '
            f"{known or 'nothing; is the recorder active?'}."
            + suggestion(self.monitor, directions)
        )

    def _unknown_monitor(self, results: Mapping[str, Any]) -> str:
        known = ", ".join(results) or "none; is the recorder active?"
        return (
            f"{self.name}: epoch {self.learn.epoch} has no result {self.monitor!r} to "
            f"monitor; its results: {known}.{suggestion(self.monitor, results)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The best value and its epoch."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the tracker out."""
    from callboard.testing import Specimen

    return {"tracker": Specimen(companions=["recorder"])}
