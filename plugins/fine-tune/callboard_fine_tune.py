"""Train a new head on a frozen pretrained model, then all of it: ``learn.fine_tune()``.

Listens to  nothing; it is a method that fits twice
Changes     what is frozen, and through ``fit_one_cycle`` learning rate and momentum
Source      Howard & Ruder 2018, arXiv:1801.06146 (gradual unfreezing, discriminative
            rates); the recipe and its numbers are those of fastai's ``fine_tune``
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from callboard.errors import OptionError
from callboard_schedule import fit_one_cycle

if TYPE_CHECKING:
    from callboard import Learner

# The rate goes up for nearly all of the first phase: a new head cannot forget.
HEAD_PCT_START = 0.99
MOMENTA = (0.95, 0.85, 0.95)


def head_rate(base_lr: float) -> slice:
    """Highest rates while the body is frozen: ``base_lr`` for the last group.

    What still trains in the groups before it, as normalisation layers, has a tenth.
    """
    return slice(base_lr)


def body_rate(base_lr: float, lr_mult: float) -> slice:
    """Highest rates of the whole model: half of ``base_lr`` for the last group.

    They fall in equal ratios to ``1 / lr_mult`` of that for the first group.
    """
    return slice(base_lr / 2 / lr_mult, base_lr / 2)


def fine_tune(
    learner: Learner,
    epochs: int,
    base_lr: float = 2e-3,
    freeze_epochs: int = 1,
    lr_mult: float = 100.0,
    pct_start: float = 0.3,
    div: float = 5.0,
    *,
    div_final: float = 1e5,
    wd: float | Sequence[float] | None = None,
    moms: Sequence[float] | None = MOMENTA,
    cbs: Any = None,
    reset_opt: bool = False,
) -> None:
    """Train the last parameter group alone, then all of them at rates of their own.

    Two one-cycle fits: ``freeze_epochs`` with all but the last group frozen, then
    ``epochs`` with none. The Learner's splitter makes the groups.

    Args:
        learner: What is trained.
        epochs: Number of epochs with the whole model, from 0 on.
        base_lr: Highest learning rate of the head while the body is frozen. Of the
            whole model the last group then has half of it, and the first that divided
            by ``lr_mult``; groups between go from one to the other in equal ratios.
        freeze_epochs: Number of epochs with the head alone, from 0 on.
        lr_mult: How many times faster the last group learns than the first.
        pct_start: Share of the epochs with the whole model in which its rates go up.
        div: They start at the highest divided by this; the head's at 1/25.
        div_final: Rates of both fits end at the highest divided by this.
        wd: Weight decay; a number, or one per parameter group.
        moms: Momentum at the start, at the highest rate and at the end of both fits;
            None leaves it.
        cbs: Callbacks that take part in both fits.
        reset_opt: Make a new optimizer first.

    Raises:
        OptionError: A number is out of its range; nothing was trained then.
    """
    _check_counts(epochs=epochs, freeze_epochs=freeze_epochs)
    _check_above_zero(base_lr=base_lr, lr_mult=lr_mult, div=div, div_final=div_final)
    _check_share(pct_start)
    if reset_opt:
        learner.create_opt()
    if freeze_epochs:
        learner.freeze()
        fit_one_cycle(
            learner,
            freeze_epochs,
            head_rate(base_lr),
            pct_start=HEAD_PCT_START,
            div_final=div_final,
            wd=wd,
            moms=moms,
            cbs=cbs,
        )
    learner.unfreeze()
    if epochs:
        fit_one_cycle(
            learner,
            epochs,
            body_rate(base_lr, lr_mult),
            div=div,
            div_final=div_final,
            pct_start=pct_start,
            wd=wd,
            moms=moms,
            cbs=cbs,
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        is_whole = isinstance(count, Integral) and not isinstance(count, bool)
        if not is_whole or count < 0:
            raise OptionError(
                f"fine-tune: {name} must be a whole number of epochs from 0 on, got "
                f"{count!r}. Use 1."
            )


def _check_above_zero(**numbers: float) -> None:
    usual = {"base_lr": 2e-3, "lr_mult": 100, "div": 5, "div_final": 1e5}
    for name, number in numbers.items():
        if not isinstance(number, Real) or not 0 < number < math.inf:
            raise OptionError(
                f"fine-tune: {name} must be a number above 0, got {number!r}. Use "
                f"{usual[name]:g}."
            )


def _check_share(pct_start: float) -> None:
    # fit_one_cycle would say so too, but only once the head is trained.
    if not isinstance(pct_start, Real) or not 0 <= pct_start <= 1:
        raise OptionError(
            "fine-tune: pct_start is a share of the epochs, from 0 to 1, got "
            f"{pct_start!r}. Use 0.3."
        )
