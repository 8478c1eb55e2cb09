"""What files, the environment and the command line say about plugins.

Read from ``callboard.toml`` or ``[tool.callboard]`` in ``pyproject.toml``, in the
working directory or the nearest one above it that has either:

    [tool.callboard]
    autoload = true                      # false: no plugin joins by being installed
    allow = ["callboard-recorder"]       # only these distributions join by themselves
    disable = ["progress"]
    enable = ["csv-logger"]
    [tool.callboard.options.csv-logger]
    fname = "log.csv"

Then ``CALLBOARD_DISABLE=a,b`` and ``CALLBOARD_AUTOLOAD=0``, then ``--with`` and
``--without`` of the command line. Later wins, and every decision keeps its source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from callboard.errors import ConfigurationError, suggestion

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ("autoload", "allow", "disable", "enable", "options")


class CommandLine(NamedTuple):
    """The plugins that the command line names.

    Attributes:
        with_plugins: Name and options, as text, of every ``--with``.
        without: Names of every ``--without``.
    """

    with_plugins: tuple[tuple[str, Mapping[str, str]], ...] = ()
    without: tuple[str, ...] = ()


_command_line: ContextVar[CommandLine] = ContextVar("callboard_command_line")


@contextmanager
def command_line(line: CommandLine) -> Iterator[None]:
    """Let every Learner that is made inside follow this command line."""
    token = _command_line.set(line)
    try:
        yield
    finally:
        _command_line.reset(token)


@dataclass
class Configuration:
    """All that was said, each with its source.

    Attributes:
        autoload_off: Who switched automatic plugins off, or None.
        allow: Distributions that may join by themselves, or None for all.
        allow_source: Who said so.
        disabled: Plugin name -> who disabled it.
        enabled: Plugin name -> who enabled it.
        options: Plugin name -> its options.
        options_source: Where the options stand.
        line: The command line.
        met: Names among the disabled ones that something has asked about.
    """

    autoload_off: str | None = None
    allow: frozenset[str] | None = None
    allow_source: str = ""
    disabled: dict[str, str] = field(default_factory=dict)
    enabled: dict[str, str] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    options_source: str = ""
    line: CommandLine = field(default_factory=CommandLine)
    met: set[str] = field(default_factory=set)

    def disabler(self, *names: str) -> str | None:
        """Who disabled the plugin of these names, or None."""
        if any(
            name == wanted for wanted, _ in self.line.with_plugins for name in names
        ):
            return None
        for name in names:
            if name in self.disabled:
                self.met.add(name)
                return self.disabled[name]
        return None


def load_configuration(directory: str | Path | None = None) -> Configuration:
    """Read configuration file, environment and command line, in this order.

    Raises:
        ConfigurationError: One of them says something impossible.
    """
    configuration = Configuration(line=_command_line.get(CommandLine()))
    file = find_file(directory or os.getcwd())
    if file is not None:
        _take_file(configuration, file)
    _take_environment(configuration)
    for name in configuration.line.without:
        configuration.disabled[name] = f"--without {name}"
    return configuration


def find_file(directory: str | Path) -> Path | None:
    """The configuration file for a directory: its own, or the nearest above."""
    folder, below = os.path.abspath(directory), ""
    while folder != below:
        for name in ("callboard.toml", "pyproject.toml"):
            file = os.path.join(folder, name)
            if os.path.isfile(file) and _is_ours(file):
                from pathlib import Path

                return Path(file)
        folder, below = os.path.dirname(folder), folder
    return None


def _is_ours(file: str) -> bool:
    if file.endswith("callboard.toml"):
        return True
    # A project that never says our name costs no parsing, and may be broken.
    with open(file, "rb") as opened:
        if b"callboard" not in opened.read():
            return False
    from pathlib import Path

    return "callboard" in _read(Path(file)).get("tool", {})


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"{file}: cannot be read as TOML: {error}."
        raise ConfigurationError(message) from error


def _take_file(configuration: Configuration, file: Path) -> None:
    table = _read(file)
    is_project = file.name == "pyproject.toml"
    if is_project or set(table) == {"tool"}:
        table = table.get("tool", {}).get("callboard", {})
    where = f"{file}" + (" [tool.callboard]" if is_project else "")
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where}: must be a table.")
    for key in table:
        if key not in KEYS:
            raise ConfigurationError(
                f"{where}: unknown key {key!r}; known are {', '.join(KEYS)}."
                + suggestion(key, KEYS)
            )
    if not isinstance(table.get("autoload", True), bool):
        raise ConfigurationError(f"{where}: autoload must be true or false.")
    if table.get("autoload", True) is False:
        configuration.autoload_off = f"autoload = false in {file.name}"
    if "allow" in table:
        names = _names(table["allow"], where, "allow")
        configuration.allow = frozenset(normalized(name) for name in names)
        configuration.allow_source = f"allow in {file.name}"
    for name in _names(table.get("disable", []), where, "disable"):
        configuration.disabled[name] = f"disable in {file.name}"
    for name in _names(table.get("enable", []), where, "enable"):
        configuration.enabled[name] = f"enable in {file.name}"
    options = table.get("options", {})
    is_nested = isinstance(options, dict) and all(
        isinstance(value, dict) for value in options.values()
    )
    if not is_nested:
        raise ConfigurationError(
            f"{where}: options must be one table a plugin, as "
            '[tool.callboard.options.csv-logger] with fname = "log.csv".'
        )
    configuration.options = options
    configuration.options_source = f"options in {file.name}"


def _names(value: Any, where: str, key: str) -> Sequence[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ConfigurationError(
        f'{where}: {key} must be a list of names, as ["progress"].'
    )


def _take_environment(configuration: Configuration) -> None:
    for name in os.environ.get("CALLBOARD_DISABLE", "").split(","):
        if name.strip():
            configuration.disabled[name.strip()] = "CALLBOARD_DISABLE"
    switch = os.environ.get("CALLBOARD_AUTOLOAD", "").strip().lower()
    if switch in ("0", "false", "no", "off"):
        configuration.autoload_off = f"CALLBOARD_AUTOLOAD={switch}"
    elif switch in ("1", "true", "yes", "on"):
        configuration.autoload_off = None
    elif switch:
        raise ConfigurationError(f"CALLBOARD_AUTOLOAD must be 0 or 1, got {switch!r}.")


def normalized(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return distribution.lower().replace("_", "-").replace(".", "-")
