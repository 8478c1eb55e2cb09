"""Models and data for both frameworks: the same numbers in the same sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback as FastaiCallback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders as FastaiDataLoaders
from fastai.data.core import TfmdDL
from fastai.learner import Learner as FastaiLearner
from fastai.optimizer import SGD as FastaiSGD
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard.optim import get_hyper
from callboard_recorder import Recorder

Read = Callable[[Any], Any]


def a_network(num_outputs: int = 1) -> nn.Sequential:
    """A small network with batch normalisation.

    A bias before that has no gradient but for rounding errors, which Adam enlarges.
    """
    layers = [
        nn.Linear(3, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.Tanh(),
        nn.Linear(8, num_outputs),
    ]
    return nn.Sequential(*layers)


def a_smooth_network() -> nn.Sequential:
    """A network in which rounding errors stay small over many steps."""
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def a_convolution() -> nn.Sequential:
    """A small network for images of three channels, four classes."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *head
    )


def numbers(num_items: int, seed: int) -> TensorDataset:
    """Three features, and a number that hangs on them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_items, 3, generator=generator)
    noise = torch.randn(num_items, 1, generator=generator)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True).sin() + 0.3 * noise)


def classes(num_items: int, seed: int) -> TensorDataset:
    """Three features, and one of four classes."""
    inputs, targets = numbers(num_items, seed).tensors
    return TensorDataset(inputs, (targets.flatten() * 2).round().long() % 4)


def images(num_items: int, seed: int, width: int = 8) -> TensorDataset:
    """Images of three channels, and one of four classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_items, 3, 10, width, generator=generator)
    return TensorDataset(inputs, torch.arange(num_items) % 4)


def mean_error(pred: Tensor, target: Tensor) -> Tensor:
    """A metric for both."""
    return (pred - target).abs().mean()


@dataclass(frozen=True)
class Problem:
    """What is trained, for either framework.

    Attributes:
        model: Makes the model; its weights are the same every time.
        loss_func: Makes the loss of ours; ``theirs`` gets it too unless told otherwise.
        opt_func: An optimizer of torch, which fastai wraps unless told otherwise.
        batch_size: Of training and validation; neither is shuffled.
    """

    model: Callable[[], nn.Module] = a_network
    train: Any = field(default_factory=lambda: numbers(27, 0))
    valid: Any = field(default_factory=lambda: numbers(10, 1))
    loss_func: Callable[[], Any] = nn.MSELoss
    fastai_loss_func: Callable[[], Any] | None = None
    fastai_opt_func: Any = None
    metrics: Sequence[Any] = (mean_error,)
    opt_func: Any = torch.optim.SGD
    lr: float = 0.05
    splitter: Any = None
    batch_size: int = 4
    train_bn: bool = True

    def but(self, **changes: Any) -> Problem:
        """The same with changes."""
        return replace(self, **changes)

    def _model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return self.model()

    def ours(self, *cbs: Any, path: str | Path = ".", recorder: Any = None) -> Learner:
        """Our Learner, with a recorder."""
        train, valid = (
            DataLoader(data, self.batch_size) for data in (self.train, self.valid)
        )
        splitter = {"splitter": self.splitter} if self.splitter else {}
        return Learner(
            (train, valid),
            self._model(),
            self.loss_func(),
            self.opt_func,
            self.lr,
            metrics=list(self.metrics),
            cbs=[recorder or Recorder(), *cbs],
            path=path,
            device="cpu",
            seed=0,
            train_bn=self.train_bn,
            **splitter,
        )

    def theirs(self, *cbs: Any, path: str | Path = ".") -> Any:
        """fastai's Learner on the same optimizer, without its progress bar."""
        options = {"bs": self.batch_size, "num_workers": 0}
        train, valid = (TfmdDL(data, **options) for data in (self.train, self.valid))
        splitter = {"splitter": self.splitter} if self.splitter else {}
        loss_func = self.fastai_loss_func or self.loss_func
        learn = FastaiLearner(
            FastaiDataLoaders(train, valid, device="cpu"),
            self._model(),
            loss_func(),
            self.fastai_opt_func or partial(OptimWrapper, opt=self.opt_func),
            self.lr,
            metrics=list(self.metrics),
            path=Path(path),
            train_bn=self.train_bn,
            **splitter,
        )
        return learn.remove_cb(ProgressCallback).add_cbs(list(cbs))


MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
# fastai's loggers fail with the options of torch's optimizers that are None.
OWN_MOMENTUM = partial(FastaiSGD, mom=0.9, wd=0.0)
OWN_SGD = partial(FastaiSGD, mom=0.0, wd=0.0)


def in_two(model: Any) -> list[Any]:
    """Two parameter groups: the head, and all before it."""
    return [list(model[:-1].parameters()), list(model[-1].parameters())]


def state_of(learner: Any) -> dict[str, Tensor]:
    """All weights and buffers of a model, of either framework."""
    state = learner.model.state_dict()
    return {name: value.detach().clone() for name, value in state.items()}


def our_watch(event: str, read: Read) -> Callback:
    """A callback of ours that keeps what ``read`` gives in ``seen``."""

    def look(self: Any) -> None:
        self.seen.append(read(self.learn))

    kind = type("Watch", (Callback,), {event: look, "order": 1000})
    watch: Any = kind()
    watch.seen = []
    return watch


def their_watch(event: str, read: Read) -> Any:
    """The same for fastai."""

    def look(self: Any) -> None:
        self.seen.append(read(self.learn))

    kind = type("WatchCallback", (FastaiCallback,), {event: look, "order": 1000})
    watch: Any = kind()
    watch.seen = []
    return watch


def hypers_of(learner: Any, *names: str) -> list[list[float]]:
    """Hyper-parameters, by fastai's names; of each one number a parameter group."""
    if isinstance(learner, Learner):
        return [get_hyper(learner.opt, name) for name in names]
    return [[float(group[name]) for group in learner.opt.hypers] for name in names]
