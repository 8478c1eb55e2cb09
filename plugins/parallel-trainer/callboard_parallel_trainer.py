"""Share every batch between several GPUs of one process: torch's DataParallel.

Listens to  before_fit, before_train, before_validate, do_predict, teardown
Changes     where the prediction is worked out; not the model, whose weights keep their
            names and their place
Source      ``torch.nn.DataParallel``; fastai's ``ParallelTrainer`` (Apache-2.0),
            written anew
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from callboard import Callback
from callboard.errors import CallboardWarning, OptionError

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen

NAME = "parallel-trainer"


def devices_to_use(
    asked: Sequence[int] | None, home: torch.device, num_gpus: int
) -> list[int]:
    """Numbers of the GPUs that share a batch; empty where the home does it alone.

    The GPU that holds the weights comes first, where DataParallel wants it.

    Args:
        asked: Numbers that the user gave; None for every GPU there is.
        home: The device that holds the weights.
        num_gpus: How many GPUs there are.

    Raises:
        OptionError: A GPU that was asked for is not there, or the home is none of them.
    """
    numbers = list(range(num_gpus)) if asked is None else list(asked)
    absent = [number for number in numbers if number >= num_gpus]
    if absent:
        raise OptionError(
            f"{NAME}: device_ids {numbers} names {absent}, and torch finds {num_gpus} "
            "GPUs here, counted from 0. Leave device_ids out for as many as there are."
        )
    if asked is None and home.type != "cuda":
        return []
    if home.type != "cuda" or home.index not in numbers:
        raise OptionError(
            f"{NAME}: the model is on {home}, which is none of device_ids {numbers}. "
            f'Give Learner(device="cuda:{numbers[0]}").'
        )
    others = [number for number in numbers if number != home.index]
    return [home.index, *others] if others else []


class ParallelTrainer(Callback):
    """Lets several GPUs predict a part of every batch each, in training and evaluation.

    The Learner's model stays what it is: only the prediction goes through a
    ``DataParallel`` of it. Without a second GPU there is nothing to share: a warning
    says so, and training goes on as ever.

    Args:
        device_ids: Numbers of GPUs; the Learner's device must be one. Default: all.

    Attributes:
        devices: The GPUs that share a batch; empty where nothing is shared.
    """

    name = NAME
    role = "modify"
    stages = ("fit", "validate", "predict", "lr-find")
    conflicts_with: Mapping[str, str] = {
        "compile": "both would predict in place of the model",
        "cuda-graphs": "both would predict in place of the model",
    }

    def __init__(self, device_ids: Sequence[int] | None = None) -> None:
        self.device_ids = None if device_ids is None else _checked(device_ids)
        self.devices: list[int] = []
        self._parallel: nn.Module | None = None
        self._has_warned = False

    def before_fit(self) -> None:
        """See what can be shared, before the first batch is."""
        self._prepare()

    def before_train(self) -> None:
        """Share the work of the model that is trained now."""
        self._prepare()

    def before_validate(self) -> None:
        """Share the work of the model that is evaluated now."""
        self._prepare()

    def _prepare(self) -> None:
        learner = self.learn
        home = _with_number(learner.device)
        self.devices = devices_to_use(self.device_ids, home, torch.cuda.device_count())
        self._parallel = None
        if not self.devices:
            self._say_that_nothing_is_shared(home)
            return
        _check_learner(learner)
        self._parallel = replicated(learner.model, self.devices)

    def _say_that_nothing_is_shared(self, home: torch.device) -> None:
        was_one_asked_for = self.device_ids is not None
        if self._has_warned or was_one_asked_for:
            return
        self._has_warned = True
        num_gpus = torch.cuda.device_count()
        why = (
            f"the Learner's device is {home}"
            if num_gpus > 1
            else f"torch finds {num_gpus or 'no'} GPU{'' if num_gpus else 's'} here"
        )
        warnings.warn(
            f"{self.name}: {why}, so no batch is shared, and {home} does all the work.",
            CallboardWarning,
            stacklevel=2,
        )

    def do_predict(self) -> Any:
        """Predict on all GPUs; None leaves it to the loop."""
        if self._parallel is None:
            return None
        xb = self.learn.xb
        return self._parallel(**xb) if isinstance(xb, dict) else self._parallel(*xb)

    def teardown(self) -> None:
        """Let go of the model."""
        self._parallel = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy wraps the model of its own Learner."""
        return {**super().__getstate__(), "_parallel": None}


def replicated(model: nn.Module, devices: Sequence[int]) -> nn.Module:
    """A module that lets GPUs work a batch out together, each on its part of it."""
    return nn.DataParallel(model, list(devices))


def _check_learner(learner: Learner) -> None:
    if learner.loss_func is None:
        raise OptionError(
            f"{NAME}: the model works out its own loss, and would give one for every "
            "GPU. Give Learner(loss_func=...), or leave the plugin out."
        )
    if learner.world_size > 1:
        raise OptionError(
            f"{NAME}: {learner.world_size} processes train together, each on a GPU of "
            "its own. Leave the plugin out."
        )


def _checked(device_ids: Any) -> list[int]:
    is_sequence = isinstance(device_ids, Sequence) and not isinstance(device_ids, str)
    numbers = list(device_ids) if is_sequence else []
    is_right = all(
        isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0
        for n in numbers
    )
    if not numbers or not is_right or len(set(numbers)) < len(numbers):
        raise OptionError(
            f"{NAME}: device_ids must be different numbers of GPUs, from 0 on, or None "
            f"for all there are, got {device_ids!r}. Use [0, 1]."
        )
    return [int(number) for number in numbers]


def _with_number(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def to_parallel(learner: Learner, device_ids: Sequence[int] | None = None) -> Learner:
    """Share batches between GPUs from now on; returns the Learner.

    Args:
        learner: What is trained.
        device_ids: Numbers of GPUs. Default: all there are.
    """
    detach_parallel(learner)
    learner.add_cb(ParallelTrainer(device_ids))
    return learner


def detach_parallel(learner: Learner) -> Learner:
    """Undo ``to_parallel``; returns the Learner."""
    if any(isinstance(callback, ParallelTrainer) for callback in learner.cbs):
        learner.remove_cb(ParallelTrainer)
    return learner


@contextmanager
def parallel_ctx(
    learner: Learner, device_ids: Sequence[int] | None = None
) -> Iterator[Learner]:
    """Share batches between GPUs inside the ``with`` block.

    Args:
        learner: What is trained.
        device_ids: Numbers of GPUs. Default: all there are.
    """
    with learner.added_cbs(ParallelTrainer(device_ids)):
        yield learner


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the methods out."""
    from callboard.testing import Specimen

    return {
        "to_parallel": Specimen(
            exempt={"removable": "it adds the callback, which stays until removed"}
        ),
        "parallel_ctx": Specimen(run=_fit_inside),
    }


def _fit_inside(learner: Learner) -> None:
    with parallel_ctx(learner):
        learner.fit(2)
