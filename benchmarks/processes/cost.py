"""What a step takes in a Learner beside what it takes by hand, in the same processes.

It is the program too that torchrun starts: cost.py STRATEGY FILE [counts].
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from benchmarks.processes.start import results_of
from callboard import Learner
from callboard.testing import cost_per_step
from callboard_distributed import DistributedCallback

SAMPLES_EACH, WIDTH = 16, 256
FEW, MANY = 16, 80
TIMED_STEPS, ROUNDS, WARM_UP = 120, 9, 10

Fit = Callable[[int], "Numbers"]


@dataclass(frozen=True)
class Cost:
    """What a step in a Learner takes above one by hand.

    Attributes:
        strategy: How the model is spread.
        num_processes: Over how many.
        python_calls: Functions of Python that are entered.
        tensor_operations: Operations of tensors, collectives included.
        host_reads: Values that Python reads from tensors.
        collectives: Of these operations, those in which all processes take part.
        bytes: What these have to pass on.
        by_hand: Seconds of a step by hand, round by round.
        ours: Seconds of a step in a Learner, in the same rounds.
        of_an_epoch: Collectives of an epoch, with a validation and a recorder, besides
            those of its steps; of DDP alone, since FSDP2 validates with its own.
    """

    strategy: str
    num_processes: int
    python_calls: float
    tensor_operations: float
    host_reads: float
    collectives: float
    bytes: float
    by_hand: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    of_an_epoch: float = 0.0

    @property
    def ratios(self) -> list[float]:
        """The time of a step by that of one by hand, round by round."""
        return [a / b for a, b in zip(self.ours, self.by_hand, strict=True)]


def measured(strategy: str, num_processes: int, *, only_counts: bool = False) -> Cost:
    """Measure, in processes that are started for it."""
    command = ["benchmarks.processes.cost", strategy, "RESULT"]
    more = ["counts"] if only_counts else []
    return Cost(**results_of([*command, *more], num_processes))


class Numbers(Dataset[tuple[Tensor, Tensor]]):
    """So many batches for all processes; notes when each is asked for."""

    def __init__(self, num_steps: int) -> None:
        number = num_steps * SAMPLES_EACH * num_processes()
        self.inputs = torch.zeros(number, WIDTH)
        self.stamps: list[float] = []

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.inputs[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        self.stamps.append(time.perf_counter())
        return [self[index] for index in indices]

    def seconds_per_step(self) -> float:
        """From one batch to the next, without the first ones: the median."""
        stamps = self.stamps[WARM_UP:]
        pairs = zip(stamps[1:], stamps[:-1], strict=True)
        return statistics.median(later - earlier for later, earlier in pairs)


def num_processes() -> int:
    """How many torchrun has started."""
    return int(os.environ["WORLD_SIZE"])


def a_model() -> nn.Module:
    """Blocks that FSDP2 shards one by one."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH))


def fit_by_hand(strategy: str, num_steps: int) -> Numbers:
    """The loop that people write."""
    data, model = Numbers(num_steps), a_model()
    if strategy == "ddp":
        model = DistributedDataParallel(model)
    else:
        for block in list(model.children())[:-1]:
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sampler: DistributedSampler[Any] = DistributedSampler(data, shuffle=False)
    model.train()
    for inputs, labels in DataLoader(data, SAMPLES_EACH, sampler=sampler):
        loss = nn.functional.mse_loss(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return data


def fit_a_learner(strategy: str, num_steps: int) -> Numbers:
    """The same by a Learner."""
    data = Numbers(num_steps)
    a_learner(strategy, loader(data)).fit(1)
    return data


def loader(data: Numbers) -> DataLoader[Any]:
    """Batches for all processes."""
    return DataLoader(data, SAMPLES_EACH * num_processes())


def a_learner(strategy: str, loaders: Any, *others: str) -> Learner:
    """What trains the model in all processes."""
    return Learner(
        *(loaders, a_model(), nn.functional.mse_loss, torch.optim.SGD, 0.01),
        cbs=[DistributedCallback(strategy), *others],  # type: ignore[arg-type]
        device="cpu",
        seed=0,
    )


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations in which all processes take part, and their bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            self.count += 1
            given = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            self.bytes += sum(t.nbytes for t in given if isinstance(t, Tensor))
        return func(*args, **(kwargs or {}))


def collectives_per_step(fit: Fit) -> tuple[float, float]:
    """How many a step has, and their bytes."""
    found = []
    for num_steps in (FEW, MANY):
        with Collectives() as counted:
            fit(num_steps)
        found.append((counted.count, counted.bytes))
    (few, few_bytes), (many, many_bytes) = found
    return (many - few) / (MANY - FEW), (many_bytes - few_bytes) / (MANY - FEW)


def collectives_per_epoch() -> float:
    """How many an epoch has besides those of its steps, which have two each."""
    found = []
    for num_epochs in (1, 2):
        loaders = loader(Numbers(FEW)), loader(Numbers(1))
        learner = a_learner("ddp", loaders, "recorder")
        with Collectives() as counted:
            learner.fit(num_epochs)
        found.append(counted.count)
    return found[1] - found[0] - 2 * FEW


def main() -> None:
    """Count and time, and write it down."""
    strategy, file, *rest = sys.argv[1:]
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    ours: Fit = lambda num_steps: fit_a_learner(strategy, num_steps)  # noqa: E731
    by_hand: Fit = lambda num_steps: fit_by_hand(strategy, num_steps)  # noqa: E731
    # To start a thread, as the watch for hangs is, takes some calls more or less.
    costs = [
        cost_per_step(ours, few=FEW, many=MANY)
        - cost_per_step(by_hand, few=FEW, many=MANY)
        for _ in range(3)
    ]
    cost = sorted(costs, key=lambda each: each.python_calls)[1]
    pairs = zip(collectives_per_step(ours), collectives_per_step(by_hand), strict=True)
    number, size = (one - other for one, other in pairs)
    found = Cost(
        *(strategy, num_processes(), cost.python_calls, cost.tensor_operations),
        *(cost.host_reads, number, size),
        of_an_epoch=collectives_per_epoch() if strategy == "ddp" else 0.0,
    )
    for _ in range(0 if "counts" in rest else ROUNDS):
        found.by_hand.append(by_hand(TIMED_STEPS).seconds_per_step())
        found.ours.append(ours(TIMED_STEPS).seconds_per_step())
    if dist.get_rank() == 0:
        Path(file).write_text(json.dumps(vars(found)))
    dist.barrier()


if __name__ == "__main__":
    main()
