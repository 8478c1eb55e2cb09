"""Write the pages that are read from the code: events, plugins and decisions.

MkDocs loads this file as a hook (see mkdocs.yml) and calls `on_files`. What the pages
say is made by functions that need neither MkDocs nor torch:

- ``reference/events.md`` from the hookspecs in ``callboard.events``;
- ``plugins/index.md`` from the pyproject.toml and README.md of each folder in plugins/,
  and a page for each plugin, which is its README;
- ``decisions/index.md`` from the headings of the decisions.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callboard.events import EVENTS, Event

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the documentation."""
    # MkDocs is only there when the documentation is built.
    from mkdocs.structure.files import File

    for address, content in pages().items():
        files.append(File.generated(config, address, content=content))
    return files


def pages() -> dict[str, str]:
    """All generated pages, by their address."""
    return {
        "decisions/index.md": decision_list(),
        "plugins/index.md": plugin_catalogue(),
        **{f"plugins/{folder.name}.md": readme(folder) for folder in plugin_folders()},
        "reference/events.md": event_reference(),
    }


def event_reference() -> str:
    """Describe every event, in firing order."""
    rows = "\n".join(
        f"| [`{event.name}`](#{event.name}) | {event.kind} | {event.summary} |"
        for event in EVENTS.values()
    )
    sections = "\n\n".join(map(event_section, EVENTS.values()))
    return f"""# Events

Every event, action and span of the loop, in the order in which they fire. This page is
made from `callboard/events.py`. `callboard events` prints the same, and
`callboard order` prints who runs at each of them.

| name | kind | |
|---|---|---|
{rows}

{sections}
"""


def event_section(event: Event) -> str:
    """Describe one event under its own heading."""
    call = f"{event.name}({', '.join(event.parameters)})"
    return f"""## `{event.name}` {{#{event.name}}}

`{call}`, {article(event.kind)} {event.kind}.

{event.documentation}"""


def article(noun: str) -> str:
    """The indefinite article that goes with a noun."""
    return "an" if noun[0] in "aeiou" else "a"


def plugin_catalogue() -> str:
    """List the plugins of this repository, and how each of them joins a run."""
    rows = "\n".join(map(plugin_row, plugin_folders()))
    return f"""# Plugins

Every plugin is a distribution of its own. Those of the group `callboard.plugins` watch
every Learner as soon as they are installed; those of `callboard.callbacks` take part
when they are named; those of `callboard.methods` are methods of the Learner; those of
`callboard.adapters` let callbacks of another framework take part.

| install | what it does | entry points |
|---|---|---|
{rows}
"""


def plugin_row(folder: Path) -> str:
    """Describe a plugin in one row of the catalogue."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    groups: dict[str, dict[str, Any]] = project["entry-points"]
    entry_points = "<br>".join(
        f"`{group}`: " + ", ".join(f"`{name}`" for name in names)
        for group, names in groups.items()
    )
    link = f"[`{project['name']}`]({folder.name}.md)"
    return f"| {link} | {first_sentence(readme(folder))} | {entry_points} |"


def first_sentence(text: str) -> str:
    """The first sentence of a Markdown text, headings left out."""
    prose = re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip()
    sentence = re.match(r".+?[.!?](?=\s|$)|[^\n]+", prose, re.DOTALL)
    return " ".join(sentence.group().split()) if sentence else ""


def readme(folder: Path) -> str:
    """What a plugin says about itself."""
    return (folder / "README.md").read_text("utf-8")


def plugin_folders() -> list[Path]:
    """The folder of every plugin of this repository."""
    return sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


def decision_list() -> str:
    """List the decisions by number."""
    links = "\n".join(
        f"- [{path.read_text('utf-8').splitlines()[0].removeprefix('# ')}]({path.name})"
        for path in sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
    )
    return f"""# Decisions

Why Callboard is as it is: one page a decision, with what was rejected. A decision is
never edited once it is accepted; a later one supersedes it.

{links}
"""
