"""``callboard plugins lock``: write down all that is active, to be held to it later."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from callboard.cli.completion import plugin_names, schedule_names
from callboard.cli.fit import Named, installed_schedule, read_assignments, read_names
from callboard.cli.text import columns, wrapped
from callboard.configuration import CommandLine, command_line, load_configuration
from callboard.discovery import InstalledPlugin
from callboard.lockfile import DEFAULT_FILE, Lock, lock_of_members, write

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin


NOTES = {
    "editable": "Installed as editable, so that the files may change at any time: {}. "
    "The hashes tell when they do; no version brings them back.",
    "file": "Your own code, which no distribution ships: {}. The hashes tell when it "
    "changes; keep the files with the lock.",
    "unknown": "Code without a file, as in a notebook: {}. Nothing tells when it "
    "changes.",
}


@click.command("lock")
@click.argument("target", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_FILE,
    show_default=True,
    metavar="FILE",
    help="Where to write the lock.",
)
@click.option(
    "--with",
    "with_plugins",
    callback=read_names,
    multiple=True,
    metavar="NAME:OPT=VALUE,...",
    shell_complete=plugin_names,
    help="A plugin that takes part, as of `callboard fit`.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    shell_complete=plugin_names,
    help="A plugin that takes no part, as of `callboard fit`.",
)
@click.option(
    "--schedule",
    metavar="NAME",
    shell_complete=schedule_names,
    help="The method that the fit will be started with, as of `callboard fit`.",
)
@click.option(
    "--argument",
    "options",
    callback=read_assignments,
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of the function that makes the Learner: -o of `callboard fit`.",
)
def command(
    target: str | None,
    output: Path,
    with_plugins: Sequence[Named],
    without: Sequence[str],
    schedule: str | None,
    options: Mapping[str, str],
) -> None:
    """Write down every active plugin: version, options, and a hash of each file.

    With TARGET (file.py, file.py:factory or package.module:factory), the plugins of
    that Learner; without it, those of every Learner. `callboard fit TARGET --locked`
    then refuses to train with anything else.

    The lock is JSON. It holds every distribution and every file of your own in which a
    class of an active plugin is defined, and Callboard itself; not the data, not the
    model, and not what these files import. Options are compared where a plugin keeps
    them under their own names.

    \b
    callboard plugins lock train.py
    callboard plugins lock train.py -o runs/best.lock --with mixup:alpha=0.3
    callboard fit train.py --epochs 5 --locked
    """
    methods = [installed_schedule(schedule)] if schedule else []
    with command_line(CommandLine(tuple(with_plugins), tuple(without))):
        lock = _lock(target, options, methods)
    write(lock, output)
    count = len(lock.plugins)
    what = "1 plugin" if count == 1 else f"{count} plugins"
    click.echo(f"{what} in {output}")
    rows = [_row(lock, plugin) for plugin in lock.plugins]
    if rows:
        click.echo(columns(rows, sys.stdout))
    for note in _notes(lock):
        click.echo(wrapped(f"Note: {note}", sys.stdout, "    "))


def _lock(
    target: str | None, options: Mapping[str, str], methods: Sequence[InstalledPlugin]
) -> Lock:
    if target is not None:
        from callboard.cli.target import load_learner

        learner = load_learner(target, options)  # held: its board is not for long
        return lock_of_members(learner.cbs.members, methods, target)
    return lock_of_members(_members_of_every_learner(), methods)


def _members_of_every_learner() -> list[ActivePlugin]:
    from callboard.activation import activate
    from callboard.cli.specimens import board_of

    board = board_of(activate(None, load_configuration()))
    return list(board.members.values())


def _row(lock: Lock, plugin: Mapping[str, object]) -> tuple[str, ...]:
    names = plugin["code"]
    code = [lock.code[name] for name in names] if isinstance(names, list) else []
    count = sum(len(one.files or ()) for one in code)
    # That it is a file of the user's own is said before.
    kinds = dict.fromkeys(one.kind for one in code if one.kind != "file")
    files = ", ".join([f"{count} file{'s' * (count != 1)}", *kinds])
    origin = " ".join(str(plugin[p]) for p in ("distribution", "version") if plugin[p])
    return "", str(plugin["key"]), origin or "your own code", files


def _notes(lock: Lock) -> Iterator[str]:
    """What a lock cannot promise."""
    for kind, note in NOTES.items():
        named = [name for name, code in lock.code.items() if code.kind == kind]
        if named:
            yield note.format(", ".join(named))
    for name, code in lock.code.items():
        if code.edited:
            yield (
                f"{name} {code.version} was edited since it was installed "
                f"({', '.join(code.edited)}): the lock holds it as it is now."
            )
    for plugin in lock.plugins:
        if plugin["untold_options"]:
            told = ", ".join(f"{n} ({w})" for n, w in plugin["untold_options"].items())
            yield f"{plugin['key']} has options that are no plain data: {told}."
