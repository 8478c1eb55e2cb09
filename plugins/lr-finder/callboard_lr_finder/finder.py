"""The search: a fit whose learning rate rises with every batch."""

from __future__ import annotations

import math
import warnings
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard import Callback, hookimpl
from callboard.data import num_batches
from callboard.errors import CallboardError, CallboardWarning, DataError, OptionError
from callboard.errors import suggestion as nearest
from callboard.optim import set_hyper
from callboard_lr_finder.curve import NUM_LEFT_OUT_AT_END, SHARE_LEFT_OUT, LRCurve
from callboard_lr_finder.suggestions import (
    SUGGESTIONS,
    SuggestFunc,
    Suggestion,
    loss_at,
    valley,
)
from callboard_lr_finder.untouched import untouched_plugins, untouched_training

if TYPE_CHECKING:
    from callboard import Learner

Rates = float | Sequence[float]
SuggestFuncs = SuggestFunc | str | Sequence[SuggestFunc | str] | None
BETA = 0.98
MIN_IT = 6
# A read waits for the device. What a few batches too many change is put back.
READ_EVERY = 5


class LRFinder(Callback):
    """Raises the learning rate with every training batch and notes the loss.

    ``learn.lr_find()`` uses it in the best way. In a plain fit weights and optimizer
    are put back too, but recorder and loggers take the search for training.

    Args:
        start_lr: Rate of the first batch, above 0; a number, or one per parameter
            group.
        end_lr: Rate that is neared, above ``start_lr``.
        num_it: Number of training batches, at least 6.
        stop_div: Stop when the smoothed loss is more than four times its lowest.

    Attributes:
        lrs: Rate of every training batch, of the last parameter group.
        losses: Smoothed loss after it; the smoothing is that of the recorder.
        curve: Both, with what is needed to trim them.
    """

    name = "lr-finder"
    role = "modify"
    stages = ("fit", "lr-find")
    run_valid = False
    run_after = "schedule"
    # Of those who use it in a plain fit; lr_find leaves them out by itself.
    conflicts_with: Mapping[str, str] = dict.fromkeys(
        ("early-stopping", "reduce-lr-on-plateau", "save-model", "tracker"),
        "a search validates nothing that could be monitored; use learn.lr_find()",
    )

    def __init__(
        self,
        start_lr: Rates = 1e-7,
        end_lr: Rates = 10,
        num_it: int = 100,
        stop_div: bool = True,
    ) -> None:
        self.start_lr, self.end_lr = start_lr, end_lr
        self._pairs = _paired(start_lr, end_lr)
        is_whole = isinstance(num_it, Integral) and not isinstance(num_it, bool)
        if not is_whole or num_it < MIN_IT:
            raise OptionError(
                f"lr-finder: num_it must be a whole number from {MIN_IT} on, got "
                f"{num_it!r}. Use 100."
            )
        self.num_it = int(num_it)
        self._num_left_out = self.num_it // SHARE_LEFT_OUT + NUM_LEFT_OUT_AT_END
        self.stop_div = stop_div
        self._begin()

    def _begin(self) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self._lr = math.nan
        self._num_done = 0
        self._waiting: list[tuple[float, Tensor]] = []
        self._average, self._lowest = 0.0, math.inf
        self._has_ended, self._is_cut_short = False, False

    @property
    def curve(self) -> LRCurve:
        """What was found so far."""
        num_it_done = self.num_it if self._is_cut_short else len(self.losses)
        return LRCurve(self.lrs, self.losses, self.num_it, num_it_done)

    @hookimpl(wrapper=True)
    def do_fit(self) -> Iterator[None]:
        """In a plain fit put weights and optimizer back; ``lr_find`` does it itself."""
        is_fit = self.learn.stage == "fit"
        with untouched_training(self.learn) if is_fit else nullcontext():
            return (yield)

    def before_fit(self) -> None:
        """Forget what the last search found."""
        self._begin()

    def before_batch(self) -> None:
        """Set the rate: equal ratios from ``start_lr`` to ``end_lr``."""
        pct = self._num_done / self.num_it
        rates = [rising(start, end, pct) for start, end in self._pairs]
        opt = self.learn.opt
        set_hyper(opt, "lr", rates[0] if len(rates) == 1 else rates)
        self._lr = rates[-1]

    def after_batch(self) -> None:
        """Note the loss, and end the search when it is over."""
        self._num_done += 1
        loss = self.learn.loss
        if loss is not None:
            self._waiting.append((self._lr, loss.detach()))
        is_over = self._num_done >= self.num_it
        if is_over or len(self._waiting) >= READ_EVERY:
            self._read()
        if is_over or self._has_ended:
            self.learn.stop("lr-finder: the search is over")

    def do_validate(self) -> bool:
        """Leave validation out: a result that hangs on nothing."""
        return True

    def after_fit(self) -> None:
        """Take in the losses of the last batches."""
        self._read()

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._has_ended:
            return
        losses = torch.stack([loss.mean() for _, loss in waiting]).tolist()
        for (lr, _), loss in zip(waiting, losses, strict=True):
            self._note(lr, loss)
            if self._has_ended:
                return

    def _note(self, lr: float, loss: float) -> None:
        self._average = loss + BETA * (self._average - loss)
        self.lrs.append(lr)
        smooth_loss = self._average / (1 - BETA ** len(self.lrs))
        self.losses.append(smooth_loss)
        self._lowest = min(self._lowest, smooth_loss)
        has_diverged = self.stop_div and is_diverged(smooth_loss, self._lowest)
        if has_diverged and len(self.losses) > self._num_left_out:
            self._has_ended = True
        elif not math.isfinite(smooth_loss):  # and so will be all that follow
            self._has_ended = self._is_cut_short = True
        elif has_diverged:
            # At rates this low an easy first batch is the reason, and to stop now
            # would leave nothing to look at.
            self._lowest = smooth_loss


