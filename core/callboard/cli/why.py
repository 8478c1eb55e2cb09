"""``callboard plugins why``: why a plugin is active, or why it is not."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import click

from callboard import discovery
from callboard.cli.completion import plugin_names
from callboard.cli.fit import Named, read_assignments, read_names
from callboard.cli.text import columns, wrapped
from callboard.configuration import (
    CommandLine,
    Configuration,
    command_line,
    find_file,
    load_configuration,
)
from callboard.errors import (
    CallboardError,
    TargetError,
    UnknownPluginError,
    suggestion,
)

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.discovery import InstalledPlugin
    from callboard.learner import Learner

WHEN_NAMED = 'Learner(..., cbs="{0}"), --with {0}, or enable = ["{0}"] in a file'


@dataclass
class Answer:
    """Why a plugin is active or not; the fields are the keys of ``--json``.

    Attributes:
        name: What was asked about.
        is_active: Whether it takes part: in the Learner of the target, or without one
            in every Learner.
        status: ``active``, ``available`` (when it is named), ``disabled``, ``broken``,
            ``left out`` or ``not installed``.
        reason: What decided that, in a sentence.
        keys: What it is called in the Learner; several where it is there several times.
        facts: All that could have decided it, and what it says: pairs.
        remedy: What to do to have it otherwise.
    """

    name: str
    is_active: bool = False
    status: str = "not installed"
    reason: str = ""
    keys: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    remedy: str = ""


@click.command("why")
@click.argument("name", shell_complete=plugin_names)
@click.argument("target", required=False)
@click.option(
    "--with",
    "with_plugins",
    callback=read_names,
    multiple=True,
    metavar="NAME:OPT=VALUE,...",
    shell_complete=plugin_names,
    help="As of `callboard fit`: what would be so with it.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    shell_complete=plugin_names,
    help="As of `callboard fit`.",
)
@click.option(
    "-o",
    "options",
    callback=read_assignments,
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of the function that makes the Learner.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(
    name: str,
    target: str | None,
    with_plugins: Sequence[Named],
    without: Sequence[str],
    options: dict[str, str],
    as_json: bool,
) -> None:
    """Why the plugin NAME is active, or why it is not.

    With TARGET (file.py, file.py:factory or package.module:factory), in that Learner;
    without it, in every Learner. Told is all that could have decided it: whether it is
    installed and works, whether it joins by being installed, who names it, who disables
    it, what it requires and conflicts with.

    \b
    callboard plugins why progress
    callboard plugins why mixup train.py
    callboard plugins why mixup train.py --with mixup:alpha=0.3 --json
    """
    with command_line(CommandLine(tuple(with_plugins), tuple(without))):
        configuration = load_configuration()
        learner, failure = None, None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if target is not None:
                from callboard.cli.target import load_learner

                try:
                    learner = load_learner(target, options)
                except TargetError:
                    raise  # of no plugin, and so no reason for one
                except CallboardError as error:
                    failure = error
        answer = answer_for(name, configuration, learner, failure)
    heard = [str(warning.message) for warning in caught]
    answer.facts += [("warning", text) for text in heard if text.startswith(name)]
    if as_json:
        import json

        facts: dict[str, str] = {}
        for what, says in answer.facts:
            facts[what] = f"{facts[what]}; {says}" if what in facts else says
        click.echo(json.dumps({**asdict(answer), "facts": facts}, indent=2))
    else:
        _print(answer, target)


def _print(answer: Answer, target: str | None) -> None:
    state = "is active" if answer.is_active else "is not active"
    alone = "in every Learner" if answer.is_active else "by itself"
    where = f"in {target}" if target else alone
    head = f"{answer.name} {state} {where}: {answer.reason}"
    click.echo(wrapped(head, sys.stdout))
    if answer.facts:
        click.echo("\n" + columns(answer.facts, sys.stdout))
    if answer.remedy:
        click.echo("\n" + wrapped(answer.remedy, sys.stdout))


def answer_for(
    name: str,
    configuration: Configuration,
    learner: Learner | None,
    failure: CallboardError | None = None,
) -> Answer:
    """Why a plugin is active or not.

    Args:
        name: Of the plugin, or its key in the Learner.
        configuration: What files, the environment and the command line say.
        learner: The Learner of a target; None for what is so in every Learner.
        failure: Why the target gives no Learner.

    Raises:
        UnknownPluginError: Nothing of that name is active, installed or known of.
    """
    members = [] if learner is None else list(learner.cbs.members)
    ours = [m for m in members if name in (m.key, m.name)]
    # A key such as mixup-2 is asked about as the plugin that it is one of.
    plain = ours[0].name if ours else name
    found = [p for p in discovery.installed() if p.name == plain]
    installed = next((p for p in found if p.kind in ("plugin", "callback")), None)
    answer = Answer(name)
    answer.facts += _installation(plain, found, installed)
    answer.facts += _said(plain, configuration, installed)
    if ours:
        _tell_of_members(answer, ours, members)
    elif installed is not None:
        _tell_of_absence(answer, installed, configuration, learner, members)
    elif found:
        answer.status = "available"
        answer.reason = f"it is a {found[0].kind}, which takes no part in the loop."
    else:
        _tell_of_the_absent(answer, plain, members)
    if failure is not None and not ours:
        answer.is_active, answer.status = False, "left out"
        answer.reason = f"there is no Learner to be active in: {failure}"
        answer.remedy = ""
    return answer


def _installation(
    name: str, found: Iterable[InstalledPlugin], installed: InstalledPlugin | None
) -> Iterator[tuple[str, str]]:
    yield (
        "installed",
        ", ".join(f"{p.distribution} {p.version} ({p.kind})" for p in found) or "no",
    )
    if installed is None:
        return
    joins = installed.kind == "plugin"
    yield (
        "joins",
        "by being installed (group callboard.plugins)"
        if joins
        else "when it is named (group callboard.callbacks)",
    )
    from callboard.verdicts import verdicts

    fault = verdicts([installed]).get(installed)
    yield "works", f"no: {fault}" if fault else "no fault is known"


def _said(
    name: str, configuration: Configuration, installed: InstalledPlugin | None
) -> Iterator[tuple[str, str]]:
    """Who names it and who disables it, whoever prevails."""
    file = find_file(".")
    yield "configuration", str(file) if file else "no file"
    named = [f"--with {n}" for n, _ in configuration.line.with_plugins if n == name]
    if name in configuration.enabled:
        named.append(configuration.enabled[name])
    yield "named by", ", ".join(named) or "neither configuration nor command line"
    against = [configuration.disabled[name]] if name in configuration.disabled else []
    if installed is not None and installed.kind == "plugin":
        against += [configuration.autoload_off] if configuration.autoload_off else []
        if not _is_allowed(installed, configuration):
            against.append(f"{configuration.allow_source}, which does not name it")
    yield "disabled by", ", ".join(against) or "nobody"


def _is_allowed(installed: InstalledPlugin, configuration: Configuration) -> bool:
    from callboard.configuration import normalized

    allow = configuration.allow
    return allow is None or normalized(installed.distribution) in allow


def _tell_of_members(
    answer: Answer, ours: Sequence[ActivePlugin], members: Sequence[ActivePlugin]
) -> None:
    answer.is_active, answer.status = True, "active"
    answer.keys = [member.key for member in ours]
    said = []
    for member in ours:
        prefix = f"{member.key}: " if len(ours) > 1 else ""
        said.append(prefix + _why_active(member))
        if not member.switch("run"):
            answer.facts.append(("switched off", f"{member.key}.run is False"))
    answer.reason = "; ".join(said) + "."
    answer.facts += _relations(ours[0], members)
    answer.facts.append(("stages", ", ".join(ours[0].stages)))
    if ours[0].installed is None:
        answer.facts.append(("code", " ".join(filter(None, ours[0].origin))))
    if ours[0].is_automatic:
        answer.remedy = (
            f"To leave it out: --without {ours[0].name}, CALLBOARD_DISABLE="
            f"{ours[0].name}, or disable in a configuration file."
        )


def _why_active(member: ActivePlugin) -> str:
    reasons = {
        "installed": "it joins every Learner by being installed",
        "cbs": "the program gives it in cbs",
        "add_cbs": "the program adds it with add_cbs",
        "added_cbs": "the program adds it for a while",
    }
    return reasons.get(member.reason, f"{member.reason} names it")


def _relations(
    member: ActivePlugin, members: Sequence[ActivePlugin]
) -> Iterator[tuple[str, str]]:
    """What it asks of others, and who asks for it."""
    from callboard.activation import matching

    requires = [_target_name(t) for t in member.targets("requires")]
    if requires:
        yield "requires", ", ".join(requires)
    needing = [
        other.key
        for other in members
        if any(member in matching(members, t) for t in other.targets("requires"))
    ]
    if needing:
        yield "required by", ", ".join(needing)
    clashes = []
    for target in member.targets("conflicts_with"):
        why = member.why_not_with(target)
        clashes.append(f"{_target_name(target)}{why and f' ({why})'}")
    if clashes:
        yield "conflicts with", ", ".join(clashes)


def _target_name(target: str | type) -> str:
    return target if isinstance(target, str) else target.__name__


def _tell_of_absence(
    answer: Answer,
    installed: InstalledPlugin,
    configuration: Configuration,
    learner: Learner | None,
    members: Sequence[ActivePlugin],
) -> None:
    """Of an installed plugin, what becomes of it, and why it is not in the Learner."""
    from callboard.status import status_of
    from callboard.verdicts import verdicts

    status, reason = status_of(installed, configuration)
    fault = verdicts([installed]).get(installed)
    if fault and status in ("active", "available"):
        status, reason = "broken", fault
    answer.status, answer.reason = status, _as_sentence(status, reason, installed)
    answer.is_active = status == "active" and learner is None
    if status == "broken":
        answer.remedy = (
            f"`callboard plugins check {installed.name}` says more. Repair or "
            f"uninstall {installed.distribution}."
        )
        return
    if status == "disabled" and not reason.startswith("--without"):
        answer.remedy = f"--with {installed.name} lets it take part all the same."
    elif status == "available":
        answer.remedy = f"To let it take part: {WHEN_NAMED.format(installed.name)}."
    wanting = _specimen(installed)
    if wanting is not None:
        unmet, rivals = _obstacles(wanting, members)
        answer.facts += _relations(wanting, members)
        if learner is not None:
            for target in unmet:
                answer.facts.append(("is missing", f"{target}, which it requires"))
            for rival in rivals:
                answer.facts.append(("is in the way", f"{rival}, it conflicts with it"))
        if status == "active" and learner is not None:
            answer.status = "left out"
            answer.reason = (
                f"it joins by being installed, but requires {', '.join(unmet)}, which "
                "is not active."
                if unmet
                else "the program has taken it out, or put another plugin in its place."
            )
            answer.remedy = f"Name it too: cbs={unmet}." if unmet else ""


def _as_sentence(status: str, reason: str, installed: InstalledPlugin) -> str:
    if status == "active":
        by_itself = "it joins every Learner by being installed"
        return (by_itself if reason == "installed" else f"{reason} names it") + "."
    if status == "available":
        return "it takes part when it is named, and nobody names it."
    if status == "disabled":
        return f"{reason.rstrip('.')} keeps it out."
    return f"it is broken: {reason.rstrip('.')}."


def _specimen(installed: InstalledPlugin) -> ActivePlugin | None:
    from callboard.cli.specimens import specimen

    try:
        return specimen(installed)
    except CallboardError:
        return None  # that it is broken is told already


def _obstacles(
    wanting: ActivePlugin, members: Sequence[ActivePlugin]
) -> tuple[list[str], list[str]]:
    """Names that it requires and that are not active, and keys that it clashes with."""
    from callboard.activation import matching

    unmet = [
        _target_name(target)
        for target in wanting.targets("requires")
        if not matching(members, target)
    ]
    mine = {
        m.key for t in wanting.targets("conflicts_with") for m in matching(members, t)
    }
    theirs = {
        member.key
        for member in members
        for target in member.targets("conflicts_with")
        if wanting in matching([wanting], target)
    }
    return unmet, sorted(mine | theirs)


def _tell_of_the_absent(
    answer: Answer, name: str, members: Sequence[ActivePlugin]
) -> None:
    """Of what is not installed: where to get it, if that is known."""
    hint = discovery.install_hint(name).strip()
    if not hint:
        known = {p.name for p in discovery.installed()} | {m.key for m in members}
        nor = ", and none in the Learner," if members else ""
        near = suggestion(name, known)
        raise UnknownPluginError(f'No installed plugin{nor} is named "{name}".{near}')
    answer.reason = "nothing of that name is installed."
    answer.remedy = hint
