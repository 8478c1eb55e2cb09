"""Schedule any hyper-parameter over a run: one-cycle, flat-cosine, warm restarts.

Listens to  before_fit, before_batch
Changes     hyper-parameters of the optimizer, before every training batch
Source      Smith 2018, arXiv:1803.09820 (one-cycle); Loshchilov & Hutter 2017,
            arXiv:1608.03983 (SGDR); the functions and their names are fastai's

A schedule is a function of how much of the run is done, from 0 to 1:

    ParamScheduler({"lr": combined_cos(0.25, 1e-4, 1e-2, 1e-6)})
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callboard import Callback
from callboard.errors import ActivationError, CallboardWarning, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from callboard import Learner

__all__ = [
    "ParamScheduler",
    "SchedCos",
    "SchedExp",
    "SchedLin",
    "SchedNo",
    "SchedPoly",
    "combine_scheds",
    "combined_cos",
    "fit_flat_cos",
    "fit_one_cycle",
    "fit_sgdr",
    "plot_schedule",
]

Value = float | tuple[float, ...]
Endpoint = float | Sequence[float]
Schedule = Callable[[float], Value]


def sched_lin(start: float, end: float, pct: float) -> float:
    """A straight line from ``start`` to ``end``; ``pct`` from 0 to 1."""
    return start + pct * (end - start)


def sched_cos(start: float, end: float, pct: float) -> float:
    """Half a cosine wave from ``start`` to ``end``."""
    return start + (1 + math.cos(math.pi * (1 - pct))) * (end - start) / 2


def sched_no(start: float, end: float, pct: float) -> float:
    """``start``, all the time."""
    return start


def sched_exp(start: float, end: float, pct: float) -> float:
    """In equal ratios from ``start`` to ``end``."""
    return float(start * (end / start) ** pct)


@dataclass(frozen=True)
class _Annealer:
    """A schedule between two values, or two values for each parameter group.

    Its fields are plain data and a function of this module, so that it can be pickled
    and compared.
    """

    function: Callable[[float, float, float], float]
    start: Value
    end: Value

    def __call__(self, pct: float) -> Value:
        if isinstance(self.start, tuple) and isinstance(self.end, tuple):
            pairs = zip(self.start, self.end, strict=True)
            return tuple(self.function(start, end, pct) for start, end in pairs)
        return self.function(self.start, self.end, pct)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Polynomial:
    """``start + (end - start) * pct ** power``."""

    power: float

    def __call__(self, start: float, end: float, pct: float) -> float:
        return float(start + (end - start) * pct**self.power)


def _annealer(
    function: Callable[[float, float, float], float], start: Endpoint, end: Endpoint
) -> _Annealer:
    first, last = _as_value(start), _as_value(end)
    if isinstance(first, tuple) != isinstance(last, tuple):
        first = first if isinstance(first, tuple) else (first,) * len(last)  # type: ignore[arg-type]
        last = last if isinstance(last, tuple) else (last,) * len(first)
    if isinstance(first, tuple) and len(first) != len(last):  # type: ignore[arg-type]
        raise OptionError(
            f"schedule: start has {len(first)} values and end {len(last)}; "  # type: ignore[arg-type]
            "give one for each parameter group in both."
        )
    return _Annealer(function, first, last)


def _as_value(endpoint: Endpoint) -> Value:
    if isinstance(endpoint, int | float):
        return float(endpoint)
    try:
        values = tuple(float(value) for value in endpoint)
    except TypeError:
        return float(endpoint)  # type: ignore[arg-type]
    return values


def SchedLin(start: Endpoint, end: Endpoint) -> Schedule:
    """Linear from ``start`` to ``end``; numbers, or one for each parameter group."""
    return _annealer(sched_lin, start, end)


def SchedCos(start: Endpoint, end: Endpoint) -> Schedule:
    """Cosine from ``start`` to ``end``."""
    return _annealer(sched_cos, start, end)


def SchedNo(start: Endpoint, end: Endpoint) -> Schedule:
    """Constant at ``start``; ``end`` is there so that it can stand for the others."""
    return _annealer(sched_no, start, end)


def SchedExp(start: Endpoint, end: Endpoint) -> Schedule:
    """Exponential from ``start`` to ``end``; both must be above 0."""
    for value in (*_as_sequence(start), *_as_sequence(end)):
        if value <= 0:
            raise OptionError(
                f"schedule: SchedExp needs values above 0, got {value:g}; use 1e-7 to "
                "start from nearly nothing."
            )
    return _annealer(sched_exp, start, end)


def SchedPoly(start: Endpoint, end: Endpoint, power: float) -> Schedule:
    """Polynomial from ``start`` to ``end``: ``pct ** power`` of the way."""
    return _annealer(_Polynomial(float(power)), start, end)


def _as_sequence(endpoint: Endpoint) -> tuple[float, ...]:
    value = _as_value(endpoint)
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class _Combined:
    """Schedules one after the other, each over its share of the run."""

    starts: tuple[float, ...]
    shares: tuple[float, ...]
    schedules: tuple[Schedule, ...]

    def __call__(self, pct: float) -> Value:
        index = max(0, bisect_right(self.starts, pct) - 1)
        share = self.shares[index]
        inside = (pct - self.starts[index]) / share if share else 1.0
        return self.schedules[index](min(inside, 1.0))


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """One schedule after the other.

    Args:
        pcts: Share of the run that each takes; they add up to 1.
        scheds: As many schedules.

    Raises:
        OptionError: The shares do not add up to 1, or are not as many.
    """
    shares = tuple(float(pct) for pct in pcts)
    if len(shares) != len(scheds) or not shares:
        raise OptionError(
            f"schedule: combine_scheds got {len(shares)} shares for {len(scheds)} "
            "schedules; give one for each."
        )
    if any(share < 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise OptionError(
            f"schedule: the shares of combine_scheds must add up to 1, got "
            f"{list(shares)} (sum {sum(shares):g})."
        )
    parts = [(s, f) for s, f in zip(shares, scheds, strict=True) if s > 0]
    starts = [math.fsum(share for share, _ in parts[:n]) for n in range(len(parts))]
    return _Combined(
        tuple(starts), tuple(s for s, _ in parts), tuple(f for _, f in parts)
    )


def combined_cos(
    pct: float, start: Endpoint, middle: Endpoint, end: Endpoint
) -> Schedule:
    """Cosine from ``start`` to ``middle`` over ``pct`` of the run, then to ``end``."""
    return combine_scheds(
        [pct, 1 - pct], [SchedCos(start, middle), SchedCos(middle, end)]
    )


class ParamScheduler(Callback):
    """Sets hyper-parameters of the optimizer before every training batch.

    Args:
        scheds: Hyper-parameter -> schedule. The names are those of ``callboard.optim``:
            ``lr``, ``mom``, ``sqr_mom``, ``wd``, ``eps``, or a key of the optimizer's
            parameter groups. A schedule takes the share of the run that is done, from
            0 to 1, and returns a number, or one for each parameter group.

    Raises:
        OptionError: ``scheds`` is no mapping to functions; or, when a fit begins, the
            optimizer has no such hyper-parameter.
    """

    name = "schedule"
    role = "control"
    stages = ("fit",)
    run_valid = False

    def __init__(self, scheds: Mapping[str, Schedule]) -> None:
        is_mapping = isinstance(scheds, Mapping) and bool(scheds)
        if not is_mapping or not all(callable(s) for s in scheds.values()):
            raise OptionError(
                "schedule: scheds must map hyper-parameters to functions, as "
                f'{{"lr": SchedCos(1e-2, 1e-5)}}, got {scheds!r}. From the command '
                "line use --schedule one-cycle, flat-cos or sgdr."
            )
        self.scheds = dict(scheds)

    def before_fit(self) -> None:
        from callboard.optim import locate_hyper

        opt = self.learn.opt
        self._refuse_rivals()
        self._scheduled_opt = opt
        self._places = [
            (schedule, *locate_hyper(opt, hyper))
            for hyper, schedule in self.scheds.items()
        ]
        for hyper, schedule in self.scheds.items():
            values = schedule(0.0)
            num_groups = len(opt.param_groups)
            if isinstance(values, tuple | list) and len(values) != num_groups:
                raise OptionError(
                    f"schedule: {hyper} has {len(values)} values for {num_groups} "
                    "parameter groups."
                )
        if _length(self.learn.dls.train) is None:
            warnings.warn(
                "schedule: the training loader has no length, so the schedule moves "
                "once an epoch until the first epoch has shown how long one is.",
                CallboardWarning,
                stacklevel=2,
            )

    def _refuse_rivals(self) -> None:
        for other in self.learn.cbs:
            if isinstance(other, ParamScheduler) and other is not self and other.run:
                both = sorted(set(self.scheds) & set(other.scheds))
                if both:
                    raise ActivationError(
                        f"schedule: two schedules set {', '.join(both)}, and the one "
                        "that runs later would win. Remove one of them."
                    )

    def before_batch(self) -> None:
        learner = self.learn
        if learner.opt is not self._scheduled_opt:
            self.before_fit()
        pct, groups = learner.pct_train, learner.opt.param_groups
        for schedule, key, place in self._places:
            values = schedule(pct)
            if not isinstance(values, tuple | list):
                values = (values,) * len(groups)
            for group, value in zip(groups, values, strict=True):
                if place is None and isinstance(group[key], float | int):
                    group[key] = value
                else:
                    _set_inside(group, key, place, value)

    def plot(self, *, num_points: int = 200) -> Axes:
        """Draw the schedules over the run."""
        return plot_schedule(self.scheds, num_points=num_points)


def _set_inside(
    group: dict[str, Any], key: str, place: int | None, value: float
) -> None:
    if place is None:
        group[key].fill_(value)  # capturable optimizers keep lr on the device
    else:
        group[key] = (*group[key][:place], value, *group[key][place + 1 :])


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def plot_schedule(
    scheds: Schedule | Mapping[str, Schedule],
    *,
    num_points: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw one schedule, or several by name, each on axes of its own.

    Args:
        scheds: A schedule, or hyper-parameter -> schedule.
        num_points: Points of each line.
        ax: Where to draw a single one. Default: a new figure.
    """
    from matplotlib import pyplot as plt

    named = scheds if isinstance(scheds, Mapping) else {"value": scheds}
    if ax is None or len(named) > 1:
        _, axes = plt.subplots(
            1, len(named), figsize=(5 * len(named), 3.2), squeeze=False, layout="tight"
        )
        row = list(axes[0])
    else:
        row = [ax]
    points = [n / (num_points - 1) for n in range(num_points)]
    for axis, (hyper, schedule) in zip(row, named.items(), strict=True):
        axis.plot(points, [schedule(pct) for pct in points])
        axis.set(xlabel="share of the run", ylabel=hyper)
        axis.grid(alpha=0.3)
    first: Axes = row[0]
    return first


