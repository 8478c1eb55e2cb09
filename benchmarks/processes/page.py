"""The measured parts of docs/distributed.md, and the recipes that it shows.

The page is written by hand, but for what stands between ``<!-- begin NAME -->`` and
``<!-- end NAME -->``: a table that is measured, or a file of the repository.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.page import machine, spread, table
from benchmarks.processes.cost import Cost
from benchmarks.processes.losses import FIRST_STEPS, GOAL, Compared
from benchmarks.processes.word import Word, num_hops
from callboard_distributed.together import PROCESSES_A_STEP

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "distributed.md"
RECIPES = ("slurm.sh", "pytorchjob.yaml", "ray_train.py")
LANGUAGES = {".sh": "bash", ".yaml": "yaml", ".py": "python"}
NAMES = {"ddp": "DDP", "fsdp2": "FSDP2"}
NUM_GPUS = (8, 64, 1024)
# Seconds from one machine to the next: over RDMA or a good switch, and over plain TCP.
HOPS = (20e-6, 50e-6)
CORE_CALLS = 8
PART = "<!-- begin {0} -->\n\n{1}\n<!-- end {0} -->\n"


def parts(
    losses: Iterable[Compared], costs: Sequence[Cost], words: Sequence[Word]
) -> dict[str, str]:
    """All that is measured, and computed from it, by its name on the page."""
    measured = {
        "machine": [f"Measured on {machine()}.", ""],
        "losses": losses_table(list(losses)),
        "step": step_table(costs),
        "word": word_table(words),
        "model": model_table(costs),
    }
    return {name: "\n".join(lines) for name, lines in measured.items()}


def recipes() -> dict[str, str]:
    """The files that the page shows, as blocks of code."""
    shown = {}
    for name in RECIPES:
        path = ROOT / "examples" / "cluster" / name
        text = path.read_text("utf-8")
        shown[name] = f"```{LANGUAGES[path.suffix]}\n{text}```\n"
    return shown


def with_parts(text: str, new: Mapping[str, str]) -> str:
    """The page with these parts in the place of what they were; recipes as they are."""
    for name, part in {**new, **recipes()}.items():
        place = re.compile(PART.format(re.escape(name), ".*?"), re.DOTALL)
        text, number = place.subn(lambda _, n=name, p=part: PART.format(n, p), text)
        if number != 1:
            raise ValueError(f"{PAGE.name} has {number} places for {name}")
    return text


def losses_table(losses: Sequence[Compared]) -> Iterator[str]:
    """How far the losses are from those of one process."""
    num_steps = len(losses[0].differences)
    head = ["", "processes", f"first {FIRST_STEPS} steps", f"all {num_steps} steps"]
    rows = (
        [
            NAMES[each.strategy],
            str(each.num_processes),
            f"{max(each.differences[:FIRST_STEPS]):.0e}",
            f"{max(each.differences):.0e}",
            f"{each.valid_difference:.0e}",
        ]
        for each in losses
    )
    yield from table([*head, "validation loss"], rows)
    largest = max(max(each.differences) for each in losses)
    verdict = "is within" if largest <= GOAL else "is not within"
    yield f"The largest, {largest:.1e}, **{verdict} {GOAL:.0e}**."
    yield ""


def step_table(costs: Sequence[Cost]) -> Iterator[str]:
    """What a step takes above one by hand."""
    head = ["", "processes", "Python calls", "tensor operations", "host reads"]
    head += ["collectives", "bytes", "by hand", "time"]
    rows = (
        [
            NAMES[cost.strategy],
            str(cost.num_processes),
            f"+{cost.python_calls:.0f}",
            f"+{cost.tensor_operations:.0f}",
            f"+{cost.host_reads:.0f}",
            f"+{cost.collectives:.0f}",
            f"+{cost.bytes:.0f}",
            f"{statistics.median(cost.by_hand) * 1e3:.1f} ms",
            spread(cost.ratios),
        ]
        for cost in costs
    )
    yield from table(head, rows)
    largest = max(cost.python_calls for cost in costs)
    yield (
        f"Of the {largest:.0f} calls at most {CORE_CALLS} are the core's own, and "
        f"{largest - CORE_CALLS:.0f} those of training in many processes."
    )
    yield ""


def word_table(words: Sequence[Word]) -> Iterator[str]:
    """How long the word takes between processes of this machine."""
    head = ["processes", "hops", "until the call returns", "until all have it", "a hop"]
    rows = (
        [
            str(word.num_processes),
            str(num_hops(word.num_processes)),
            f"{word.seconds_to_ask * 1e6:.0f} µs",
            f"{word.seconds * 1e3:.2f} ms",
            f"{word.seconds_a_hop * 1e6:.0f} µs",
        ]
        for word in words
    )
    yield from table(head, rows)


def model_table(costs: Sequence[Cost]) -> Iterator[str]:
    """What follows for more GPUs than are here."""
    calls = max(cost.python_calls for cost in costs)
    size = max(cost.bytes for cost in costs)
    of_an_epoch = max(cost.of_an_epoch for cost in costs)
    head = ["GPUs", "Python calls", "a word of", "each", "hops"]
    for hop in HOPS:
        head += [f"word's way, {hop * 1e6:.0f} µs a hop", "waits below"]
    rows = []
    for number in NUM_GPUS:
        steps = -(-number // PROCESSES_A_STEP)
        row = [f"{number:,}", f"+{calls:.0f}", f"{size:.0f} bytes"]
        row += ["step" if steps == 1 else f"{steps} steps", f"{num_hops(number):,}"]
        for hop in HOPS:
            way = num_hops(number) * hop * 1e3
            row += [f"{way:.1f} ms", f"{way / steps:.1f} ms"]
        rows.append(row)
    yield from table(head, rows)
    yield (
        f"An epoch with a validation and a recorder has {of_an_epoch:.0f} collectives "
        "besides those of its steps, however many GPUs there are."
    )
    yield ""
