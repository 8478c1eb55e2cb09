"""Raise and be killed at every event with many plugins active, then go on.

Whatever the event: the error keeps its type, every plugin is torn down, the Learner can
go on, and the run ends with the bits of one that nothing happened to.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from callboard import Callback, discovery
from callboard.discovery import InstalledPlugin
from callboard.events import EVENTS
from callboard.testing import Specimen
from callboard.testing.specimens import specimen_of
from reliability import children, runs, tables

# What takes no part, and why; all other callbacks of this repository do.
LEFT_OUT = {
    **dict.fromkeys(
        ("recorder", "csv-logger", "early-stopping", "save-model", "mixup"),
        "is in every run already",
    ),
    **dict.fromkeys(("checkpoint", "schedule"), "is in every run already"),
    **dict.fromkeys(("cutmix", "normalize"), "needs images"),
    **dict.fromkeys(("rnn", "rnn-regularizer", "model-resetter"), "needs sequences"),
    "reduce-lr-on-plateau": "takes no part beside a schedule; runs are killed with it",
    **dict.fromkeys(("tracker", "run-log"), "is what others derive from"),
    "hooks": "does what the function that it is given does",
    "lr-finder": "ends the fit and puts all back",
    "compile": "compiles for seconds",
    **dict.fromkeys(("cuda-graphs", "parallel-trainer"), "needs GPUs"),
    "distributed": "needs several processes",
    "fast": "adds what fits the machine, which is tried by itself",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient-accumulation": {"n_acc": 8},
    "short-epoch": {"pct": 0.7},
    "mixed-precision": {"growth_interval": 2},
}
PLUGINS = Path(__file__).parents[1] / "plugins"
EVENT_NAMES = [
    name
    for name, event in EVENTS.items()
    if event.kind == "event" and "cancel" not in name and name != "after_create"
]


@cache
def members() -> tuple[InstalledPlugin, ...]:
    """The callbacks of this repository that a plain classifier can be trained with."""
    folders = [path.parent.name for path in PLUGINS.glob("*/pyproject.toml")]
    ours = {f"callboard-{name}" for name in folders}
    return tuple(
        plugin
        for plugin in discovery.installed()
        if plugin.kind in ("plugin", "callback")
        and plugin.distribution in ours
        and plugin.name not in LEFT_OUT
        and _fits(specimen_of(plugin))
    )


def _fits(specimen: Specimen) -> bool:
    """Whether it needs no client of a service, no other data and no companion."""
    # What is never the same twice, as a name made of the time, cannot be compared.
    needs_more = specimen.needs or specimen.companions or specimen.ignore
    return not needs_more and specimen.learner == "classification"


def catalogue() -> list[Callback]:
    """New instances of the catalogue."""
    made = []
    for plugin in members():
        make: Any = specimen_of(plugin).make or plugin.load()
        if plugin.name in OPTIONS:
            make = partial(plugin.load(), **OPTIONS[plugin.name])
        made.append(make())
    return made


class Strike(Callback):
    """Does something once, at one event of the second epoch or the end."""

    def __init__(self, event: str, path: Path, act: Callable[[], None]) -> None:
        self.act, self.struck = act, path / "struck.txt"
        setattr(self, event, self.strike)
        self.event = event

    def strike(self) -> None:
        """Act the first time that the run is here, and never again."""
        is_late = self.epoch == 1 or EVENTS[self.event].level == "fit"
        if is_late and not self.struck.exists():
            self.struck.write_text(self.event)
            self.act()


class TornDown(Callback):
    """Counts teardowns."""

    role = "observe"
    count = 0

    def teardown(self) -> None:
        self.count += 1


def fail() -> None:
    raise ArithmeticError("struck")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kind_with(*cbs: Callable[[], Callback]) -> runs.Kind:
    """Runs with the catalogue and with these."""
    return runs.Kind(
        runs.a_loader, cbs=lambda: [*catalogue(), *(make() for make in cbs)]
    )


def raise_and_go_on(event: str, path: Path) -> str:
    """Raise at an event, check what must hold, and train to the end."""
    learner = runs.make(kind_with(lambda: Strike(event, path, fail), TornDown), path)
    notes: list[str] = []
    try:
        learner.fit(runs.NUM_EPOCHS, resume="auto", resume_policy="ignore")
    except ArithmeticError as error:
        notes = error.__notes__
    # on_exception is fired by an error only, so that nobody struck there.
    is_told = any(f"during {event}" in note for note in notes)
    assert is_told or event == "on_exception", (event, notes)
    assert learner.torn_down.count == 1, learner.torn_down.count
    if not list((path / "checkpoints").glob("[0-9]*")):
        # Nothing was saved yet, and a second fit of one Learner draws other numbers.
        learner = runs.make(kind_with(TornDown), path)
    learner.fit(runs.NUM_EPOCHS, resume="auto", resume_policy="ignore")
    return runs.digest(learner)


def train(event: str, path: Path, act: Callable[[], None]) -> str:
    """Train to the end; a strike may end it before."""
    learner = runs.make(kind_with(lambda: Strike(event, path, act), TornDown), path)
    learner.fit(runs.NUM_EPOCHS, resume="auto", resume_policy="ignore")
    return runs.digest(learner)


def main(step: int) -> int:
    """Strike at every ``step``-th event; prints a table and returns the exit status."""
    rows, num_different = [], 0
    started = time.monotonic()
    names = [plugin.name for plugin in members()]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        nothing = partial(train, "after_step", whole, lambda: None)
        expected = children.run(nothing, whole / "log.txt")
        for event in EVENT_NAMES[::step]:
            path = Path(folder) / event
            path.mkdir()
            raised = children.run(
                partial(raise_and_go_on, event, path), path / "log.txt"
            )
            shutil.rmtree(path)
            path.mkdir()
            log = path / "log.txt"
            code = children.wait(children.start(partial(train, event, path, die), log))
            is_reached = code == -signal.SIGKILL
            killed = children.run(partial(train, event, path, die), log)
            num_different += (raised != expected) + (killed != expected)
            rows.append(
                (
                    event,
                    "same" if raised == expected else "DIFFERENT",
                    "same" if killed == expected else "DIFFERENT",
                    "" if is_reached else "never reached in a run without errors",
                )
            )
    seconds = time.monotonic() - started
    tables.show(
        f"An error and a kill at every event, {seconds:.0f} s; besides the usual "
        f"plugins: {', '.join(names)}",
        ("event", "after an error", "after a kill", ""),
        rows,
    )
    return int(num_different > 0)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", step=1)
    sys.exit(main(given.step))
