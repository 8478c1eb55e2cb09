"""Measure all, print it, and with ``write`` make docs/benchmarks.md anew.

python -m benchmarks [write] [--quick] [--only NAME]...
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import page, scale, startup
from benchmarks.page import Cell, Measured
from benchmarks.peers import PEERS
from benchmarks.problem import SIZES

OBSERVERS = (1, 5, 20, 50)
OBSERVED_SIZES = ("tiny", "small")
PATIENCE_SECONDS = 600


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("write", nargs="?", choices=["write"])
    parser.add_argument("--quick", action="store_true", help="three rounds each")
    parser.add_argument("--only", action="append", choices=list(PEERS), metavar="NAME")
    options = parser.parse_args()
    names = options.only or list(PEERS)
    measured = Measured(
        cells=list(cells(names, options.quick)),
        costs=list(costs(names)),
        crowds=dict(scale.crowds()),
        rows=[*scale.changes(), *scale.orders(), *scale.discoveries()],
        starts=startup.starts(3 if options.quick else 11),
    )
    if options.write:
        page.write(measured)
    else:
        print(page.text_of(measured))


def cells(names: list[str], is_quick: bool) -> Iterator[Cell]:
    """Every framework in every setting, each in a process of its own.

    Frameworks take turns, so that none has the machine's quiet hour to itself.
    """
    for size in SIZES:
        for extra in ("nothing", "everyday"):
            for name in names:
                yield cell(name, size, extra, 0, is_quick)
    for size in OBSERVED_SIZES:
        for number in OBSERVERS:
            for name in names:
                if PEERS[name].has_observers:
                    yield cell(name, size, "observers", number, is_quick)


def cell(name: str, size: str, extra: str, num_observers: int, is_quick: bool) -> Cell:
    """One framework in one setting."""
    asked = {
        "size": size,
        "extra": extra,
        "num_observers": num_observers,
        "is_quick": is_quick,
    }
    result = measured_by_child(name, asked)
    said = f"{name}, {size}, {extra} {num_observers or ''}".strip()
    found = Cell(name, size, extra, num_observers, **result)
    print(f"{said:45}{found.in_words}", file=sys.stderr, flush=True)
    return found


def costs(names: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What a step of each does, counted: framework, setting and the counts."""
    for extra in ("nothing", "everyday"):
        for name in names:
            asked = {"size": "small", "extra": extra, "count": True}
            result = measured_by_child(name, asked)
            print(f"{name}, {extra}: {result}", file=sys.stderr, flush=True)
            yield name, extra, result


def measured_by_child(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What a process says that measures one framework."""
    command = [sys.executable, "-m", "benchmarks.child", name, json.dumps(asked)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {PATIENCE_SECONDS} s"}
    except (IndexError, ValueError):
        return {"error": f"ended with {done.returncode}: {done.stderr.strip()[-200:]}"}
    return result


if __name__ == "__main__":
    main()
