"""Small runs in which everything is random, and what they leave behind.

A run has samples that hang on all three global streams, dropout, mixup, a schedule,
plugins with counters and averages, and a log. ``digest`` is one hash of all that it
leaves; two runs are the same where their digests are.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from callboard import Callback, Learner
from callboard_checkpoint import CheckpointCallback
from callboard_csv_logger import CSVLogger
from callboard_early_stopping import EarlyStoppingCallback
from callboard_gradient_accumulation import GradientAccumulation
from callboard_gradient_clip import GradientClip
from callboard_mixed_precision import MixedPrecision
from callboard_mixup import MixUp
from callboard_recorder import Recorder, accuracy
from callboard_reduce_lr_on_plateau import ReduceLROnPlateau
from callboard_save_model import SaveModelCallback
from callboard_schedule import ParamScheduler, combined_cos

NUM_SAMPLES, BATCH_SIZE, NUM_EPOCHS = 22, 4, 4


def noise() -> float:
    return float(torch.rand(())) + float(np.random.rand()) + random.random()


class Augmented(Dataset[Any]):
    """Samples that hang on all three global random streams."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([index / 10, noise(), 1.0]), torch.tensor(index % 3)


class Noisy(Augmented):
    """Samples that hang on a random stream of the dataset's own."""

    def __init__(self) -> None:
        self.stream = np.random.default_rng(1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawn = float(self.stream.random())
        return torch.tensor([index / 10, drawn, 1.0]), torch.tensor(index % 3)


class Stream(IterableDataset[Any]):
    """The same as a stream."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (Augmented()[index] for index in range(NUM_SAMPLES))


def noisy_collate(samples: Any) -> Any:
    inputs, labels = default_collate(samples)
    return inputs + 0.1 * noise(), labels


def a_loader(**options: Any) -> DataLoader[Any]:
    options = {"shuffle": True, "collate_fn": noisy_collate, **options}
    return DataLoader(Augmented(), BATCH_SIZE, **options)


def a_stateful_loader() -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Augmented(), BATCH_SIZE, shuffle=True)


class Average(Callback):
    """An average of the weights, what was drawn, and which samples were seen."""

    def before_fit(self) -> None:
        self.average = [p.detach().clone() for p in self.learn.model.parameters()]
        self.drawn, self.seen = 0.0, ""

    def before_train(self) -> None:
        self.in_epoch = 0

    def before_batch(self) -> None:
        if self.training:
            raw = self.learn.xb[0].numpy().tobytes()
            self.seen = hashlib.sha256(self.seen.encode() + raw).hexdigest()

    def after_step(self) -> None:
        self.in_epoch += 1
        self.drawn += self.rng.random()
        for mean, weight in zip(self.average, self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.1)

    def state_dict(self) -> dict[str, Any]:
        average = [mean.clone() for mean in self.average]
        counts = {"drawn": self.drawn, "in_epoch": self.in_epoch, "seen": self.seen}
        return {"average": average, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average = [mean.clone() for mean in state["average"]]
        self.drawn, self.in_epoch = state["drawn"], state["in_epoch"]
        self.seen = state["seen"]


def nothing_more() -> list[Callback]:
    return []


def in_half_precision() -> list[Callback]:
    """A scaler whose scale changes, over windows of batches, with clipping."""
    return [
        MixedPrecision(init_scale=2.0**20, growth_interval=2),
        GradientAccumulation(2, unit="batches"),
        GradientClip(0.5),
    ]


def on_a_plateau() -> list[Callback]:
    """A rate that goes down whenever an epoch was no better."""
    return [ReduceLROnPlateau(patience=1, min_delta=1.0)]


@dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
        loader: Makes the training data.
        cbs: Makes plugins beside the usual ones.
        saving: Options of the checkpoint callback.
        resumed: Makes the training data of a run that goes on, where it differs.
        is_scheduled: Whether a schedule sets the learning rate.
    """

    loader: Callable[[], Any]
    cbs: Callable[[], list[Callback]] = nothing_more
    saving: Mapping[str, Any] = field(default_factory=dict)
    resumed: Callable[[], Any] | None = None
    is_scheduled: bool = True


def two_workers() -> DataLoader[Any]:
    return a_loader(num_workers=2)


KINDS: dict[str, Kind] = {
    "map-style": Kind(a_loader),
    "saved in step": Kind(a_loader, saving={"async_": False}),
    "2 workers": Kind(two_workers, saving={"every": "2 steps"}),
    "workers change": Kind(two_workers, resumed=a_loader),
    "stream": Kind(lambda: DataLoader(Stream(), BATCH_SIZE, collate_fn=noisy_collate)),
    "StatefulDataLoader": Kind(a_stateful_loader),
    "streams of its own": Kind(
        lambda: DataLoader(Noisy(), BATCH_SIZE, shuffle=True, num_workers=1),
        resumed=lambda: DataLoader(Noisy(), BATCH_SIZE, shuffle=True),
    ),
    "scaler, mid-window": Kind(a_loader, cbs=in_half_precision),
    "plateau": Kind(a_loader, cbs=on_a_plateau, is_scheduled=False),
    "rarely saved": Kind(a_loader, saving={"every": ["1 epoch", "5 steps"]}),
}


def make(kind: Kind, path: Path, *, goes_on: bool = False) -> Learner:
    """The Learner of one run, the same however often it is made."""
    for set_seed in (torch.manual_seed, np.random.seed, random.seed):
        set_seed(3)
    layers = [nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3)]
    valid = list(DataLoader(Augmented(), BATCH_SIZE))
    train = kind.resumed() if goes_on and kind.resumed else kind.loader()
    usual = [
        Recorder(train_metrics=True),
        CSVLogger(exclude="time"),
        EarlyStoppingCallback(patience=9),
        SaveModelCallback(),
        MixUp(),
        Average(),
        Average(),
        CheckpointCallback(**{"every": "1 step", **kind.saving}),
    ]
    return Learner(
        (train, valid),
        nn.Sequential(*layers),
        nn.CrossEntropyLoss(),
        torch.optim.Adam,
        metrics=accuracy,
        cbs=[*usual, *kind.cbs()],
        path=path,
        seed=11,
    )


def fit(kind: Kind, path: Path) -> str:
    """Train to the end, from the last good checkpoint where there is one."""
    goes_on = (path / "checkpoints").exists()
    learner = make(kind, path, goes_on=goes_on)
    cbs = []
    if kind.is_scheduled:
        cbs.append(ParamScheduler({"lr": combined_cos(0.3, 1e-3, 1e-2, 1e-5)}))
    learner.fit(NUM_EPOCHS, cbs=cbs, resume="auto", resume_policy="ignore")
    return digest(learner)


def digest(learner: Learner) -> str:
    """One hash of all that a run leaves, but for times and what it was made of."""
    state = learner.state_dict()
    for name in ("lock", "environment"):
        del state[name]
    state["plugins"].pop("checkpoint", None)
    state["loop"]["results"].pop("time", None)
    recorder = state["plugins"]["recorder"]
    recorder["values"] = [{**row, "time": 0} for row in recorder["values"]]
    recorder["phase"] = None
    hashed = hashlib.sha256()
    _add(hashed, state)
    hashed.update((Path(learner.path) / "history.csv").read_bytes())
    return hashed.hexdigest()


def _add(hashed: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().contiguous()
        hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            hashed.update(repr(key).encode())
            _add(hashed, part)
    elif isinstance(value, list | tuple):
        hashed.update(f"[{len(value)}]".encode())
        for part in value:
            _add(hashed, part)
    else:
        hashed.update(repr(value).encode())
