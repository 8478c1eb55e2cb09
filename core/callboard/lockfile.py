"""The lock of a run as a file: what was active, and the code that it consisted of.

Plain data, written as JSON, so that reading one runs nothing:

    {
      "callboard_lock": 1,
      "target": "train.py",
      "environment": {"callboard": "0.1.0", "python": "3.12.4", "torch": "2.10.0"},
      "plugins": [{"key": "mixup", "options": {"alpha": 0.4}, ...}],
      "methods": [],
      "code": {"callboard-mixup": {"version": "0.1.0", "files": {...}, ...}}
    }

``plugins`` stand in running order. ``code`` holds every distribution, and every file
of the user's own, in which one of their classes is defined. What they import besides,
the model and the data are not in it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from callboard import __version__
from callboard.discovery import InstalledPlugin
from callboard.errors import LockError
from callboard.fingerprints import KINDS, Code, code_of_distribution, code_of_module
from callboard.folders import Distributions, distributions
from callboard.metadata import distribution_of, version_of
from callboard.options import options_of

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin

FORMAT = 1
MARK = "callboard_lock"
DEFAULT_FILE = "callboard.lock"
MAX_BYTES = 50_000_000
CORE = "callboard"
# What every run has, by version alone: hashing torch would take minutes.
LIBRARIES = ("torch",)


@dataclass
class Lock:
    """What takes part in a run, or could.

    Attributes:
        title: What it is called in messages: the name of its file.
        plugins: The active plugins in running order: plain data by field.
        methods: Methods that the fit is started with, likewise.
        code: Where their code is from, by distribution or file.
        environment: Versions by name.
        target: What made the Learner; None where nothing did.
        is_environment: Whether it is no run's, but what is installed somewhere.
        automatic: Names of plugins that join every Learner there.
        distributions: Where to look further distributions up, for an environment.
    """

    title: str
    plugins: list[dict[str, Any]] = field(default_factory=list)
    methods: list[dict[str, Any]] = field(default_factory=list)
    code: dict[str, Code] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    is_environment: bool = False
    automatic: tuple[str, ...] = ()
    distributions: Distributions | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in a file."""
        code = {}
        for name, one in sorted(self.code.items()):
            code[name] = {"kind": one.kind, "version": one.version, "files": one.files}
        return {
            MARK: FORMAT,
            "target": self.target,
            "environment": self.environment,
            "plugins": self.plugins,
            "methods": self.methods,
            "code": code,
        }


# ---- made ----------------------------------------------------------------------------


def lock_of_members(
    members: Iterable[ActivePlugin],
    methods: Iterable[InstalledPlugin] = (),
    target: str | None = None,
    title: str = "now",
) -> Lock:
    """The lock of plugins that take part together.

    Args:
        members: The active plugins in running order.
        methods: Installed methods that the fit is started with.
        target: What made the Learner.
        title: What the lock is called in messages.
    """
    lock = Lock(title, target=target, environment=environment())
    _add_distribution(lock, CORE, [CORE])
    for member in members:
        lock.plugins.append(_plugin(lock, member))
    for method in methods:
        _add_distribution(lock, method.distribution, [_top(method.module)])
        lock.methods.append(
            {
                "name": method.name,
                "distribution": method.distribution,
                "version": method.version,
                "entry_point": method.entry_point,
            }
        )
    return lock


def environment() -> dict[str, Any]:
    """Versions of what every run stands on."""
    present = distributions()
    versions = {name: version_of(present.first(name)) for name in LIBRARIES}
    return {CORE: __version__, "python": platform.python_version(), **versions}


def _plugin(lock: Lock, member: ActivePlugin) -> dict[str, Any]:
    distribution, version = member.origin
    told, untold = _options(member.plugin)
    installed = member.installed
    return {
        "key": member.key,
        "name": member.name,
        "distribution": distribution if version else None,
        "version": version or None,
        "entry_point": installed.entry_point if installed else None,
        "role": member.role,
        "options": told,
        "untold_options": untold,
        "code": list(dict.fromkeys(_code_of(lock, member))),
    }


