"""``callboard stubs``: tell type checkers and editors which plugins are installed."""

from __future__ import annotations

import inspect
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from callboard.cli.text import short_path
from callboard.discovery import InstalledPlugin
from callboard.errors import CallboardError, OptionError

FOLDER = "callboard-stubs"
HEADER = '''"""Written by `callboard stubs`: the classes of installed plugins."""

from typing import Any

from callboard import Callback
'''
# What an annotation may be made of to be told on; anything else is Any.
WORD = r"(bool|bytes|complex|float|int|str|None)"
PLAIN = re.compile(rf"{WORD}( \| {WORD})*")


@click.command("stubs")
@click.option(
    "--path",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where the folder {FOLDER} is written. Default: beside the installed "
    "packages, where mypy and pyright look for it.",
)
@click.option("--remove", is_flag=True, help="Take the stubs away again.")
def command(path: Path | None, remove: bool) -> None:
    """Write type stubs, so that `from callboard.callbacks import MixUp` has a type.

    Write them again after plugins were installed or taken away.

    \b
    callboard stubs
    callboard stubs --path typings
    """
    plugins = _classes()
    folder = (path or Path(sysconfig.get_path("purelib"))) / FOLDER
    files = {"callbacks.pyi": stub_of(plugins), "py.typed": "partial\n"}
    try:
        if remove:
            what = "Took {} away." if folder.exists() else "There is no {}."
            _remove(folder, files)
            click.echo(what.format(short_path(folder)))
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        message = f"{short_path(folder)} cannot be written: {error}. Give --path."
        raise OptionError(message) from error
    click.echo(f"Wrote {short_path(folder)}: {len(plugins)} classes of plugins.")


def stub_of(plugins: Iterable[InstalledPlugin]) -> str:
    """The text of ``callbacks.pyi``; modules without a type marker have no types."""
    return HEADER + "\n".join(_stub_of_class(plugin) for plugin in plugins)


def _stub_of_class(plugin: InstalledPlugin) -> str:
    name = plugin.attribute
    try:
        loaded: Any = plugin.load()
        parameters = inspect.signature(loaded).parameters.values()
    except (CallboardError, TypeError, ValueError):  # it cannot be imported, or asked
        return f"\n{name}: Any\n"
    written = [*map(_parameter, _with_star(list(parameters)))]
    if not isinstance(loaded, type):
        return f"\ndef {name}({', '.join(written)}) -> Any: ...\n"
    options = ", ".join(["self", *written])
    return f"\nclass {name}(Callback):\n    def __init__({options}) -> None: ...\n"


def _with_star(
    parameters: list[inspect.Parameter],
) -> list[inspect.Parameter | None]:
    """The parameters, with None where those begin that go by name only."""
    kinds = [each.kind for each in parameters]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return [*parameters]
    by_name = [each is inspect.Parameter.KEYWORD_ONLY for each in kinds]
    if not any(by_name):
        return [*parameters]
    first = by_name.index(True)
    return [*parameters[:first], None, *parameters[first:]]


def _parameter(parameter: inspect.Parameter | None) -> str:
    if parameter is None:
        return "*"
    written = str(parameter.annotation)
    kind = written if PLAIN.fullmatch(written) else "Any"
    default = "" if parameter.default is parameter.empty else " = ..."
    stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL)
    stars += "**" * (parameter.kind is parameter.VAR_KEYWORD)
    return f"{stars}{parameter.name}: {kind}{default}"


def _classes() -> list[InstalledPlugin]:
    """One plugin for every name of a class: what callboard.callbacks gives."""
    from callboard import discovery

    found: dict[str, InstalledPlugin] = {}
    for plugin in discovery.installed():
        if plugin.kind in ("callback", "plugin") and plugin.attribute.isidentifier():
            found.setdefault(plugin.attribute, plugin)
    return list(found.values())


def _remove(folder: Path, files: Iterable[str]) -> None:
    for name in files:
        (folder / name).unlink(missing_ok=True)
    if folder.exists():
        folder.rmdir()
