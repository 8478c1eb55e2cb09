"""What many plugins cost: calls, joining and leaving, setting up, ordering, finding."""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import importlib_metadata
import torch
from torch import nn

from callboard import Callback, Learner, discovery, hookimpl
from callboard.events import EVENTS
from callboard.ordering import Constraint, Node, solve
from callboard.testing import Site

EVENT_NAMES = [name for name, event in EVENTS.items() if event.kind == "event"]


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, and what came out."""

    what: str
    seconds: list[float]
    beside: str = ""


class Ordinary(Callback):
    """Implements about as many events as most plugins do."""

    role = "observe"

    def before_fit(self) -> None:
        pass

    def before_batch(self) -> None:
        pass

    def after_batch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass


def _everywhere(takes_learner: bool) -> type[Callback]:
    method = (lambda self, learner: None) if takes_learner else (lambda self: None)
    events = dict.fromkeys(EVENT_NAMES, method)
    return type("Everywhere", (Callback,), {"role": "observe", **events})


def _module_everywhere(number: int) -> ModuleType:
    module = ModuleType(f"module_{number}")
    module.role = "observe"  # type: ignore[attr-defined]
    for name in EVENT_NAMES:
        setattr(module, name, hookimpl(lambda learner: None))
    return module


def a_learner(cbs: object = None, num_batches: int = 2) -> Learner:
    """A Learner whose own work is next to nothing."""
    inputs = torch.randn(8, 4)
    data = [(inputs, inputs.sum(1, keepdim=True))] * num_batches
    return Learner(
        *(data, nn.Linear(4, 1), nn.functional.mse_loss, torch.optim.SGD), cbs=cbs
    )


def seconds(run: Callable[[], object], rounds: int = 9) -> list[float]:
    """How long it takes, several times."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def crowds() -> Iterator[tuple[str, list[float]]]:
    """1,000 observers of every event: time by that of the same calls in a loop."""
    alone, with_learner = _everywhere(False), _everywhere(True)
    kinds: dict[str, Callable[[int], object]] = {
        "methods: `def after_step(self)`": lambda number: alone(),
        "functions of modules: `def after_step(learner)`": _module_everywhere,
        "methods: `def after_step(self, learner)`": lambda number: with_learner(),
    }
    for name, make in kinds.items():
        observers = [make(number) for number in range(1000)]
        learner = a_learner(observers)
        learner.fit(1)
        functions = [observer.after_step for observer in observers]  # type: ignore[attr-defined]
        calls = learner._board.plan(learner, "fit", training=True).after_step
        ours = _call_all(calls)
        by_hand = _call_all(functions)
        if "(self)" not in name:
            by_hand = _call_all_with(functions, learner)
        # The least of 20, since what makes a call longer is others' load.
        yield (
            name,
            [min(seconds(ours, 20)) / min(seconds(by_hand, 20)) for _ in range(9)],
        )


def _call_all(calls: Iterable[Callable[[], object]]) -> Callable[[], None]:
    def call_all() -> None:
        for call in calls:
            call()

    return call_all


def _call_all_with(
    functions: Iterable[Callable[[Learner], object]], learner: Learner
) -> Callable[[], None]:
    def call_all() -> None:
        for function in functions:
            function(learner)

    return call_all


def changes() -> Iterator[Row]:
    """A plugin joins and leaves in mid-fit; a fit of many is set up."""
    everywhere = _everywhere(False)
    for kind, name in ((Ordinary, "4 events each"), (everywhere, "every event each")):
        joining: list[float] = []
        leaving: list[float] = []
        changer = _changer(joining, leaving)
        a_learner([*(kind() for _ in range(100)), changer], 20).fit(1)
        yield Row(f"a plugin joins a fit of 100 plugins with {name}", joining)
        yield Row(f"a plugin leaves a fit of 100 plugins with {name}", leaving)
        bare = statistics.median(seconds(lambda: a_learner().fit(1)))
        setting_up = seconds(
            lambda kind=kind: a_learner([kind() for _ in range(50)]).fit(1)
        )
        above = [each - bare for each in setting_up]
        yield Row(f"a fit of 50 plugins with {name} is set up", above)


def _changer(joining: list[float], leaving: list[float]) -> Callback:
    class Changer(Callback):
        def after_batch(self) -> None:
            newcomer, learner = Ordinary(), self.learn
            joining.extend(seconds(lambda: learner.add_cb(newcomer), 1))
            leaving.extend(seconds(lambda: learner.remove_cb(newcomer), 1))

    return Changer()


def orders() -> Iterator[Row]:
    """Plugins that each declare two constraints are put in order."""
    for number in (10, 100, 1_000, 10_000):
        draw = random.Random(0)
        nodes = [Node(f"plugin-{n}", sequence=n) for n in range(number)]
        edges = [
            Constraint(f"plugin-{draw.randrange(n)}", f"plugin-{n}", f"plugin-{n}", "")
            for n in range(1, number)
            for _ in range(2)
        ]
        taken = seconds(lambda nodes=nodes, edges=edges: solve(nodes, edges), 5)
        yield Row(f"{number:,} plugins are put in order", taken)


def discoveries() -> Iterator[Row]:
    """Distributions with a plugin each are found, and beside by importlib-metadata."""
    path = list(sys.path)
    for number in (10, 100, 1_000):
        with tempfile.TemporaryDirectory() as folder:
            site = Site(Path(folder))
            for n in range(number):
                site.install(f"made-{n}", callbacks={f"made-{n}": f"made_{n}:Made"})
            sys.path[:] = [folder]
            try:
                ours = seconds(_find, 5)
                theirs = seconds(_find_by_importlib, 5)
            finally:
                sys.path[:] = path
                discovery.refresh()
        beside = f"{statistics.median(theirs) * 1e3:.1f} ms"
        yield Row(f"{number:,} distributions are looked through", ours, beside)


def _find() -> None:
    discovery.refresh()
    discovery.installed()


def _find_by_importlib() -> None:
    importlib_metadata.entry_points(group="callboard.callbacks")
