"""Numbers, model, samples and embeddings of a run in TensorBoard's event files."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from callboard import hookimpl
from callboard.errors import CallboardWarning
from callboard_run_log import (
    Outcome,
    RunLogger,
    Sample,
    Step,
    as_picture,
    as_text,
    require_client,
    settings_of,
)
from callboard_tensorboard.graph import write_graph
from callboard_tensorboard.projector import Embeddings
from callboard_tensorboard.tables import markdown_table
from callboard_tensorboard.writers import new_log_dir, summary_writer


class TensorBoardCallback(RunLogger):
    """Writes a run to TensorBoard.

    Args:
        log_dir: Folder of the event files, in ``learner.path`` unless it is absolute.
            Default: a new one in ``runs`` for every object.
        trace_model: Write the model as a graph, traced with the first batch.
        log_preds: Show samples of the validation with predictions after every epoch.
        n_preds: How many.
        projector: Write what ``layer`` makes of every item of the validation.
        layer: The layer whose output is shown. Default: what goes into the last layer
            that has parameters.
        hyper_names: Hyper-parameters of the optimizer that go with every step.
        log_every: Which steps are written: every one, every tenth, ...; from 1.
    """

    name = "tensorboard"

    def __init__(
        self,
        log_dir: str | Path | None = None,
        trace_model: bool = True,
        log_preds: bool = True,
        n_preds: int = 9,
        projector: bool = False,
        layer: nn.Module | None = None,
        *,
        hyper_names: Sequence[str] = ("lr", "mom"),
        log_every: int = 1,
    ) -> None:
        super().__init__(
            hyper_names=hyper_names,
            log_every=log_every,
            num_samples=n_preds if log_preds else 0,
        )
        require_client(self.name, "tensorboard", "tensorboard")
        self.log_dir = log_dir
        self.trace_model = trace_model
        self.log_preds = log_preds
        self.n_preds = n_preds
        self.projector = projector
        self._embeddings = Embeddings(layer)
        self._is_untraced = False
        self._writer: Any = None

    @property
    def folder(self) -> Path | None:
        """Where the event files are; None before the first fit."""
        return None if self.run_id is None else Path(self.learn.path, self.run_id)

    def open_run(self) -> None:
        """Open an event file, which hides what was written behind a resumed run."""
        is_new = self.run_id is None
        if self.log_dir is not None:
            self.run_id = str(self.log_dir)
        elif self.run_id is None:
            self.run_id = str(new_log_dir())
        folder = Path(self.learn.path, self.run_id)
        first_step = None if is_new else self.last_step + 1
        self._writer = summary_writer(folder, first_step)
        rows = [[name, as_text(v)] for name, v in settings_of(self.learn).items()]
        table = markdown_table(["setting", "value"], rows)
        self._writer.add_text("settings", table, self.last_step)
        self._is_untraced = is_new and self.trace_model

    def after_batch(self) -> None:
        """Take in the step; trace the model with the first batch."""
        super().after_batch()
        if self._is_untraced:
            self._is_untraced = False
            self._trace()

    def _trace(self) -> None:
        inputs = self.learn.xb
        if isinstance(inputs, Mapping):
            problem = "it takes its inputs by name"
        else:
            try:
                write_graph(self._writer, self.learn.model, tuple(inputs))
            except RuntimeError as error:
                problem = str(error).partition("\n")[0]
            else:
                return
        warnings.warn(
            f"tensorboard: the model cannot be traced ({problem}), so there is no "
            "graph of it. trace_model=False says that none is wanted.",
            CallboardWarning,
            stacklevel=2,
        )

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Write losses and hyper-parameters under the number of their step."""
        for step in steps:
            self._writer.add_scalar("train_loss", step.smooth_loss, step.number)
            self._writer.add_scalar("raw_loss", step.loss, step.number)
            for name, value in step.hypers.items():
                self._writer.add_scalar(name, value, step.number)

    def log_results(self, results: Mapping[str, float]) -> None:
        """Write the results of the epoch; all is on the disk afterwards."""
        for name, value in results.items():
            tag = "epoch_train_loss" if name == "train_loss" else name
            self._writer.add_scalar(tag, value, self.last_step)
        self._writer.flush()

    def log_samples(self, samples: Sequence[Sample]) -> None:
        """Write pictures as pictures, and all as a table."""
        parts = ("input", "target", "prediction")
        rows = [[as_text(getattr(s, part)) for part in parts] for s in samples]
        self._writer.add_text(
            "samples", markdown_table(parts, rows), global_step=self.last_step
        )
        for part in parts:
            pictures = [as_picture(getattr(sample, part)) for sample in samples]
            shown = [picture for picture in pictures if picture is not None]
            if len({picture.shape for picture in shown}) == 1:
                self._writer.add_images(
                    f"samples/{part}", torch.stack(shown), self.last_step
                )

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, object, object]:
        """Watch the layer whose output is to be shown."""
        if not self.projector or self._writer is None:
            return (yield)
        with self._embeddings.hooked(self.learn.model):
            result = yield
        self._embeddings.write(self._writer, self.last_step)
        return result

    def after_pred(self) -> None:
        """Take in what the layer made of a batch of the validation."""
        if self.projector and not self.learn.training:
            self._embeddings.add_batch(self.learn)

    def close_run(self, outcome: Outcome) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
