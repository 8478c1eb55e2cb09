"""The loop that people write by hand.

python -m benchmarks.by_hand.loop digits
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.by_hand.clock import Clock
from benchmarks.by_hand.tasks import TASKS, Task


def main() -> None:
    """Train what the argument names."""
    task = TASKS[sys.argv[1]]
    train_loader, valid_loader = task.data()
    model = task.model()
    clock = Clock()
    train(task, model, train_loader, valid_loader, clock)
    clock.tell()


def train(
    task: Task,
    model: nn.Module,
    train_loader: DataLoader[Any],
    valid_loader: DataLoader[Any],
    clock: Clock,
) -> None:
    """Train until the loss is down."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr)
    for epoch in range(task.num_epochs):
        train_loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        model.train()
        for inputs, labels in train_loader:
            loss = task.loss_func(model(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        clock.note(validate(task, model, valid_loader))
        if clock.valid_losses[-1] <= task.goal:
            break


@torch.no_grad()
def validate(task: Task, model: nn.Module, loader: DataLoader[Any]) -> float:
    """Mean loss over all samples."""
    model.eval()
    total, number = torch.zeros(()), 0
    for inputs, labels in loader:
        total += task.loss_func(model(inputs), labels) * len(inputs)
        number += len(inputs)
    return float(total) / number


if __name__ == "__main__":
    main()
