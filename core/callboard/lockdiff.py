"""What differs between two locks, and what to do to have it as it was.

Two runs are compared in all that a lock holds. Where one of the two is an environment,
only code can be compared: of what the lock names, and of what joins by being installed.
A part that one of them does not know (a checkpoint knows no files) is left out.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from callboard.fingerprints import Code
from callboard.lockfile import CORE, Lock

#: What a run may go on with all the same: the last bits of its results may differ.
LIBRARIES = ("device", "python", "threads", "torch")
MAX_FILES = 8
ACTIVE, FILE, OTHER_FILES, OF_A_LIBRARY = (
    *("active", "file ", "other files"),
    "version of the library",
)


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in two locks.

    Attributes:
        subject: Key of a plugin, or name of a distribution, file or library.
        what: What of it differs: ``active``, ``version``, an option, a file.
        a: What it is in the first; None where it is not there.
        b: What it is in the second.
        remedy: What makes the second like the first.
    """

    subject: str
    what: str
    a: str | None
    b: str | None
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return dict(vars(self))

    @property
    def is_of_a_library(self) -> bool:
        """Whether it is about what no plugin brings."""
        return self.what == OF_A_LIBRARY

    def as_refusal(self) -> str:
        """What is not as the first, a lock, says; and what to do."""
        return f"{self._said()} {self.remedy}".rstrip()

    def _said(self) -> str:
        if self.what == ACTIVE and self.b is None:
            return f"{self.subject} ({self.a}) is in the lock and not active."
        if self.what == ACTIVE:
            return f"{self.subject} ({self.b}) is active and not in the lock."
        if self.what == OTHER_FILES:
            return f"{self.subject}: {self.a} files are not those that were locked."
        if self.what.startswith(FILE):
            file = self.what.removeprefix(FILE)
            owner = "" if file == self.subject else f"{self.subject}: "
            if None in (self.a, self.b):
                now = "is there now" if self.a is None else "is not there"
                return f"{owner}{file} {now}, unlike when it was locked."
            hashes = f"{self.b} now, {self.a} then"
            return f"{owner}{file} is not what was locked ({hashes})."
        now, then = self.b or "nothing", self.a or "nothing"
        return f"{self.subject}: {self.what} is {now} now and {then} in the lock."


def compare(a: Lock, b: Lock) -> list[Difference]:
    """What is not the same, plugins first.

    Args:
        a: What is aimed at.
        b: What is compared with it; remedies say how to make it like the other.
    """
    if a.is_environment or b.is_environment:
        return [
            *_automatic(a, b),
            *_code(a, b, _names_in_both_kinds(a, b)),
            *_environment(a, b),
        ]
    return [
        *_plugins(a, b),
        *_methods(a, b),
        *_code(a, b, sorted(a.code.keys() & b.code.keys())),
        *_environment(a, b),
    ]


# ---- plugins -------------------------------------------------------------------------


def _plugins(a: Lock, b: Lock) -> Iterator[Difference]:
    before = {plugin["key"]: plugin for plugin in a.plugins}
    after = {plugin["key"]: plugin for plugin in b.plugins}
    for key, plugin in before.items():
        if key not in after:
            remedy = _how_to_activate(plugin)
            yield Difference(key, ACTIVE, _origin(plugin), None, remedy)
    for key, plugin in after.items():
        if key not in before:
            remedy = f"--without {plugin['name']} leaves it out."
            yield Difference(key, ACTIVE, None, _origin(plugin), remedy)
        else:
            yield from _changes(before[key], plugin)
    order = [key for key in before if key in after]
    present = [key for key in after if key in before]
    if order != present:
        remedy = "Give them in that order, or declare it by run_before and run_after."
        one, other = " > ".join(order), " > ".join(present)
        yield Difference("the plugins", "running order", one, other, remedy)


def _how_to_activate(plugin: Mapping[str, Any]) -> str:
    if plugin["version"] is None:
        where = plugin["distribution"] or ", ".join(plugin.get("code", ()))
        return f"It was code of the user's own ({where}): give it in cbs again."
    return (
        f"`callboard plugins why {plugin['name']}` says why; {_with(plugin)} names it, "
        f"and {_install(plugin['distribution'], plugin['version'])} installs it."
    )


def _with(plugin: Mapping[str, Any]) -> str:
    options = plugin.get("options") or {}
    given = ",".join(f"{name}={_as_text(value)}" for name, value in options.items())
    return f"--with {shlex.quote(plugin['name'] + (f':{given}' if given else ''))}"


def _as_text(value: Any) -> str:
    return (
        value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    )


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    key = b["key"]
    one, other = _origin(a), _origin(b)
    if one != other:
        remedy = _install(a["distribution"], a["version"])
        yield Difference(key, "distribution and version", one, other, remedy)
    for what in ("role", "entry_point"):
        if what in a and what in b and a[what] != b[what]:
            said = what.replace("_", " ")
            yield Difference(key, said, a[what], b[what], "")
    yield from _options(key, a, b)


