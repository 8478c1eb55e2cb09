"""Installed plugins to look at: loaded, but not made.

A callback that takes part in no Learner is looked at as an object of its class for
which ``__init__`` was never called: what it listens to and which order it declares
stand in the class, and making it could need options or open files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from callboard import discovery
from callboard.activation import ActivePlugin, member_of
from callboard.configuration import Configuration
from callboard.discovery import InstalledPlugin
from callboard.dispatch import Board
from callboard.errors import ActivationError, BrokenPluginError, CallboardError
from callboard.hookimpls import hookimpls_of
from callboard.status import status_of


def specimen(installed: InstalledPlugin, reason: str = "installed") -> ActivePlugin:
    """A plugin or callback as if it took part.

    Raises:
        BrokenPluginError: It cannot be imported, or is no plugin.
        UnknownEventError, HookSignatureError: One of its hookimpls is wrong.
    """
    subject = unmade(installed.load())
    try:
        member = member_of(subject, reason, installed)
    except ActivationError as error:
        raise BrokenPluginError(str(error)) from error
    hookimpls_of(subject, installed.name)
    return member


def unmade(loaded: Any) -> Any:
    """An object of a class, without calling ``__init__``; anything else as it is."""
    if not isinstance(loaded, type):
        return loaded
    new: Any = loaded.__new__
    try:
        return new(loaded)
    except Exception as error:
        raise BrokenPluginError(
            f"{loaded.__module__}.{loaded.__qualname__} cannot be made: "
            f"{type(error).__name__}: {error}"
        ) from error


def usable(configuration: Configuration) -> Iterator[InstalledPlugin]:
    """Plugins and callbacks that nobody disabled, automatic ones first."""
    kinds = ("plugin", "callback")
    found = [plugin for plugin in discovery.installed() if plugin.kind in kinds]
    found.sort(key=lambda plugin: kinds.index(plugin.kind))
    seen: set[str] = set()
    for plugin in found:
        status, _ = status_of(plugin, configuration)
        if status in ("active", "available") and plugin.name not in seen:
            seen.add(plugin.name)
            yield plugin


def gathered(
    plugins: Iterable[InstalledPlugin],
) -> tuple[list[ActivePlugin], list[tuple[InstalledPlugin, CallboardError]]]:
    """Specimens of plugins, in sequence, and those that are broken, with the error."""
    members: list[ActivePlugin] = []
    broken: list[tuple[InstalledPlugin, CallboardError]] = []
    for plugin in plugins:
        try:
            member = specimen(plugin)
        except CallboardError as error:
            broken.append((plugin, error))
        else:
            member.sequence = len(members)
            members.append(member)
    return members, broken


def board_of(members: Iterable[ActivePlugin]) -> Board:
    """The board that these plugins would have together.

    Raises:
        OrderingError: Their constraints cannot all be met.
    """
    board = Board(_ignore)
    board.set_members(members)
    return board


def _ignore(member: ActivePlugin, event: str, error: Exception) -> None:
    """Nothing runs here, so nothing is reported."""
