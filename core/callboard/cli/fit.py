"""``callboard fit``: train the Learner that a file or a module makes."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callboard import discovery
from callboard.cli.completion import plugin_names, schedule_names
from callboard.cli.text import short_path, wrapped
from callboard.configuration import CommandLine, command_line
from callboard.discovery import InstalledPlugin
from callboard.errors import LockError, OptionError, UnknownPluginError, suggestion
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
TRACE_FILE = "callboard-trace.sqlite"
LOCK_FILE = "callboard.lock"


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


def read_file(
    context: click.Context, option: click.Parameter, text: str | None
) -> str | None:
    """The name of a file, which a TARGET behind an option must not be taken for."""
    if text is not None and text.partition(":")[0].endswith(".py"):
        raise click.BadParameter(
            f"{text} looks like the TARGET. Write it before {option.opts[0]}."
        )
    return text


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
    shell_complete=schedule_names,
    help="Fit with the installed method fit_NAME, as in --schedule one-cycle.",
)
@click.option(
    "--with",
    "with_plugins",
    callback=read_names,
    multiple=True,
    metavar="NAME:OPT=VALUE,...",
    shell_complete=plugin_names,
    help="A plugin that takes part, with its options.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    shell_complete=plugin_names,
    help="A plugin that takes no part.",
)
@click.option(
    "--fast",
    is_flag=True,
    help="Let plugins that fit this machine make it faster, and say which: --with fast",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Say where the time went, by plugin and event: --with profile",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="NAME=SHARE",
    help="Fail if a plugin takes more of the time, as in --budget mixup=2%.",
)
@click.option(
    "--trace",
    is_flag=False,
    flag_value=TRACE_FILE,
    callback=read_file,
    metavar="[FILE]",
    help="Record who changed what, and how long it took, for `callboard trace`. "
    f"Default: {TRACE_FILE}. Short for --with trace",
)
@click.option(
    "--trace-steps",
    metavar="FIRST:LAST",
    help="Record these training steps only, counted from 1, both included.",
)
@click.option(
    "--trace-last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the latest N steps. Default: 1000.",
)
@click.option(
    "--trace-weights",
    type=click.Choice(["none", "model", "each"]),
    help="How closely changes of weights are told: not at all, of the model as a "
    "whole (the default), or of each parameter.",
)
@click.option(
    "--locked",
    is_flag=False,
    flag_value=LOCK_FILE,
    callback=read_file,
    metavar="[FILE]",
    help="Refuse to train with anything else than what `callboard plugins lock` wrote "
    f"down. Default: {LOCK_FILE}.",
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
    fast: bool,
    profile: bool,
    budgets: Sequence[str],
    trace: str | None,
    trace_steps: str | None,
    trace_last: int | None,
    trace_weights: str | None,
    locked: str | None,
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
    callboard fit train.py --epochs 1 --trace --trace-steps 100:200
    callboard fit train.py --epochs 5 --locked
    """
    from callboard.cli.target import load_learner

    plugins = [*with_plugins, *_short_forms(with_plugins, fast, profile, budgets)]
    plugins += _traced(with_plugins, trace, trace_steps, trace_last, trace_weights)
    line = CommandLine(tuple(plugins), tuple(without))
    check_names(line)
    fit = _schedule(*schedule) if schedule else None
    with command_line(line):
        learner = load_learner(target, options)
    check_without(line, learner)
    if locked is not None:
        again = _locking(target, locked, line, schedule, options)
        _hold_to(locked, learner, line, schedule, again)
    _refuse_to_train_apart(learner)
    say = click.echo if learner.is_main else _say_nothing
    say(repr(learner.cbs) + "\n")
    if resume is not None:
        say(wrapped(_resumed(learner, resume, resume_policy), sys.stdout) + "\n")
    begin = time.monotonic()
    if fit is None:
        learner.fit(epochs, lr)
    else:
        fit(learner, epochs, lr)
    seconds = time.monotonic() - begin
    for text in _outcome(learner, seconds):
        say(wrapped(text, sys.stdout))
    if "trace" in learner.cbs:
        say(f"Who did what: callboard trace summary{_trace_place(learner)}")


def _say_nothing(text: str) -> None:
    """What a process that is not the main one has to say."""


