"""Learners that train in milliseconds, on data that is the same in every call.

Ten samples make three batches, the last one smaller; two more batches validate. The
models have normalisation and dropout, so that modes and random numbers matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from callboard import DataLoaders, Learner
from callboard.errors import OptionError, suggestion
from callboard.learner import Callbacks, OptFunc

NUM_FEATURES, NUM_CLASSES, NUM_TOKENS, IMAGE_SIZE = 5, 3, 7, 8
BATCH_SIZE, NUM_TRAIN, NUM_VALID = 4, 10, 6
AUTOLOAD = "CALLBOARD_AUTOLOAD"


class _Mappings(Dataset[dict[str, Tensor]]):
    """Samples by name: what gives batches that are mappings."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = columns

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class _Autoencoder(nn.Module):
    """Returns its loss where it trains, and its reconstruction alone elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers(NUM_FEATURES, NUM_FEATURES)

    def forward(self, inputs: Tensor) -> dict[str, Tensor | None]:
        made = self.layers(inputs)
        loss = nn.functional.mse_loss(made, inputs) if self.training else None
        return {"loss": loss, "reconstruction": made}


class _ByName(nn.Module):
    """Takes its input by keyword, as batches that are mappings give it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers(NUM_FEATURES, NUM_CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.layers(features)
        return made


class _Recurrent(nn.Module):
    """A recurrent model that can forget: ``reset()`` drops its hidden state."""

    def __init__(self) -> None:
        super().__init__()
        width = 4
        self.embedding = nn.Embedding(NUM_TOKENS, width)
        self.layer = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, NUM_CLASSES)
        self.hidden: Tensor | None = None

    def reset(self) -> None:
        self.hidden = None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw_out, hidden = self.layer(self.embedding(tokens))
        self.hidden = hidden.detach()
        out = self.dropout(raw_out)
        return self.head(out[:, -1]), raw_out, out


class _LossOfPrediction(nn.CrossEntropyLoss):
    """Looks at the prediction alone, whatever else the model returned."""

    def forward(self, pred: Any, labels: Tensor) -> Tensor:
        return super().forward(pred[0] if isinstance(pred, tuple) else pred, labels)


def _layers(num_inputs: int, num_outputs: int) -> nn.Sequential:
    hidden = 4
    return nn.Sequential(
        nn.Linear(num_inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(hidden, num_outputs),
    )


def _image_layers() -> nn.Sequential:
    channels = 4
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, NUM_CLASSES),
    )


def _classes(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    features = torch.randn(number, NUM_FEATURES, generator=generator)
    return features, torch.arange(number) % NUM_CLASSES


def _classification(number: int, generator: torch.Generator) -> Dataset[Any]:
    return TensorDataset(*_classes(number, generator))


def _regression(number: int, generator: torch.Generator) -> Dataset[Any]:
    features, _ = _classes(number, generator)
    return TensorDataset(features, features.sum(1, keepdim=True))


def _unlabelled(number: int, generator: torch.Generator) -> Dataset[Any]:
    features, _ = _classes(number, generator)
    return TensorDataset(features)


def _mapping(number: int, generator: torch.Generator) -> Dataset[Any]:
    features, labels = _classes(number, generator)
    return _Mappings({"features": features, "labels": labels})


def _sequences(number: int, generator: torch.Generator) -> Dataset[Any]:
    tokens = torch.randint(NUM_TOKENS, (number, NUM_FEATURES), generator=generator)
    return TensorDataset(tokens, torch.arange(number) % NUM_CLASSES)


def _images(number: int, generator: torch.Generator) -> Dataset[Any]:
    shape = (number, 1, IMAGE_SIZE, IMAGE_SIZE)
    labels = torch.arange(number) % NUM_CLASSES
    return TensorDataset(torch.randn(shape, generator=generator), labels)


@dataclass(frozen=True)
class _Kind:
    """What is learned: the samples, the model and the loss."""

    samples: Callable[[int, torch.Generator], Dataset[Any]]
    model: Callable[[], nn.Module]
    loss_func: Callable[[], nn.Module] | None


_KINDS = {
    "classification": _Kind(
        _classification, lambda: _layers(NUM_FEATURES, NUM_CLASSES), nn.CrossEntropyLoss
    ),
    "regression": _Kind(_regression, lambda: _layers(NUM_FEATURES, 1), nn.MSELoss),
    "images": _Kind(_images, _image_layers, nn.CrossEntropyLoss),
    "sequences": _Kind(_sequences, _Recurrent, _LossOfPrediction),
    "unlabelled": _Kind(_unlabelled, _Autoencoder, None),
    "mapping": _Kind(_mapping, _ByName, nn.CrossEntropyLoss),
}
#: What a tiny Learner can learn.
KINDS = tuple(_KINDS)


def tiny_learner(
    kind: str = "classification",
    *,
    cbs: Callbacks = None,
    valid: bool = True,
    metrics: Any = None,
    opt_func: OptFunc = torch.optim.Adam,
    lr: float = 0.01,
    path: str | Path = ".",
    device: str = "cpu",
    seed: int = 0,
) -> Learner:
    """A Learner that fits in milliseconds; two of one kind and seed train the same.

    It has the callbacks that it is given: what joins by being installed stays out, so
    that a test says the same on every machine, unless ``CALLBOARD_AUTOLOAD`` says
    otherwise.

    Args:
        kind: ``"classification"``; ``"regression"``; ``"images"``; ``"mapping"``, whose
            batches are dicts; ``"unlabelled"``, whose model works out its own loss and
            only where it trains; or ``"sequences"``, whose model is recurrent, has
            ``reset()``, and returns its prediction with the outputs of its recurrent
            layer before and after dropout.
        cbs: Its callbacks, as for any Learner.
        valid: Whether it has validation data.
        metrics: Its metrics.
        opt_func: Its optimizer.
        lr: Its learning rate.
        path: Where its plugins put files.
        device: Where it trains.
        seed: What its random numbers derive from; data and first weights do not.

    Raises:
        OptionError: There is no such kind.
    """
    if kind not in _KINDS:
        known = ", ".join(KINDS)
        message = f"tiny_learner: there is no kind {kind!r}; kinds are {known}."
        raise OptionError(message + suggestion(kind, KINDS))
    chosen = _KINDS[kind]
    samples, valid_samples = _samples(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = chosen.model()
    with _nobody_joins_unasked():
        return Learner(
            DataLoaders(
                DataLoader(samples, BATCH_SIZE, shuffle=True),
                DataLoader(valid_samples, BATCH_SIZE) if valid else None,
            ),
            model,
            chosen.loss_func() if chosen.loss_func else None,
            opt_func,
            lr,
            metrics=metrics,
            cbs=cbs,
            path=path,
            device=device,
            seed=seed,
        )


@contextmanager
def _nobody_joins_unasked() -> Iterator[None]:
    """Switch automatic plugins off, unless the environment says what to do."""
    if AUTOLOAD in os.environ:
        yield
        return
    os.environ[AUTOLOAD] = "0"
    try:
        yield
    finally:
        del os.environ[AUTOLOAD]


@cache
def _samples(kind: str) -> tuple[Dataset[Any], Dataset[Any]]:
    """Samples to train and to validate on; a loader copies them into its batches."""
    make = _KINDS[kind].samples
    generator = torch.Generator().manual_seed(11)
    return make(NUM_TRAIN, generator), make(NUM_VALID, generator)
