"""``callboard plugins diff``: compare locks, checkpoints, targets and environments."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from callboard import discovery
from callboard.cli.text import columns, wrapped
from callboard.configuration import load_configuration
from callboard.errors import LockError, TargetError
from callboard.fingerprints import Code, code_of_distribution
from callboard.folders import Distributions, PlainDistributions, distributions
from callboard.lockdiff import Difference, compare
from callboard.lockfile import CORE, Lock, environment, lock_of_members, read
from callboard.metadata import Entry, read_entries, version_of

HERE = (".", "here")
#: What names of saved states end in; a module that makes a Learner has no such name.
SAVED = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".json")


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(a: str, b: str, as_json: bool) -> None:
    """What differs between A and B: plugins, versions, options, order, files.

    A and B are each one of: a lock; a checkpoint, a folder of them (the last good one
    counts) or a saved state_dict; a TARGET (file.py, file.py:factory or
    package.module:factory); the folder of a virtual environment; or `here` (or `.`),
    the environment that this runs in.

    Of an environment only the code can be compared: whether it has what the other one
    names, and whether anything would join that the other one has not. The exit status
    is 1 if anything differs.

    \b
    callboard plugins diff callboard.lock here
    callboard plugins diff callboard.lock train.py
    callboard plugins diff checkpoints/000003-epoch-2-step-40 callboard.lock --json
    """
    one, other = found(a), found(b)
    for lock, with_ in ((one, other), (other, one)):
        if lock.is_environment:
            _look_up(lock, with_.code)
    differences = compare(one, other)
    if as_json:
        content = {
            "a": a,
            "b": b,
            "differences": [difference.as_dict() for difference in differences],
        }
        click.echo(json.dumps(content, indent=2))
    else:
        _print(differences, a, b)
        for note in _notes(one, other):
            click.echo("\n" + wrapped(f"Note: {note}", sys.stdout, "    "))
    if differences:
        sys.exit(1)


def _print(differences: list[Difference], a: str, b: str) -> None:
    if not differences:
        click.echo(wrapped(f"{a} and {b} do not differ.", sys.stdout))
        return
    rows = [("", "what", a, b)]
    rows += [(d.subject, d.what, d.a or "-", d.b or "-") for d in differences]
    click.echo(columns(rows, sys.stdout))
    remedies = dict.fromkeys(d.remedy for d in differences if d.remedy)
    if remedies:
        click.echo(f"\nTo make {b} like {a}:")
        for remedy in remedies:
            click.echo(wrapped(f"  {remedy}", sys.stdout, "    "))


def _notes(a: Lock, b: Lock) -> Iterator[str]:
    """What could not be compared, where one of the two is an environment."""
    run = b if a.is_environment else a
    if run.is_environment or not (a.is_environment or b.is_environment):
        return
    place = a.title if a.is_environment else b.title
    own = [name for name, code in run.code.items() if code.kind == "file"]
    parts = ["options", "running order", *own]
    yield (
        f"{place} is an environment, so {', '.join(parts[:-1])} and {parts[-1]} "
        f"were not compared."
    )


def found(text: str) -> Lock:
    """What an argument of the command names.

    Raises:
        LockError: Nothing that can be compared.
        CallboardError: A target that gives no Learner, a checkpoint that is damaged.
    """
    if text in HERE:
        return environment_lock(text, distributions())
    place = Path(text)
    if (place / "pyvenv.cfg").is_file():
        return environment_lock(text, _distributions_of(place))
    if place.is_dir():
        return _of_state(text, _read_checkpoint(text))
    if place.is_file() and place.suffix != ".py":
        is_lock = place.suffix == ".lock" or _is_text(place)
        return read(place) if is_lock else _of_file(place)
    if place.suffix == ".lock":
        return read(place)  # says that it is not there
    if place.suffix in SAVED or (os.sep in text and ".py" not in text):
        raise LockError(f"There is no {text} to compare.")
    return _of_target(text)


def _is_text(file: Path) -> bool:
    with file.open("rb") as content:
        return b"\x00" not in content.read(1024)


def _of_target(text: str) -> Lock:
    from callboard.cli.target import load_learner, parse_target

    try:
        learner = load_learner(text)  # held: its board is not for long
    except TargetError as error:
        if parse_target(text).is_file:
            raise  # what was meant is clear
        raise LockError(
            f"{text} is no lock, checkpoint, environment or target: {error}"
        ) from error
    return lock_of_members(learner.cbs.members, target=text, title=text)


def _read_checkpoint(text: str) -> Any:
    readers = [p for p in discovery.installed() if p.name == "read_checkpoint"]
    if not readers:
        hint = discovery.install_hint("checkpoint")
        raise LockError(f"{text}: no installed plugin reads checkpoints.{hint}")
    reader: Any = discovery.find("read_checkpoint", "method").load()
    # A Learner is asked only for where "auto" is.
    return reader(None, text)


def _of_file(file: Path) -> Lock:
    from callboard.plain import read_plain

    return _of_state(str(file), read_plain(file))


def _of_state(title: str, state: Any) -> Lock:
    """The lock in what ``state_dict`` returned, which knows no files."""
    try:
        plugins = [
            {
                **entry,
                "distribution": entry["distribution"] if entry["version"] else None,
                "version": entry["version"] or None,
                "code": [] if entry["version"] else [entry["distribution"]],
            }
            for entry in state["lock"]
        ]
        surroundings = dict(state["environment"])
        _ = [(p["key"], p["name"], p["role"], p["options"]) for p in plugins]
    except (TypeError, KeyError, AttributeError) as error:
        raise LockError(f"{title} holds no lock of a run: {error!r}.") from error
    code = {
        p["distribution"]: Code("installed", p["version"])
        for p in plugins
        if p["distribution"]
    }
    return Lock(title, plugins=plugins, environment=surroundings, code=code)


# ---- environments --------------------------------------------------------------------


def environment_lock(title: str, present: Distributions) -> Lock:
    """What is installed somewhere: every distribution that offers plugins."""
    entries, _ = read_entries(present)
    lock = Lock(title, is_environment=True, distributions=present)
    lock.environment = {"torch": version_of(present.first("torch"))}
    if title in HERE:
        lock.environment |= {"python": environment()["python"]}
        configuration = load_configuration()
        automatic = [
            entry.name
            for entry in entries
            if entry.group == "callboard.plugins" and _joins(entry.name, configuration)
        ]
        lock.automatic = tuple(sorted(automatic))
    else:
        automatic = [e.name for e in entries if e.group == "callboard.plugins"]
        lock.automatic = tuple(sorted(automatic))
    _look_up(lock, [CORE, *(entry.distribution for entry in entries)], entries)
    return lock


def _joins(name: str, configuration: Any) -> bool:
    from callboard.status import status_of

    plugin = discovery.find(name, "plugin")
    return status_of(plugin, configuration)[0] == "active"


def _look_up(
    lock: Lock, names: Iterable[str], entries: Iterable[Entry] | None = None
) -> None:
    """Add distributions to an environment, where it has them."""
    assert lock.distributions is not None
    tops: dict[str, set[str]] = {CORE: {CORE}}
    if entries is None:
        entries, _ = read_entries(lock.distributions)
    for entry in entries:
        module = entry.value.partition(":")[0].partition(".")[0]
        tops.setdefault(entry.distribution, set()).add(module.strip())
    for name in dict.fromkeys(names):
        distribution = lock.distributions.first(name)
        if name not in lock.code and distribution is not None:
            known = tops.get(name) or {name.replace("-", "_")}
            lock.code[name] = code_of_distribution(distribution, sorted(known))


def _distributions_of(folder: Path) -> Distributions:
    """Those of a virtual environment, which is not run."""
    sites = [*folder.glob("lib*/python*/site-packages"), folder / "Lib/site-packages"]
    places = list(dict.fromkeys(str(s.resolve()) for s in sites if s.is_dir()))
    if not places:
        raise LockError(f"{folder} is a virtual environment without site-packages.")
    return PlainDistributions(places)
