"""``callboard fit``: train the Learner that a file or a module makes."""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from callboard import discovery
from callboard.cli.text import wrapped
from callboard.configuration import CommandLine, command_line
from callboard.discovery import InstalledPlugin
from callboard.errors import OptionError, UnknownPluginError, suggestion
from callboard.options import (
    check_options,
    options_of,
    parameters_of,
    parse_assignments,
)

if TYPE_CHECKING:
    from callboard.learner import Learner
    from callboard.resume import Policy

Named = tuple[str, dict[str, str]]


def read_rate(
    context: click.Context, option: click.Parameter, text: str | None
) -> float | slice | None:
    """A learning rate: a number, or ``slice(low, high)`` for one per group."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*slice\((.*)\)\s*", text)
    try:
        numbers = [float(part) for part in (match[1] if match else text).split(",")]
    except ValueError:
        numbers = []
    if match and len(numbers) in (1, 2):
        return slice(*numbers)
    if len(numbers) == 1:
        return numbers[0]
    raise click.BadParameter(f"{text!r} is neither a number nor slice(low, high).")


def read_name(
    context: click.Context, option: click.Parameter, text: str | None
) -> Named | None:
    """``NAME`` or ``NAME:option=value,option=value``."""
    if text is None:
        return None
    name, _, options = text.partition(":")
    return name.strip(), parse_assignments(options)


def read_names(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> tuple[Named, ...]:
    """Several of what ``read_name`` reads."""
    named = (read_name(context, option, text) for text in texts)
    return tuple(found for found in named if found)


def read_assignments(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> dict[str, str]:
    """``key=value``, several times."""
    assignments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{text!r} is no assignment; write key=value.")
        assignments[key.strip().replace("-", "_")] = value
    return assignments


@click.command("fit")
@click.argument("target")
@click.option(
    "--epochs", type=click.IntRange(min=0), required=True, help="How many epochs."
)
@click.option(
    "--lr",
    callback=read_rate,
    metavar="X",
    help="Learning rate: a number or slice(low,high). Default: the Learner's.",
)
@click.option(
    "--schedule",
    callback=read_name,
    metavar="NAME",
    help="Fit with the installed method fit_NAME, as in --schedule one-cycle.",
)
@click.option(
    "--with",
    "with_plugins",
    callback=read_names,
    multiple=True,
    metavar="NAME:OPT=VALUE,...",
    help="A plugin that takes part, with its options.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    help="A plugin that takes no part.",
)
@click.option(
    "--resume",
    metavar="auto|PATH",
    help="Go on with a saved run: the last good checkpoint, or that at PATH.",
)
@click.option(
    "--resume-policy",
    type=click.Choice(["strict", "warn", "ignore"]),
    default="warn",
    show_default=True,
    help="What to do where plugins, options or libraries are not as they were.",
)
@click.option(
    "-o",
    "options",
    callback=read_assignments,
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of the function that makes the Learner.",
)
def command(
    target: str,
    epochs: int,
    lr: float | slice | None,
    schedule: Named | None,
    with_plugins: Sequence[Named],
    without: Sequence[str],
    resume: str | None,
    resume_policy: Policy,
    options: Mapping[str, str],
) -> None:
    """Train the Learner that TARGET makes.

    TARGET is file.py, file.py:factory or package.module:factory: a function that
    returns a Learner, by default the one named `learner`. Its parameters are set by -o.

    \b
    callboard fit train.py --epochs 5
    callboard fit train.py --epochs 5 --lr 3e-3 --schedule one-cycle
    callboard fit train.py:small --epochs 1 -o width=32 --with mixup:alpha=0.3
    callboard fit train.py --epochs 90 --with checkpoint:every=10min --resume auto
    """
    from callboard.cli.target import load_learner

    line = CommandLine(tuple(with_plugins), tuple(without))
    _check_names(line)
    fit = _schedule(*schedule) if schedule else None
    with command_line(line):
        learner = load_learner(target, options)
    _check_without(line, learner)
    click.echo(repr(learner.cbs) + "\n")
    if resume is not None:
        click.echo(wrapped(_resumed(learner, resume, resume_policy), sys.stdout) + "\n")
    begin = time.monotonic()
    if fit is None:
        learner.fit(epochs, lr)
    else:
        fit(learner, epochs, lr)
    seconds = time.monotonic() - begin
    for text in _outcome(learner, seconds):
        click.echo(wrapped(text, sys.stdout))


def _resumed(learner: Learner, given: str, policy: Policy) -> str:
    """Let the fit go on with a saved run; says where it goes on.

    Raises:
        CallboardError: There is nothing to read it with, or nothing to read.
    """
    if not any(p.name == "read_checkpoint" for p in discovery.installed()):
        hint = discovery.install_hint("checkpoint")
        raise OptionError(f"--resume: no installed plugin reads checkpoints.{hint}")
    position = learner.resume_next_fit(given, policy)
    if position is None:
        return "There is no checkpoint yet: the run starts from its beginning."
    epoch, batch = position
    return f"Going on in epoch {epoch}, behind {batch} of its batches."


def _check_names(line: CommandLine) -> None:
    """Refuse wrong names and options before anything slow begins.

    Raises:
        CallboardError: A plugin or option that is not there, or both with and without.
    """
    for name, options in line.with_plugins:
        if name in line.without:
            raise OptionError(f"--with {name} and --without {name} exclude each other.")
        loaded = discovery.find(name, "callback", "plugin").load()
        if isinstance(loaded, type):
            known = options_of(loaded)
            check_options(name, known, options, f"--with {name}", is_complete=False)


def _check_without(line: CommandLine, learner: Learner) -> None:
    """Refuse a name that is neither installed nor was in the program.

    Raises:
        UnknownPluginError: There is one.
    """
    known = {p.name for p in discovery.installed()} | learner._configuration.met
    for name in line.without:
        if name not in known:
            near = suggestion(name, {*known, *learner.cbs.keys()})
            message = f'--without {name}: no plugin is named "{name}".{near}'
            raise UnknownPluginError(message)


def _schedule(name: str, options: Mapping[str, str]) -> Callable[..., None]:
    """A call of the method ``fit_NAME`` with its options.

    Raises:
        UnknownPluginError: No such method is installed; says which are.
        OptionError: It has no such option, or cannot be given a number of epochs.
    """
    method = _installed_schedule(name)
    function: Any = method.load()
    parameters = parameters_of(function, skip_first=True)
    owner = f"--schedule {name}"
    given = check_options(method.name, parameters, options, owner, is_complete=False)
    names = [parameter.name for parameter in parameters]
    if "n_epoch" not in names:
        signature = inspect.signature(function)
        raise OptionError(
            f"{owner}: {method.name}{signature} takes no n_epoch, so --epochs cannot "
            f"be given to it. Call learner.{method.name}(...) in a program."
        )
    rate_name = next((known for known in ("lr_max", "lr") if known in names), None)

    def fit(learner: Learner, epochs: int, lr: float | slice | None) -> None:
        arguments = {**given, "n_epoch": epochs}
        if lr is not None:
            if rate_name is None:
                raise OptionError(f"{owner}: {method.name} takes no learning rate.")
            arguments[rate_name] = lr
        function(learner, **arguments)

    return fit


def _installed_schedule(name: str) -> InstalledPlugin:
    known = {
        plugin.name.removeprefix("fit_").replace("_", "-"): plugin.name
        for plugin in discovery.installed()
        if plugin.kind == "method" and plugin.name.startswith("fit_")
    }
    kebab_name = name.replace("_", "-")
    if kebab_name not in known:
        has = (
            f"Installed are {', '.join(sorted(known))}."
            if known
            else "None is installed."
        )
        hint = suggestion(kebab_name, known) or discovery.install_hint("schedule")
        raise UnknownPluginError(f'There is no schedule "{name}". {has}{hint}')
    return discovery.find(known[kebab_name], "method")


def _outcome(learner: Learner, seconds: float) -> Iterator[str]:
    """How the fit ended: its time, the last results, and who ended it early."""
    numbers = [f"{k} {v:.4g}" for k, v in learner.results.items() if _is_number(v)]
    last = f"; epoch {learner.epoch}: {', '.join(numbers)}" if numbers else ""
    yield f"\nDone in {seconds:.1f} s{last}"
    for reason in learner.record.reasons:
        if reason.what in ("stop", "fit"):
            who = reason.plugin or "the program"
            why = f": {reason.reason}" if reason.reason else ""
            yield f"Ended in epoch {reason.epoch} by {who}{why}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
