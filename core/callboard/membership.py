"""Who takes part in a Learner: callbacks that join it and leave it, at any moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from callboard import faults, processes
from callboard.activation import (
    ActivePlugin,
    as_sequence,
    joined,
    rejoined,
    resolve,
)
from callboard.callback import Callback
from callboard.errors import ActivationError, suggestion

if TYPE_CHECKING:
    from callboard.learner import Learner


def add(learner: Learner, cbs: Any, reason: str) -> list[ActivePlugin]:
    """Let callbacks join; who has joined. An error leaves everything as it was."""
    added = [
        resolve(cb, reason, learner._configuration)
        for cb in as_sequence(cbs)
        if not (isinstance(cb, str) and learner._configuration.disabler(cb))
    ]
    members = list(learner._board.members.values())
    set_members(learner, joined(members, added, learner._configuration))
    try:
        created(learner, added)
    except BaseException:
        set_members(learner, members)
        raise
    return [m for m in added if m in learner._board.members.values()]


def meant_by(learner: Learner, cb: Any) -> list[ActivePlugin]:
    """The members that an instance, a class, a module, a key or a name means.

    Raises:
        ActivationError: None of them.
    """
    members = list(learner._board.members.values())
    if isinstance(cb, str):
        meant = [m for m in members if m.key == cb] or [
            m for m in members if m.name == cb
        ]
    elif isinstance(cb, type):
        meant = [m for m in members if isinstance(m.subject, cb)]
    else:
        meant = [m for m in members if m.subject is cb]
    if not meant:
        active = ", ".join(m.key for m in members) or "none"
        hint = suggestion(cb, [m.key for m in members]) if isinstance(cb, str) else ""
        raise ActivationError(f"{cb!r} is not active; active: {active}.{hint}")
    return meant


def remove(learner: Learner, gone: Sequence[ActivePlugin]) -> None:
    """Let members leave."""
    kept = [m for m in learner._board.members.values() if m not in gone]
    set_members(learner, rejoined(kept, ()))


def set_members(learner: Learner, members: Sequence[ActivePlugin]) -> None:
    """Let these take part and nobody else, from the next event on."""
    before = dict.fromkeys(learner._board.members.values())
    learner._board.set_members(members)
    owner = learner._processes.owner
    if owner is not None and all(m.plugin is not owner for m in members):
        learner._processes = processes.alone()
    for member in members:
        member.is_here = learner.is_main or member.ranks == "all"
    now = set(members)
    for member in before:
        if member not in now:
            attach(member.plugin, None)
    for member in members:
        if member not in before:
            attach(member.plugin, learner)
        if learner._depth:
            hold(member.plugin, learner)
            if member not in before:
                note_switches(learner, [member])
    learner._replan()


def created(learner: Learner, members: Iterable[ActivePlugin]) -> None:
    """Fire ``after_create`` at those that are new."""
    new = {member.key for member in members}
    for member, call in learner._board.each("after_create"):
        if member.key in new and member.switch("run"):
            faults.call_one(learner, member, "after_create", call)


@contextmanager
def added(learner: Learner, cbs: Any) -> Iterator[Learner]:
    """As ``Learner.added_cbs``."""
    before = list(learner._board.members.values())
    added = add(learner, cbs, "added_cbs") if cbs is not None else []
    replaced = [m for m in before if m not in learner._board.members.values()]
    try:
        yield learner
    finally:
        if added:
            kept = [m for m in learner._board.members.values() if m not in added]
            set_members(learner, rejoined(kept, replaced))


@contextmanager
def removed(learner: Learner, cbs: Any) -> Iterator[Learner]:
    """As ``Learner.removed_cbs``."""
    gone = [m for cb in as_sequence(cbs) for m in meant_by(learner, cb)]
    remove(learner, gone)
    try:
        yield learner
    finally:
        kept = [m for m in learner._board.members.values() if m not in gone]
        set_members(learner, rejoined(kept, gone))


def attach(plugin: object, learner: Learner | None) -> None:
    """Tell a plugin whose it is."""
    if isinstance(plugin, Callback):
        plugin._attach(learner)


def hold(plugin: object, learner: Learner | None) -> None:
    """Let a plugin hold its Learner while it runs, and let go of it with None."""
    if isinstance(plugin, Callback):
        plugin._hold(learner)


def note_switches(learner: Learner, members: Iterable[ActivePlugin]) -> None:
    """Note what is to be put back when the stage that is running is over."""
    learner._switches_before += [
        (member.plugin, member.plugin._switches_set())
        for member in members
        if isinstance(member.plugin, Callback)
    ]
