"""Train for many steps with everyday plugins: memory, files and threads stay flat."""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from callboard import Callback, Learner
from callboard_csv_logger import CSVLogger
from callboard_early_stopping import EarlyStoppingCallback
from callboard_progress import ProgressCallback
from callboard_recorder import Recorder, accuracy
from callboard_save_model import SaveModelCallback
from reliability import tables

BATCHES_PER_EPOCH = 1000


class Measure(Callback):
    """Measures this process behind every epoch."""

    role = "observe"

    def __init__(self) -> None:
        self.readings: list[Mapping[str, float]] = []

    def after_epoch(self) -> None:
        self.readings.append(
            {
                "steps": self.train_iter,
                "bytes": resident_bytes(),
                "files": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
            }
        )


def resident_bytes() -> int:
    """Memory of this process that is its own, from Linux's /proc."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "Private" in line) * 1024


def slope(readings: list[Mapping[str, float]]) -> float:
    """Bytes for 1,000 steps: the median slope between any two of the later readings.

    Source: Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968.
    A single jump, as of a page that the system moves, leaves it as it is.
    """
    later = readings[len(readings) // 3 :]
    return statistics.median(
        (b["bytes"] - a["bytes"]) / (b["steps"] - a["steps"]) * 1000
        for a, b in itertools.combinations(later, 2)
    )


def main(count: int, limit: int) -> int:
    """Train ``count`` steps; prints a table and returns the exit status.

    Args:
        count: How many. The recorder keeps every step up to 10,000, and memory is flat
            behind that.
        limit: How much may be taken for 1,000 steps more, in bytes.
    """
    torch.set_num_threads(1)
    measure = Measure()
    inputs = torch.randn(8, 4)
    batches: list[Any] = [(inputs, inputs.argmax(1))] * BATCHES_PER_EPOCH
    everyday = [
        Recorder(),
        ProgressCallback(),
        CSVLogger(),
        EarlyStoppingCallback(patience=count),
        SaveModelCallback(),
    ]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as path, open(os.devnull, "w") as nowhere:
        learner = Learner(
            (batches, batches[:10]),
            nn.Linear(4, 4),
            nn.CrossEntropyLoss(),
            torch.optim.SGD,
            metrics=accuracy,
            cbs=[*everyday, measure],
            path=path,
        )
        out, sys.stdout = sys.stdout, nowhere
        try:
            learner.fit_one_cycle(-(-count // BATCHES_PER_EPOCH), 1e-3)
        finally:
            sys.stdout = out
    readings = measure.readings
    growth = slope(readings)
    is_constant = all(
        r[name] == readings[1][name]
        for r in readings[1:]
        for name in ("files", "threads")
    )
    tables.show(
        f"{learner.train_iter:,} steps, {time.monotonic() - started:.0f} s",
        ("", "at the first epoch's end", "at the last's"),
        [
            (
                "private memory, MB",
                *(f"{readings[n]['bytes'] / 2**20:.2f}" for n in (0, -1)),
            ),
            ("open files", *(readings[n]["files"] for n in (0, -1))),
            ("threads", *(readings[n]["threads"] for n in (0, -1))),
            ("growth, bytes for 1,000 steps", "", f"{growth:.0f}"),
        ],
    )
    return int(growth > limit or not is_constant)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", count=100_000, limit=1024)
    sys.exit(main(given.count, given.limit))