def _code_of(lock: Lock, member: ActivePlugin) -> Iterator[str]:
    """Names of the code that a plugin's classes stand in, which the lock then holds."""
    if member.installed is not None:
        tops = [_top(member.installed.module)]
        yield _add_distribution(lock, member.installed.distribution, tops)
    for module in _modules_of(member):
        shipped = distribution_of(module.__name__, getattr(module, "__file__", None))
        if shipped is not None:
            yield _add_distribution(lock, shipped[0], [_top(module.__name__)])
        else:
            name, code = code_of_module(module)
            lock.code.setdefault(name, code)
            yield name


def _modules_of(member: ActivePlugin) -> Iterator[ModuleType]:
    subjects = (member.plugin, member.subject)
    names = [
        subject.__name__ if isinstance(subject, ModuleType) else cls.__module__
        for subject in subjects
        for cls in type(subject).__mro__
    ]
    for name in dict.fromkeys(names):
        is_ours = _top(name) in (CORE, *LIBRARIES)
        is_pythons = _top(name) in sys.stdlib_module_names and name != "__main__"
        if not (is_ours or is_pythons) and name in sys.modules:
            yield sys.modules[name]


def _top(module_name: str) -> str:
    return module_name.partition(".")[0]


def _add_distribution(lock: Lock, name: str, tops: Sequence[str]) -> str:
    if name not in lock.code:
        present = lock.distributions or distributions()
        found = present.first(name)
        if found is not None:
            lock.code[name] = code_of_distribution(found, tops)
        else:  # as a source tree on the path
            code = [
                code_of_module(sys.modules[top]) for top in tops if top in sys.modules
            ]
            lock.code[name] = code[0][1] if code else Code("unknown")
    return name


def _options(plugin: object) -> tuple[dict[str, Any], dict[str, str]]:
    """Options as plain data, and in words those whose values are none."""
    if isinstance(plugin, ModuleType):
        return {}, {}
    values = getattr(plugin, "__dict__", {})
    told: dict[str, Any] = {}
    untold: dict[str, str] = {}
    for option in options_of(type(plugin)):
        if option.name not in values:
            untold[option.name] = "not kept by the plugin under this name"
            continue
        plain = _as_plain(values[option.name])
        if plain is UNTOLD:
            untold[option.name] = _described(values[option.name])
        else:
            told[option.name] = plain
    return told, untold


UNTOLD = object()


def _as_plain(value: Any) -> Any:
    """What JSON holds of a value, or UNTOLD."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        parts = [_as_plain(part) for part in value]
        return UNTOLD if any(part is UNTOLD for part in parts) else parts
    if isinstance(value, Mapping):
        items = {str(key): _as_plain(part) for key, part in value.items()}
        return UNTOLD if any(part is UNTOLD for part in items.values()) else items
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    is_torchs = type(value).__module__ == "torch"
    return (
        str(value)
        if is_torchs and type(value).__name__ in ("dtype", "device")
        else UNTOLD
    )


def _described(value: Any) -> str:
    """Which function or class it is; of an object, of which class."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{getattr(value, '__module__', '?')}.{name}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


# ---- written and read ----------------------------------------------------------------


def write(lock: Lock, file: Path) -> None:
    """Put a lock into a file, at once and whole; an older lock there is replaced.

    Raises:
        LockError: Nothing can be written there, or the file is something else.
    """
    if _is_something_else(file):
        raise LockError(
            f"{file} is there already and is no lock. Give another file with -o."
        )
    text = json.dumps(lock.as_dict(), indent=2, allow_nan=False) + "\n"
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, file)
    except OSError as error:
        raise LockError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        fresh.unlink(missing_ok=True)


def _is_something_else(file: Path) -> bool:
    """Whether a file would be lost that Callboard has not written.

    A damaged lock can be replaced where it has the name that locks have.
    """
    try:
        with file.open("rb") as content:
            beginning = content.read(100)
    except OSError:
        return False  # not there, or nothing can be written: that is told by itself
    is_lock = file.name == DEFAULT_FILE or f'"{MARK}"'.encode() in beginning
    return bool(beginning) and not is_lock


