"""Rules about state, and about runs that are cut short: by a cancel or by an error."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from callboard import Callback, Learner
from callboard.errors import CallboardError
from callboard.events import EVENTS
from callboard.testing.comparing import MEASURED, value_differences
from callboard.testing.conformance.furnishing import (
    Furnishing,
    furnishing_of,
    what_was_left,
)
from callboard.testing.conformance.report import RUNNABLE, rule
from callboard.testing.conformance.subject import Subject, failures_of, said
from callboard.testing.faults import (
    CANCELS,
    Fault,
    InjectedError,
    cancel_at,
    open_levels,
    raise_at,
)

# In a tiny Learner three training batches come first, then two of validation.
IN_TRAINING, IN_VALIDATION = 2, 5
VALIDATION_TOO = (
    *("before_batch", "do_predict", "after_pred", "do_loss", "after_loss"),
    "after_batch",
)
# They fire where something was cancelled before; where, and what.
AFTER_CANCELS = {
    "after_cancel_batch": ("before_batch", "batch"),
    "after_cancel_backward": ("before_backward", "backward"),
    "after_cancel_step": ("before_step", "step"),
    "after_cancel_train": ("before_train", "train"),
    "after_cancel_validate": ("before_validate", "validate"),
    "after_cancel_epoch": ("before_epoch", "epoch"),
    "after_cancel_fit": ("before_epoch", "fit"),
}
# Of what mishaps leave, how much is told in one report.
MOST_TOLD = 5
NOT_CANCELLED = ("after_create", "do_fit", "after_fit", "on_exception", "teardown")


@rule(
    "state",
    expected="its state is plain data and tensors, and comes back as it was saved.",
    mend="return numbers, text, lists, dicts and tensors from state_dict, and take "
    "back in load_state_dict all that state_dict returns.",
)
def state(subject: Subject) -> Iterator[str]:
    """Save it after a run, load it into a new one, and save that."""
    saved = subject.outcome["plugins"].get(subject.name)
    if saved is None:
        return
    try:
        copied = through_a_file(saved)
    except Exception as error:
        yield (
            "its state cannot be saved and loaded as plain data: "
            f"{_place_of_no_data(saved)}{said(error)}"
        )
        return
    learner = subject.learner()
    whole = copy.deepcopy(subject.outcome) | {"plugins": {subject.name: copied}}
    try:
        learner.load_state_dict(whole)
    except Exception as error:
        yield f"loading its own state raised {said(error)}"
        return
    now = learner.state_dict()["plugins"].get(subject.name, {})
    ignored = (*MEASURED, *subject.specimen.ignore)
    for difference in list(value_differences(now, saved, "state", ignore=ignored))[:1]:
        yield f"saved, loaded and saved again: {difference}"


def through_a_file(value: Any) -> Any:
    """What comes back of a value that is saved and loaded as plain data."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _place_of_no_data(value: Any, place: str = "state") -> str:
    """Says where in a state something else than plain data stands."""
    if isinstance(value, Mapping):
        parts = [(f"{place}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{place}[{n}]", part) for n, part in enumerate(value)]
    else:
        is_plain = value is None or isinstance(
            value, str | bytes | int | float | torch.Tensor
        )
        return "" if is_plain else f"{place} is a {type(value).__name__}. "
    return next(filter(None, (_place_of_no_data(part, at) for at, part in parts)), "")


