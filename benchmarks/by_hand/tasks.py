"""What is trained: handwritten digits, and a small transformer on English text."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, TensorDataset

NUM_CHARACTERS = 128  # ASCII
CONTEXT, WIDTH, NUM_HEADS, NUM_BLOCKS = 64, 192, 4, 4
NUM_SEQUENCES, NUM_VALID_SEQUENCES = 640, 128


@dataclass(frozen=True)
class Task:
    """Something to train.

    Attributes:
        title: What it is, in words.
        data: Makes the loaders, to train and to validate.
        model: Makes the model, with the same weights in every call.
        loss_func: Mean loss of a batch.
        lr: Learning rate of AdamW.
        num_epochs: After how many epochs it ends at the latest.
        goal: The validation loss to come down to.
    """

    title: str
    data: Callable[[], tuple[DataLoader[Any], DataLoader[Any]]]
    model: Callable[[], nn.Module]
    loss_func: Callable[[Tensor, Tensor], Tensor]
    lr: float
    num_epochs: int
    goal: float


class Shuffled(Sampler[int]):
    """A new order in every epoch, which hangs on the number of the epoch alone."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(self.number, generator=generator).tolist())

    def __len__(self) -> int:
        return self.number


def loaders(
    train: TensorDataset, valid: TensorDataset, batch_size: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders as anybody makes them, but for their order."""
    return (
        DataLoader(train, batch_size, sampler=Shuffled(len(train))),
        DataLoader(valid, 4 * batch_size),
    )


def digits() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """1,797 pictures of 8 x 8 pixels; every fifth one validates."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = torch.tensor(found.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(found.target)
    is_valid = torch.arange(len(labels)) % 5 == 0
    return loaders(
        TensorDataset(pictures[~is_valid], labels[~is_valid]),
        TensorDataset(pictures[is_valid], labels[is_valid]),
        batch_size=64,
    )


def convolutional_net() -> nn.Module:
    """Three convolutions, each with batch normalisation, and a linear head."""
    torch.manual_seed(0)

    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(
        *(block(1, 32, 1), block(32, 64, 2), block(64, 128, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)),
    )


def text() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Characters of Python's reference, which every Python brings along."""
    topics = pydoc_data.topics.topics
    written = "".join(topics[name] for name in sorted(topics))
    codes = torch.tensor([min(ord(c), NUM_CHARACTERS - 1) for c in written])
    number = NUM_SEQUENCES + NUM_VALID_SEQUENCES
    rows = codes[: number * (CONTEXT + 1)].reshape(number, CONTEXT + 1)
    rows = rows[torch.randperm(number, generator=torch.Generator().manual_seed(0))]
    train, valid = rows[:NUM_SEQUENCES], rows[NUM_SEQUENCES:]
    return loaders(
        TensorDataset(train[:, :-1], train[:, 1:]),
        TensorDataset(valid[:, :-1], valid[:, 1:]),
        batch_size=8,
    )


class Block(nn.Module):
    """Attention to what came before, and a perceptron for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_before_attention = nn.LayerNorm(WIDTH)
        self.inward = nn.Linear(WIDTH, 3 * WIDTH)
        self.outward = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        size, length, _ = x.shape
        parts = self.inward(self.norm_before_attention(x))
        parts = parts.view(size, length, 3, NUM_HEADS, WIDTH // NUM_HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        x = x + self.outward(seen.transpose(1, 2).reshape(x.shape))
        return x + self.perceptron(x)


class Transformer(nn.Module):
    """Foretells the next character at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(NUM_CHARACTERS, WIDTH)
        self.positions = nn.Parameter(torch.randn(CONTEXT, WIDTH) / 50)
        self.blocks = nn.Sequential(*(Block() for _ in range(NUM_BLOCKS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, NUM_CHARACTERS))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.characters(codes) + self.positions[: codes.shape[1]]
        return self.head(self.blocks(x))


def transformer() -> Transformer:
    """The transformer, with the same weights in every call."""
    torch.manual_seed(0)
    return Transformer()


def loss_by_position(pred: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, over all positions."""
    return functional.cross_entropy(pred.flatten(0, 1), labels.flatten())


TASKS = {
    "digits": Task(
        "digits: 1,437 pictures, a convolutional net of 94,000 weights",
        *(digits, convolutional_net, functional.cross_entropy),
        lr=5e-4,
        num_epochs=40,
        goal=0.08,
    ),
    "transformer": Task(
        "transformer: 1.8 million weights, 64 characters of English each",
        *(text, transformer, loss_by_position),
        lr=1e-3,
        num_epochs=12,
        goal=2.27,
    ),
}
