"""Sums that stay on the device, and the one read that brings numbers to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from callboard.processes import Processes


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs, which lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def read_numbers(values: Sequence[Tensor | float | None]) -> list[Any]:
    """Numbers of scalars that may stand on a device, in one read of it."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return list(values)
    device = tensors[0].device
    stacked = torch.stack([tensor.to(device) for tensor in tensors])
    numbers = iter(stacked.tolist())
    return [next(numbers) if isinstance(v, Tensor) else v for v in values]


def means_of_all(
    means: Sequence[float], sizes: Sequence[int], processes: Processes
) -> tuple[list[float], list[int]]:
    """Means over whole batches, and their sizes, from those over each one's part."""
    totals = [
        mean * size if size else 0.0 for mean, size in zip(means, sizes, strict=True)
    ]
    summed = processes.sum([*totals, *sizes])
    whole = [int(size) for size in summed[len(sizes) :]]
    pairs = zip(summed[: len(sizes)], whole, strict=True)
    return [total / size if size else 0.0 for total, size in pairs], whole


class WeightedMean:
    """A mean over samples, from means over batches; summed where the values are."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.num_samples = 0

    def add(self, value: Tensor | float, num_samples: int) -> None:
        """Take in the mean over a batch; one tensor operation, no host read."""
        if num_samples == 0:
            return
        if isinstance(value, Tensor) and not isinstance(self.total, Tensor):
            device = value.device
            dtype = widest_float(device)
            self.total = torch.full((), self.total, dtype=dtype, device=device)
        if isinstance(self.total, Tensor):
            self.total.add_(value, alpha=num_samples)
        elif not isinstance(value, Tensor):
            self.total += value * num_samples
        self.num_samples += num_samples

    def add_all(self, values: Sequence[float], sizes: Sequence[int]) -> None:
        """Take in the means over many batches of these numbers of samples."""
        for value, num_samples in zip(values, sizes, strict=True):
            if num_samples:
                self.total += value * num_samples
                self.num_samples += num_samples

    def result(self) -> Tensor | float | None:
        """The mean over all samples, or None without any."""
        return self.total / self.num_samples if self.num_samples else None

    def join(self, others: Sequence[tuple[float, int]]) -> None:
        """Become the mean of all: of totals, each with its number of samples."""
        self.total = sum(total for total, _ in others)
        self.num_samples = sum(num_samples for _, num_samples in others)

    def share(self) -> tuple[float, int]:
        """What ``join`` takes; reads the total from the device."""
        return float(self.total), self.num_samples

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"total": float(self.total), "num_samples": self.num_samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.total, self.num_samples = state["total"], state["num_samples"]
