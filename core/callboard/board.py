"""The board: who is active, when they are called and in what order, as text.

``learner.cbs`` prints it, ``learner.show_training_loop()`` prints the loop with the
plugins at every event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from callboard.errors import UnknownPluginError, suggestion
from callboard.events import EVENTS

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.dispatch import Board

# The loop as it is nested: (what, depth). A line in plain words stands for itself.
SCORE: tuple[tuple[str, int], ...] = (
    ("do_fit", 0),
    ("before_fit", 1),
    ("do_epoch", 1),
    ("before_epoch", 2),
    ("do_train", 2),
    ("before_train", 3),
    ("do_batch", 3),
    ("before_batch", 4),
    ("do_predict", 4),
    ("after_pred", 4),
    ("do_loss", 4),
    ("after_loss", 4),
    ("before_backward", 4),
    ("do_backward", 4),
    ("after_cancel_backward", 4),
    ("after_backward", 4),
    ("before_step", 4),
    ("do_step", 4),
    ("after_cancel_step", 4),
    ("after_step", 4),
    ("do_zero_grad", 4),
    ("after_cancel_batch", 4),
    ("after_batch", 4),
    ("checkpoint", 3),
    ("after_cancel_train", 3),
    ("after_train", 3),
    ("do_validate", 2),
    ("before_validate", 3),
    ("the batch events up to after_loss, then after_batch", 3),
    ("after_cancel_validate", 3),
    ("after_validate", 3),
    ("after_cancel_epoch", 2),
    ("after_epoch", 2),
    ("checkpoint", 2),
    ("after_cancel_fit", 1),
    ("after_fit", 1),
    ("on_exception", 0),
    ("teardown", 0),
)
SPAN_WORDS = {
    "do_fit": "fit",
    "do_epoch": "for every epoch",
    "do_train": "train",
    "do_batch": "for every batch",
    "do_validate": "validate",
}
Implementers = Callable[[str], Iterable[tuple[str, bool]]]


class ActivePlugins(Sequence[Any]):
    """The active plugins in running order; found by place, key or class."""

    def __init__(self, members: Mapping[str, ActivePlugin]) -> None:
        self._members = dict(members)

    @property
    def members(self) -> tuple[ActivePlugin, ...]:
        """What is known of each: key, reason, distribution, version, role."""
        return tuple(self._members.values())

    @overload
    def __getitem__(self, index: int | str | type) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | str | type | slice) -> Any:
        plugins = [member.subject for member in self._members.values()]
        if isinstance(index, str):
            if index not in self._members:
                active = ", ".join(self._members) or "none"
                raise UnknownPluginError(
                    f"no active plugin has the key {index!r}; active: {active}."
                    + suggestion(index, self._members)
                )
            return self._members[index].subject
        if isinstance(index, type):
            return [plugin for plugin in plugins if isinstance(plugin, index)]
        return plugins[index]

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Any]:
        return (member.subject for member in self._members.values())

    def __contains__(self, wanted: object) -> bool:
        if isinstance(wanted, str):
            return wanted in self._members
        if isinstance(wanted, type):
            return any(isinstance(plugin, wanted) for plugin in self)
        return any(plugin is wanted for plugin in self)

    def keys(self) -> tuple[str, ...]:
        """The keys in running order."""
        return tuple(self._members)

    def __repr__(self) -> str:
        return board_text(self.members)

    def _repr_html_(self) -> str:
        from callboard.notebook import board_html

        return board_html(self.members)


BOARD_TITLES = ("", "plugin", "role", "from", "why active")


def board_rows(members: Iterable[ActivePlugin]) -> list[tuple[str, ...]]:
    """One row a plugin: place, key, role, distribution and version, reason."""
    return [
        (
            str(place),
            member.key,
            member.role + ("" if member.switch("run") else " (off)"),
            " ".join(part for part in member.origin if part),
            member.reason,
        )
        for place, member in enumerate(members, 1)
    ]


def board_text(members: Iterable[ActivePlugin]) -> str:
    """The board as a table, one line a plugin in running order."""
    rows = board_rows(members)
    if not rows:
        return "no active plugins"
    return table([BOARD_TITLES, *rows])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, the last one ragged."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def loop_text(board: Board, *, every_event: bool = False) -> str:
    """The loop, with who runs at each event in order; ``(around)`` marks a wrapper."""

    def implementers(event: str) -> list[tuple[str, bool]]:
        return [(m.key, is_wrapper) for m, is_wrapper in board.implementers(event)]

    return score_text(implementers, every_event=every_event)


def score_text(implementers: Implementers, *, every_event: bool = False) -> str:
    """The loop as nested lines; events that nobody implements only on demand."""
    lines = []
    for what, depth in SCORE:
        event = EVENTS.get(what)
        words = SPAN_WORDS.get(what, what)
        who = list(implementers(what)) if event else []
        is_reversed = what == "teardown"
        names = [f"{key} (around)" if around else key for key, around in who]
        if is_reversed:
            names.reverse()
        is_shown = every_event or names or event is None or event.kind != "event"
        if is_shown:
            lines.append("    " * depth + words + (": " if names else ""))
            lines[-1] += " > ".join(names)
    return "\n".join(lines)
