"""Measure, and print tables or write the page.

python -m benchmarks.by_hand [write] [--rounds N] [--only TASK]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.by_hand import page
from benchmarks.by_hand.clock import RESULT, processor_seconds
from benchmarks.by_hand.page import BY_HAND, Run
from benchmarks.by_hand.tasks import TASKS

COMPILE = ("--with", "compile")
FULL = ("--without", "mixed-precision")
# What `callboard fit` is told in each way to train.
WAYS: dict[str, Sequence[str] | None] = {
    BY_HAND: None,
    "`callboard fit`": (),
    "`callboard fit --fast`": ("--fast",),
    f"`callboard fit --fast {' '.join(COMPILE)}`": ("--fast", *COMPILE),
    f"`callboard fit --fast {' '.join(FULL)}`": ("--fast", *FULL),
}
PATIENCE_SECONDS = 1800


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.by_hand")
    parser.add_argument("write", nargs="?", choices=["write"])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--only", action="append", choices=list(TASKS), metavar="TASK")
    options = parser.parse_args()
    runs = [
        run
        for task in options.only or TASKS
        for round_number in range(options.rounds)
        for run in turn(task, round_number)
    ]
    text = page.text_of(runs)
    if options.write:
        page.PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)


def turn(task: str, round_number: int) -> list[Run]:
    """Every way to train a task, once; the first one is another in each round."""
    names = list(WAYS)
    shift = round_number % len(names)
    return [run(task, name) for name in [*names[shift:], *names[:shift]]]


def run(task: str, way: str) -> Run:
    """One way to train a task, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        # A cache of its own: what was compiled in an earlier run would be found there.
        environment = {
            RESULT: str(result),
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "CALLBOARD_AUTOLOAD": "0",
            "OMP_NUM_THREADS": "1",
        }
        before = processor_seconds()
        done = subprocess.run(
            command(task, WAYS[way]),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        if done.returncode:
            raise SystemExit(f"{task}, {way}: {done.stderr or done.stdout}")
        measured: dict[str, Any] = json.loads(result.read_text())
        measured["program"] = processor_seconds() - before
    chosen = [line for line in done.stdout.splitlines() if line.startswith("fast: ")]
    found = Run(task, way, chosen=chosen, **measured)
    print(f"{task:12} {way:60} {found}", file=sys.stderr, flush=True)
    return found


def command(task: str, options: Sequence[str] | None) -> list[str]:
    """The command that trains a task."""
    python = [sys.executable, "-m"]
    if options is None:
        return [*python, "benchmarks.by_hand.loop", task]
    target = ["benchmarks.by_hand.train:" + task]
    epochs = ["--epochs", str(TASKS[task].num_epochs)]
    return [*python, "callboard", "fit", *target, *epochs, *options]


if __name__ == "__main__":
    main()
