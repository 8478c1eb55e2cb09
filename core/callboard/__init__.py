"""Callboard: a PyTorch training loop on which everything else is a plugin.

Importing this package imports neither torch nor any plugin; names are looked up when
they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from callboard.callback import Callback, hookimpl
    from callboard.control import (
        CancelBackwardException,
        CancelBatchException,
        CancelEpochException,
        CancelException,
        CancelFitException,
        CancelStepException,
        CancelTrainException,
        CancelValidException,
    )
    from callboard.data import DataLoaders
    from callboard.errors import CallboardError
    from callboard.learner import Learner

_HOMES = {
    "Callback": "callback",
    "CallboardError": "errors",
    "CancelBackwardException": "control",
    "CancelBatchException": "control",
    "CancelEpochException": "control",
    "CancelException": "control",
    "CancelFitException": "control",
    "CancelStepException": "control",
    "CancelTrainException": "control",
    "CancelValidException": "control",
    "DataLoaders": "data",
    "Learner": "learner",
    "hookimpl": "callback",
}

__all__ = [
    "Callback",
    "CallboardError",
    "CancelBackwardException",
    "CancelBatchException",
    "CancelEpochException",
    "CancelException",
    "CancelFitException",
    "CancelStepException",
    "CancelTrainException",
    "CancelValidException",
    "DataLoaders",
    "Learner",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        message = f"module 'callboard' has no attribute {name!r}"
        raise AttributeError(message, name=name) from None
    return getattr(import_module(f"callboard.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
