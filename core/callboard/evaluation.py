"""Evaluations: stages beside the fit that leave every bit of the loop as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard import data, faults, fitting
from callboard.callback import STAGES, Callback
from callboard.control import CancelException
from callboard.errors import CallboardError, OptionError, suggestion
from callboard.state import RunRecord, derive_seed, untouched_random_state
from callboard.streams import put_back

if TYPE_CHECKING:
    from callboard.learner import Learner

# What a nested evaluation must leave as it was.
LOOP_STATE = (
    *("stage", "training", "epoch", "n_epoch", "iter", "n_iter", "train_iter"),
    *("pct_train", "dl", "xb", "yb", "pred", "loss", "_loss_grad", "results"),
    *("stop_reason", "plan", "_pct_per_batch", "_evaluated_dl"),
    *("_resume", "_is_epoch_over", "_first_train_iter"),
)


class MeanLoss(Callback):
    """Averages the loss over the samples of a validation."""

    name = "mean-loss"
    role = "observe"
    ranks = "all"
    stages = ("validate",)

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.total: Tensor | float = 0.0
        self.num_samples = 0
        self.measured: dict[str, Any] = {}

    def after_loss(self) -> None:
        loss = self.learn.loss
        if loss is not None and self.learn._depth == self.depth:
            size, _ = self.learn.processes.sizes(self.learn)
            # MPS has no float64.
            precision = torch.float32 if loss.device.type == "mps" else torch.float64
            self.total = self.total + loss.detach().mean(dtype=precision) * size
            self.num_samples += size

    def after_validate(self) -> None:
        if self.learn._depth == self.depth:
            sums = [float(self.total), self.num_samples]
            total, num_samples = self.learn.processes.sum(sums)
            if num_samples:
                self.measured["valid_loss"] = total / num_samples


@contextmanager
def evaluating(learner: Learner, stage: str) -> Iterator[Learner]:
    """As ``Learner.evaluating``."""
    if stage not in STAGES:
        known = ", ".join(STAGES)
        message = f"there is no stage {stage!r}; stages are {known}."
        raise OptionError(message + suggestion(stage, STAGES))
    before = {name: getattr(learner, name) for name in LOOP_STATE}
    record, fit_number = learner.record, learner._fit_number
    streams = {key: s.get_state() for key, s in learner._streams.items()}
    modes = [(module, module.training) for module in learner.model.modules()]
    try:
        held = data.streams_held(learner)
        with (
            untouched_random_state(),
            put_back(chain.from_iterable(held.values())),
            fitting.running(learner, stage),
        ):
            learner.results, learner.stop_reason = {}, None
            learner.record = RunRecord()
            learner._resume = None
            fitting.move_to_device(learner)
            learner._replan()
            try:
                yield learner
            except CancelException as cancel:
                raise faults.explained(learner, cancel) from cancel
            except BaseException as error:
                faults.explained(learner, error)
                raise
    finally:
        for name, value in before.items():
            setattr(learner, name, value)
        record.failures += learner.record.failures
        learner.record, learner._fit_number = record, fit_number
        for key, stream in learner._streams.items():
            if key in streams:
                stream.set_state(streams[key])
            else:
                stream.manual_seed(derive_seed(learner.seed, "plugin", key))
        for module, mode in modes:
            module.training = mode
        learner._plan_anew()


def validate(learner: Learner, dl: Any, cbs: Any) -> dict[str, Any]:
    """As ``Learner.validate``."""
    if dl is None and learner.dls.valid is None:
        raise OptionError(
            "validate: the Learner has no validation data; give validate(dl=...)."
        )
    before = set(learner._board.members.values())
    with learner.added_cbs(cbs), learner.evaluating("validate"):
        for member in learner._board.members.values():
            if member not in before and "validate" not in member.stages:
                raise OptionError(
                    f"validate: {member.label} would do nothing here, its stages "
                    f"are {member.stages}. Let its class declare "
                    '`stages = ("fit", "validate")` to take part.'
                )
        mean = MeanLoss(learner._depth)
        with learner.added_cbs(mean):
            learner.run_validation(dl)
        return {**mean.measured, **learner.results}


def run_validation(learner: Learner, dl: Any) -> None:
    """As ``Learner.run_validation``."""
    if learner.stage == "fit":
        raise CallboardError(
            "run_validation was called outside an evaluation, whose state nobody "
            'would put back. Write `with learner.evaluating("validate"):` around '
            "it, or call learner.validate()."
        )
    learner._evaluated_dl = dl
    learner.plan.do_validate()
