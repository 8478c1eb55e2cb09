"""The plan that the loop runs: for every event the calls of those who take part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import TYPE_CHECKING, Any

from callboard.activation import ActivePlugin
from callboard.events import EVENTS
from callboard.hookimpls import Call

if TYPE_CHECKING:
    from callboard.learner import Learner

Report = Callable[[ActivePlugin, str, Exception], None]


def skip(*given: object) -> None:
    """Stand in a running plan for a plugin that was just switched off."""


class Calls(list[Call]):
    """The calls of one event, and whose each of them is.

    A list that is being run through outlives the plan that it came from, so it is the
    list that must know whom to take out when a plugin leaves in mid-event, and to put
    back where it has joined again before its turn.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, event: str, stage: str, *, training: bool) -> None:
        super().__init__()
        self.event = event
        self.stage = stage
        self.training = training
        self.owners: list[ActivePlugin | None] = []
        self._own: list[Call] = []
        self._has_gaps = False

    def add(self, call: Call, owner: ActivePlugin | None) -> None:
        """Append a call; the loop's own work has no owner."""
        self.append(call)
        self._own.append(call)
        self.owners.append(owner)

    def leave_to(self, owners: set[ActivePlugin | None]) -> None:
        """Leave the calls of these in, and only those."""
        is_whole = owners.issuperset(self.owners)
        if is_whole and not self._has_gaps:
            return
        for index, owner in enumerate(self.owners):
            self[index] = self._own[index] if owner in owners else skip
        self._has_gaps = not is_whole


class Plan:
    """The calls of every event for one stage and phase; names are the events'.

    Events hold lists of calls without arguments. Spans hold one call. Actions hold one
    call, or None where the loop does its own work.
    """

    __slots__ = tuple(EVENTS)

    def __init__(self) -> None:
        for name, event in EVENTS.items():
            setattr(self, name, [] if event.kind == "event" else None)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class Participants:
    """Who takes part in a stage and phase; it is asked of every plugin only once."""

    def __init__(
        self, members: Iterable[ActivePlugin], stage: str, *, training: bool
    ) -> None:
        in_phase = "run_train" if training else "run_valid"
        # The loop's own work, which has no owner, is always done.
        self._outside_batches: set[ActivePlugin | None] = {None}
        self._in_batches: set[ActivePlugin | None] = {None}
        for member in members:
            if is_in_stage(member, stage):
                self._outside_batches.add(member)
                if member.switch(in_phase):
                    self._in_batches.add(member)

    def at(self, event: str) -> set[ActivePlugin | None]:
        """Who takes part at an event; None, the loop itself, is one of them."""
        is_per_batch = EVENTS[event].is_per_batch
        return self._in_batches if is_per_batch else self._outside_batches


def takes_part(event: str, member: ActivePlugin, stage: str, *, training: bool) -> bool:
    """Whether a plugin is called at an event of a stage and phase."""
    return member in Participants([member], stage, training=training).at(event)


def is_in_stage(member: ActivePlugin, stage: str) -> bool:
    """Whether a plugin is on, and in this stage."""
    return stage in member.stages and member.switch("run") and not member.has_failed


def first_result_of(calls: list[Call]) -> Call:
    """Call until somebody answers."""

    def first_result() -> Any:
        for call in calls:
            result = call()
            if result is not None:
                return result
        return None

    return first_result


def run_observers_of(calls: Calls, report: Report, learner: Learner | None) -> Call:
    """Call observers; one that raises is reported and the others go on.

    Args:
        calls: The observers' calls.
        report: Told of the errors.
        learner: What each call is given; None where they take nothing.
    """

    def run_observers() -> None:
        waiting: Iterator[Callable[..., Any]] = iter(calls)
        while True:
            try:
                # The `try` is around the loop, which so costs what a bare one does; it
                # goes on behind the call that raised.
                if learner is None:
                    for call in waiting:
                        call()
                else:
                    for call in waiting:
                        call(learner)
                return
            except MemoryError:
                raise
            except Exception as error:
                owner = calls.owners[len(calls) - length_hint(waiting) - 1]
                if owner is not None:
                    report(owner, calls.event, error)

    return run_observers
