"""transformers: its Trainer, which trains any model that returns a loss."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.problem import Problem, loss_function


class Nothing(TrainerCallback):
    """Does nothing when a batch begins and ends."""

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        pass

    def on_step_end(self, args, state, control, **kwargs) -> None:
        pass


class WithLoss(nn.Module):
    """The model, with the loss that a Trainer wants of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs, labels):
        outputs = self.model(inputs)
        return {"loss": loss_function(outputs, labels), "outputs": outputs}


class ByName:
    """The loader's batches as mappings."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for inputs, labels in self.loader:
            yield {"inputs": inputs, "labels": labels}

    def __len__(self) -> int:
        return len(self.loader)


class ItsTrainer(Trainer):
    """Takes the loaders as they are."""

    problem: Problem

    def get_train_dataloader(self):
        return ByName(self.problem.loader())

    def get_eval_dataloader(self, eval_dataset=None):
        return ByName(self.problem.validation())


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    is_everyday = problem.is_everyday
    when = "epoch" if is_everyday else "no"
    model = problem.model()
    optimizer = problem.optimizer(model)
    schedule = problem.schedule(optimizer) if is_everyday else _ConstantRate()
    callbacks = [Nothing() for _ in range(problem.num_observers)]
    trainer = ItsTrainer(
        model=WithLoss(model),
        args=TrainingArguments(
            output_dir=str(problem.folder),
            num_train_epochs=1,
            max_grad_norm=0,
            use_cpu=True,
            disable_tqdm=not is_everyday,
            logging_strategy=when,
            eval_strategy=when,
            save_strategy=when,
            load_best_model_at_end=is_everyday,
            metric_for_best_model="loss" if is_everyday else None,
            report_to=[],
        ),
        train_dataset=problem.dataset,
        eval_dataset=problem.dataset if is_everyday else None,
        optimizers=(optimizer, schedule),
        callbacks=[EarlyStoppingCallback()] if is_everyday else callbacks,
    )
    trainer.problem = problem
    trainer.train()


class _ConstantRate:
    """No schedule."""

    def step(self) -> None:
        pass

    def get_last_lr(self) -> list[float]:
        return [0.0]

    def state_dict(self) -> dict[str, Any]:
        return {}
