"""Kill runs at random instants, let them go on, and compare every bit at the end."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reliability import children, runs, tables


@dataclass
class Outcome:
    """What became of one kind of run.

    Attributes:
        name: Which kind.
        num_kills: How often one was killed.
        num_runs: How many came to their end.
        num_different: How many of these differ from the one that was never killed.
        positions: At which (epoch, batch) they went on.
    """

    name: str
    num_kills: int = 0
    num_runs: int = 0
    num_different: int = 0
    positions: frozenset[str] = frozenset()


def kill_often(
    name: str, num_kills: int, folder: Path, chance: random.Random
) -> Outcome:
    """Kill runs of one kind until there were enough kills, each run to its end."""
    kind, outcome = runs.KINDS[name], Outcome(name)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    kind.loader()  # imports what it needs, which children then need not
    started = time.monotonic()
    expected = children.run(lambda: runs.fit(kind, whole), whole / "log.txt")
    seconds = time.monotonic() - started
    while outcome.num_kills < num_kills:
        path = folder / f"run-{outcome.num_runs}"
        path.mkdir()
        log = path / "log.txt"
        while True:
            process = children.start(partial(runs.fit, kind, path), log)
            # The first instants of a run are where it is set up; spread over all of it.
            code = children.wait(process, chance.uniform(0, seconds))
            if code is None:
                children.kill(process)
                outcome.num_kills += 1
                outcome.positions |= _positions(path)
                continue
            if code != 0:
                raise RuntimeError(f"{name}: {log.read_text()[-3000:]}")
            break
        outcome.num_runs += 1
        outcome.num_different += log.read_text().splitlines()[-1] != expected
        shutil.rmtree(path)
    return outcome


def _positions(path: Path) -> frozenset[str]:
    saved = sorted((path / "checkpoints").glob("[0-9]*"))
    return frozenset({saved[-1].name.partition("-")[2]} if saved else ())


def main(names: Sequence[str], num_kills: int, seed: int) -> int:
    """Kill runs of every kind and print what became of them; the exit status."""
    chance, outcomes = random.Random(seed), []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            share = -(-num_kills // len(names))
            place = Path(folder) / str(number)
            outcomes.append(kill_often(name, share, place, chance))
            print(f"{name}: {outcomes[-1].num_kills} kills", flush=True)
    rows = [
        (o.name, o.num_kills, len(o.positions), o.num_runs, o.num_different)
        for o in outcomes
    ]
    total = [sum(int(row[n]) for row in rows) for n in (1, 2, 3, 4)]
    seconds = time.monotonic() - started
    tables.show(
        f"SIGKILL at random instants, seed {seed}, {seconds:.0f} s",
        ("kind of run", "kills", "resume points", "runs", "different"),
        [*rows, ("all", *total)],
    )
    return int(total[-1] > 0)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", count=210, seed=1)
    sys.exit(main(list(runs.KINDS), given.count, given.seed))