def read(file: Path) -> Lock:
    """The lock in a file; nothing that it may hold is run.

    Raises:
        LockError: It is not there, damaged, or no lock.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise LockError(f"{file} is no lock: it is larger than any could be.")
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise LockError(
            f"There is no lock {file}: `callboard plugins lock TARGET -o {file}` "
            "writes one."
        ) from None
    except OSError as error:
        raise LockError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise LockError(
            f"{file} is damaged, or no lock: it cannot be read as JSON "
            f"({_in_short(error)}). `callboard plugins lock` writes a new one."
        ) from error
    return _checked(content, str(file))


def _in_short(error: Exception) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= 80 else line[:77] + "..."


def _checked(content: Any, title: str) -> Lock:
    if not isinstance(content, dict) or MARK not in content:
        raise LockError(f"{title} is no lock: it has no {MARK!r}.")
    if content[MARK] != FORMAT:
        raise LockError(
            f"{title} has format {content[MARK]!r}; this version of callboard reads "
            f"format {FORMAT}. Lock anew, or install the version that wrote it."
        )
    try:
        _check_shape(content)
    except _Misfit as misfit:
        raise LockError(
            f"{title} is damaged: {misfit}. `callboard plugins lock` writes a new one."
        ) from None
    return Lock(
        title,
        plugins=content["plugins"],
        methods=content["methods"],
        code={
            name: Code(code["kind"], code["version"], code["files"])
            for name, code in content["code"].items()
        },
        environment=content["environment"],
        target=content["target"],
    )


class _Misfit(Exception):
    """A part of a lock is not what it should be."""


TEXT, MAYBE_TEXT = (str,), (str, type(None))
SHAPES: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "lock": {
        "target": MAYBE_TEXT,
        "environment": (dict,),
        "plugins": (list,),
        "methods": (list,),
        "code": (dict,),
    },
    "plugins": {
        "key": TEXT,
        "name": TEXT,
        "distribution": MAYBE_TEXT,
        "version": MAYBE_TEXT,
        "entry_point": MAYBE_TEXT,
        "role": TEXT,
        "options": (dict,),
        "untold_options": (dict,),
        "code": (list,),
    },
    "methods": {
        "name": TEXT,
        "distribution": TEXT,
        "version": TEXT,
        "entry_point": TEXT,
    },
    "code": {"kind": TEXT, "version": MAYBE_TEXT, "files": (dict, type(None))},
}


def _check_shape(content: dict[str, Any]) -> None:
    _check_fields(content, "lock", "the lock")
    # Options are shown as Python writes them, which escapes what is left out here.
    plugins = [p | {"options": None} for p in content["plugins"] if isinstance(p, dict)]
    _check_text(content | {"plugins": plugins}, "the lock")
    for part in ("plugins", "methods"):
        for number, entry in enumerate(content[part], 1):
            _check_fields(entry, part, f"number {number} of {part}")
    for name, code in content["code"].items():
        _check_fields(code, "code", f"the code of {name}")
        if code["kind"] not in KINDS:
            raise _Misfit(f"the code of {name} is of no known kind")
        if not all(isinstance(hash_, str) for hash_ in (code["files"] or {}).values()):
            raise _Misfit(f"the files of {name} have no hashes")
    keys = [plugin["key"] for plugin in content["plugins"]]
    if len(set(keys)) < len(keys):
        raise _Misfit("a key stands there twice")


def _check_fields(entry: Any, shape: str, where: str) -> None:
    if not isinstance(entry, dict):
        raise _Misfit(f"{where} is no object")
    for name, kinds in SHAPES[shape].items():
        if name not in entry or not isinstance(entry[name], kinds):
            raise _Misfit(f"{where} has no proper {name!r}")


def _check_text(value: Any, where: str) -> None:
    """Refuse what a terminal could take for a command."""
    if isinstance(value, str) and not value.isprintable():
        raise _Misfit(f"{where} holds characters that cannot be printed")
    if isinstance(value, list):
        for part in value:
            _check_text(part, where)
    elif isinstance(value, dict):
        for key, part in value.items():
            _check_text(key, where)
            _check_text(part, where)