def _groups_of(learner: Learner) -> int:
    if learner.opt is None:
        learner.create_opt()
    return len(learner.opt.param_groups)


def _rates(learner: Learner, lr: Any) -> tuple[float, ...]:
    from callboard.optim import spread

    return tuple(spread(learner.lr if lr is None else lr, _groups_of(learner)))


def _divided(rates: tuple[float, ...], divisor: float) -> Endpoint:
    return _plain(tuple(rate / divisor for rate in rates))


def _plain(rates: tuple[float, ...]) -> Endpoint:
    """A number for one parameter group: it costs fewer calls a step than a tuple."""
    return rates[0] if len(rates) == 1 else rates


def _fit(
    learner: Learner,
    n_epoch: int,
    lr: tuple[float, ...],
    scheds: dict[str, Schedule],
    *,
    wd: float | None,
    cbs: Any,
    start_epoch: int,
    reset_opt: bool,
) -> None:
    from callboard.optim import hypers, set_hyper

    if reset_opt:
        learner.create_opt()
    if wd is not None:
        set_hyper(learner.opt, "wd", wd)
    missing = [hyper for hyper in scheds if hyper not in hypers(learner.opt)]
    for hyper in missing:
        warnings.warn(
            f"schedule: {type(learner.opt).__name__} has no {hyper!r}, so it is not "
            "scheduled; the rest is.",
            CallboardWarning,
            stacklevel=3,
        )
        del scheds[hyper]
    given = list(cbs) if isinstance(cbs, list | tuple) else [cbs] if cbs else []
    learner.fit(
        n_epoch,
        list(lr),
        cbs=[*given, ParamScheduler(scheds)],
        start_epoch=start_epoch,
    )


