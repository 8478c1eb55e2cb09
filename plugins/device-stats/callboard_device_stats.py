"""Measure memory and use of the processor and the GPU, of each epoch.

Listens to  before_fit, before_epoch, after_batch, after_validate, after_train
Changes     nothing; publishes what it measured in ``learner.results``
Source      Lightning's ``DeviceStatsMonitor`` (Apache-2.0), written anew
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch

from callboard import Callback
from callboard.callback import Role
from callboard.errors import OptionError

MIB = 2**20
PUBLISHED = (
    "process_memory_mib",
    "cpu_percent",
    "gpu_memory_mib",
    "gpu_reserved_mib",
    "gpu_percent",
)
Measure = Callable[[], float]


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries it out: no two runs use the same."""
    from callboard.testing import Specimen

    return {"device-stats": Specimen(ignore=(*PUBLISHED, "rows"))}


class DeviceStats(Callback):
    """Publishes what an epoch takes of the processor, of memory and of a GPU.

    ``learner.results`` gets, as far as the machine can tell: ``process_memory_mib``,
    the most main memory that this process was seen to hold; ``cpu_percent``, its
    processor time by the clock's, 100 for a core; ``gpu_memory_mib`` and
    ``gpu_reserved_mib``, the most that tensors and PyTorch's allocator were seen to
    hold; ``gpu_percent``, the mean share of time in which the GPU did anything.

    Args:
        every: After how many batches to look, from 1 on. The ends of phases are looked
            at always. Looking waits for no device.

    Attributes:
        rows: What was published, a dict for each epoch of the latest fit.
        higher_is_better: False for memory; nothing is said of the others.

    Raises:
        OptionError: ``every`` is no such number.
    """

    name = "device-stats"
    role: Role = "observe"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        name: False for name in PUBLISHED if name.endswith("_mib")
    }

    def __init__(self, *, every: int = 50) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(
                f"device-stats: every must be a whole number of batches from 1 on, got "
                f"{every!r}. Use 50; looking takes some 20 microseconds on a CPU, and "
                "milliseconds where a GPU is asked how busy it is."
            )
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._measures: Mapping[str, Measure] = {}
        self._seen: dict[str, list[float]] = {}
        self._started = 0.0, 0.0

    def before_fit(self) -> None:
        """Find out what this machine can tell."""
        self.rows = []
        self._measures = measures_of(self.learn.device)

    def before_epoch(self) -> None:
        """Begin anew."""
        self._seen = {name: [] for name in self._measures}
        self._started = time.perf_counter(), time.process_time()
        self._look()

    def after_batch(self) -> None:
        """Look in every so many batches."""
        if self.learn.iter % self.every == 0:
            self._look()

    def after_train(self) -> None:
        """Look where gradients and the optimizer's state are there, and publish."""
        self._look()
        self._publish()

    def after_validate(self) -> None:
        """Publish for the whole epoch."""
        self._look()
        self._publish()

    def _look(self) -> None:
        for name, measure in self._measures.items():
            self._seen[name].append(measure())

    def _publish(self) -> None:
        seconds = time.perf_counter() - self._started[0]
        busy_seconds = time.process_time() - self._started[1]
        row = summary(self._seen) | {"cpu_percent": 100 * busy_seconds / seconds}
        self.learn.results.update(row)
        if self.learn.training:
            self.rows.append(row)
        else:
            self.rows[-1:] = [row]


def summary(seen: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The most of every memory, and the mean of every percentage."""
    return {
        name: sum(values) / len(values) if name.endswith("_percent") else max(values)
        for name, values in seen.items()
        if values
    }


def measures_of(device: torch.device) -> dict[str, Measure]:
    """What this machine can tell, each tried once."""
    candidates = {"process_memory_mib": process_memory()}
    if device.type == "cuda":
        cuda = torch.cuda
        candidates |= {
            "gpu_memory_mib": lambda: cuda.max_memory_allocated(device) / MIB,
            "gpu_reserved_mib": lambda: cuda.memory_reserved(device) / MIB,
            "gpu_percent": lambda: float(cuda.utilization(device)),
        }
    elif device.type == "mps":
        mps = torch.mps
        candidates |= {
            "gpu_memory_mib": lambda: mps.current_allocated_memory() / MIB,
            "gpu_reserved_mib": lambda: mps.driver_allocated_memory() / MIB,
        }
    return {
        name: measure
        for name, measure in candidates.items()
        if measure is not None and _works(measure)
    }


def _works(measure: Measure) -> bool:
    try:
        measure()
    except Exception:  # no driver, no pynvml, no right to ask: each has its own error
        return False
    return True


def process_memory() -> Measure | None:
    """What tells the MiB of main memory that this process holds; None if nothing does.

    Linux's own file; else psutil where it is installed; else the most that the process
    ever held, as Unix tells it.
    """
    if os.path.exists("/proc/self/statm"):
        return _resident_pages
    with suppress(ImportError):
        import psutil  # type: ignore[import-untyped,unused-ignore]

        process = psutil.Process()
        return lambda: float(process.memory_info().rss) / MIB
    with suppress(ImportError):
        import resource

        # Kibibytes on Linux and BSD, bytes on macOS: getrusage(2).
        unit = 1 if sys.platform == "darwin" else 1024
        usage = resource.getrusage
        return lambda: usage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
    return None


def _resident_pages() -> float:
    with open("/proc/self/statm", "rb") as file:
        # The second number counts the resident pages: proc(5).
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