@rule(
    "resume",
    expected="a run that goes on from the state of any checkpoint ends as the one that "
    "went straight through, bit for bit.",
    mend="put all that it must remember into state_dict, the running sums of an epoch "
    "too, and do not begin anew in before_fit, before_epoch or before_train what "
    "load_state_dict has just brought back.",
    kinds=RUNNABLE,
)
def resume(subject: Subject) -> Iterator[str]:
    """Save at every checkpoint, and go on from each in a new Learner."""
    keeper = Keeper(subject.folder / "kept")
    subject.run(subject.learner(keeper))
    run = subject.folder / "run"
    for moment in subject.sample(keeper.moments):
        try:
            saved = through_a_file(moment.state)
        except Exception:
            return  # the rule about the state says so
        resumed = subject.learner()
        if moment.files is not None:
            shutil.copytree(moment.files, run)
        resumed.resume_next_fit(saved, "ignore")
        try:
            subject.run(resumed)
        except Exception as error:
            yield f"going on from {moment}: {said(error)}"
            return
        difference = subject.difference(resumed, subject.outcome)
        if difference:
            yield f"going on from {moment}: {difference}"
            return


@dataclass(frozen=True)
class Moment:
    """A checkpoint: the state, and the files that were there."""

    epoch: int
    batch: int
    state: Mapping[str, Any]
    files: Path | None

    def __str__(self) -> str:
        done = f"{self.batch} batches of epoch {self.epoch}"
        return f"the end of epoch {self.epoch - 1}" if not self.batch else done


class Keeper(Callback):
    """Keeps the state of every checkpoint, with the files in the Learner's folder."""

    name = "keeper"
    role = "observe"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moments: list[Moment] = []

    def checkpoint(self) -> None:
        learner, files = self.learn, None
        if learner.path.exists():
            files = self.folder / str(len(self.moments))
            shutil.copytree(learner.path, files)
        kept = copy.deepcopy(learner.state_dict())
        self.moments.append(Moment(*learner.position, kept, files))


@dataclass(frozen=True)
class Mishap:
    """A way for a fit to be cut short.

    Attributes:
        what: What happens, and where.
        faults: What makes it happen, the one that counts first.
        expected: The error that must leave the fit; None where none may.
    """

    what: str
    faults: list[Fault]
    expected: type[BaseException] | None


@rule(
    "cancels",
    expected="a fit survives a cancel at every event, and leaves the Learner as if "
    "there had been none.",
    mend="a cancel skips events: undo in teardown, or behind the `yield` of a wrapper, "
    "what an event has begun, and do not rest on an event that may not have come.",
    kinds=RUNNABLE,
)
def cancels(subject: Subject) -> Iterator[str]:
    """Cancel at every event: one level behind its turn, and all of them before it."""
    yield from _without_repeating(subject, _all_cancels(subject))


def _all_cancels(subject: Subject) -> Iterator[Mishap]:
    for event in EVENTS:
        if event in NOT_CANCELLED or event.startswith("after_cancel"):
            continue
        for nth in _moments_of(event):
            for is_outermost in (False, True):
                fault = _cancel(event, nth, subject.name, is_outermost=is_outermost)
                level = "outermost" if is_outermost else "innermost"
                yield Mishap(f"a cancel of the {level} level at {event}", [fault], None)


def _cancel(event: str, nth: int, name: str, *, is_outermost: bool) -> Fault:
    """Cancels the innermost level after the plugin's turn, or the outermost before."""

    def cancel(learner: Learner) -> None:
        level = open_levels(event, learner)[-1 if is_outermost else 0]
        raise CANCELS[level]("on purpose")

    side = "run_before" if is_outermost else "run_after"
    fault = _on_side(side, cancel_at, event, nth, name)
    fault.when = lambda learner: bool(open_levels(event, learner))
    fault.do = cancel
    return fault


def _on_side(
    side: str, make: Callable[..., Fault], event: str, nth: int, name: str
) -> Fault:
    """A fault before or after a plugin's turn."""
    return make(event, nth=nth, **{side: name})


@rule(
    "errors",
    expected="an error at any event leaves the fit as it is, and leaves the Learner "
    "as if there had been none.",
    mend="undo in teardown, or behind the `yield` of a wrapper, what an event has "
    "begun; let errors pass.",
    kinds=RUNNABLE,
)
def errors(subject: Subject) -> Iterator[str]:
    """Raise an error at every event, before the plugin's turn and after it."""
    yield from _without_repeating(subject, _all_errors(subject))


