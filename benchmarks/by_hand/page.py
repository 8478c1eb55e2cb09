"""docs/faster-than-by-hand.md, made of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.by_hand.tasks import TASKS
from benchmarks.page import machine, table

PAGE = Path(__file__).parents[2] / "docs" / "faster-than-by-hand.md"
BY_HAND = "a loop by hand"
GOAL = 0.7
INTRODUCTION = """\
# Faster than by hand

How long `callboard fit --fast` takes to a validation loss, by what a loop takes that is
written by hand. `nox -s by_hand -- write` measures anew and writes this page. The goal
is a ratio of {goal} or less; what it came to stands here, whatever it is.

- The loop by hand is eager PyTorch: `AdamW` with its defaults, a `DataLoader`, no value
  read in a step, a validation at the end of an epoch. It is in
  `benchmarks/by_hand/loop.py`; what is trained is in `tasks.py`.
- All begin with the same weights and see the same batches in the same order, in one
  thread on a CPU, and end with the epoch in which the validation loss is down.
- The losses to come down to, and the digits' learning rate, were chosen after trial
  runs, so that all ways need as many epochs.
- Times are those of computing (user and system, compiler included), from when data and
  model are there; compiled code of earlier runs is not used. Seconds on the wall stand
  beside them, and grow when others use the machine. Shown are medians of {rounds}
  runs, in turns, and in brackets the quartiles of the ratios in a turn.
- *Program* is the ratio of the whole programs, from start to end: importing PyTorch and
  finding plugins is in it.
- *To begin with* is what is done once: compiling, and the second that PyTorch takes to
  load its compiler when the first optimizer is made, which `--fast` spares. It is part
  of the time, and what is left of it when every epoch is taken to be as long as most.
  *Epoch* is the ratio of such epochs, to which the ratio of a long run comes near.
- *Curve* is the largest difference of a validation loss from that of the loop by hand
  in the same epoch, by its size.

Measured on {machine}.
"""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        task: What was trained.
        way: How.
        chosen: What ``fast`` said.
        wall: Seconds until the loss was down.
        processor: Seconds of computing until then.
        epochs: Seconds of computing in each epoch.
        valid_losses: One an epoch.
        program: Seconds of computing of the whole program.
    """

    task: str
    way: str
    chosen: list[str]
    wall: float
    processor: float
    epochs: list[float]
    valid_losses: list[float]
    program: float

    @property
    def is_down(self) -> bool:
        """Whether the loss came down to where it should."""
        return self.valid_losses[-1] <= TASKS[self.task].goal

    @property
    def per_epoch(self) -> float:
        """Seconds of an epoch: the median, which those with a compiler do not move."""
        return statistics.median(self.epochs)

    @property
    def to_begin_with(self) -> float:
        """Seconds that it took more than such epochs take."""
        return self.processor - self.per_epoch * len(self.epochs)

    def __str__(self) -> str:
        return (
            f"{self.processor:6.1f} s ({self.wall:.1f} s on the wall), "
            f"{self.to_begin_with:.1f} s to begin with, {len(self.valid_losses)} "
            f"epochs, to {self.valid_losses[-1]:.4f}"
        )


def text_of(runs: Sequence[Run]) -> str:
    """The whole page."""
    return "\n".join(_lines(runs)) + "\n"


def _lines(runs: Sequence[Run]) -> Iterator[str]:
    rounds = len([r for r in runs if r.way == BY_HAND and r.task == runs[0].task])
    facts = {"machine": machine(), "rounds": rounds, "goal": GOAL}
    yield INTRODUCTION.format(**facts)
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        title = TASKS[task].title
        yield f"## {title[0].upper()}{title[1:]}"
        yield ""
        yield f"To a validation loss of {TASKS[task].goal:g}:"
        yield ""
        yield from _rows(of_task)
        yield verdict(of_task)
        yield ""
        yield from _what_fast_chose(of_task)


def _rows(runs: Sequence[Run]) -> Iterator[str]:
    head = ["", "time", "ratio", "epoch", "program", "to begin with", "on the wall"]
    head += ["epochs", "curve"]
    by_hand = [run for run in runs if run.way == BY_HAND]
    rows = []
    for way in dict.fromkeys(run.way for run in by_hand + list(runs)):
        own = [run for run in runs if run.way == way]
        pairs = list(zip(own, by_hand, strict=True))
        ratios = [run.processor / beside.processor for run, beside in pairs]
        epoch_ratios = [run.per_epoch / beside.per_epoch for run, beside in pairs]
        programs = [run.program / beside.program for run, beside in pairs]
        is_down = all(run.is_down for run in own)
        epochs = f"{len(own[0].valid_losses)}{'' if is_down else ', not down'}"
        rows.append(
            [
                way,
                f"{_median(run.processor for run in own):.1f} s",
                *map(spread, (ratios, epoch_ratios, programs)),
                f"{_median(run.to_begin_with for run in own):.1f} s",
                f"{_median(run.wall for run in own):.1f} s",
                epochs,
                f"{difference(own[0], by_hand[0]):.1e}" if way != BY_HAND else "",
            ]
        )
    yield from table(head, rows)


def verdict(runs: Sequence[Run]) -> str:
    """Which ways came down to the goal, in words."""
    by_hand = [run for run in runs if run.way == BY_HAND]
    reached = []
    for way in dict.fromkeys(run.way for run in runs if run.way != BY_HAND):
        pairs = zip([run for run in runs if run.way == way], by_hand, strict=True)
        if statistics.median(r.processor / b.processor for r, b in pairs) <= GOAL:
            reached.append(way)
    if not reached:
        return f"**No way came down to {GOAL} of the time.**"
    return f"**Down to {GOAL} of the time or less came {', '.join(reached)}.**"


def _what_fast_chose(runs: Sequence[Run]) -> Iterator[str]:
    chosen = next((run.chosen for run in runs if run.chosen), [])
    yield "```text"
    yield from chosen
    yield "```"
    yield ""


def difference(run: Run, beside: Run) -> float:
    """The largest difference of two curves, by the size of the second.

    Args:
        run: One run.
        beside: That which it is compared with; epochs that both have are.
    """
    pairs = zip(run.valid_losses, beside.valid_losses, strict=False)
    return max(abs(one - other) / other for one, other in pairs)


def _median(numbers: Iterator[float]) -> float:
    return statistics.median(numbers)


def spread(ratios: Sequence[float]) -> str:
    """Median and, of several, quartiles."""
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
