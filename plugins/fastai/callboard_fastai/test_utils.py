"""fastai's Learner for tests: a line to be fitted to noisy points."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from callboard_fastai.callback.core import Callback
from callboard_fastai.data.load import DataLoader, DataLoaders
from callboard_fastai.exports import exporting
from callboard_fastai.learner import Learner
from callboard_fastai.losses import MSELossFlat
from callboard_fastai.optimizer import SGD
from callboard_fastai.predefined import Predefined
from callboard_fastai.torch_core import Module, default_device


class RegModel(Module):
    """``a * x + b``."""

    def __init__(self) -> None:
        self.a = nn.Parameter(torch.randn(1))
        self.b = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a + self.b


def synth_dbunch(
    a: float = 2,
    b: float = 3,
    bs: int = 16,
    n_train: int = 10,
    n_valid: int = 2,
    cuda: bool = False,
) -> DataLoaders:
    """Batches of points near the line ``a * x + b``."""

    def points(num_batches: int) -> TensorDataset:
        x = torch.randn(bs * num_batches, 1)
        return TensorDataset(x, a * x + b + 0.1 * torch.randn(bs * num_batches, 1))

    train = DataLoader(points(n_train), bs=bs, shuffle=True)
    valid = DataLoader(points(n_valid), bs=bs)
    return DataLoaders(train, valid, device=default_device() if cuda else None)


def synth_learner(
    n_trn: int = 10,
    n_val: int = 2,
    cuda: bool = False,
    lr: Any = 1e-3,
    data: Any = None,
    model: nn.Module | None = None,
    **kwargs: Any,
) -> Learner:
    """A Learner that fits a line to points."""
    return Learner(
        synth_dbunch(n_train=n_trn, n_valid=n_val, cuda=cuda) if data is None else data,
        RegModel() if model is None else model,
        lr=lr,
        loss_func=MSELossFlat(),
        opt_func=partial(SGD, mom=0.9),
        **kwargs,
    )


class VerboseCallback(Callback, metaclass=Predefined, plugin="VerboseCallback"):
    """Prints the name of every event."""

    def __call__(self, event_name: str) -> Any:
        print(event_name)
        return super().__call__(event_name)


__getattr__, __dir__ = exporting(__name__)
