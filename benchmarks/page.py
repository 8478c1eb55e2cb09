"""docs/benchmarks.md and its picture, made of what was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import PEERS
from benchmarks.problem import SIZES
from benchmarks.scale import Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "benchmarks.md", DOCS / "benchmarks.svg"
INTRODUCTION = """\
# Benchmarks

What a training step takes here and elsewhere, by what it takes in a bare PyTorch loop.
`nox -s bench -- write` measures anew and writes this page; it takes half an hour, on a
machine that does nothing else.

![Time of a step by that of the bare loop](benchmarks.svg)

- All train the same perceptron with plain gradient descent on the same batches of the
  same `DataLoader`, in one thread on a CPU. Keras makes layers and optimizer of its
  own, of the same shapes.
- A ratio is the time of a step in the framework by that of a step in the bare loop.
  Each framework has a process of its own, in which fits of it and of the bare loop take
  turns, 7 to 15 times, after a short one of each to warm up. Shown are the median of
  the ratios and, in brackets, the quartiles.
- A step is timed from one batch to the next; the first five, and what a fit does
  before, between and after epochs, are left out.
- Calls are Python functions that are entered in a step, beyond the bare loop's; reads
  are values that Python fetches from a tensor, for which it would wait for a GPU. Both
  are counted and hold on any machine; times do not.

Measured on {machine}. The load average was {load:.1f} at the end, of which this is 1.
"""
EVERYDAY = """\
A history of the loss, a progress bar, a CSV file, early stopping, the best weights in a
file and a one-cycle schedule, each in the framework's own way."""
PANELS = {"nothing": "nothing added", "everyday": "the everyday set"}


@dataclass(frozen=True)
class Cell:
    """One framework in one setting: seconds of a step, and of a bare one, in pairs."""

    name: str
    size: str
    extra: str
    num_observers: int
    bare: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def ratios(self) -> list[float]:
        return [t / b for t, b in zip(self.theirs, self.bare, strict=True)]

    @property
    def in_words(self) -> str:
        """Median of the ratios, and their quartiles."""
        return "—" if self.error else spread(self.ratios)


@dataclass(frozen=True)
class Measured:
    """All that was measured."""

    cells: Sequence[Cell]
    costs: Sequence[tuple[str, str, dict[str, Any]]]
    crowds: dict[str, list[float]]
    rows: Sequence[Row]
    starts: dict[str, list[float]]

    def names(self) -> list[str]:
        """The frameworks, in their order."""
        return list(dict.fromkeys(cell.name for cell in self.cells))

    def cell(
        self, name: str, size: str, extra: str, num_observers: int = 0
    ) -> Cell | None:
        """What was measured of one framework in one setting, if it was."""
        wanted = name, size, extra, num_observers
        for cell in self.cells:
            if (cell.name, cell.size, cell.extra, cell.num_observers) == wanted:
                return cell
        return None

    def bare_seconds(self, size: str) -> float:
        """What a bare step took."""
        return statistics.median(
            seconds for cell in self.cells if cell.size == size for seconds in cell.bare
        )


def spread(ratios: Sequence[float]) -> str:
    """Median and quartiles, as ``1.03 (1.01 to 1.06)``.

    >>> spread([1.0, 1.1, 1.2, 1.3, 9.0])
    '1.20 (1.10 to 1.30)'
    """
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def durations(seconds: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{duration(middle)} ({duration(low)} to {duration(high)})"


def duration(seconds: float) -> str:
    """A time in its own unit.

    >>> duration(0.0031), duration(4.2e-5)
    ('3.1 ms', '42 µs')
    """
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms")
    if seconds < 1e-3:
        factor, unit = 1e6, "µs"
    number = seconds * factor
    return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def write(measured: Measured) -> None:
    """Write the page and its picture."""
    PAGE.write_text(text_of(measured), encoding="utf-8")
    draw(measured)


def text_of(measured: Measured) -> str:
    """The whole page."""
    return "\n".join(_lines(measured)) + "\n"


def _lines(measured: Measured) -> Iterator[str]:
    yield INTRODUCTION.format(machine=machine(), load=_load())
    for extra, title in PANELS.items():
        yield f"## A step, {title}"
        yield ""
        if extra == "everyday":
            yield EVERYDAY
            yield ""
        yield from _steps(measured, extra)
    yield from _observers(measured)
    yield from _scale(measured)
    yield from _starts(measured)
    yield from _participants(measured)


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.partition(": ")[2] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}"
    )


