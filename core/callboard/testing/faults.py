"""Faults on purpose: callbacks that raise, cancel or kill at an event.

    learner = tiny_learner(cbs=[MyCallback(), raise_at("after_loss", nth=2)])
    with pytest.raises(InjectedError):
        learner.fit(1)

They stand behind the other plugins of the event where ``run_after`` names those, and
before them where ``run_before`` does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from callboard import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Learner,
)
from callboard.callback import STAGES, Target
from callboard.errors import OptionError, suggestion
from callboard.events import EVENTS

CANCELS: dict[str, type[CancelException]] = {
    "batch": CancelBatchException,
    "train": CancelTrainException,
    "validate": CancelValidException,
    "epoch": CancelEpochException,
    "fit": CancelFitException,
    "backward": CancelBackwardException,
    "step": CancelStepException,
}
# The events in which a level, and with it all levels further out, can be cancelled.
_INNERMOST = {
    "before_fit": "fit",
    "before_epoch": "epoch",
    "do_epoch": "fit",
    "before_train": "train",
    "do_train": "epoch",
    "do_batch": "phase",
    "before_backward": "backward",
    "do_backward": "backward",
    "before_step": "step",
    "do_step": "step",
    "after_cancel_batch": "phase",
    "after_batch": "phase",
    "checkpoint": "boundary",
    "after_cancel_train": "epoch",
    "after_train": "epoch",
    "do_validate": "epoch",
    "before_validate": "validate",
    "after_cancel_validate": "epoch",
    "after_validate": "epoch",
    "after_cancel_epoch": "fit",
    "after_epoch": "fit",
}
_NEVER = ("after_create", "do_fit", "after_cancel_fit", "after_fit")


class InjectedError(RuntimeError):
    """What ``raise_at`` raises unless it is told otherwise."""


class Fault(Callback):
    """Does something at the n-th time that an event fires; the base of all faults.

    Attributes:
        when: Whether a time that the event fires counts at all.
        num_seen: How often the event has fired.
        num_done: How often it has done it.
    """

    name = "fault"
    stages = STAGES

    def __init__(self, event: str, nth: int, do: Callable[[Learner], object]) -> None:
        if nth < 1:
            raise OptionError(f"{self.name}: nth must be from 1 on, got {nth!r}.")
        self.event = event
        self.nth = nth
        self.do = do
        self.when: Callable[[Learner], bool] = _always
        self.num_seen = self.num_done = 0

    def strike(self) -> None:
        """Count the event, and do it when its turn has come."""
        if not self.when(self.learn):
            return
        self.num_seen += 1
        if self.num_seen == self.nth:
            self.num_done += 1
            self.do(self.learn)


def _always(learner: Learner) -> bool:
    return True


def raise_at(
    event: str,
    *,
    nth: int = 1,
    error: BaseException | None = None,
    run_before: Target = (),
    run_after: Target = (),
) -> Fault:
    """A callback that raises an error at an event or action.

    Args:
        event: Any event, action or span but ``do_fit``.
        nth: At which of the times that it fires, from 1.
        error: What is raised; default an ``InjectedError``.
        run_before: Plugins that do not get to see the event.
        run_after: Plugins that have seen it by then.
    """
    raised = InjectedError(f"on purpose, at {event}") if error is None else error
    return _fault(event, nth, partial(_raise, raised), run_before, run_after)


def cancel_at(
    event: str,
    level: str = "",
    *,
    nth: int = 1,
    reason: str = "on purpose",
    run_before: Target = (),
    run_after: Target = (),
) -> Fault:
    """A callback that cancels a level of the loop at an event or action.

    Args:
        event: Where.
        level: ``"backward"``, ``"step"``, ``"batch"``, ``"train"``, ``"validate"``,
            ``"epoch"`` or ``"fit"``. Default: the innermost that is open then.
        nth: At which of the times that it fires, from 1.
        reason: What stands in the run's record.
        run_before: Plugins that do not get to see the event.
        run_after: Plugins that have seen it by then.

    Raises:
        OptionError: There is no such level, or none is ever open there.
    """
    if level and level not in CANCELS:
        known = ", ".join(CANCELS)
        message = f"cancel_at: there is no level {level!r}; levels are {known}."
        raise OptionError(message + suggestion(level, CANCELS))
    if event in _NEVER or event in ("on_exception", "teardown"):
        raise OptionError(f"cancel_at: nothing is open at {event} to be cancelled.")

    def cancel(learner: Learner) -> NoReturn:
        chosen = level or open_levels(event, learner)[0]
        raise CANCELS[chosen](reason)

    return _fault(event, nth, cancel, run_before, run_after)


def open_levels(event: str, learner: Learner) -> list[str]:
    """The levels that can be cancelled at this event, innermost first."""
    innermost = _INNERMOST.get(event, "batch")
    phase = "train" if learner.training else "validate"
    if innermost == "boundary":
        innermost = "fit" if learner.position[1] == 0 else "phase"
    nested = ["batch", phase, "epoch", "fit"]
    if innermost in ("backward", "step"):
        return [innermost, *nested]
    levels = nested[nested.index(phase if innermost == "phase" else innermost) :]
    is_alone = learner.stage in ("validate", "predict")  # with no epoch around it
    return [n for n in levels if not (is_alone and n in ("epoch", "fit"))]


def kill_at(
    event: str, *, nth: int = 1, run_before: Target = (), run_after: Target = ()
) -> Fault:
    """A callback that kills the process at an event, with nothing tidied up.

    For a run in a process of its own: what it leaves is what a power failure leaves.

    Args:
        event: Where.
        nth: At which of the times that it fires, from 1.
        run_before: Plugins that do not get to see the event.
        run_after: Plugins that have seen it by then.
    """
    return _fault(event, nth, _kill, run_before, run_after)


def _kill(learner: Learner) -> NoReturn:
    if os.name != "nt":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def _raise(error: BaseException, learner: Learner) -> NoReturn:
    raise error


def _fault(
    event: str,
    nth: int,
    do: Callable[[Learner], object],
    run_before: Target,
    run_after: Target,
) -> Fault:
    if event not in EVENTS or event == "do_fit":
        message = f"there is no event {event!r} to put a fault at."
        raise OptionError(message + suggestion(event, EVENTS))

    def strike(self: Fault) -> None:
        self.strike()

    members: dict[str, Any] = {event: strike, "name": "fault"}
    members |= {"run_before": run_before, "run_after": run_after}
    kind: type[Fault] = type("Fault", (Fault,), members)
    return kind(event, nth, do)
