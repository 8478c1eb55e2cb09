"""Schedule any hyper-parameter over a run: one-cycle, flat-cosine, warm restarts.

Listens to  before_fit, before_train, before_batch, teardown
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from callboard import Callback
from callboard.errors import ActivationError, CallboardWarning, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.optim import Optimizer

    from callboard import Learner
    from callboard.optim import Rate
    from callboard.testing import Specimen

__all__ = [
    "CombinedSchedule",
    "ParamScheduler",
    "Piece",
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
Schedule = Callable[[float], float | Sequence[float]]
# Rounding that the shares of a combined schedule may be off by.
TOLERANCE = 1e-6
# Epoch 3 of 5 begins at 0.6, three shares of 0.2 end at 0.6000000000000001: without
# slack the first batch of the epoch would get the last value of the piece before.
SLACK = 1e-9


def sched_lin(start: float, end: float, pct: float) -> float:
    """``start + (end - start) * pct``: the same step every time."""
    return start + (end - start) * pct


def sched_cos(start: float, end: float, pct: float) -> float:
    """Half a cosine wave from ``start`` to ``end``: slow, fast, slow."""
    return start + (end - start) * (1 - math.cos(math.pi * pct)) / 2


def sched_no(start: float, end: float, pct: float) -> float:
    """``start``, all the time."""
    return start


def sched_exp(start: float, end: float, pct: float) -> float:
    """``start * (end / start) ** pct``: the same factor every time."""
    return float(start * (end / start) ** pct)


def sched_poly(start: float, end: float, pct: float, *, power: float) -> float:
    """``start + (end - start) * pct ** power``."""
    return float(start + (end - start) * pct**power)


def SchedLin(start: Endpoint, end: Endpoint) -> Schedule:
    """Linear from ``start`` to ``end``; numbers, or one for each parameter group."""
    return _curve("SchedLin", sched_lin, start, end)


def SchedCos(start: Endpoint, end: Endpoint) -> Schedule:
    """Cosine from ``start`` to ``end``."""
    return _curve("SchedCos", sched_cos, start, end)


def SchedNo(start: Endpoint, end: Endpoint) -> Schedule:
    """Constant at ``start``; ``end`` is there so that it can stand for the others."""
    return _curve("SchedNo", sched_no, start, end)


def SchedExp(start: Endpoint, end: Endpoint) -> Schedule:
    """Exponential from ``start`` to ``end``; both must be above 0."""
    for pair in _paired("SchedExp", start, end):
        if min(pair) <= 0:
            raise OptionError(
                f"schedule: SchedExp needs values above 0, got {min(pair):g}; use 1e-7 "
                "to start from nearly nothing."
            )
    return _curve("SchedExp", sched_exp, start, end)


def SchedPoly(start: Endpoint, end: Endpoint, power: float = 1.0) -> Schedule:
    """Polynomial from ``start`` to ``end``: ``pct ** power`` of the way.

    Args:
        start: A number, or one for each parameter group.
        end: A number, or one for each parameter group.
        power: Above 0; above 1 changes most at the end, below 1 at the start.
    """
    _check_above_zero("SchedPoly", power=power)
    return _curve("SchedPoly", partial(sched_poly, power=power), start, end)


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """One schedule after the other.

    Args:
        pcts: Share of the run that each takes; they add up to 1.
        scheds: As many schedules.

    Raises:
        OptionError: The shares do not add up to 1, or are not as many.
    """
    shares = [float(pct) for pct in pcts]
    if len(shares) != len(scheds) or not shares:
        raise OptionError(
            f"schedule: combine_scheds got {len(shares)} shares for {len(scheds)} "
            "schedules; give one for each."
        )
    if min(shares) < 0 or abs(math.fsum(shares) - 1) > TOLERANCE:
        raise OptionError(
            f"schedule: the shares of combine_scheds must add up to 1, got {shares} "
            f"(sum {math.fsum(shares):g})."
        )
    return CombinedSchedule(shares, scheds)


def combined_cos(
    pct: float, start: Endpoint, middle: Endpoint, end: Endpoint
) -> Schedule:
    """Cosine from ``start`` to ``middle`` over ``pct`` of the run, then to ``end``."""
    _check_share("combined_cos", "pct", pct)
    return combine_scheds(
        [pct, 1 - pct], [SchedCos(start, middle), SchedCos(middle, end)]
    )


class Piece(NamedTuple):
    """A part of training and the schedule that is followed in it.

    Attributes:
        first: Where it begins, as a share of the run.
        length: What share of the run it lasts, above 0.
        entered_at: From where on it is followed; by rounding, less than ``first``.
        left_at: Where the next one is entered; infinity for the last.
        schedule: A function of the share of the piece that is done.
    """

    first: float
    length: float
    entered_at: float
    left_at: float
    schedule: Schedule


class CombinedSchedule:
    """Schedules one after another; made by ``combine_scheds``.

    Attributes:
        pieces: What is followed when; a schedule with a share of 0 has none.
    """

    def __init__(self, shares: Sequence[float], scheds: Sequence[Schedule]) -> None:
        parts = [(s, f) for s, f in zip(shares, scheds, strict=True) if s > 0]
        firsts = [0.0, *accumulate(share for share, _ in parts)][:-1]
        self._entries = [first - SLACK for first in firsts]
        exits = [*self._entries[1:], math.inf]
        self.pieces = [
            Piece(first, share, entry, left, schedule)
            for first, entry, left, (share, schedule) in zip(
                firsts, self._entries, exits, parts, strict=True
            )
        ]

    def piece_at(self, pct: float) -> Piece:
        """The piece that is followed when this share of the run is done."""
        return self.pieces[max(bisect_right(self._entries, pct) - 1, 0)]

    def __call__(self, pct: float) -> float | Sequence[float]:
        piece = self.piece_at(pct)
        return piece.schedule(max((pct - piece.first) / piece.length, 0.0))


def piece_at(schedule: Schedule, pct: float) -> Piece:
    """The piece of a schedule that is followed when this share of the run is done."""
    if isinstance(schedule, CombinedSchedule):
        return schedule.piece_at(pct)
    return Piece(0.0, 1.0, -math.inf, math.inf, schedule)


def _curve(
    owner: str, formula: Callable[[float, float, float], float], start: Any, end: Any
) -> Schedule:
    """A formula with its ends: one number, or one for each parameter group."""
    curves = [partial(formula, *pair) for pair in _paired(owner, start, end)]
    is_one_number = _is_number(start) and _is_number(end)
    # Partials and not closures, so that schedules can be pickled.
    return curves[0] if is_one_number else partial(_group_by_group, curves)


def _group_by_group(
    curves: Sequence[Callable[[float], float]], pct: float
) -> tuple[float, ...]:
    return tuple([curve(pct) for curve in curves])


def _paired(owner: str, start: Any, end: Any) -> list[tuple[float, float]]:
    starts, ends = _numbers(owner, "start", start), _numbers(owner, "end", end)
    num_groups = max(len(starts), len(ends))
    if _is_number(start):
        starts *= num_groups
    if _is_number(end):
        ends *= num_groups
    if len(starts) != len(ends):
        raise OptionError(
            f"schedule: {owner}: start has {len(starts)} values and end {len(ends)}; "
            "give one for each parameter group in both, or a number for all."
        )
    return list(zip(starts, ends, strict=True))


def _numbers(owner: str, option: str, value: Any) -> list[float]:
    try:
        if _is_number(value):
            return [float(value)]
        numbers = [float(number) for number in value if _is_number(number)]
        if numbers and len(numbers) == len(value):
            return numbers
    except TypeError:
        pass
    is_slice = isinstance(value, slice)
    hint = " callboard.optim.spread makes numbers of a slice." if is_slice else ""
    raise OptionError(
        f"schedule: {owner}: {option} must be a number, or one for each parameter "
        f"group, got {value!r}.{hint}"
    )


def _is_number(value: Any) -> bool:
    """Whether this is one number; arrays and tensors without a dimension are."""
    return isinstance(value, Real) or getattr(value, "ndim", None) == 0


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

    def __init__(self, scheds: Mapping[str, Schedule] | None = None) -> None:
        # Not required, so that who asks for it by name gets a message that helps.
        self.scheds = _checked(scheds)
        if "lr" in self.scheds:
            self.conflicts_with = {
                "reduce-lr-on-plateau": "the schedule sets the learning rate before "
                "every batch, and would undo each reduction"
            }
        self._opt: Optimizer | None = None
        self._num_groups = 0
        self._targets: list[Target] = []
        self._has_warned = False

    def before_fit(self) -> None:
        self._has_warned = False
        self._aim()

    def before_train(self) -> None:
        if self.learn.n_iter is None and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "schedule: the training loader has no length, so the schedule moves "
                "once an epoch until the first epoch has shown how long one is.",
                CallboardWarning,
                stacklevel=2,
            )

    def before_batch(self) -> None:
        # Written out: whatever is called here is called for every batch.
        learner = self.learn
        groups = learner.opt.param_groups
        if learner.opt is not self._opt or len(groups) != self._num_groups:
            self._aim()
        pct = min(learner.pct_train, 1.0)
        for target in self._targets:
            piece, key, place = target.piece, target.key, target.place
            if not piece.entered_at <= pct < piece.left_at:
                piece = target.piece = piece_at(target.schedule, pct)
            value = piece.schedule(max((pct - piece.first) / piece.length, 0.0))
            if isinstance(value, float | int):
                value = (value,) * len(groups)
            for group, number in zip(groups, value, strict=True):
                kept = group[key]
                if place is not None:
                    group[key] = (*kept[:place], float(number), *kept[place + 1 :])
                elif isinstance(kept, float | int):
                    group[key] = float(number)
                else:
                    kept.fill_(number)  # capturable optimizers keep lr on the device

    def teardown(self) -> None:
        self._opt, self._targets = None, []

    def plot(self, *, num_points: int = 200) -> Axes:
        """Draw the schedules over the run."""
        return plot_schedule(self.scheds, num_points=num_points)

    def _aim(self) -> None:
        """Find where this optimizer keeps what is scheduled.

        Raises:
            OptionError: It has no such hyper-parameter, or a schedule returns what it
                cannot take.
            ActivationError: Another scheduler would set the same one.
        """
        opt, pct = self.learn.opt, min(self.learn.pct_train, 1.0)
        self._targets = [aim(name, f, opt, pct) for name, f in self.scheds.items()]
        self._opt, self._num_groups = opt, len(opt.param_groups)
        self._check_doubles()
        self._check_rivals()

    def _check_doubles(self) -> None:
        names: dict[tuple[str, int | None], str] = {}
        for target in self._targets:
            other = names.setdefault((target.key, target.place), target.name)
            if other != target.name:
                raise OptionError(
                    f"schedule: {other!r} and {target.name!r} are the same "
                    f"hyper-parameter of {type(self._opt).__name__}; schedule one of "
                    "them."
                )

    def _check_rivals(self) -> None:
        active = self.learn.cbs
        keys = dict(zip(map(id, active), active.keys(), strict=True))
        for rival in active[ParamScheduler]:
            if rival is self or not rival.run:
                continue
            theirs = {(target.key, target.place) for target in rival._targets}
            ours = [t.name for t in self._targets if (t.key, t.place) in theirs]
            if ours:
                raise ActivationError(
                    f"schedule: two schedules set {', '.join(ours)}, "
                    f"{keys[id(self)]!r} and {keys[id(rival)]!r}, and the one that "
                    "runs later would win. Remove one of them, as in "
                    f"learner.remove_cb({keys[id(rival)]!r}); fit_one_cycle, "
                    "fit_flat_cos and fit_sgdr bring one of their own."
                )


@dataclass
class Target:
    """One hyper-parameter of an optimizer, and the piece of its schedule that holds.

    Attributes:
        name: What it is called here.
        schedule: The whole of its schedule.
        piece: The piece that is followed at the moment.
        key: What it is called in the optimizer's parameter groups.
        place: Its place where the key holds several numbers, else None.
    """

    name: str
    schedule: Schedule
    piece: Piece
    key: str
    place: int | None


def aim(name: str, schedule: Schedule, opt: Optimizer, pct: float) -> Target:
    """Find where an optimizer keeps a hyper-parameter, and try the schedule on it.

    Raises:
        OptionError: It has none of that name, or the schedule returns what it cannot
            take.
    """
    from callboard.optim import hypers, locate_hyper, spread

    try:
        key, place = locate_hyper(opt, name)
    except OptionError as error:
        raise OptionError(f"schedule: {error}") from None
    kept = opt.param_groups[0][key]
    if place is None and (isinstance(kept, bool) or not _is_number(kept)):
        raise OptionError(
            f"schedule: {name!r} of {type(opt).__name__} is {kept!r}, which is no "
            f"number; it has {', '.join(hypers(opt))}."
        )
    value: Any = schedule(pct)
    try:
        spread(value, len(opt.param_groups))
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"schedule: the schedule of {name!r} returned {value!r}: {error}"
        ) from None
    return Target(name, schedule, piece_at(schedule, pct), key, place)


def _checked(scheds: Any) -> dict[str, Schedule]:
    is_mapping = isinstance(scheds, Mapping) and bool(scheds)
    if not is_mapping or not all(callable(s) for s in scheds.values()):
        raise OptionError(
            "schedule: scheds must map hyper-parameters to functions, as "
            f'{{"lr": SchedCos(1e-2, 1e-5)}}, got {scheds!r}. From the command '
            "line use --schedule one-cycle or --schedule flat-cos."
        )
    return dict(scheds)


def plot_schedule(
    scheds: Schedule | Mapping[str, Schedule],
    *,
    num_points: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw one schedule, or several by name, each on axes of its own.

    Args:
        scheds: A schedule, or hyper-parameter -> schedule.
        num_points: Points of each line, at least 2.
        ax: Where to draw a single one. Default: a new figure.

    Raises:
        OptionError: One axes was given for several schedules, or too few points.
    """
    named = scheds if isinstance(scheds, Mapping) else {"value": scheds}
    if ax is not None and len(named) > 1:
        raise OptionError(
            f"schedule: ax is one axes, for {len(named)} schedules "
            f"({', '.join(named)}); leave it out, or draw them one by one."
        )
    if num_points < 2:
        message = f"schedule: num_points must be at least 2, got {num_points!r}."
        raise OptionError(message)
    row = _new_axes(len(named)) if ax is None else [ax]
    for axis, (hyper, schedule) in zip(row, named.items(), strict=True):
        _draw(hyper, schedule, num_points, axis)
    return row[0]