def _refuse_to_train_apart(learner: Learner) -> None:
    """Refuse to train the same model once in each of several processes.

    Raises:
        OptionError: torchrun has started several, and nothing brings them together.
    """
    from callboard.processes import num_started

    if num_started() > 1 and learner.world_size == 1:
        raise OptionError(
            f"{num_started()} processes were started, and nothing brings them "
            "together: each would train by itself. Add --with distributed, or start "
            "one."
        )


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


def _short_forms(
    named: Sequence[Named], fast: bool, profile: bool, budgets: Sequence[str]
) -> Iterator[Named]:
    """The plugins that options of their own stand for, where --with names them not."""
    by_name = dict(named)
    if fast and "fast" not in by_name:
        yield "fast", {}
    if budgets and "profile" in by_name:
        by_name["profile"]["budget"] = ";".join(budgets)
    elif profile or budgets:
        yield "profile", {"budget": ";".join(budgets)} if budgets else {}


def _traced(
    named: Sequence[Named],
    file: str | None,
    steps: str | None,
    last: int | None,
    weights: str | None,
) -> Iterator[Named]:
    """The plugin ``trace`` where an option asks for it and --with names it not.

    Raises:
        OptionError: It is asked for in both ways.
    """
    options = {"steps": steps, "last": last, "weights": weights}
    given = {name: str(value) for name, value in options.items() if value is not None}
    if file is None and not given:
        return
    if "trace" in dict(named):
        message = "--trace is short for --with trace: give one of the two."
        raise OptionError(message)
    # Where the user stands, whatever the Learner's own path.
    yield "trace", {"file": os.path.abspath(file or TRACE_FILE), **given}


def _trace_place(learner: Learner) -> str:
    """What `callboard trace` has to be told, as an option of it."""
    file = getattr(learner.cbs["trace"], "file", TRACE_FILE)
    place = Path(learner.path, file).resolve()
    is_usual = place == Path(TRACE_FILE).resolve()
    return "" if is_usual else f" --trace {short_path(place)}"


def _locking(
    target: str,
    file: str,
    line: CommandLine,
    schedule: Named | None,
    options: Mapping[str, str],
) -> str:
    """The command that locks what a fit was started with."""
    words = ["callboard", "plugins", "lock", target]
    words += [] if file == LOCK_FILE else ["-o", file]
    for name, given in line.with_plugins:
        assigned = ",".join(f"{key}={value}" for key, value in given.items())
        words += ["--with", f"{name}:{assigned}" if assigned else name]
    for name in line.without:
        words += ["--without", name]
    words += ["--schedule", schedule[0]] if schedule else []
    for key, value in options.items():
        words += ["--argument", f"{key}={value}"]
    return shlex.join(words)


def _hold_to(
    file: str,
    learner: Learner,
    line: CommandLine,
    schedule: Named | None,
    again: str,
) -> None:
    """Refuse to train with anything else than what a lock holds.

    Args:
        file: The lock.
        learner: Who would be trained.
        line: What the command line says about plugins.
        schedule: The method that the fit is started with.
        again: The command that locks what is active now.

    Raises:
        LockError: The lock cannot be read, or something is not as it says: names each
            difference, and what to do.
    """
    from callboard.lockdiff import compare
    from callboard.lockfile import lock_of_members, read

    lock = read(Path(file))
    methods = [installed_schedule(schedule[0])] if schedule else []
    now = lock_of_members(learner.cbs.members, methods)
    named = {name for name, _ in line.with_plugins}
    refused = []
    for difference in compare(lock, now):
        subject, remedy = difference.subject, difference.remedy
        if difference.a is None and subject in named:
            remedy = f"Leave --with {subject}, or what stands for it, out."
        if difference.b is None and subject in line.without:
            remedy = f"Leave --without {subject} out."
        said = replace(difference, remedy=remedy).as_refusal()
        if difference.is_of_a_library:
            message = f"Warning: {said} The last bits of the results may differ."
            click.echo(wrapped(message, sys.stderr), err=True)
        else:
            refused.append(said)
    if refused:
        listed = "\n  ".join(refused)
        raise LockError(
            f"Nothing was trained, since this is not what {file} holds:\n  {listed}\n"
            f"`{again}` locks what is active now."
        )


def check_names(line: CommandLine) -> None:
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


def check_without(line: CommandLine, learner: Learner) -> None:
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
    method = installed_schedule(name)
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


def installed_schedule(name: str) -> InstalledPlugin:
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
