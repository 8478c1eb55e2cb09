"""Losses of many processes beside those of one, in every step of an epoch.

It is a TARGET too, which makes the language model of the examples:

    callboard fit benchmarks.processes.losses --epochs 1 -o file=losses.json
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes.start import results_of
from callboard import Callback, Learner

EXAMPLE = Path(__file__).parents[2] / "examples" / "language_model.py"
STRATEGIES = ("ddp", "fsdp2")
FIRST_STEPS = 100
GOAL = 1e-6


@dataclass(frozen=True)
class Compared:
    """How far the losses of a run are from those of one process.

    Attributes:
        strategy: How the model was spread.
        num_processes: Over how many.
        differences: Of the loss of each step, by its size.
        valid_difference: Of the validation loss after the epoch, by its size.
    """

    strategy: str
    num_processes: int
    differences: list[float]
    valid_difference: float

    @property
    def is_same(self) -> bool:
        """Whether the first steps have the losses of one process."""
        return max(self.differences[:FIRST_STEPS]) <= GOAL

    def steps_until(self, difference: float) -> int | None:
        """In which step, from 1 on, the difference is first larger; None if never."""
        for number, found in enumerate(self.differences, 1):
            if found > difference:
                return number
        return None


def compared(
    numbers: Iterable[int], max_letters: int = 1_000_000
) -> Iterator[Compared]:
    """Train in one process, and by every strategy in every number of them."""
    alone = trained([], 0, max_letters)
    for strategy in STRATEGIES:
        for number in numbers:
            options = ["--with", f"distributed:strategy={strategy}"]
            run = trained(options, number, max_letters)
            pairs = zip(run["steps"], alone["steps"], strict=True)
            yield Compared(
                strategy,
                number,
                [abs(one - other) / other for one, other in pairs],
                abs(run["valid_loss"] / alone["valid_loss"] - 1),
            )


def trained(options: list[str], num_processes: int, max_letters: int) -> Any:
    """The losses of one epoch, by the command line."""
    target = [*("callboard", "fit", "benchmarks.processes.losses"), "--epochs", "1"]
    own = [*("-o", "file=RESULT"), "-o", f"max_letters={max_letters}"]
    return results_of([*target, *own, "--with", "recorder", *options], num_processes)


class WriteLosses(Callback):
    """Writes the loss of every step, over all processes, and the validation's."""

    run_after = "recorder"
    run_valid = False

    def __init__(self, file: str) -> None:
        self.file = file
        self.losses: list[float] = []

    def after_loss(self) -> None:
        """Note the mean over the whole batch."""
        own, total = self.learn.processes.sizes(self.learn)
        assert self.learn.loss is not None
        part = float(self.learn.loss.detach()) * own / total
        self.losses += self.learn.processes.sum([part])

    def after_fit(self) -> None:
        """Write them, in one process."""
        if self.learn.is_main:
            valid_loss = self.learn.results["valid_loss"]
            told = {"steps": self.losses, "valid_loss": valid_loss}
            Path(self.file).write_text(json.dumps(told))


def learner(file: str, max_letters: int = 1_000_000) -> Learner:
    """A small language model that writes its losses.

    Args:
        file: Where to.
        max_letters: How much of the text is used.
    """
    spec = importlib.util.spec_from_file_location("language_model", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    made: Learner = example.learner(
        width=32, num_blocks=2, max_letters=max_letters, sample=0
    )
    made.add_cb(WriteLosses(file))
    return made
