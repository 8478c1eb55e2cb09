"""pytorch-accelerated: a Trainer with callbacks, on accelerate."""

from functools import partial

from pytorch_accelerated import Trainer
from pytorch_accelerated.callbacks import (
    EarlyStoppingCallback,
    LogMetricsCallback,
    PrintProgressCallback,
    ProgressBarCallback,
    SaveBestModelCallback,
    TrainerCallback,
)
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.problem import LEARNING_RATE, Problem, loss_function


class Nothing(TrainerCallback):
    """Does nothing when a batch begins and ends."""

    def on_train_step_begin(self, trainer, **kwargs) -> None:
        pass

    def on_train_step_end(self, trainer, **kwargs) -> None:
        pass


class ItsTrainer(Trainer):
    """Takes the loader as it is."""

    given_loader = None

    def create_train_dataloader(self, **kwargs):
        return self.given_loader

    def create_eval_dataloader(self, **kwargs):
        return None


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    # One class apiece: it takes no two callbacks of one class.
    callbacks = [
        type(f"Nothing{number}", (Nothing,), {})()
        for number in range(problem.num_observers)
    ]
    create = None
    if problem.is_everyday:
        monitor = {"watch_metric": "train_loss_epoch"}
        callbacks = [
            *(PrintProgressCallback(), ProgressBarCallback(), LogMetricsCallback()),
            EarlyStoppingCallback(**monitor),
            SaveBestModelCallback(save_path=str(problem.folder / "best.pt"), **monitor),
        ]
        create = partial(
            OneCycleLR, max_lr=LEARNING_RATE, total_steps=problem.num_steps + 1
        )
    model = problem.model()
    trainer = ItsTrainer(
        *(model, loss_function, problem.optimizer(model)), callbacks=callbacks
    )
    trainer.given_loader = problem.loader()
    trainer.train(
        problem.dataset,
        num_epochs=1,
        per_device_batch_size=problem.size.batch_size,
        create_scheduler_fn=create,
    )
