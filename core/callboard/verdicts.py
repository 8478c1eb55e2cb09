"""Why installed plugins are broken, remembered from one listing to the next.

A verdict comes from the plugin's source (``inspection``), or from a real attempt to use
it: what failed is remembered by ``remember_failure``. Verdicts lie in the user's cache
folder and hold as long as the plugin's file and what is installed stay the same, so
that listing 300 plugins reads no source at all. A cache that cannot be read or written
is done without.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import callboard
from callboard.discovery import InstalledPlugin
from callboard.errors import (
    BrokenPluginError,
    CallboardError,
    HookSignatureError,
    UnknownEventError,
)

if TYPE_CHECKING:
    from callboard.inspection import Finding

FAULTS = (BrokenPluginError, HookSignatureError, UnknownEventError)
# When one of these changes, the same source may get another verdict.
RULES = ("events.py", "callback.py", "inspection.py")


def verdicts(plugins: Iterable[InstalledPlugin]) -> dict[InstalledPlugin, str]:
    """The broken ones among these plugins, each with the reason."""
    memory = _Memory()
    reasons = {plugin: memory.reason_for(plugin) for plugin in plugins}
    memory.save()
    return {plugin: reason for plugin, reason in reasons.items() if reason}


def remember_failure(installed: InstalledPlugin, error: CallboardError) -> None:
    """Keep what went wrong when a plugin was used; ``verdicts`` then tells of it.

    An error that is not the plugin's own fault, such as a wrong option, is not kept.
    """
    if isinstance(error, FAULTS):
        remember(installed, getattr(error, "reason", None) or str(error))


def remember(installed: InstalledPlugin, reason: str | None) -> None:
    """Keep what using a plugin has shown: why it is broken, or None if it is not."""
    memory = _Memory()
    memory.keep(installed, _inspect(installed), reason)
    memory.save()


class _Memory:
    """The verdicts in the cache file, as far as they still hold."""

    def __init__(self) -> None:
        self.file = _cache_file()
        self.surroundings = _surroundings()
        self.records: dict[str, list[Any]] = {}
        self.times: dict[str, int | None] = {}
        self.has_changed = False
        try:
            kept = json.loads(_read(self.file)) if self.file else {}
            if kept.get("surroundings") == self.surroundings:
                self.records = dict(kept["records"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass

    def reason_for(self, installed: InstalledPlugin) -> str | None:
        """The remembered verdict on a plugin, or a new one."""
        try:
            file, stamp, reason = self.records[_key(installed)]
            if stamp == self._stamp(file):
                return None if reason is None else str(reason)
        except (KeyError, TypeError, ValueError, OSError):
            pass
        finding = _inspect(installed)
        self.keep(installed, finding, finding.reason)
        return finding.reason

    def keep(
        self, installed: InstalledPlugin, finding: Finding, reason: str | None
    ) -> None:
        """Remember a verdict for as long as what was found stays as it is."""
        if finding.file is None and "." in installed.module:
            return  # nobody watches the folder in which it may turn up
        file = str(finding.file) if finding.file else None
        try:
            record = [file, self._stamp(file), reason]
        except OSError:
            return
        if self.records.get(_key(installed)) != record:
            self.records[_key(installed)] = record
            self.has_changed = True

    def _stamp(self, file: str | None) -> list[int | None]:
        """What changes when a file does, or a module beside it comes or goes."""
        if file is None:
            return [self._time_of(place) for place in _restless_folders()]
        status = os.stat(file)
        folder_changed = self._time_of(os.path.dirname(file))
        return [status.st_mtime_ns, status.st_size, folder_changed]

    def _time_of(self, folder: str) -> int | None:
        if folder not in self.times:
            self.times[folder] = _time_of_change(folder)
        return self.times[folder]

    def save(self) -> None:
        """Write the verdicts, whole or not at all."""
        if not self.has_changed or self.file is None:
            return
        kept = {"surroundings": self.surroundings, "records": self.records}
        unfinished = f"{self.file}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self.file), exist_ok=True)
            with open(unfinished, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            os.replace(unfinished, self.file)
        except OSError:
            pass


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def _key(installed: InstalledPlugin) -> str:
    return f"{installed.kind} {installed.name} = {installed.entry_point}"


def _inspect(installed: InstalledPlugin) -> Finding:
    from callboard.inspection import inspect_plugin

    return inspect_plugin(installed)


def _surroundings() -> list[list[Any]]:
    """What is installed, in short: the folders of ``sys.path`` and when they changed.

    The rules of inspection belong to it as well.
    """
    restless = _restless_folders()
    places = [place for place in sys.path if place and place not in restless]
    rules = [os.path.join(os.path.dirname(__file__), name) for name in RULES]
    return [[place, _time_of_change(place)] for place in [*places, *rules]]


def _restless_folders() -> list[str]:
    """The folders of the run and of the program: a change there installs nothing."""
    program = os.path.abspath(sys.argv[0]) if sys.argv else ""
    return [os.getcwd(), os.path.dirname(program)]


def _time_of_change(place: str) -> int | None:
    try:
        return os.stat(place).st_mtime_ns
    except OSError:
        return None


def _cache_file() -> str | None:
    """One file for each environment, in the user's cache folder."""
    folder = _cache_folder()
    if not os.path.isabs(folder):
        return None
    environment = f"{sys.prefix} {sys.version} {callboard.__version__}"
    number = zlib.crc32(environment.encode())
    return os.path.join(folder, "callboard", f"verdicts-{number:08x}.json")


def _cache_folder() -> str:
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA", "")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Caches")
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
