"""Why one plugin runs before another, and at which events the two meet.

The running order holds at every event, but for what pluggy adds to it: wrappers run
around what is no wrapper, ``tryfirst`` and ``trylast`` come first and last, and
``teardown`` goes through the order in reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callboard import discovery
from callboard.errors import UnknownPluginError, suggestion
from callboard.events import EVENTS
from callboard.ordering import Explanation

if TYPE_CHECKING:
    from callboard.dispatch import Board

IN_ORDER = ""
#: Beyond this many names nobody reads a message to its end.
MAX_LISTED = 12


@dataclass(frozen=True)
class Meeting:
    """An event that two plugins listen to.

    Attributes:
        event: Its name.
        first: Key of the plugin that runs first there.
        second: Key of the other.
        around: Keys of those that are wrappers there: they begin in this order, and end
            in reverse behind all others.
        because: Why the order is another one here; empty where it is the running order.
    """

    event: str
    first: str
    second: str
    around: tuple[str, ...]
    because: str

    def in_words(self) -> str:
        """A line of text."""
        names = [f"{k} (around)" if k in self.around else k for k in (self.first,)]
        names += [f"{k} (around)" if k in self.around else k for k in (self.second,)]
        reason = f": {self.because}" if self.because else ""
        return f"{self.event}: {names[0]}, then {names[1]}{reason}"


@dataclass(frozen=True)
class ExplainedOrder:
    """Which of two plugins runs first, where, and why.

    Attributes:
        explanation: The running order of the two, and the chain that decides it.
        labels: Key of every plugin in the chain -> key, distribution and version.
        meetings: The events that both listen to.
    """

    explanation: Explanation
    labels: dict[str, str]
    meetings: tuple[Meeting, ...]

    def in_words(self) -> str:
        """The same as text; lines that belong to the one above are indented."""
        told = self.explanation
        if told.first == told.second:
            return told.reason
        if told.chain:
            lines = [f"{told.first} runs before {told.second} because of"]
            lines += [
                f"  {c.before} before {c.after}: {c} ({self._source(c.declared_by)})"
                for c in told.chain
            ]
        else:
            lines = [told.reason, *([SETTLE] if self.meetings else [])]
        lines += ["", *self._meetings_in_words(), ""]
        lines += [
            f"{key} is of {self._source(key)}" for key in (told.first, told.second)
        ]
        return "\n".join(lines)

    def _meetings_in_words(self) -> list[str]:
        if not self.meetings:
            return ["They listen to no event together, so their order changes nothing."]
        head = "At the events that both listen to:"
        return [head, *(f"  {meeting.in_words()}" for meeting in self.meetings)]

    def _source(self, key: str) -> str:
        return self.labels[key].removeprefix(f"{key} (").removesuffix(")")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        answer = self.explanation.as_dict()
        for link in answer["chain"]:
            link["source"] = self._source(link["declared_by"])
        return {
            **answer,
            "is_declared": bool(self.explanation.chain),
            "sources": {key: self._source(key) for key in self.labels},
            "events": [
                {
                    "event": meeting.event,
                    "first": meeting.first,
                    "second": meeting.second,
                    "around": list(meeting.around),
                    "because": meeting.because,
                }
                for meeting in self.meetings
            ],
        }


SETTLE = "Where it matters, let one of them declare run_before or run_after."


def explain(board: Board, one: str, other: str) -> ExplainedOrder:
    """Why these two active plugins run in the order in which they do.

    Raises:
        UnknownPluginError: One of them is not active; says what it is instead.
    """
    for key in (one, other):
        if key not in board.members:
            _refuse(board, key)
    explanation = board.running_order.explain(one, other)
    keys = {explanation.first, explanation.second}
    keys |= {link.declared_by for link in explanation.chain}
    meetings = [
        meeting
        for event in EVENTS
        if one != other
        for meeting in [_meeting(board, event, explanation)]
        if meeting is not None
    ]
    labels = {key: board.members[key].label for key in board.members if key in keys}
    return ExplainedOrder(explanation, labels, tuple(meetings))


def _refuse(board: Board, key: str) -> None:
    """Say more of a name that is not active than that it is not."""
    keys = board.running_order.keys
    active = ", ".join(keys) or "none"
    if len(keys) > MAX_LISTED:
        active = f"{len(keys)}, which `callboard order` lists"
    if any(plugin.name == key for plugin in discovery.installed()):
        hint = f" It is installed: `callboard plugins why {key}` says more."
    else:
        hint = discovery.install_hint(key) or suggestion(key, keys)
    message = f'No active plugin has the key "{key}"; active: {active}.{hint}'
    raise UnknownPluginError(message)


def _meeting(board: Board, event: str, explanation: Explanation) -> Meeting | None:
    first, second = explanation.first, explanation.second
    who = [(m.key, around) for m, around in board.implementers(event)]
    if event == "teardown":  # last-opened first
        who.reverse()
    kinds: dict[str, bool] = {}
    for key, is_wrapper in who:
        if key in (first, second):
            kinds.setdefault(key, is_wrapper)
    if len(kinds) < 2:
        return None
    keys = list(kinds)
    around = tuple(key for key in keys if kinds[key])
    because = IN_ORDER
    if event == "teardown":
        because = "plugins are torn down in reverse"
    elif keys != [first, second]:
        is_mixed = len(around) == 1
        because = (
            f"wrappers run around all others, and {second} is one here"
            if is_mixed
            else "tryfirst or trylast says so"
        )
    return Meeting(event, keys[0], keys[1], around, because)
