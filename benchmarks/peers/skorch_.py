"""skorch: a network with the interface of scikit-learn."""

import torch
from skorch import NeuralNet
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LRScheduler,
    ProgressBar,
)

from benchmarks.problem import LEARNING_RATE, Problem


class Nothing(Callback):
    """Does nothing when a batch begins and ends."""

    def on_batch_begin(self, net, **kwargs) -> None:
        pass

    def on_batch_end(self, net, **kwargs) -> None:
        pass


class Net(NeuralNet):
    """Takes the loader as it is."""

    def get_iterator(self, dataset, training=False):
        return self.given_loader


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    callbacks = [(f"nothing{n}", Nothing()) for n in range(problem.num_observers)]
    if problem.is_everyday:
        callbacks = [
            ("bar", ProgressBar(batches_per_epoch=problem.num_steps)),
            ("stop", EarlyStopping(monitor="train_loss")),
            ("best", Checkpoint(monitor="train_loss_best", dirname=problem.folder)),
            (
                "schedule",
                LRScheduler(
                    torch.optim.lr_scheduler.OneCycleLR,
                    step_every="batch",
                    max_lr=LEARNING_RATE,
                    total_steps=problem.num_steps + 1,
                ),
            ),
        ]
    net = Net(
        problem.model(),
        criterion=torch.nn.MSELoss,
        optimizer=torch.optim.SGD,
        lr=LEARNING_RATE,
        max_epochs=1,
        train_split=None,
        callbacks=callbacks,
        verbose=0 if not problem.is_everyday else 1,
    )
    if not problem.is_everyday:
        net.set_params(callbacks__print_log=None)
    net.given_loader = problem.loader()
    net.fit(problem.dataset, y=None)