def rising(start: float, end: float, pct: float) -> float:
    """``start * (end / start) ** pct``: equal ratios from ``start`` to ``end``."""
    return float(start * (end / start) ** pct)


def is_diverged(loss: float, lowest: float) -> bool:
    """Whether a loss is above four times the lowest.

    Losses below 0 are measured from the lowest, by three times its size.
    """
    return loss > lowest + 3 * abs(lowest)


def _paired(start_lr: Any, end_lr: Any) -> list[tuple[float, float]]:
    starts, ends = _numbers("start_lr", start_lr), _numbers("end_lr", end_lr)
    num_groups = max(len(starts), len(ends))
    starts = starts * num_groups if len(starts) == 1 else starts
    ends = ends * num_groups if len(ends) == 1 else ends
    if len(starts) != len(ends):
        raise OptionError(
            f"lr-finder: start_lr has {len(starts)} values and end_lr {len(ends)}; "
            "give one for each parameter group in both, or a number for all."
        )
    for start, end in zip(starts, ends, strict=True):
        if not 0 < start < end < math.inf:
            raise OptionError(
                f"lr-finder: rates rise from start_lr above 0 to end_lr, got "
                f"start_lr={start:g} and end_lr={end:g}. Use 1e-7 and 10."
            )
    return list(zip(starts, ends, strict=True))


def _numbers(option: str, value: Any) -> list[float]:
    values = [value] if isinstance(value, Real) else value
    try:
        return [float(number) for number in values]
    except (TypeError, ValueError):
        raise OptionError(
            f"lr-finder: {option} must be a number, or one for each parameter group, "
            f"got {value!r}."
        ) from None


