"""Lower the learning rate when a result has not improved for some epochs.

Listens to  before_fit, after_epoch
Changes     the learning rate of every parameter group
Source      fastai's ``ReduceLROnPlateau`` (Apache-2.0), written anew; the method is
            older, as in He et al. 2015, arXiv:1512.03385, section 3.4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from callboard.errors import OptionError
from callboard.optim import get_hyper, set_hyper
from callboard_tracker import Comparison, TrackerCallback

if TYPE_CHECKING:
    from callboard.testing import Specimen


class ReduceLROnPlateau(TrackerCallback):
    """Divides the learning rate when a result has not improved for ``patience`` epochs.

    An epoch that was cut short and measured nothing does not count; one that measured
    NaN does.

    Args:
        monitor: Name of the result: ``"valid_loss"`` or a metric's.
        comp: ``"min"`` where lower is better, ``"max"`` where higher is; or
            ``numpy.less``, ``numpy.greater``. Default: as the plugin that measures it
            says; where none does, it must be given.
        min_delta: By how much a value must be better to be a new best, from 0 on.
        patience: Number of epochs without a new best after which the rate falls.
        factor: What the rate is divided by, above 1.
        min_lr: The rate does not fall below this, from 0 on.
        reset_on_fit: Forget the best when a fit starts at epoch 0.

    Attributes:
        wait: Number of epochs since the last new best, or since the rate fell.
        reductions: Number of the epoch behind which the rate fell, for each time.
    """

    name = "reduce-lr-on-plateau"

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Comparison = None,
        min_delta: float = 0.0,
        patience: int = 1,
        factor: float = 10.0,
        min_lr: float = 0.0,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise OptionError(
                f"{self.name}: patience must be a whole number of epochs from 1 on, "
                f"got {patience!r}. Use 3 to allow three epochs without a new best."
            )
        if not factor > 1:
            raise OptionError(
                f"{self.name}: factor must be above 1, got {factor!r}. The rate is "
                "divided by it: use 10 for a tenth."
            )
        if not min_lr >= 0:
            raise OptionError(
                f"{self.name}: min_lr must be from 0 on, got {min_lr!r}. Use 1e-6."
            )
        self.patience = patience
        self.factor = factor
        self.min_lr = min_lr
        self.wait = 0
        self.reductions: list[int] = []

    def before_fit(self) -> None:
        """Count anew, unless the fit goes on where an earlier one was left."""
        super().before_fit()
        if self.learn.epoch == 0:
            self.wait, self.reductions = 0, []

    def after_epoch(self) -> None:
        """Count the epochs without a new best; lower the rate after enough of them."""
        super().after_epoch()
        if self.value is None:
            return
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait >= self.patience:
            self.wait = 0
            self._reduce()

    def _reduce(self) -> None:
        opt = self.learn.opt
        rates = [float(rate) for rate in get_hyper(opt, "lr")]
        lower = [max(rate / self.factor, min(rate, self.min_lr)) for rate in rates]
        if lower != rates:
            set_hyper(opt, "lr", lower)
            self.reductions.append(self.learn.epoch)

    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch, the epochs waited, and when the rate fell."""
        mine = {"wait": self.wait, "reductions": list(self.reductions)}
        return {**super().state_dict(), **mine}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.wait, self.reductions = state["wait"], list(state["reductions"])


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try it out."""
    from callboard.testing import Specimen

    return {"reduce-lr-on-plateau": Specimen(companions=["recorder"])}
