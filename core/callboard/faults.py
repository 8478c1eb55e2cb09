"""What happens when something goes wrong in a run.

An error keeps its type and traceback and gets a note that says in which plugin it was
raised, and where in the loop. An observer that fails is switched off and the run goes
on. Whatever happens, every plugin is torn down.
"""

from __future__ import annotations

import logging
import sysconfig
import traceback
import warnings
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pluggy

from callboard.control import CancelException
from callboard.errors import (
    CallboardError,
    MisplacedCancelError,
    NonFiniteError,
    ObserverWarning,
)
from callboard.events import EVENTS
from callboard.scene import scene
from callboard.state import Failure

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.learner import Learner
    from callboard.plan import Report


PLACE = "callboard: in "
PLUGGY = str(Path(pluggy.__file__).parent)
HERE = Path(__file__).parent
LIBRARIES = [
    Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")
]


def explained(learner: Learner, error: BaseException) -> BaseException:
    """The error with a note of where it was raised.

    A cancel that comes this far was raised where its level was not open; it becomes a
    ``MisplacedCancelError``.
    """
    blamed = learner._board.blame(error.__traceback__)
    break_cycles(error.__traceback__)
    where = place_in_words(learner, *(blamed or (None, "")))
    if isinstance(error, CancelException):
        cancel, error = error, _misplaced(error)
        error.__cause__ = cancel
    # An error of a nested evaluation says already where in that one it was raised.
    notes = getattr(error, "__notes__", ())
    # One that tells the place itself needs no second, which may be a later one.
    if not any(note.startswith(PLACE) for note in notes):
        if not isinstance(error, NonFiniteError):
            error.add_note(where)
        if blamed is None and _is_the_batchs_fault(error):
            _show_scene(learner, error)
    return error


def _is_the_batchs_fault(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, CallboardError)


def _show_scene(learner: Learner, error: BaseException) -> None:
    # What is shown may be as broken as the batch that it shows.
    with suppress(Exception):
        if shown := scene(learner, error):
            error.add_note(shown)


def non_finite(learner: Learner, train_iter: int, loss: float) -> NonFiniteError:
    """The error that a loss which is no number ends the fit with."""
    batch = train_iter - learner._first_train_iter - 1
    return NonFiniteError(
        f"The training loss became {loss} in epoch {learner.epoch}, training batch "
        f"{batch} (step {train_iter}). Lower the learning rate, clip the gradients or "
        "look at that batch; a checkpoint from before is what to go on from."
    )


def break_cycles(trace: TracebackType | None) -> None:
    """Let an error be freed when nobody wants it any more, with the Learner.

    pluggy's call keeps the error in a local variable of a frame that the error's
    traceback holds: a cycle that would wait for the collector.
    """
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_filename.startswith(PLUGGY):
            with suppress(RuntimeError):  # it is still running
                frame.clear()
        trace = trace.tb_next


def _misplaced(cancel: CancelException) -> MisplacedCancelError:
    return MisplacedCancelError(
        f"{type(cancel).__name__} was raised where no {cancel.level} is open to be "
        f"cancelled; it can be raised {cancel.opens}. To end training from anywhere "
        "call learner.stop(reason)."
    )


def is_bare(error: BaseException) -> bool:
    """Whether an error came out of the loop and no code of a user or a plugin failed.

    Then a traceback shows frames of Callboard and PyTorch alone, as where a batch is of
    the wrong shape or a worker of a loader has died.
    """
    notes = getattr(error, "__notes__", ())
    if not any(note.startswith(f"{PLACE}the loop") for note in notes):
        return False
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    behind: list[str] = []
    for file in files:
        behind = [] if Path(file).parent == HERE else [*behind, file]
    return all(_is_library(file) for file in behind)


def _is_library(file: str) -> bool:
    if file.startswith("<"):  # made at run time, as by torch.compile
        return True
    return any(Path(file).is_relative_to(folder) for folder in LIBRARIES)


def place_in_words(learner: Learner, member: ActivePlugin | None, event: str) -> str:
    """Plugin, distribution and version, event, epoch and batch, as a note."""
    where = f"epoch {learner.epoch}"
    if member is None or EVENTS[event].level not in ("create", "fit", "epoch"):
        phase = "training" if learner.training else "validation"
        where += f", {phase} batch {learner.iter}"
    if member is None or learner.stage != "fit":
        where += f", stage {learner.stage!r}"
    if member is None:
        return f"{PLACE}the loop, {where}"
    return f"{PLACE}plugin {member.label} during {event}, {where}"


def announce(learner: Learner, error: BaseException) -> None:
    """Fire ``on_exception``; what fails there is noted and does not hide the error."""
    for member, call in learner._board.each("on_exception"):
        if learner.stage not in member.stages or not member.switch("run"):
            continue
        if member.has_failed:
            continue
        try:
            call_one(learner, member, "on_exception", call, exception=error)
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
        if learner.stage not in member.stages or not member.has_taken_part:
            continue
        try:
            call_one(learner, member, "teardown", call)
        except BaseException as error:
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
    try:
        if leaving is None and first is not None:
            raise first
    finally:
        del first, leaving  # tracebacks hold this frame: a cycle for the collector


def _also_failed(member: ActivePlugin, event: str, error: BaseException) -> str:
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
    """Report an observer once and switch it off for the rest of the fit.

    One that runs in every process ends the fit instead where there are several: it may
    have failed in this one alone, and the others would wait for its share for ever.
    """
    if member.has_failed:  # it is torn down all the same
        return
    if learner.world_size > 1 and member.ranks == "all":
        error.add_note(place_in_words(learner, member, event))
        raise error
    distribution = " ".join(part for part in member.origin if part)
    text = f"{type(error).__name__}: {error}"
    learner.record.failures.append(
        Failure(member.key, distribution, event, text, learner.epoch, learner.iter)
    )
    member.has_failed = True
    learner._plan_anew()
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


def call_one(
    learner: Learner, member: ActivePlugin, event: str, call: Any, **offered: Any
) -> None:
    """Call one plugin outside of the plan; what it raises becomes as in the loop."""
    try:
        call(learner=learner, **offered)
    except BaseException as error:
        is_fatal = member.role != "observe" or isinstance(error, MemoryError)
        if isinstance(error, Exception) and not is_fatal:
            observer_failed(learner, member, event, error)
            return
        error.add_note(place_in_words(learner, member, event))
        raise
