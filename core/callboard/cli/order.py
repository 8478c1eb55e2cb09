"""``callboard order``: who runs when in the loop, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from callboard.cli.completion import event_names, plugin_names
from callboard.cli.fit import (
    Named,
    check_names,
    check_without,
    read_assignments,
    read_names,
)
from callboard.cli.text import wrapped
from callboard.configuration import CommandLine, command_line

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.dispatch import Board


@click.command("order")
@click.argument("target", required=False)
@click.option(
    "--event",
    shell_complete=event_names,
    help="Only who runs at this event, first to last.",
)
@click.option(
    "--explain",
    nargs=2,
    metavar="A B",
    shell_complete=plugin_names,
    help="Which of two plugins runs first, at each event of both, and why.",
)
@click.option(
    "--with",
    "with_plugins",
    callback=read_names,
    multiple=True,
    metavar="NAME:OPT=VALUE,...",
    shell_complete=plugin_names,
    help="A plugin that takes part in TARGET, as of `callboard fit`.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    shell_complete=plugin_names,
    help="A plugin that takes no part in TARGET, as of `callboard fit`.",
)
@click.option(
    "-o",
    "options",
    callback=read_assignments,
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of the function that makes the Learner, as of `callboard fit`.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(
    target: str | None,
    event: str | None,
    explain: tuple[str, str] | None,
    with_plugins: Sequence[Named],
    without: Sequence[str],
    options: Mapping[str, str],
    as_json: bool,
) -> None:
    """The loop, with the plugins that run at each event, in order.

    With TARGET (file.py, file.py:factory or package.module:factory), the plugins that
    are active in that Learner. Without it, all that is installed and not disabled, as
    if it took part together; for this no callback is made, and what conflicts or is
    required does not count.

    \b
    callboard order train.py
    callboard order train.py --event after_epoch
    callboard order train.py --with mixup --with one-cycle
    callboard order --explain recorder csv-logger
    callboard order train.py --explain mixup report --json
    """
    if event and explain:
        raise click.UsageError("Give either --event or --explain.")
    if event:
        from callboard.cli.events import find_event

        find_event(event)  # a wrong name is refused before anything is loaded
    if target is None:
        if with_plugins or without or options:
            raise click.UsageError("--with, --without and -o are of a TARGET.")
        board = _board_of_all()
    else:
        from callboard.cli.target import load_learner

        line = CommandLine(tuple(with_plugins), tuple(without))
        check_names(line)
        with command_line(line):
            # Held, since a Learner that is gone has no board.
            learner = load_learner(target, options)
        check_without(line, learner)
        board = learner._board
    if explain:
        from callboard.explaining import explain as explained

        explanation = explained(board, *explain)
        answer: Any = explanation.as_dict()
        text = explanation.in_words()
    elif event:
        answer = {"event": event, "plugins": _at(board, event)}
        text = "\n".join(_lines_at(board, event))
    else:
        answer = _as_data(board)
        text = _in_words(board)
    if as_json:
        import json

        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(wrapped(text, sys.stdout, indent="    "))


def _board_of_all() -> Board:
    """The board that everything installed would have together."""
    from callboard.cli.specimens import board_of, gathered, usable
    from callboard.configuration import load_configuration

    members, broken = gathered(usable(load_configuration()))
    for plugin, error in broken:
        source = f"{plugin.name} ({plugin.distribution} {plugin.version})"
        message = f"Warning: {source} is left out: {error}"
        click.echo(wrapped(message, sys.stderr), err=True)
    return board_of(members)


def _in_words(board: Board) -> str:
    from callboard.board import loop_text

    names = " > ".join(board.running_order.keys) or "no plugins"
    return f"{names}\n\n{loop_text(board)}"


def _at(board: Board, event: str) -> list[dict[str, Any]]:
    """Who runs at an event, in call order."""
    who = board.implementers(event)
    if event == "teardown":  # last-opened first
        who = who[::-1]
    return [{"plugin": m.key, "is_wrapper": is_wrapper} for m, is_wrapper in who]


def _lines_at(board: Board, event: str) -> Iterator[str]:
    from callboard.events import EVENTS

    found = _at(board, event)
    for place, entry in enumerate(found, 1):
        member = board.members[entry["plugin"]]
        around = "  (around)" if entry["is_wrapper"] else ""
        yield f"{place}. {member.label}{around}"
    if EVENTS[event].kind != "event":
        yield f"{len(found) + 1}. the loop's own work"
    elif not found:
        yield f"Nobody runs at {event}."


def _as_data(board: Board) -> dict[str, Any]:
    from callboard.events import EVENTS

    return {
        "order": list(board.running_order.keys),
        "plugins": [_member_as_data(member) for member in board.members.values()],
        "events": {event: _at(board, event) for event in EVENTS},
        "constraints": [
            {
                "before": constraint.before,
                "after": constraint.after,
                "declared_by": constraint.declared_by,
                "attribute": constraint.attribute,
            }
            for constraint in board.running_order.constraints
        ],
    }


def _member_as_data(member: ActivePlugin) -> dict[str, Any]:
    distribution, version = member.origin
    return {
        "key": member.key,
        "name": member.name,
        "role": member.role,
        "reason": member.reason,
        "distribution": distribution if version else None,
        "version": version or None,
    }
