"""Stop the fit when a result has not improved for some epochs.

Listens to  before_fit, after_epoch
Changes     nothing; asks the loop to stop
Source      Prechelt 1998, "Early Stopping - But When?", doi:10.1007/3-540-49430-8_3;
            fastai's ``EarlyStoppingCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from callboard.errors import OptionError
from callboard_tracker import Comparison, TrackerCallback

if TYPE_CHECKING:
    from callboard.testing import Specimen


def stop_reason(
    monitor: str, num_epochs: int, best: float | None, best_epoch: int | None
) -> str:
    """The sentence that is kept in the run's record."""
    epochs = "1 epoch" if num_epochs == 1 else f"{num_epochs} epochs"
    best_in_words = "no best yet"
    if best is not None:
        best_in_words = f"best {best:.4g} in epoch {best_epoch}"
    return f"{monitor} has not improved for {epochs} ({best_in_words})"


class EarlyStoppingCallback(TrackerCallback):
    """Stops the fit when a result has not improved for ``patience`` epochs.

    An epoch that was cut short and measured nothing does not count; one that measured
    NaN does.

    Args:
        monitor: Name of the result: ``"valid_loss"`` or a metric's.
        comp: ``"min"`` where lower is better, ``"max"`` where higher is; or
            ``numpy.less``, ``numpy.greater``. Default: as the plugin that measures it
            says; where none does, it must be given.
        min_delta: By how much a value must be better to be a new best, from 0 on.
        patience: Number of epochs without a new best after which the fit stops.
        reset_on_fit: Forget the best when a fit starts at epoch 0.

    Attributes:
        wait: Number of epochs since the last new best.
    """

    name = "early-stopping"

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Comparison = None,
        min_delta: float = 0.0,
        patience: int = 1,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        if not isinstance(patience, int) or patience < 1:
            raise OptionError(
                f"{self.name}: patience must be a whole number of epochs from 1 on, "
                f"got {patience!r}. Use 3 to allow three epochs without a new best."
            )
        self.patience = patience
        self.wait = 0

    def before_fit(self) -> None:
        """Count anew, unless the fit goes on where an earlier one was left."""
        super().before_fit()
        if self.learn.epoch == 0:
            self.wait = 0

    def after_epoch(self) -> None:
        """Count the epochs without a new best; stop when there were enough."""
        super().after_epoch()
        if self.value is None:
            return
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait >= self.patience:
            self.learn.stop(
                stop_reason(self.monitor, self.wait, self.best, self.best_epoch)
            )

    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch, and the epochs waited since."""
        return {**super().state_dict(), "wait": self.wait}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.wait = state["wait"]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try early stopping out."""
    from callboard.testing import Specimen

    return {"early-stopping": Specimen(companions=["recorder"])}