def fit_one_cycle(
    learner: Learner,
    n_epoch: int,
    lr_max: Any = None,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    wd: float | None = None,
    moms: tuple[float, float, float] | None = (0.95, 0.85, 0.95),
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
        wd: Weight decay of this run.
        moms: Momentum at the start, at the highest rate and at the end; None leaves it.
        cbs: Callbacks that take part in this fit only.
        reset_opt: Make a new optimizer.
        start_epoch: First epoch to run; the schedule goes on as if it had run before.
    """
    _check_share("fit_one_cycle", "pct_start", pct_start)
    _check_above_zero("fit_one_cycle", div=div, div_final=div_final)
    rates = _rates(learner, lr_max)
    low, end = _divided(rates, div), _divided(rates, div_final)
    scheds: dict[str, Schedule] = {
        "lr": combined_cos(pct_start, low, _plain(rates), end)
    }
    if moms is not None:
        scheds["mom"] = combined_cos(pct_start, *moms)
    _fit(
        learner,
        n_epoch,
        rates,
        scheds,
        wd=wd,
        cbs=cbs,
        start_epoch=start_epoch,
        reset_opt=reset_opt,
    )


def fit_flat_cos(
    learner: Learner,
    n_epoch: int,
    lr: Any = None,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    wd: float | None = None,
    cbs: Any = None,
    reset_opt: bool = False,
    start_epoch: int = 0,
) -> None:
    """Train at a flat rate for ``pct_start`` of the run, then down along a cosine.

    Args:
        learner: What is trained.
        n_epoch: Number of epochs.
        lr: The flat learning rate; a number, one per parameter group, or a slice.
        div_final: It ends at ``lr / div_final``.
        pct_start: Share of the run at the flat rate, from 0 to 1.
        wd: Weight decay of this run.
        cbs: Callbacks that take part in this fit only.
        reset_opt: Make a new optimizer.
        start_epoch: First epoch to run; the schedule goes on as if it had run before.
    """
    _check_share("fit_flat_cos", "pct_start", pct_start)
    _check_above_zero("fit_flat_cos", div_final=div_final)
    rates = _rates(learner, lr)
    flat, end = _plain(rates), _divided(rates, div_final)
    schedule = combine_scheds(
        [pct_start, 1 - pct_start], [SchedNo(flat, flat), SchedCos(flat, end)]
    )
    _fit(
        learner,
        n_epoch,
        rates,
        {"lr": schedule},
        wd=wd,
        cbs=cbs,
        start_epoch=start_epoch,
        reset_opt=reset_opt,
    )


def fit_sgdr(
    learner: Learner,
    n_cycles: int,
    cycle_len: int = 1,
    lr_max: Any = None,
    cycle_mult: int = 2,
    cbs: Any = None,
    reset_opt: bool = False,
    wd: float | None = None,
    start_epoch: int = 0,
) -> None:
    """Train with warm restarts: cosine cycles, each ``cycle_mult`` times longer.

    Args:
        learner: What is trained.
        n_cycles: Number of cycles.
        cycle_len: Epochs of the first cycle.
        lr_max: Rate at the start of every cycle; it falls to 0 along a cosine.
        cycle_mult: How many times longer each cycle is than the one before.
        cbs: Callbacks that take part in this fit only.
        reset_opt: Make a new optimizer.
        wd: Weight decay of this run.
        start_epoch: First epoch to run.
    """
    for name, value in (
        ("n_cycles", n_cycles),
        ("cycle_len", cycle_len),
        ("cycle_mult", cycle_mult),
    ):
        if not isinstance(value, int) or value < 1:
            message = f"schedule: fit_sgdr: {name} must be 1 or more, got {value!r}."
            raise OptionError(message)
    rates = _rates(learner, lr_max)
    lengths = [cycle_len * cycle_mult**cycle for cycle in range(n_cycles)]
    n_epoch = sum(lengths)
    schedule = combine_scheds(
        [length / n_epoch for length in lengths],
        [SchedCos(_plain(rates), 0.0) for _ in lengths],
    )
    _fit(
        learner,
        n_epoch,
        rates,
        {"lr": schedule},
        wd=wd,
        cbs=cbs,
        start_epoch=start_epoch,
        reset_opt=reset_opt,
    )


def _check_share(method: str, name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise OptionError(
            f"schedule: {method}: {name} is a share of the run, from 0 to 1, got "
            f"{value!r}; 0.25 is usual."
        )


def _check_above_zero(method: str, **values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise OptionError(
                f"schedule: {method}: {name} must be above 0, got {value!r}."
            )
