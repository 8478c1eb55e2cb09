"""What a run was started with, as names and plain values."""

from __future__ import annotations

from typing import Any

from torch import nn

from callboard import Learner
from callboard.data import num_batches
from callboard.lock import lock_of
from callboard.optim import get_hyper, hypers


def settings_of(learner: Learner) -> dict[str, Any]:
    """Model, loss, optimizer, data, and the options of all plugins: plain values.

    Options are named after their plugin: ``early-stopping.patience``.
    """
    model = learner.model
    train, valid = learner.dls.train, learner.dls.valid
    settings: dict[str, Any] = {
        "model": type(model).__name__,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "loss_func": _name_of(learner.loss_func),
        "n_epoch": learner.n_epoch,
        "seed": learner.seed,
        "device": str(learner.device),
        "batch_size": getattr(train, "batch_size", None),
        "num_train_batches": num_batches(train),
        "num_valid_batches": None if valid is None else num_batches(valid),
        "opt": type(learner.opt).__name__,
    }
    for name in hypers(learner.opt):
        for group, value in enumerate(get_hyper(learner.opt, name)):
            settings[f"opt.{name}_{group}"] = float(value)
    for entry in lock_of(learner):
        for name, value in entry["options"].items():
            settings[f"{entry['key']}.{name}"] = value
    return {name: value for name, value in settings.items() if value is not None}


def _name_of(loss_func: object) -> str | None:
    if loss_func is None or isinstance(loss_func, nn.Module):
        return None if loss_func is None else type(loss_func).__name__
    return str(getattr(loss_func, "__name__", type(loss_func).__name__))
