"""What every framework trains: one model, one loss, one optimizer, one loader."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

LEARNING_RATE = 1e-4
# Steps at the beginning that are not timed: allocators and caches fill in them.
NUM_WARMUP = 5


@dataclass(frozen=True)
class Size:
    """How large the work of a step is.

    Attributes:
        name: Roughly what a step of the bare loop takes.
        width: Of the hidden layers.
        depth: Number of hidden layers.
        batch_size: Samples in a batch.
        num_steps: Steps of a fit.
        rounds: Pairs of fits that are timed.
    """

    name: str
    width: int
    depth: int
    batch_size: int
    num_steps: int
    rounds: int


SIZES = {
    "tiny": Size("100 µs", 4, 0, 4, 400, 15),
    "small": Size("0.5 ms", 128, 3, 64, 200, 15),
    "middle": Size("5 ms", 512, 3, 96, 40, 11),
    "large": Size("50 ms", 1024, 4, 192, 12, 7),
}


class Stamped(Dataset[Any]):
    """The same batch again and again; notes when each was asked for."""

    def __init__(self, batch: Any, num_steps: int) -> None:
        self.batch = batch
        self.num_steps = num_steps
        self.stamps: list[float] = []

    def __getitem__(self, index: int) -> Any:
        self.stamps.append(time.perf_counter())
        return self.batch

    def __len__(self) -> int:
        return self.num_steps

    def seconds_per_step(self) -> float:
        """Mean time from one batch to the next, without the first few."""
        timed = self.stamps[NUM_WARMUP - self.num_steps :]
        return (timed[-1] - timed[0]) / (len(timed) - 1)


@dataclass
class Problem:
    """One fit.

    Attributes:
        size: How large the work is.
        folder: Where files may be written.
        num_steps: Number of training steps, in one epoch.
        extra: ``"nothing"``, ``"everyday"`` or ``"observers"``.
        num_observers: How many, that do nothing when a batch begins and ends.
    """

    size: Size
    folder: Path
    num_steps: int
    extra: str = "nothing"
    num_observers: int = 0
    dataset: Stamped = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = Stamped(self._batch(), self.num_steps)

    def _batch(self) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(self.size.batch_size, max(8, self.size.width))
        return inputs, inputs.mean(1, keepdim=True)

    @property
    def is_everyday(self) -> bool:
        """Whether the everyday set takes part."""
        return self.extra == "everyday"

    def loader(self) -> DataLoader[Any]:
        """The loader that all of them iterate."""
        return loader_of(self.dataset)

    def validation(self) -> DataLoader[Any]:
        """A batch to validate on, for those that cannot do without; it is not timed."""
        return loader_of(Stamped(self._batch(), 1))

    def model(self) -> nn.Sequential:
        """A perceptron."""
        width = max(8, self.size.width)
        hidden = [
            layer
            for _ in range(self.size.depth)
            for layer in (nn.Linear(width, width), nn.ReLU())
        ]
        return nn.Sequential(*hidden, nn.Linear(width, 1))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Plain gradient descent, the least that an optimizer can do."""
        return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """PyTorch's one-cycle schedule, for those that have none of their own."""
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=LEARNING_RATE, total_steps=self.num_steps + 1
        )


def loader_of(dataset: Stamped) -> DataLoader[Any]:
    """A loader whose batches are what the dataset holds."""
    return DataLoader(dataset, batch_size=1, collate_fn=_only)


def _only(batches: list[Any]) -> Any:
    (batch,) = batches
    return batch


loss_function = nn.functional.mse_loss
