"""The page of events: a picture of the loop, and every hookspec with its signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from callboard import events as hookspecs
from callboard.events import EVENTS, Event
from pages.catalogue import Entry, links_to
from pages.loop_picture import loop_picture

KINDS = {
    "event": "An event: nothing is returned.",
    "action": "An action: the first plugin to return something has done it; wrappers "
    "go around it.",
    "span": "A span: plugins put wrappers around it.",
}


def event_reference(listeners: Mapping[str, Sequence[Entry]]) -> str:
    """Describe every event, in firing order.

    Args:
        listeners: By event, the plugins of this repository that listen to it.
    """
    rows = "\n".join(
        f"| [`{event.name}`](#{event.name}) | {event.kind} | {event.summary} |"
        for event in EVENTS.values()
    )
    sections = "\n\n".join(
        event_section(event, listeners.get(event.name, ())) for event in EVENTS.values()
    )
    return f"""# Events

Every event, action and span of the loop, in the order in which they fire. This page is
made from `callboard/events.py`. `callboard events` prints the same, and
`callboard order` prints who runs at each of them.

{loop_picture()}

<div class="stacked" markdown>

| name | kind | |
|---|---|---|
{rows}

</div>

{sections}
"""


def event_section(event: Event, listeners: Sequence[Entry]) -> str:
    """Describe one event under its own heading."""
    here = f"\n\nListening here: {links_to(listeners)}." if listeners else ""
    return f"""## `{event.name}` {{#{event.name}}}

```pyi
{signature(event)}
```

{event.documentation}

{KINDS[event.kind]}{here}"""


def signature(event: Event) -> str:
    """The signature of a hookspec, as its source has it."""
    written = str(inspect.signature(getattr(hookspecs, event.name)))
    return f"def {event.name}{written}".replace("'", "")