def _new_axes(count: int) -> list[Axes]:
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        error.add_note(
            "callboard: drawing a schedule needs matplotlib: "
            'python -m pip install "callboard-schedule[plot]"'
        )
        raise
    _, axes = plt.subplots(
        1, count, figsize=(5 * count, 3.2), squeeze=False, layout="tight"
    )
    return list(axes[0])


def _draw(hyper: str, schedule: Schedule, num_points: int, axis: Axes) -> None:
    points = [number / (num_points - 1) for number in range(num_points)]
    values: Any = [schedule(pct) for pct in points]
    lines = axis.plot(points, values)
    if len(lines) > 1:
        labels = [f"group {number}" for number, _ in enumerate(lines, 1)]
        labels[0], labels[-1] = f"{labels[0]} (first)", f"{labels[-1]} (last)"
        axis.legend(lines, labels, frameon=False)
    axis.set(xlabel="share of the run", ylabel=hyper)
    axis.grid(alpha=0.3)


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
    _check_share("fit_one_cycle", "pct_start", pct_start)
    _check_above_zero("fit_one_cycle", div=div, div_final=div_final)
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
    _check_share("fit_flat_cos", "pct_start", pct_start)
    _check_above_zero("fit_flat_cos", div_final=div_final)
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


def _check_share(method: str, name: str, value: float) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise OptionError(
            f"schedule: {method}: {name} is a share of the run, from 0 to 1, got "
            f"{value!r}; 0.25 is usual."
        )


def _check_above_zero(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not _is_number(value) or not value > 0:
            raise OptionError(
                f"schedule: {owner}: {name} must be above 0, got {value!r}."
            )


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the schedules out."""
    from callboard.testing import Specimen

    return {
        "schedule": Specimen(make=lambda: ParamScheduler({"lr": SchedCos(0.01, 0.0)})),
        "fit_sgdr": Specimen(run=lambda learner: fit_sgdr(learner, 1, 2)),
    }
