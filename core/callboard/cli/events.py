"""``callboard events``: the events of the loop, and what each is for."""

from __future__ import annotations

import sys

import click

from callboard.cli.completion import event_names
from callboard.cli.text import columns
from callboard.errors import UnknownEventError, suggestion
from callboard.events import EVENTS, Event


@click.command("events")
@click.argument("name", required=False, shell_complete=event_names)
def command(name: str | None) -> None:
    """What the loop calls, in firing order; with NAME, all about one event.

    An event is a moment, an action (do_...) a piece of work that a plugin may wrap or
    replace, a span a piece of the loop that it may wrap.

    \b
    callboard events
    callboard events after_epoch
    """
    if name is None:
        rows = [
            (event.name, event.kind, _plain(event.summary)) for event in EVENTS.values()
        ]
        click.echo(columns(rows, sys.stdout))
    else:
        click.echo(_described(find_event(name)))


def find_event(name: str) -> Event:
    """The event of this name.

    Raises:
        UnknownEventError: There is none; says which is near.
    """
    if name not in EVENTS:
        near = suggestion(name.replace("-", "_"), EVENTS)
        message = f'There is no event "{name}".{near} `callboard events` lists them.'
        raise UnknownEventError(message)
    return EVENTS[name]


def _described(event: Event) -> str:
    article = "an" if event.kind[0] in "aeiou" else "a"
    call = f"{event.name}({', '.join(event.parameters)})"
    return (
        f"{call}: {article} {event.kind}\n\n{_plain(event.documentation)}\n\n"
        f"Who runs there: callboard order --event {event.name}"
    )


def _plain(text: str) -> str:
    return text.replace("``", "`")
