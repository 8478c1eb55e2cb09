"""Measure one framework in this process, by turns with the bare loop; prints JSON.

python -m benchmarks.child Lightning '{"size": "small", "extra": "everyday"}'
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import PEERS, bare
from benchmarks.problem import SIZES, Problem

Fit = Callable[[Problem], None]


def main() -> None:
    """Measure what the arguments ask for; a failure is a result, too."""
    name, text = sys.argv[1:]
    asked = json.loads(text)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with _silence():
        try:
            fit = importlib.import_module(f"benchmarks.peers.{PEERS[name].module}").fit
            result = counted(fit, asked) if asked.get("count") else timed(fit, asked)
        except Exception as error:
            what = str(error).strip().splitlines()
            result = {"error": f"{type(error).__name__}: {what[0] if what else ''}"}
            if "BENCHMARKS_TRACEBACK" in os.environ:
                traceback.print_exc(file=sys.__stderr__)
    print(json.dumps(result))


@contextlib.contextmanager
def _silence() -> Any:
    """Bars and tables are drawn and thrown away."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def timed(fit: Fit, asked: dict[str, Any]) -> dict[str, Any]:
    """Time of a step by that of a bare one, pair by pair."""
    size = SIZES[asked["size"]]
    num_steps, rounds = size.num_steps, 3 if asked["is_quick"] else size.rounds
    seconds(fit, asked, 12)
    seconds(bare.fit, asked, 12)
    pairs = [
        (seconds(bare.fit, asked, num_steps), seconds(fit, asked, num_steps))
        for _ in range(rounds)
    ]
    return {"bare": [pair[0] for pair in pairs], "theirs": [pair[1] for pair in pairs]}


def seconds(fit: Fit, asked: dict[str, Any], num_steps: int) -> float:
    """Time of a step in one fit."""
    with tempfile.TemporaryDirectory() as folder:
        problem = problem_of(asked, Path(folder), num_steps)
        fit(problem)
        # Keras looks at a batch before it begins.
        num_more = len(problem.dataset.stamps) - num_steps
        assert num_more in (0, 1), f"it took {num_more} more steps"
        return problem.dataset.seconds_per_step()


def counted(fit: Fit, asked: dict[str, Any]) -> dict[str, Any]:
    """Python calls, tensor operations and host reads of a step, above the bare loop."""
    from callboard.testing import cost_per_step

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cost = cost_per_step(lambda n: fit(problem_of(asked, place, n)))
        cost -= cost_per_step(lambda n: bare.fit(problem_of(asked, place, n)))
    return {
        "python_calls": cost.python_calls,
        "tensor_operations": cost.tensor_operations,
        "host_reads": cost.host_reads,
    }


def problem_of(asked: dict[str, Any], folder: Path, num_steps: int) -> Problem:
    """The problem that is asked for."""
    return Problem(
        SIZES[asked["size"]],
        folder,
        num_steps,
        asked.get("extra", "nothing"),
        asked.get("num_observers", 0),
    )


if __name__ == "__main__":
    main()
