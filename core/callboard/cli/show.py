"""``callboard plugins show``: all about one plugin."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from callboard.cli.completion import any_names
from callboard.cli.text import columns, short_path, wrapped

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.discovery import InstalledPlugin


@click.command("show")
@click.argument("name", shell_complete=any_names)
def command(name: str) -> None:
    """All about one plugin: what it does, its options, when it runs, its source.

    The plugin is imported; no object of it is made.

    \b
    callboard plugins show mixup
    callboard plugins show fit_one_cycle
    """
    from callboard import discovery
    from callboard.configuration import load_configuration
    from callboard.status import status_of

    installed = discovery.find(name)
    status, reason = status_of(installed, load_configuration())
    loaded = installed.load()
    source = f"{installed.distribution} {installed.version}"
    head = f"{name}: {_with_article(installed.kind)} of {source}; {status}: {reason}"
    click.echo(wrapped(head, sys.stdout))
    description = _description(loaded) or sys.modules[installed.module].__doc__
    if description:
        click.echo("\n" + wrapped(_prose(description), sys.stdout))
    options = list(_options(loaded, installed.kind))
    if options:
        click.echo("\nOptions")
        click.echo(columns(options, sys.stdout))
    click.echo()
    click.echo(columns(list(_facts(installed, loaded)), sys.stdout))


def _description(loaded: Any) -> str | None:
    is_command = isinstance(loaded, click.Command)
    text: str | None = loaded.help if is_command else loaded.__doc__
    return text


def _prose(docstring: str) -> str:
    """A docstring, each paragraph on one line; ``Args:`` and the like as written."""
    paragraphs = inspect.cleandoc(docstring).replace("``", "`").split("\n\n")
    joined = (text if "\n " in text else text.replace("\n", " ") for text in paragraphs)
    return textwrap.indent("\n\n".join(joined), "  ")


def _options(loaded: Any, kind: str) -> Iterator[tuple[str, str]]:
    from callboard.options import options_of, parameters_of

    is_method = kind == "method" and callable(loaded)
    found = parameters_of(loaded, skip_first=True) if is_method else options_of(loaded)
    for option in found:
        default = "required" if option.is_required else f"default {option.default!r}"
        yield f"  {option.name}", f"{option.type_in_words}, {default}"


def _facts(installed: InstalledPlugin, loaded: Any) -> Iterator[tuple[str, str]]:
    if installed.kind in ("plugin", "callback"):
        from callboard.cli.specimens import specimen

        yield from _facts_of_member(specimen(installed))
    yield "use", _use(installed, loaded)
    yield (
        "entry point",
        f"{installed.group}: {installed.name} = {installed.entry_point}",
    )
    file = getattr(sys.modules[installed.module], "__file__", None)
    if file:
        yield "file", short_path(file)


def _facts_of_member(member: ActivePlugin) -> Iterator[tuple[str, str]]:
    from callboard.activation import DECLARATIONS
    from callboard.callback import ROLES
    from callboard.hookimpls import hookimpls_of

    yield "role", f"{member.role}: {ROLES[member.role]}"
    yield "stages", ", ".join(member.stages)
    impls = hookimpls_of(member.plugin, member.key)
    words = [f"{i.event} (around)" if i.is_wrapper else i.event for i in impls]
    yield "events", ", ".join(words) or "none"
    for declaration in DECLARATIONS:
        targets = member.targets(declaration)
        if targets:
            names = (t if isinstance(t, str) else t.__name__ for t in targets)
            yield declaration, ", ".join(names)
    if member.order:
        yield "order", f"{member.order:g} (breaks ties)"


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _use(installed: InstalledPlugin, loaded: Any) -> str:
    if installed.kind == "method":
        parameters = list(inspect.signature(loaded).parameters.values())[1:]
        bare = [p.replace(annotation=p.empty) for p in parameters]
        return f"learner.{installed.name}{inspect.Signature(bare)}"
    if installed.kind == "command":
        return f"callboard {installed.name} --help"
    if installed.kind == "adapter":
        return f"Learner(..., cbs=an instance of {installed.name})"
    if installed.kind == "plugin":
        return f"takes part by itself; --without {installed.name} leaves it out"
    return f'Learner(..., cbs="{installed.name}"), or --with {installed.name}'
