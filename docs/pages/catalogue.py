"""The pages of plugins: the catalogue, and a page for each folder of plugins/.

What a page says of role, events, order and options is read from the classes
themselves. No object of them is made, as in `callboard plugins show`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from callboard.activation import ActivePlugin
from callboard.callback import ROLES
from callboard.cli.specimens import specimen
from callboard.discovery import InstalledPlugin
from callboard.hookimpls import hookimpls_of
from callboard.metadata import GROUPS
from callboard.options import Option, options_of, parameters_of

ROOT = Path(__file__).parents[2]
JOINS = {
    "plugin": "by being installed",
    "callback": "when it is named",
    "method": "as a method of the Learner",
    "command": "as a command",
    "adapter": "when such an object is given",
}
DECLARED = {
    "run_after": "runs after",
    "run_before": "runs before",
    "requires": "needs",
    "conflicts_with": "not with",
}


@dataclass(frozen=True)
class Entry:
    """One entry point of a plugin of this repository."""

    folder: str
    installed: InstalledPlugin

    @property
    def name(self) -> str:
        """What users write."""
        return self.installed.name

    @cached_property
    def member(self) -> ActivePlugin | None:
        """What the class or module declares; None for methods and the like."""
        is_member = self.installed.kind in ("plugin", "callback")
        return specimen(self.installed) if is_member else None

    @cached_property
    def events(self) -> dict[str, bool]:
        """The events that it listens to, and whether by a wrapper."""
        if self.member is None:
            return {}
        impls = hookimpls_of(self.member.plugin, self.name)
        return {impl.event: impl.is_wrapper for impl in impls}

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Its options, or the arguments of the method."""
        if self.installed.kind == "method":
            return parameters_of(self.installed.load(), skip_first=True)
        return options_of(self.installed.load()) if self.member else ()

    def declared(self, attribute: str) -> dict[str, str]:
        """What a declaration names, and why, where it says so."""
        if self.member is None:
            return {}
        raw = getattr(self.member.plugin, attribute, ())
        reasons = raw if isinstance(raw, Mapping) else {}
        named = {as_name(each): str(why) for each, why in reasons.items()}
        targets = map(as_name, self.member.targets(attribute))
        return {target: named.get(target, "") for target in targets}


@dataclass(frozen=True)
class Plugin:
    """One folder of plugins/."""

    folder: Path

    @cached_property
    def project(self) -> dict[str, Any]:
        """The table ``project`` of its pyproject.toml."""
        text = (self.folder / "pyproject.toml").read_text("utf-8")
        project: dict[str, Any] = tomllib.loads(text)["project"]
        return project

    @cached_property
    def readme(self) -> str:
        """What it says about itself."""
        return (self.folder / "README.md").read_text("utf-8")

    @cached_property
    def entries(self) -> list[Entry]:
        """Its entry points in Callboard's groups."""
        distribution = self.project["name"], self.project["version"]
        return [
            Entry(self.folder.name, InstalledPlugin(name, kind, address, *distribution))
            for group, kind in GROUPS.items()
            for name, address in self.project["entry-points"].get(group, {}).items()
        ]

    @property
    def link(self) -> str:
        """A link from the catalogue to its page."""
        return f"[`{self.project['name']}`]({self.folder.name}.md)"


@cache
def all_plugins() -> tuple[Plugin, ...]:
    """Every plugin of this repository."""
    folders = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
    for folder in map(str, folders):
        if folder not in sys.path:  # one that is not installed can be read, too
            sys.path.append(folder)
    return tuple(map(Plugin, folders))


def listeners() -> dict[str, list[Entry]]:
    """By event, who of this repository listens to it."""
    found = defaultdict(list)
    for plugin in all_plugins():
        for entry in plugin.entries:
            for event in entry.events:
                found[event].append(entry)
    return found


def plugin_catalogue() -> str:
    """List the plugins of this repository, and how each of them joins a run."""
    plugins = all_plugins()
    summaries = "\n".join(map(summary_row, plugins))
    members = [entry for p in plugins for entry in p.entries if entry.member]
    calls = "\n".join(map(call_row, members))
    options = "\n".join(
        f"| {link_to(entry)} | `{usage(entry)}` |"
        for plugin in plugins
        for entry in plugin.entries
        if entry.member or entry.options
    )
    return f"""# Plugins

Every plugin is a distribution of its own: pip installs `callboard-mixup`, and a run is
given `mixup`. This page is made from the folders of plugins/.

## What they do

{len(plugins)} distributions. What joins by being installed only observes; what joins
when it is named stands in `cbs=`, behind `--with`, or under `enable` in a file.

<div class="stacked" markdown>

| install | what it does | joins |
|---|---|---|
{summaries}

</div>

## When they run

Who runs first is declared: `run_after`, `run_before`. A plugin that is named there and
takes no part is no constraint. `callboard order TARGET` solves it for a Learner of
yours, and `--explain A B` says why. *Around* is a wrapper.

<div class="stacked" markdown>

| plugin | role | events | order |
|---|---|---|---|
{calls}

</div>

## Options

With their types and defaults; methods are called on the Learner.

<div class="stacked" markdown>

| name | options |
|---|---|
{options}

</div>
"""


