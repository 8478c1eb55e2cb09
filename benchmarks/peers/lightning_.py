"""Lightning: a LightningModule and a Trainer."""

import logging

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from benchmarks.problem import Problem, loss_function


class Nothing(Callback):
    """Does nothing when a batch begins and ends."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        pass

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pass


class Module(lightning.LightningModule):
    """The problem as a module."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.model = problem.model()

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = loss_function(self.model(inputs), labels)
        if self.problem.is_everyday:
            self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = self.problem.optimizer(self.model)
        if not self.problem.is_everyday:
            return optimizer
        schedule = {"scheduler": self.problem.schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    callbacks = [Nothing() for _ in range(problem.num_observers)]
    if problem.is_everyday:
        callbacks = [
            EarlyStopping("train_loss", check_on_train_epoch_end=True),
            ModelCheckpoint(monitor="train_loss", save_on_train_epoch_end=True),
        ]
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        default_root_dir=problem.folder,
        logger=CSVLogger(problem.folder) if problem.is_everyday else False,
        enable_checkpointing=problem.is_everyday,
        enable_progress_bar=problem.is_everyday,
        enable_model_summary=False,
    )
    trainer.fit(Module(problem), problem.loader())
