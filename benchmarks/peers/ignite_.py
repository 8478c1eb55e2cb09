"""Ignite: functions are handlers of an engine's events."""

import csv

from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping, ProgressBar
from ignite.handlers.param_scheduler import LRScheduler
from ignite.metrics import RunningAverage

from benchmarks.problem import Problem, loss_function


def nothing(engine: Engine) -> None:
    """Does nothing when a batch begins and ends."""


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    model = problem.model()
    optimizer = problem.optimizer(model)
    is_everyday = problem.is_everyday
    # Its default reads the loss back in every step; without metrics nobody needs it.
    as_is = {} if is_everyday else {"output_transform": lambda *_: None}
    trainer = create_supervised_trainer(model, optimizer, loss_function, **as_is)
    for _ in range(problem.num_observers):
        trainer.add_event_handler(Events.ITERATION_STARTED, nothing)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, nothing)
    if is_everyday:
        RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
        ProgressBar().attach(trainer, ["loss"])
        schedule = LRScheduler(problem.schedule(optimizer))
        trainer.add_event_handler(Events.ITERATION_STARTED, schedule)

        def score(engine: Engine) -> float:
            return -engine.state.metrics["loss"]

        saver = DiskSaver(str(problem.folder), require_empty=False)
        best = Checkpoint({"model": model}, saver, score_function=score)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, best)
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, EarlyStopping(1, score, trainer)
        )

        @trainer.on(Events.EPOCH_COMPLETED)
        def write(engine: Engine) -> None:
            with open(problem.folder / "history.csv", "w") as file:
                row = [engine.state.epoch, engine.state.metrics["loss"]]
                csv.writer(file).writerow(row)

    trainer.run(problem.loader(), max_epochs=1, epoch_length=problem.num_steps)
