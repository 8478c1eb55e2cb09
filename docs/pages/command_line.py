"""The page of the command line: the help of every command, as it prints it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from callboard.cli import HOMES, main
from pages.catalogue import all_plugins

WIDTH = 80


def command_reference() -> str:
    """The help of every command, groups before what is in them."""
    sections = "\n\n".join(
        f"## `{context.command_path}`\n\n```text\n{help_of(context)}\n```"
        for context in contexts()
    )
    return f"""# Command line

What `--help` prints, command by command. An error that you can mend is one message and
exit status 2; a bug keeps its traceback and exits with 1, as does a check that did not
pass; Ctrl-C exits with 130. `callboard completion` lets Tab complete names and options.

{sections}
"""


def contexts() -> Iterator[click.Context]:
    """A context for each command of the core, and of this repository's plugins."""
    main_context = context_of(main, "callboard", None)
    yield main_context
    offered = {
        entry.name: entry.installed.load()
        for plugin in all_plugins()
        for entry in plugin.entries
        if entry.installed.kind == "command"
    }
    for name in sorted({*HOMES, *offered}):
        command = offered.get(name) or main.get_command(main_context, name)
        assert isinstance(command, click.Command)
        yield from tree_of(command, name, main_context)


def tree_of(
    command: click.Command, name: str, parent: click.Context
) -> Iterator[click.Context]:
    """A context for a command, and for all that it contains."""
    context = context_of(command, name, parent)
    yield context
    if isinstance(command, click.Group):
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            if inner is not None and not inner.hidden:
                yield from tree_of(inner, inner_name, context)


def context_of(
    command: click.Command, name: str, parent: click.Context | None
) -> click.Context:
    """A context of a fixed width, so that every machine writes the same page."""
    return click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH)


def help_of(context: click.Context) -> str:
    """What ``--help`` prints; the main command without what happens to be installed."""
    text = context.command.get_help(context)
    return text.partition("\nCommands of installed plugins:")[0].rstrip()
