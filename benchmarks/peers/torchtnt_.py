"""torchtnt: a unit that says what a step is, and callbacks around it."""

import torch
from torchtnt.framework.auto_unit import AutoUnit
from torchtnt.framework.callback import Callback
from torchtnt.framework.callbacks import TQDMProgressBar
from torchtnt.framework.train import train

from benchmarks.problem import Problem, loss_function


class Nothing(Callback):
    """Does nothing when a batch begins and ends."""

    def on_train_step_start(self, state, unit) -> None:
        pass

    def on_train_step_end(self, state, unit) -> None:
        pass


class Unit(AutoUnit):
    """The problem as a unit."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.total = torch.zeros(())
        super().__init__(
            module=problem.model(), device=torch.device("cpu"), step_lr_interval="step"
        )

    def configure_optimizers_and_lr_scheduler(self, module):
        optimizer = self.problem.optimizer(module)
        is_everyday = self.problem.is_everyday
        return optimizer, self.problem.schedule(optimizer) if is_everyday else None

    def compute_loss(self, state, data):
        inputs, labels = data
        outputs = self.module(inputs)
        return loss_function(outputs, labels), outputs

    def on_train_step_end(self, state, data, step, results) -> None:
        if self.problem.is_everyday:
            self.total += results.loss


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    callbacks = [Nothing() for _ in range(problem.num_observers)]
    if problem.is_everyday:
        callbacks = [TQDMProgressBar()]
    train(Unit(problem), problem.loader(), max_epochs=1, callbacks=callbacks)
