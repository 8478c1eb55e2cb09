"""What happens when something goes wrong in a run.

An error keeps its type and traceback and gets a note that says in which plugin it was
raised, and where in the loop. An observer that fails is switched off and the run goes
on. Whatever happens, every plugin is torn down.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from typing import TYPE_CHECKING

from callboard.control import CancelException
from callboard.errors import MisplacedCancelError, ObserverWarning
from callboard.state import Failure

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.dispatch import Report
    from callboard.learner import Learner


def explained(learner: Learner, error: BaseException) -> BaseException:
    """The error with a note of where it was raised.

    A cancel that comes this far was raised where its level was not open; it becomes a
    ``MisplacedCancelError``.
    """
    blamed = learner._board.blame(error.__traceback__)
    where = place_in_words(learner, *(blamed or (None, "")))
    if isinstance(error, CancelException):
        cancel, error = error, _misplaced(error)
        error.__cause__ = cancel
    error.add_note(where)
    return error


def _misplaced(cancel: CancelException) -> MisplacedCancelError:
    return MisplacedCancelError(
        f"{type(cancel).__name__} was raised where no {cancel.level} is open to be "
        f"cancelled; it can be raised {cancel.opens}. To end training from anywhere "
        "call learner.stop(reason)."
    )


def place_in_words(learner: Learner, member: ActivePlugin | None, event: str) -> str:
    """Plugin, distribution and version, event, epoch and batch, as a note."""
    phase = "training" if learner.training else "validation"
    where = f"epoch {learner.epoch}, {phase} batch {learner.iter}"
    if member is None:
        return f"callboard: in the loop, {where}, stage {learner.stage!r}"
    return f"callboard: in plugin {member.label} during {event}, {where}"


def announce(learner: Learner, error: BaseException) -> None:
    """Fire ``on_exception``; what fails there is noted and does not hide the error."""
    for member, call in learner._board.each("on_exception"):
        if learner.stage not in member.stages or not member.switch("run"):
            continue
        try:
            learner._call_one(member, "on_exception", call, exception=error)
        except Exception as second:
            error.add_note(_also_failed(member, "on_exception", second))


def tear_down(learner: Learner, leaving: BaseException | None) -> None:
    """Fire ``teardown`` for every plugin, last-opened first.

    Args:
        learner: The Learner whose fit ends.
        leaving: The error that ends it, if one does; errors of plugins that are torn
            down are noted on it. Without one the first of them is raised at the end.
    """
    first = leaving
    for member, call in reversed(list(learner._board.each("teardown"))):
        if learner.stage not in member.stages:
            continue
        try:
            learner._call_one(member, "teardown", call)
        except Exception as error:
            if first is None:
                first = error
            else:
                first.add_note(_also_failed(member, "teardown", error))
    if learner.record.failures:
        names = ", ".join(failure.plugin for failure in learner.record.failures)
        _warn(
            f"Observers that failed and were switched off in this fit: {names}. "
            "learner.record.failures says how."
        )
    if leaving is None and first is not None:
        raise first


def _also_failed(member: ActivePlugin, event: str, error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return f"callboard: {member.label} failed in {event} too: {text}"


def reporter(learner: Learner) -> Report:
    """What the board calls when an observer fails; it does not keep the Learner."""
    reference = weakref.ref(learner)

    def report(member: ActivePlugin, event: str, error: Exception) -> None:
        alive = reference()
        if alive is not None:
            observer_failed(alive, member, event, error)

    return report


def observer_failed(
    learner: Learner, member: ActivePlugin, event: str, error: Exception
) -> None:
    """Report an observer once and switch it off for the rest of the fit."""
    distribution = " ".join(part for part in member.origin if part)
    text = f"{type(error).__name__}: {error}"
    learner.record.failures.append(
        Failure(member.key, distribution, event, text, learner.epoch, learner.iter)
    )
    member.has_failed = True
    learner._silence(member)
    _warn(
        f"The observer {member.label} failed in {event} at epoch {learner.epoch}, "
        f"batch {learner.iter}: {text}. It is switched off for the rest of this fit; "
        "training goes on."
    )


def _warn(message: str) -> None:
    try:
        warnings.warn(message, ObserverWarning, stacklevel=4)
    except ObserverWarning as warning:
        # Warnings may be errors here; an observer must not stop training even then.
        logging.getLogger("callboard").error("%s", warning)