def _all_errors(subject: Subject) -> Iterator[Mishap]:
    interrupt = raise_at("after_batch", error=KeyboardInterrupt())
    yield Mishap("Ctrl-C at after_batch", [interrupt], KeyboardInterrupt)
    sides = {"run_after": "behind", "run_before": "before"}
    if subject.role == "observe" or subject.is_method:
        del sides["run_before"]
    for event in EVENTS:
        if event in ("after_create", "do_fit"):
            continue
        for nth in _moments_of(event):
            for side, words in sides.items():
                faults = [_on_side(side, raise_at, event, nth, subject.name)]
                if event in AFTER_CANCELS:
                    faults.append(cancel_at(*AFTER_CANCELS[event]))
                elif event == "on_exception":
                    faults.append(raise_at("after_train"))
                what = f"an error at {event}, {words} its turn"
                yield Mishap(what, faults, InjectedError)


def _moments_of(event: str) -> tuple[int, ...]:
    """Which of the times that an event fires are tried."""
    if event in AFTER_CANCELS or not EVENTS[event].is_per_batch:
        return (1,)
    return (IN_TRAINING, IN_VALIDATION) if event in VALIDATION_TOO else (IN_TRAINING,)


def _without_repeating(subject: Subject, mishaps: Iterator[Mishap]) -> Iterator[str]:
    """What mishaps leave, a sentence for all that leave the same."""
    places: dict[str, list[str]] = {}
    for mishap in subject.sample(mishaps):
        for what_was_wrong in _survived(subject, mishap):
            places.setdefault(what_was_wrong, []).append(mishap.what)
    for what_was_wrong, (first, *others) in list(places.items())[:MOST_TOLD]:
        also = f" So it is after {len(others)} more: {others[0]} ..." if others else ""
        yield f"after {first}{what_was_wrong}{also}"
    if len(places) > MOST_TOLD:
        yield f"and {len(places) - MOST_TOLD} other things; mend these first"


def _survived(subject: Subject, mishap: Mishap) -> Iterator[str]:
    """What a mishap leaves that is not as it was; at most one part of a sentence."""
    faults, expected = mishap.faults, mishap.expected
    learner, start, before = subject.spare or _prepared_learner(subject)
    subject.spare = None
    leaving: BaseException | None = None
    try:
        with learner.added_cbs(faults):
            subject.run(learner)
    except BaseException as error:
        leaving = error
    if not faults[0].num_done:
        return  # it never came so far
    allowed = expected or CallboardError
    is_silent = leaving is None and expected is None
    # A method may well say that it came to nothing.
    may_raise = expected is not None or subject.is_method
    is_expected = is_silent or (may_raise and isinstance(leaving, allowed))
    may_change = subject.specimen.leaves
    left = list(what_was_left(before, furnishing_of(learner), may_change))
    failure = failures_of(learner)
    if not is_expected:
        what = said(leaving) if leaving else "no error left the fit."
        yield f": {what}"
    elif failure:
        yield f": {failure}"
    elif left:
        yield f", {left[0]}"
    elif subject.can_be_repeated:
        yield from _recovered(subject, learner, start)
        learner.load_state_dict(start)
        subject.spare = learner, start, before


def _prepared_learner(
    subject: Subject,
) -> tuple[Learner, Mapping[str, Any], Furnishing]:
    learner = subject.learner()
    return learner, copy.deepcopy(learner.state_dict()), furnishing_of(learner)


def _recovered(
    subject: Subject, learner: Learner, start: Mapping[str, Any]
) -> Iterator[str]:
    """Whether a Learner that is put back to its start trains as it always did."""
    try:
        learner.load_state_dict(start)
        subject.run(learner)
    except Exception as error:
        yield f", the next run: {said(error)}"
        return
    difference = subject.difference(learner, subject.outcome)
    if difference:
        yield f", the next run is not as it always was: {difference}"


RULES = (state, resume, cancels, errors)
