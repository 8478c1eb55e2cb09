"""What the Learner gets: fits with a schedule."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from callboard.errors import ActivationError, CallboardWarning, OptionError
from callboard_schedule.annealing import (
    Endpoint,
    SchedCos,
    SchedNo,
    Schedule,
    Value,
    check_above_zero,
    check_share,
    combine_scheds,
    combined_cos,
)
from callboard_schedule.scheduler import ParamScheduler

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from callboard import Learner
    from callboard.optim import Rate


def fit_one_cycle(
    learner: Learner,
    n_epoch: int,
    lr_max: Rate | None = None,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    wd: Endpoint | None = None,
    moms: Sequence[float] | None = (0.95, 0.85, 0.95),
    cbs: Any = None,
    reset_opt: bool = False,
    start_epoch: int = 0,
) -> None:
    """Train with the one-cycle policy: the rate up, then down; momentum the other way.

    Args:
        learner: What is trained.
        n_epoch: Number of epochs.
        lr_max: Highest learning rate; a number, one per parameter group, or
            ``slice(low, high)``. Default: the Learner's.
        div: The rate starts at ``lr_max / div``.
        div_final: It ends at ``lr_max / div_final``.
        pct_start: Share of the run in which it goes up, from 0 to 1.
        wd: Weight decay of this run, and of later ones; a number, or one per parameter
            group.
        moms: Momentum at the start, at the highest rate and at the end; None leaves it.
            An optimizer that has none is left without, with a warning.
        cbs: Callbacks that take part in this fit only.
        reset_opt: Make a new optimizer.
        start_epoch: First epoch to run; the schedule goes on as if it had run before.
    """
    check_share("fit_one_cycle", "pct_start", pct_start)
    check_above_zero("fit_one_cycle", div=div, div_final=div_final)
    _prepare("fit_one_cycle", learner, wd, reset_opt)
    rates = _rates("fit_one_cycle", learner, lr_max)
    low, end = _divided(rates, div), _divided(rates, div_final)
    scheds = {"lr": combined_cos(pct_start, low, rates, end)}
    if moms is not None:
        mom = combined_cos(pct_start, *_three(moms))
        scheds |= {"mom": mom} if _can_cycle_momentum(learner.opt) else {}
    _fit(learner, n_epoch, rates, scheds, cbs, start_epoch)


def fit_flat_cos(
    learner: Learner,
    n_epoch: int,
    lr: Rate | None = None,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    wd: Endpoint | None = None,
    cbs: Any = None,
    reset_opt: bool = False,
    start_epoch: int = 0,
) -> None:
    """Train at a flat rate for ``pct_start`` of the run, then down along a cosine.

    Args:
        learner: What is trained.
        n_epoch: Number of epochs.
        lr: The flat learning rate; a number, one per parameter group, or a slice.
            Default: the Learner's.
        div_final: It ends at ``lr / div_final``.
        pct_start: Share of the run at the flat rate, from 0 to 1.
        wd: Weight decay of this run, and of later ones.
        cbs: Callbacks that take part in this fit only.
        reset_opt: Make a new optimizer.
        start_epoch: First epoch to run; the schedule goes on as if it had run before.
    """
    check_share("fit_flat_cos", "pct_start", pct_start)
    check_above_zero("fit_flat_cos", div_final=div_final)
    _prepare("fit_flat_cos", learner, wd, reset_opt)
    rates = _rates("fit_flat_cos", learner, lr)
    flat, fall = SchedNo(rates, rates), SchedCos(rates, _divided(rates, div_final))
    scheds = {"lr": combine_scheds([pct_start, 1 - pct_start], [flat, fall])}
    _fit(learner, n_epoch, rates, scheds, cbs, start_epoch)


def fit_sgdr(
    learner: Learner,
    n_cycles: int,
    cycle_len: int = 1,
    lr_max: Rate | None = None,
    cycle_mult: int = 2,
    cbs: Any = None,
    reset_opt: bool = False,
    wd: Endpoint | None = None,
    start_epoch: int = 0,
) -> None:
    """Train with warm restarts: cosine cycles, each ``cycle_mult`` times longer.

    Args:
        learner: What is trained.
        n_cycles: Number of cycles.
        cycle_len: Epochs of the first cycle.
        lr_max: Rate at the start of every cycle; it falls to 0 along a cosine.
            Default: the Learner's.
        cycle_mult: How many times longer each cycle is than the one before.
        cbs: Callbacks that take part in this fit only.
        reset_opt: Make a new optimizer.
        wd: Weight decay of this run, and of later ones.
        start_epoch: First epoch to run; the schedule goes on as if it had run before.
    """
    counts = {"n_cycles": n_cycles, "cycle_len": cycle_len, "cycle_mult": cycle_mult}
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            message = f"schedule: fit_sgdr: {name} must be 1 or more, got {value!r}."
            raise OptionError(message)
    _prepare("fit_sgdr", learner, wd, reset_opt)
    rates = _rates("fit_sgdr", learner, lr_max)
    lengths = [cycle_len * cycle_mult**cycle for cycle in range(n_cycles)]
    n_epoch = sum(lengths)
    shares = [length / n_epoch for length in lengths]
    scheds = {"lr": combine_scheds(shares, [SchedCos(rates, 0.0)] * n_cycles)}
    _fit(learner, n_epoch, rates, scheds, cbs, start_epoch)


def _prepare(
    method: str, learner: Learner, wd: Endpoint | None, reset_opt: bool
) -> None:
    """Have an optimizer, with the weight decay of this run."""
    from callboard.optim import set_hyper

    if reset_opt or learner.opt is None:
        learner.create_opt()
    if wd is not None:
        with _named(method, "wd"):
            set_hyper(learner.opt, "wd", wd)


def _rates(method: str, learner: Learner, lr: Rate | None) -> Value:
    """The learning rates of the parameter groups; a number where they are all one."""
    from callboard.optim import spread

    with _named(method, "learning rate"):
        given = learner.lr if lr is None else lr
        rates = spread(given, len(learner.opt.param_groups))
        if min(rates) < 0:
            raise OptionError(f"must not be negative, got {given!r}.")
    return rates[0] if len(set(rates)) == 1 else tuple(rates)


@contextmanager
def _named(method: str, option: str) -> Iterator[None]:
    """Say whose option it is that cannot be used."""
    try:
        yield
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise OptionError(f"schedule: {method}: {option}: {error}") from None


def _divided(rates: Value, divisor: float) -> Value:
    if isinstance(rates, tuple):
        return tuple(rate / divisor for rate in rates)
    return rates / divisor


def _three(moms: Any) -> tuple[float, float, float]:
    with _named("fit_one_cycle", "moms must be three numbers"):
        first, middle, last = (float(momentum) for momentum in moms)
    return first, middle, last


def _can_cycle_momentum(opt: Optimizer) -> bool:
    """Whether the optimizer has momentum that is on; says so where it has none."""
    from callboard.optim import get_hyper, hypers

    if "mom" in hypers(opt):
        # Momentum that was left at 0 stays there: turned on, it would be another
        # optimizer, and a slower one; RMSprop would even lack the buffer for it.
        return any(get_hyper(opt, "mom"))
    warnings.warn(
        f"schedule: {type(opt).__name__} has no 'mom', so it is not scheduled; the "
        "rest is.",
        CallboardWarning,
        stacklevel=3,
    )
    return False


def _fit(
    learner: Learner,
    n_epoch: int,
    rates: Value,
    scheds: dict[str, Schedule],
    cbs: Any,
    start_epoch: int,
) -> None:
    scheduler = ParamScheduler(scheds)
    with learner.added_cbs(scheduler):
        if scheduler not in learner.cbs:
            raise ActivationError(
                "schedule is disabled, so nothing would set the learning rate. "
                "`callboard plugins list` says what disabled it; learner.fit trains "
                "at one rate."
            )
        learner.fit(n_epoch, rates, cbs=cbs, start_epoch=start_epoch)
