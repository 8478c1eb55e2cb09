"""Log a run to Weights & Biases: numbers, settings, samples, the model and the data.

Listens to  the events of run-log's RunLogger
Changes     nothing
Source      fastai's ``WandbCallback``, ``log_dataset`` and ``log_model`` (Apache-2.0),
            written anew
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from callboard.errors import OptionError
from callboard_gather_preds import get_preds
from callboard_run_log import (
    Outcome,
    RunLogger,
    Sample,
    Step,
    as_picture,
    as_text,
    model_file,
    picked,
    positions,
    require_client,
    samples_of,
    settings_of,
)

Watched = Literal["gradients", "parameters", "all"]
WATCHED = ("gradients", "parameters", "all")


class WandbCallback(RunLogger):
    """Logs a run to Weights & Biases.

    A run that the user has opened by ``wandb.init()`` is used and left open; without
    one each fit opens a run of its own in ``learner.path`` and closes it, and all fits
    of one object are one run.

    Args:
        log: What ``wandb.watch`` shows of the model: ``"gradients"``,
            ``"parameters"``, ``"all"``; None for nothing.
        log_preds: Show samples of the validation with predictions.
        log_preds_every_epoch: After every epoch, else at the end of the fit.
        log_model: Keep the weights as an artifact at the end of the fit.
        model_name: Name of that artifact. Default: ``run-<id>-model``.
        log_dataset: File or folder with the data, to keep as an artifact.
        dataset_name: Name of that artifact. Default: the name of the file or folder.
        valid_dl: Batches to take the samples from. Default: the validation data.
        n_preds: How many samples.
        seed: Draws which ones; None for the first.
        project: Where a run of its own goes. Default: as wandb is configured.
        mode: ``"offline"`` keeps a run of its own on the disk, for ``wandb sync``;
            ``"online"`` sends it. Default: as wandb is configured.
        hyper_names: Hyper-parameters of the optimizer that go with every step.
        log_every: Which steps are logged: every one, every tenth, ...; from 1.
    """

    name = "wandb"

    def __init__(
        self,
        log: Watched | None = None,
        log_preds: bool = True,
        log_preds_every_epoch: bool = False,
        log_model: bool = False,
        model_name: str | None = None,
        log_dataset: str | Path | Literal[False] = False,
        dataset_name: str | None = None,
        valid_dl: Any = None,
        n_preds: int = 36,
        seed: int | None = 12345,
        *,
        project: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        hyper_names: Sequence[str] = ("lr", "mom"),
        log_every: int = 1,
    ) -> None:
        super().__init__(
            hyper_names=hyper_names,
            log_every=log_every,
            num_samples=n_preds if log_preds and valid_dl is None else 0,
            sample_seed=seed,
            samples_each_epoch=log_preds_every_epoch,
        )
        require_client(self.name, "wandb", "wandb")
        if log is not None and log not in WATCHED:
            raise OptionError(
                f"wandb: log must be None or one of {', '.join(WATCHED)}, got {log!r}. "
                'Use "gradients" to see which layers learn.'
            )
        if mode not in (None, "online", "offline"):
            raise OptionError(
                f'wandb: mode must be None, "online" or "offline", got {mode!r}. Use '
                '"offline" where there is no network.'
            )
        if log_dataset and not Path(log_dataset).exists():
            raise OptionError(
                "wandb: log_dataset must be an existing file or folder, got "
                f"{str(log_dataset)!r}. Give the folder that the data is read from."
            )
        self.log = log
        self.log_preds = log_preds
        self.log_preds_every_epoch = log_preds_every_epoch
        self.log_model = log_model
        self.model_name = model_name
        self.log_dataset = log_dataset
        self.dataset_name = dataset_name
        self.n_preds = n_preds
        self.project = project
        self.mode = mode
        self._valid_dl = valid_dl
        self._seed = seed
        self._wandb_run: Any = None
        self._is_own = False

    @property
    def wandb_run(self) -> Any:
        """The run of wandb while a fit runs, else None."""
        return self._wandb_run

    def open_run(self) -> None:
        """Take the user's run, or open one: a new one, or that of ``run_id`` again."""
        import wandb

        settings = settings_of(self.learn)
        is_new = self.run_id is None
        self._is_own = wandb.run is None
        if self._is_own:
            # wandb would write to another place where there is no such folder.
            self.learn.path.mkdir(parents=True, exist_ok=True)
            self._wandb_run = wandb.init(
                project=self.project,
                mode=self.mode,
                id=self.run_id,
                resume=None if is_new else "allow",
                dir=str(self.learn.path),
                config=settings,
                # Neither takes the place of another Learner's run, nor ends it.
                reinit="create_new",
            )
        else:
            self._wandb_run = wandb.run
            self._wandb_run.config.update(settings, allow_val_change=True)
            if self._wandb_run.id != self.run_id:
                # What the user has logged there before has taken some steps.
                self.last_step = max(self.last_step, self._wandb_run.step)
        self.run_id = self._wandb_run.id
        if self.log is not None:
            self._wandb_run.watch(self.learn.model, log=self.log)
        if self.log_dataset and is_new:
            self._keep_dataset(Path(self.log_dataset))

    def _keep_dataset(self, path: Path) -> None:
        import wandb

        name = self.dataset_name or path.resolve().name
        artifact = wandb.Artifact(artifact_name(name), type="dataset")
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._wandb_run.log_artifact(artifact)

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Log losses and hyper-parameters under the number of their step."""
        for step in steps:
            numbers = {
                "epoch": step.epoch,
                "train_loss": step.smooth_loss,
                "raw_loss": step.loss,
                **step.hypers,
            }
            self._wandb_run.log(numbers, step=step.number)

    def log_results(self, results: Mapping[str, float]) -> None:
        """Log the results of the epoch with its last step."""
        named = {
            "epoch_train_loss" if name == "train_loss" else name: value
            for name, value in results.items()
        }
        self._wandb_run.log(named, step=self.last_step)
        if self.log_preds_every_epoch:
            self._show_other_samples()

    def log_samples(self, samples: Sequence[Sample]) -> None:
        """Log samples as a table, with pictures where they are some."""
        import wandb

        parts = ("input", "target", "prediction")
        rows = [[_cell(getattr(s, part)) for part in parts] for s in samples]
        table = wandb.Table(columns=list(parts), data=rows, allow_mixed_types=True)
        self._wandb_run.log({"samples": table}, step=self.last_step)

    def _show_other_samples(self) -> None:
        if self._valid_dl is None or not self.log_preds:
            return
        inputs, preds, targets = get_preds(
            self.learn, dl=self._valid_dl, with_input=True, act=_unchanged
        )
        chosen = positions(self.n_preds, len(preds), self._seed)
        picks = [picked(part, chosen) for part in (inputs, targets, preds)]
        self.log_samples(samples_of(self.learn, *picks))

    def finish_fit(self) -> None:
        """Keep the weights, and show the samples of ``valid_dl``."""
        if not self.log_preds_every_epoch:
            self._show_other_samples()
        if self.log_model:
            self._keep_model()

    def _keep_model(self) -> None:
        import wandb

        name = self.model_name or f"run-{self.run_id}-model"
        numbers = {k: v for k, v in self.learn.results.items() if isinstance(v, float)}
        artifact = wandb.Artifact(artifact_name(name), type="model", metadata=numbers)
        with model_file(self.learn) as file:
            artifact.add_file(str(file), file.name)
            self._wandb_run.log_artifact(artifact)

    def close_run(self, outcome: Outcome) -> None:
        """Close a run of our own; the user closes theirs."""
        run, self._wandb_run = self._wandb_run, None
        if run is None:
            return
        if self.log is not None:
            run.unwatch(self.learn.model)
        if self._is_own:
            run.finish(exit_code=1 if outcome == "failed" else 0)


def artifact_name(name: str) -> str:
    """A name as wandb allows it for an artifact.

    >>> artifact_name("my data (v2)")
    'my-data--v2-'
    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _unchanged(preds: Any) -> Any:
    return preds


def _cell(value: Any) -> Any:
    """What a table shows: a picture, a plain value, or text."""
    import wandb

    picture = as_picture(value)
    if picture is not None:
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        return wandb.Image(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    return value if isinstance(value, str | int | float) else as_text(value)


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries it out: on the disk alone."""
    from callboard.testing import Specimen

    def make() -> WandbCallback:
        return WandbCallback(mode="offline")

    return {
        "wandb": Specimen(
            make=make,
            needs=("wandb",),
            is_slow=True,
            ignore=("run_id",),
            leaves=("the environment", "sys.excepthook"),
        )
    }
