"""Plugins that stand for objects of other frameworks, such as their callbacks.

A distribution says in the entry point group ``callboard.adapters`` which classes it
adapts: the name of an entry is the dotted path of a class, its value a function that
takes an instance and returns an ``Adapter`` for it.

    [project.entry-points."callboard.adapters"]
    "otherloop.callbacks.Hook" = "callboard_otherloop:adapted"

An instance of that class or of one derived from it, and the class itself, may then be
given wherever a callback may. Nothing is imported to find out who adapts what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callboard import discovery
from callboard.callback import Callback
from callboard.errors import ActivationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callboard.discovery import InstalledPlugin
    from callboard.learner import Learner


class Adapter(Callback):
    """Base of plugins that let a foreign object take part.

    Users go on to see the object that they gave: ``learner.cbs`` holds it,
    ``learner.remove_cb`` takes it.

    Args:
        subject: The foreign object.
    """

    name = "adapter"

    def __init__(self, subject: Any) -> None:
        self.subject = subject

    def joined(self, learner: Learner) -> None:
        """The adapter was added to a Learner, before any event."""

    def left(self, learner: Learner) -> None:
        """The adapter was removed from a Learner, and gets no further event."""

    def _attach(self, learner: Learner | None) -> None:
        before: Learner | None = self.learn
        super()._attach(learner)
        if learner is not None:
            self.joined(learner)
        elif before is not None:
            self.left(before)


def adapter_for(cls: type) -> InstalledPlugin | None:
    """The entry point that adapts instances of a class, if one is installed.

    That of the nearest base class, where several are adapted.

    Raises:
        DoubledPluginError: Two distributions adapt the same class.
    """
    for path in _paths(cls):
        claims = [
            found
            for found in discovery.installed()
            if found.kind == "adapter" and found.name == path
        ]
        if claims:
            discovery.refuse_rivals(path, claims)
            return claims[0]
    return None


def adapted(subject: object) -> Any:
    """The adapter of an object, or the object itself where nobody adapts its class.

    Raises:
        BrokenPluginError: What adapts it cannot be imported.
        ActivationError: It returned something else than an ``Adapter``.
    """
    if isinstance(subject, Callback):
        return subject
    installed = adapter_for(type(subject))
    if installed is None:
        return subject
    make: Any = installed.load()
    adapter = make(subject)
    if not isinstance(adapter, Adapter):
        raise ActivationError(
            f"{installed.distribution} {installed.version} adapts "
            f"{type(subject).__name__}, but {installed.entry_point} returned "
            f"{type(adapter).__name__} instead of an Adapter."
        )
    return adapter


def _paths(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        yield f"{base.__module__}.{base.__qualname__}"