def _options(
    key: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[Difference]:
    untold = a.get("untold_options", {}), b.get("untold_options", {})
    for name in sorted({*a["options"], *b["options"], *untold[0], *untold[1]}):
        old, new = _option(a, name, b), _option(b, name, a)
        if old != new:
            remedy = ""
            if name in a["options"]:
                value = _as_text(a["options"][name])
                is_own = a["version"] is None
                wanted = f"{b['name']}:{name}={value}"
                by_line = f"--with {shlex.quote(wanted)}"
                remedy = f"Give {name}={value} in cbs." if is_own else by_line
            yield Difference(key, f"option {name}", old, new, remedy)


def _option(plugin: Mapping[str, Any], name: str, other: Mapping[str, Any]) -> str:
    """An option as it is shown and compared."""
    if name in plugin["options"]:
        return repr(_listed(plugin["options"][name]))
    untold: Mapping[str, str] = plugin.get("untold_options", {})
    if name in untold:
        return untold[name]
    # The lock in a checkpoint leaves out what is None and what is no plain data.
    untold_there: Mapping[str, str] = other.get("untold_options", {})
    return untold_there.get(name, "None")


def _listed(value: Any) -> Any:
    return list(map(_listed, value)) if isinstance(value, list | tuple) else value


def _origin(plugin: Mapping[str, Any]) -> str:
    parts = (plugin["distribution"], plugin["version"])
    known = " ".join(part for part in parts if part)
    return known or ", ".join(plugin.get("code", ())) or "code of the user's own"


def _methods(a: Lock, b: Lock) -> Iterator[Difference]:
    before = {method["name"]: method for method in a.methods}
    after = {method["name"]: method for method in b.methods}
    for name in sorted({*before, *after}):
        one, other = (_origin(m[name]) if name in m else None for m in (before, after))
        if one == other:
            continue
        schedule = name.removeprefix("fit_").replace("_", "-")
        remedy = f"--schedule {schedule}" if other is None else "Leave --schedule out."
        if one and other:
            remedy = _install(before[name]["distribution"], before[name]["version"])
        yield Difference(name, "method of the fit", one, other, remedy)


# ---- code ----------------------------------------------------------------------------


def _names_in_both_kinds(a: Lock, b: Lock) -> list[str]:
    """Distributions that count where one of two is an environment."""
    if a.is_environment and b.is_environment:
        return sorted({*a.code, *b.code})
    run = b if a.is_environment else a
    return sorted(name for name, code in run.code.items() if code.version is not None)


def _automatic(a: Lock, b: Lock) -> Iterator[Difference]:
    """Plugins that would join by being installed, and that a run had not."""
    if a.is_environment and b.is_environment:
        return
    run, place = (b, a) if a.is_environment else (a, b)
    names = {plugin["name"] for plugin in run.plugins}
    for name in place.automatic:
        if name not in names:
            one, other = (None, "yes") if place is b else ("yes", None)
            remedy = f"--without {name} leaves it out."
            yield Difference(name, "joining by being installed", one, other, remedy)


def _code(a: Lock, b: Lock, names: list[str]) -> Iterator[Difference]:
    # Of two runs the origin of a plugin tells this already.
    told = {plugin["distribution"] for plugin in (*a.plugins, *b.plugins)}
    is_told = not (a.is_environment or b.is_environment)
    for name in names:
        one, other = a.code.get(name), b.code.get(name)
        if one and other and one.version == other.version:
            yield from _files(name, one, other)
        elif not (is_told and name in told):
            old = None if one is None else one.version or one.kind
            new = None if other is None else other.version or other.kind
            remedy = _install(name, old) if one else f"python -m pip uninstall {name}"
            yield Difference(name, "version", old, new, remedy)


def _files(name: str, a: Code, b: Code) -> Iterator[Difference]:
    if a.files is None or b.files is None:
        return
    changed = [
        file
        for file in sorted({*a.files, *b.files})
        if a.files.get(file) != b.files.get(file)
    ]
    remedy = {
        "installed": f"python -m pip install --force-reinstall --no-deps "
        f"{name}=={a.version}",
        "editable": "It is installed as editable: check out the commit that it was "
        "locked at, or lock anew.",
        "file": "Put the file back as it was, or lock anew.",
        "unknown": "",
    }[b.kind]
    for file in changed[:MAX_FILES]:
        one, other = (_short(code.files or {}, file) for code in (a, b))
        yield Difference(name, f"{FILE}{file}", one, other, remedy)
    if len(changed) > MAX_FILES:
        count = f"{len(changed) - MAX_FILES} more"
        yield Difference(name, OTHER_FILES, count, count, remedy)


def _short(files: Mapping[str, str], file: str) -> str | None:
    whole = files.get(file)
    return whole and whole[:19]  # "sha256:" and twelve digits


def _install(distribution: str | None, version: str | None) -> str:
    if distribution is None or version is None:
        return ""
    return f"python -m pip install {distribution}=={version}"


def _environment(a: Lock, b: Lock) -> Iterator[Difference]:
    for name in sorted(a.environment.keys() & b.environment.keys()):
        one, other = a.environment[name], b.environment[name]
        if one == other or (name == CORE and CORE in a.code and CORE in b.code):
            continue  # Callboard itself is told as code
        old, new = (None if value is None else str(value) for value in (one, other))
        what = OF_A_LIBRARY if name in LIBRARIES else "version"
        is_installed = name in ("torch", CORE)
        # A build for one device, as in 2.10.0+cpu, is not on the index.
        remedy = _install(name, old.partition("+")[0]) if old and is_installed else ""
        yield Difference(name, what, old, new, remedy)
