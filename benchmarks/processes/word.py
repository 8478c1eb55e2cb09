"""How long the word takes that our layer passes on in a step: 16 bytes, over gloo.

Nobody trains here, so that there can be many processes, each copied from the first.
It is the program too that makes the copies: word.py FILE NUMBER.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.processes.start import results_of

ROUNDS, WARM_UP = 300, 20


@dataclass(frozen=True)
class Word:
    """How long an all-reduce of 16 bytes takes.

    Attributes:
        num_processes: How many take part.
        seconds: From the call until all have it.
        seconds_to_ask: Until the call returns, which is all that a step waits.
    """

    num_processes: int
    seconds: float
    seconds_to_ask: float

    @property
    def seconds_a_hop(self) -> float:
        """From one process to the next."""
        return self.seconds / num_hops(self.num_processes)


def num_hops(num_processes: int) -> int:
    """Messages that wait for each other in gloo's ring.

    What is 16 bytes goes round once to be reduced and once to be told to all
    (gloo/allreduce.cc), each time to all processes but the first.
    """
    return 2 * (num_processes - 1)


def timed(num_processes: int) -> Word:
    """Time it between so many processes of this machine."""
    command = ["benchmarks.processes.word", "RESULT", str(num_processes)]
    return Word(num_processes, *results_of(command, 0))


def main() -> None:
    """Make the processes, and write down what the first one tells."""
    file, number = Path(sys.argv[1]), int(sys.argv[2])
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        started = [
            fork.Process(target=take_part, args=(rank, number, store, queue))
            for rank in range(number)
        ]
        for process in started:
            process.start()
        file.write_text(json.dumps(queue.get()))
        for process in started:
            process.join()


def take_part(rank: int, num_processes: int, file: str, queue: Any) -> None:
    """Be one of the processes; the first one tells the median."""
    store = dist.FileStore(file, num_processes)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=num_processes)
    group = dist.distributed_c10d._get_default_group()
    word, options = torch.zeros(2, dtype=torch.float64), dist.AllreduceOptions()
    options.reduceOp = dist.ReduceOp(dist.ReduceOp.MAX)
    whole, asking = [], []
    for _ in range(WARM_UP + ROUNDS):
        begin = time.perf_counter()
        underway = group.allreduce([word], options)
        asked = time.perf_counter()
        underway.wait()
        whole.append(time.perf_counter() - begin)
        asking.append(asked - begin)
    if rank == 0:
        medians = [statistics.median(each[WARM_UP:]) for each in (whole, asking)]
        queue.put(medians)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