def lr_find(
    learner: Learner,
    start_lr: Rates = 1e-7,
    end_lr: Rates = 10,
    num_it: int = 100,
    stop_div: bool = True,
    show_plot: bool = True,
    suggest_funcs: SuggestFuncs = valley,
) -> Any:
    """Train briefly at rising learning rates, and say which to use.

    Weights, buffers, optimizer, random streams, recorder, files and what plugins hold
    in mind are afterwards as they were, however it ends. Only plugins with
    ``"lr-find"`` among their ``stages`` take part.

    Args:
        learner: What is to be trained.
        start_lr: Rate of the first batch, above 0; a number, or one per parameter
            group.
        end_lr: Rate that is neared, above ``start_lr``.
        num_it: Number of training batches, at least 6.
        stop_div: Stop when the smoothed loss is more than four times its lowest.
        show_plot: Draw the curve with matplotlib, where it is installed.
        suggest_funcs: What makes suggestions of the curve: ``valley``, ``slide``,
            ``minimum``, ``steep``, their names, functions like them, or several.

    Returns:
        A namedtuple of the suggested rates, one field a function (``.valley``), whose
        attribute ``curve`` holds the whole curve.

    Raises:
        OptionError: An option cannot be used; nothing was trained then.
        DataError: There are too few losses to suggest anything.
    """
    named = _named(suggest_funcs)
    finder = LRFinder(start_lr, end_lr, num_it, stop_div)
    finder.conflicts_with = {}  # who has no part in this stage is in nobody's way
    per_epoch = num_batches(learner.dls.train)
    n_epoch = finder.num_it if not per_epoch else finder.num_it // per_epoch + 1
    with (
        learner.evaluating("lr-find"),
        untouched_plugins(learner, "lr-find"),
        untouched_training(learner),
    ):
        learner.fit(n_epoch, finder._pairs[-1][0], cbs=finder)
    curve = finder.curve
    trimmed = curve.trimmed()
    if not trimmed.losses and named:
        raise DataError(_too_few(curve))
    suggestions = {
        name: _as_pair(suggest(trimmed.lrs, trimmed.losses, num_it), trimmed)
        for name, suggest in named.items()
    }
    if show_plot:
        _plot(curve, suggestions)
    return _suggested(suggestions, curve)


def _named(suggest_funcs: Any) -> dict[str, SuggestFunc]:
    if suggest_funcs is None:
        return {}
    is_one = isinstance(suggest_funcs, str) or callable(suggest_funcs)
    named: dict[str, SuggestFunc] = {}
    for given in [suggest_funcs] if is_one else suggest_funcs:
        if isinstance(given, str) and given in SUGGESTIONS:
            named[given] = SUGGESTIONS[given]
        elif callable(given):
            inner = given.func if isinstance(given, partial) else given
            named[getattr(inner, "__name__", type(inner).__name__)] = given
        else:
            known = ", ".join(SUGGESTIONS)
            raise OptionError(
                f"lr-finder: suggest_funcs are functions or {known}, got {given!r}."
                + nearest(str(given), SUGGESTIONS)
            )
    return named


def _as_pair(suggested: Any, curve: LRCurve) -> Suggestion:
    if isinstance(suggested, tuple):
        rate, (x, y) = suggested
        return float(rate), (float(x), float(y))
    rate = float(suggested)
    return rate, (rate, loss_at(rate, curve.lrs, curve.losses))


def _too_few(curve: LRCurve) -> str:
    if not curve.losses:
        return (
            "lr-finder: no batch had a loss, so there is nothing to suggest a rate by; "
            "check that training batches have labels."
        )
    return (
        f"lr-finder: after {len(curve.losses)} of {curve.num_it} batches the loss was "
        f"{curve.losses[-1]:g}, too early to suggest a rate. Use a smaller start_lr, a "
        "larger num_it."
    )


def _plot(curve: LRCurve, suggestions: dict[str, Suggestion]) -> None:
    try:
        curve.plot(suggestions)
    except CallboardError as error:
        warnings.warn(
            f"{error} Or give lr_find(show_plot=False).",
            CallboardWarning,
            stacklevel=3,
        )


def _suggested(suggestions: dict[str, Suggestion], curve: LRCurve) -> Any:
    fields = namedtuple("SuggestedLRs", suggestions, rename=True)  # type: ignore[misc]
    # A plain namedtuple takes no further attribute.
    rates = [rate for rate, _ in suggestions.values()]
    result = type("SuggestedLRs", (fields,), {})(*rates)
    result.curve = curve
    return result