def _load() -> float:
    """How many programs ran in the last quarter of an hour; Unix alone tells."""
    return os.getloadavg()[2] if hasattr(os, "getloadavg") else 1.0


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---'] * len(head))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _steps(measured: Measured, extra: str) -> Iterator[str]:
    counts = {name: found for name, kind, found in measured.costs if kind == extra}
    head = ["", *(f"{duration(measured.bare_seconds(size))} a step" for size in SIZES)]
    rows = []
    for name in measured.names():
        cells = [measured.cell(name, size, extra) for size in SIZES]
        found = counts.get(name, {})
        rows.append(
            [
                f"**{name}**" if name == "Callboard" else name,
                *("—" if cell is None else cell.in_words for cell in cells),
                *(_count(found, key) for key in ("python_calls", "host_reads")),
            ]
        )
    yield from table([*head, "calls", "reads"], rows)


def _count(found: dict[str, Any], key: str) -> str:
    if key not in found:
        return "—"
    number = found[key]
    return f"{number:,.0f}" if number >= 10 or number == 0 else f"{number:.2g}"


def _observers(measured: Measured) -> Iterator[str]:
    yield "## A step, with observers"
    yield ""
    yield "Callbacks that do nothing when a batch begins and when it ends."
    yield ""
    asked = {(c.size, c.num_observers) for c in measured.cells if c.num_observers}
    for size in (size for size in SIZES if any(size == s for s, _ in asked)):
        numbers = sorted(number for s, number in asked if s == size)
        bare = duration(measured.bare_seconds(size))
        head = [
            f"{bare} a step",
            *(f"{number} observer{'s' * (number > 1)}" for number in numbers),
        ]
        rows = []
        for name in measured.names():
            if PEERS[name].has_observers:
                cells = [measured.cell(name, size, "observers", n) for n in numbers]
                words = ["—" if cell is None else cell.in_words for cell in cells]
                rows.append([f"**{name}**" if name == "Callboard" else name, *words])
        yield from table([*head], rows)


def _scale(measured: Measured) -> Iterator[str]:
    yield "## Many plugins"
    yield ""
    yield "An event of 1,000 observers that implement every event, by the time that"
    yield "their functions take in a loop:"
    yield ""
    rows = [(name, spread(ratios)) for name, ratios in measured.crowds.items()]
    yield from table(["what they are", "ratio"], rows)
    found = [
        (
            row.what,
            durations(row.seconds),
            row.beside,
        )
        for row in measured.rows
    ]
    yield from table(["what is done", "time", "importlib-metadata"], found)


def _starts(measured: Measured) -> Iterator[str]:
    yield "## Starting the command line"
    yield ""
    rows = [
        (
            f"`{name}`",
            durations(seconds),
        )
        for name, seconds in measured.starts.items()
    ]
    yield from table(["command", "time"], rows)


def _participants(measured: Measured) -> Iterator[str]:
    yield "## Who took part"
    yield ""
    rows = []
    for name in measured.names():
        errors = [c.error for c in measured.cells if c.name == name and c.error]
        rows.append(
            (
                name,
                _version(PEERS[name].distribution),
                PEERS[name].lacks,
                errors[0].replace("|", "/")[:160] if errors else "",
            )
        )
    yield from table(["", "version", "lacks of the everyday set", "failed with"], rows)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "could not be installed"


def draw(measured: Measured) -> None:
    """Draw the ratios by the cost of a bare step."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    places = [1e3 * measured.bare_seconds(size) for size in SIZES]
    for ax, (extra, title) in zip(axes, PANELS.items(), strict=True):
        for name in measured.names():
            cells = [measured.cell(name, size, extra) for size in SIZES]
            points = [
                (place, statistics.median(cell.ratios))
                for place, cell in zip(places, cells, strict=True)
                if cell is not None and not cell.error
            ]
            if points:
                is_ours = name == "Callboard"
                ax.plot(
                    *zip(*points, strict=True),
                    marker=".",
                    label=name,
                    linewidth=2.5 if is_ours else 1,
                    zorder=3 if is_ours else 2,
                )
        ax.axhline(1, color="grey", linewidth=0.8, zorder=1)
        ax.set(title=title, xscale="log", yscale="log", xlabel="ms a bare step")
    axes[0].set_ylabel("time by that of the bare loop")
    axes[1].legend(fontsize=7, frameon=False)
    axes[0].yaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
    axes[0].yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes[0].set_yticks([1, 2, 5, 10])
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
