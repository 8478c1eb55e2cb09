"""What fired, in the order in which it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from callboard import Callback, Learner
from callboard.callback import STAGES
from callboard.events import EVENTS


def record_events(learner: Learner, kinds: str | Sequence[str] = "event") -> list[str]:
    """Write down all that fires from now on: a list that grows while it happens.

        seen = record_events(learner)
        learner.fit(1)
        assert seen.count("after_batch") == 5

    Args:
        learner: Whose events.
        kinds: ``"event"``, ``"action"`` and ``"span"``, one or several of them.
            ``do_fit``, which can only be wrapped, is never among them.
    """
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    seen: list[str] = []
    methods = {
        name: _noting(name, seen)
        for name, event in EVENTS.items()
        if event.kind in wanted and name not in ("after_create", "do_fit")
    }
    declarations = {"name": "recorded-events", "role": "observe", "stages": STAGES}
    recorder: type[Callback] = type(
        "RecordedEvents", (Callback,), {**methods, **declarations}
    )
    learner.add_cb(recorder())
    return seen


def _noting(event: str, seen: list[str]) -> Callable[[Any], None]:
    def note(self: Any) -> None:
        seen.append(event)

    return note
