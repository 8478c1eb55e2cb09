"""What the pages of the documentation take for granted, as small as can be.

A page shows what is new on it. What a reader has already, data and a model for one, is
made here: for every page the same, and more for some.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Learner
from callboard.testing import tiny_learner
from callboard_recorder import accuracy

Names = dict[str, Any]
CLASSES = 3


def scene_of(page: str) -> Names:
    """The names that are there when the code of a page begins."""
    torch.manual_seed(0)
    names = {
        "__name__": "a_page",
        "DataLoader": DataLoader,
        "Learner": Learner,
        "accuracy": accuracy,
        "torch": torch,
        **to_train(*numbers(), small_net()),
    }
    if page in SCENES:
        names.update(SCENES[page]())
    return names


def numbers(num_items: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Items of four numbers, and their classes."""
    return torch.randn(num_items, 4), torch.arange(num_items) % CLASSES


def small_net() -> nn.Module:
    """A model with a body and a head."""
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(4, CLASSES)))


def to_train(items: torch.Tensor, labels: torch.Tensor, model: nn.Module) -> Names:
    """Data, a model and a loss, and a Learner of them."""
    data = TensorDataset(items, labels)
    train, valid = DataLoader(data, 8), DataLoader(data, 16)
    loss_func = nn.CrossEntropyLoss()
    return {
        "dls": (train, valid),
        "learn": Learner((train, valid), model, loss_func),
        "loss_func": loss_func,
        "model": model,
        "train": train,
        "train_loader": train,
        "valid": valid,
        "valid_loader": valid,
    }


def images() -> Names:
    """Images, and a convolutional model."""
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    body = nn.Sequential(layers)
    model = nn.Sequential(OrderedDict(body=body, head=nn.Linear(4, CLASSES)))
    items, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % CLASSES
    names = to_train(items, labels, model)
    return {**names, "image": items[0], "label": 1, "x": items[:1]}


def sequences() -> Names:
    """Sequences, and a recurrent model that can forget."""
    learn = tiny_learner("sequences")
    return {
        "dls": learn.dls,
        "loss_func": learn.loss_func,
        "model": learn.model,
        "text_learn": learn,
    }


def noise_and_images() -> Names:
    """Pairs for a GAN: numbers, and images."""
    data = TensorDataset(torch.randn(16, 16), torch.rand(16, 1, 8, 8))
    return {"dls": (DataLoader(data, 4), None)}


def many_batches() -> Names:
    """An epoch of more than 200 steps."""
    return {"dls": ([next(iter(DataLoader(TensorDataset(*numbers()), 4)))] * 210, None)}


class Masked(nn.Module):
    """A model with a second, optional input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return self.head(x if mask is None else x * mask)


def masked() -> Names:
    """A model with a second input."""
    items, labels = numbers()
    mask = torch.ones_like(items)
    return {**to_train(items, labels, Masked()), "x": items, "mask": mask}


class ReturnsItsLoss(nn.Module):
    """Takes the parts of a mapping, and returns one with the loss in it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> Any:
        logits = self.head(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def mappings() -> Names:
    """Batches that are mappings, for a model that returns its loss."""
    items = [{"inputs": x, "labels": y} for x, y in zip(*numbers(), strict=True)]
    loader = DataLoader(items, 8)
    return {"model": ReturnsItsLoss(), "train_loader": loader, "valid_loader": loader}


def labelled() -> Names:
    """A dataset larger than what is taken of it, with weights."""
    items, labels = numbers(12_000)
    return {
        **to_train(items, labels, small_net()),
        "class_sizes": labels.bincount(),
        "dataset": TensorDataset(items, labels),
        "labels": labels,
        "weights": torch.ones(len(labels)),
    }


SCENES: dict[str, Callable[[], Names]] = {
    "docs/coming-from-trainer.md": mappings,
    "plugins/bn-freeze/README.md": lambda: {
        "splitter": lambda model: [model.body, model.head]
    },
    "plugins/captum/README.md": images,
    "plugins/cast-to-tensor/README.md": lambda: {
        "fastai_dls": to_train(*numbers(), small_net())["dls"]
    },
    "plugins/cutmix/README.md": images,
    "plugins/fastai/README.md": lambda: {"teacher": small_net()},
    "plugins/gan/README.md": noise_and_images,
    "plugins/gather-preds/README.md": lambda: {
        "image": torch.randn(4),
        "loader": DataLoader(torch.randn(8, 4), 4),
        "test_items": torch.randn(8, 4),
    },
    "plugins/hooks/README.md": images,
    "plugins/model-summary/README.md": masked,
    "plugins/progressive-resizing/README.md": lambda: {**sequences(), **images()},
    "plugins/rnn/README.md": sequences,
    "plugins/save-model/README.md": lambda: {"another_model": small_net()},
    "plugins/trace/README.md": many_batches,
    "plugins/weighted-dl/README.md": labelled,
}
