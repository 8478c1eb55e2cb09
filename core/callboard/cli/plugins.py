"""``callboard plugins``: the group, and ``callboard plugins list``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from callboard.cli.groups import Home, LazyGroup
from callboard.cli.text import columns, wrapped

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.configuration import Configuration
    from callboard.discovery import InstalledPlugin

TITLES = ("name", "status", "from", "why")


class Row(NamedTuple):
    """One plugin of the list; the fields are the keys of ``--json``.

    Attributes:
        name: What users write; with a TARGET its key there (``mixup-2``).
        kind: ``plugin``, ``callback``, ``method`` or ``command``.
        status: ``active``, ``available``, ``disabled`` or ``broken``.
        reason: What decided the status.
        distribution: What pip installed; None for code of the user's own.
        version: Of that distribution.
        entry_point: Where the code is: ``callboard_mixup:MixUp``.
        origin: Distribution and version, or the file of the user's own code.
    """

    name: str
    kind: str
    status: str
    reason: str
    distribution: str | None
    version: str | None
    entry_point: str | None
    origin: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The fields that a line shows."""
        return self.name, self.status, self.origin, self.reason


class PluginsGroup(LazyGroup):
    """``list`` is here; the other commands are imported when they are called."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is none of that name."""
        return list_ if cmd_name == "list" else super().get_command(ctx, cmd_name)


HOMES = {
    "check": Home("callboard.cli.check", "Import every plugin and validate it."),
    "diff": Home("callboard.cli.diff", "What differs between locks, checkpoints, ..."),
    "list": Home("callboard.cli.plugins", "A line for every installed plugin."),
    "lock": Home("callboard.cli.lock", "Write down all that is active in a file."),
    "show": Home("callboard.cli.show", "All about one plugin: options, events, ..."),
    "why": Home("callboard.cli.why", "Why a plugin is active, or why it is not."),
}


@click.group("plugins", cls=PluginsGroup, homes=HOMES)
def command() -> None:
    """What is installed, what it does, and whether it works.

    \b
    callboard plugins list
    callboard plugins show mixup
    callboard plugins why mixup train.py
    callboard plugins check
    callboard plugins lock train.py
    """


@click.command("list")
@click.argument("target", required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Methods and commands too; with TARGET, also what is not active in it.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="JSON: a list of objects, of every kind."
)
def list_(target: str | None, everything: bool, as_json: bool) -> None:
    """A line for every installed plugin: name, status, source, and why.

    Nothing is imported: a plugin counts as broken when its metadata or its source shows
    it, or when it failed before. `callboard plugins check` tries each one out.

    With TARGET (file.py, file.py:factory or package.module:factory), the plugins of
    that Learner, in the order in which they run.

    \b
    callboard plugins list
    callboard plugins list train.py
    callboard plugins list --json
    """
    from callboard import discovery
    from callboard.configuration import load_configuration

    rows: list[Row] = []
    if target is not None:
        from callboard.cli.target import load_learner

        members = load_learner(target).cbs.members
        rows = [_row_of_member(member) for member in members]
    if target is None or everything:
        taken = {(row.kind, row.name) for row in rows}
        installed = list(_rows_of_installed(load_configuration()))
        rows += [
            row if target is None else _beside(row)
            for row in installed
            if (row.kind, row.name) not in taken
        ]
    if as_json:
        import json

        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        _print(rows, everything=everything)
    for problem in discovery.problems():
        click.echo(wrapped(f"Warning: {problem}", sys.stderr), err=True)


def _print(rows: Sequence[Row], *, everything: bool) -> None:
    shown = [r for r in rows if everything or r.kind in ("plugin", "callback")]
    if shown:
        lines = [TITLES, *(row.cells for row in shown)]
        if everything:
            kinds = ("kind", *(row.kind for row in shown))
            lines = [
                (name, kind, *rest)
                for kind, (name, *rest) in zip(kinds, lines, strict=True)
            ]
        click.echo(columns(lines, sys.stdout))
    else:
        message = "No plugin is installed: python -m pip install 'callboard[standard]'"
        click.echo(message, err=True)
    num_left_out = len(rows) - len(shown)
    if num_left_out:
        what = "method or command" if num_left_out == 1 else "methods and commands"
        click.echo(f"And {num_left_out} {what}: --all lists them.", err=True)


def _rows_of_installed(configuration: Configuration) -> Iterator[Row]:
    from callboard.cli import HOMES as OWN_COMMANDS
    from callboard.discovery import installed
    from callboard.status import status_of
    from callboard.verdicts import verdicts

    found = sorted(installed(), key=_place)
    broken = verdicts(found)
    for plugin in found:
        status, reason = status_of(plugin, configuration)
        if plugin in broken and status in ("active", "available"):
            status, reason = "broken", broken[plugin]
        if plugin.kind == "command" and plugin.name in OWN_COMMANDS:
            status, reason = (
                "broken",
                f"callboard's own command {plugin.name!r} hides it",
            )
        yield _row(plugin, plugin.name, status, reason)


def _place(plugin: InstalledPlugin) -> tuple[int, str]:
    kinds = ("plugin", "callback", "method", "command", "adapter")
    return kinds.index(plugin.kind), plugin.name


def _row(plugin: InstalledPlugin, name: str, status: str, reason: str) -> Row:
    return Row(
        name=name,
        kind=plugin.kind,
        status=status,
        reason=reason,
        distribution=plugin.distribution,
        version=plugin.version,
        entry_point=plugin.entry_point,
        origin=f"{plugin.distribution} {plugin.version}",
    )


def _row_of_member(member: ActivePlugin) -> Row:
    from callboard.callback import Callback

    is_off = not member.switch("run")
    reason = f"{member.reason}; switched off" if is_off else member.reason
    if member.installed is not None:
        return _row(member.installed, member.key, "active", reason)
    kind = "callback" if isinstance(member.plugin, Callback) else "plugin"
    source, version = member.origin
    is_shipped = bool(version)
    return Row(
        name=member.key,
        kind=kind,
        status="active",
        reason=reason,
        distribution=source if is_shipped else None,
        version=version or None,
        entry_point=None,
        origin=f"{source} {version}".strip(),
    )


def _beside(row: Row) -> Row:
    """A row for a plugin that is not active in this Learner, whatever others say."""
    if row.status != "active":
        return row
    return row._replace(status="available", reason="not active in this Learner")