def summary_row(plugin: Plugin) -> str:
    """What a plugin does, and how its entry points join a run."""
    joins = "<br>".join(
        f"`{entry.name}` {JOINS[entry.installed.kind]}" for entry in plugin.entries
    )
    return f"| {plugin.link} | {first_sentence(plugin.readme)} | {joins or 'a base'} |"


def call_row(entry: Entry) -> str:
    """Role, events and order of one plugin."""
    order = "<br>".join(
        f"{words} " + ", ".join(f"`{name}`" for name in entry.declared(attribute))
        for attribute, words in DECLARED.items()
        if entry.declared(attribute)
    )
    role = entry.member.role if entry.member else ""
    return f"| {link_to(entry)} | {role} | {events(entry, '')} | {order} |"


def plugin_page(plugin: Plugin) -> str:
    """The README of a plugin, with what its classes declare after its first part."""
    facts = "\n\n".join(map(facts_of, plugin.entries))
    what, heading, rest = plugin.readme.partition("\n## Install\n")
    if not facts or not heading:
        return plugin.readme
    return f"{what}\n## On the board\n\n{facts}\n{heading}{rest}"


def facts_of(entry: Entry) -> str:
    """What one entry point declares, as a small table."""
    joins = JOINS[entry.installed.kind]
    rows = [("joins", f"{joins}, by the entry point `{entry.installed.group}`")]
    if entry.member:
        role = entry.member.role
        rows += [
            ("role", f"**{role}**: {ROLES[role]}"),
            ("stages", ", ".join(f"`{stage}`" for stage in entry.member.stages)),
            ("events", events(entry, "../reference/events.md")),
        ]
    rows += [(words, reasoned(entry, each)) for each, words in DECLARED.items()]
    if entry.options:
        rows.append(("call", f"`{usage(entry)}`"))
    lines = "\n".join(f"| {what} | {said} |" for what, said in rows if said)
    return f"| | `{entry.name}` |\n|---|---|\n{lines}"


def events(entry: Entry, page: str) -> str:
    """The events of a plugin; with the address of their page, as links to it."""
    words = []
    for event, is_wrapper in entry.events.items():
        name = f"[`{event}`]({page}#{event})" if page else f"`{event}`"
        words.append(f"{name} (around)" if is_wrapper else name)
    return ", ".join(words) or "none of its own"


def reasoned(entry: Entry, attribute: str) -> str:
    """What a declaration names, with the reasons that it gives."""
    declared = entry.declared(attribute).items()
    return "<br>".join(
        f"`{name}`: {inline(reason)}" if reason else f"`{name}`"
        for name, reason in declared
    )


def usage(entry: Entry) -> str:
    """How it is called, with types and defaults."""
    options = inline(", ".join(map(str, entry.options)))
    if entry.installed.kind == "method":
        return f"learn.{entry.name}({options})"
    return f"{entry.installed.attribute or entry.name}({options})"


def inline(text: str) -> str:
    """A text for a cell of a table: on one line, and without addresses of objects."""
    return " ".join(re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", text).split())


def as_name(target: object) -> str:
    """A target of a declaration in words."""
    if isinstance(target, str):
        return target
    return str(getattr(target, "name", None) or getattr(target, "__name__", target))


def link_to(entry: Entry) -> str:
    """A link from the catalogue to the page about an entry point."""
    return f"[`{entry.name}`]({entry.folder}.md)"


def links_to(entries: Iterable[Entry]) -> str:
    """Links from another folder to the pages about entry points."""
    return ", ".join(f"[`{e.name}`](../plugins/{e.folder}.md)" for e in entries)


def first_sentence(text: str) -> str:
    """The first sentence of a Markdown text, headings left out."""
    prose = re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip()
    sentence = re.match(r".+?[.!?](?=\s|$)|[^\n]+", prose, re.DOTALL)
    return " ".join(sentence.group().split()) if sentence else ""
