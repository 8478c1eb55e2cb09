"""The callback that sets hyper-parameters before every training batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callboard import Callback
from callboard.errors import ActivationError, CallboardWarning, OptionError
from callboard_schedule.annealing import Piece, Schedule, is_number, piece_at
from callboard_schedule.plotting import plot_schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.optim import Optimizer


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
        self.scheds = checked(scheds)
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
    if place is None and (isinstance(kept, bool) or not is_number(kept)):
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


def checked(scheds: Any) -> dict[str, Schedule]:
    is_mapping = isinstance(scheds, Mapping) and bool(scheds)
    if not is_mapping or not all(callable(s) for s in scheds.values()):
        raise OptionError(
            "schedule: scheds must map hyper-parameters to functions, as "
            f'{{"lr": SchedCos(1e-2, 1e-5)}}, got {scheds!r}. From the command '
            "line use --schedule one-cycle or --schedule flat-cos."
        )
    return dict(scheds)
