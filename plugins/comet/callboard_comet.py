"""Log a run to Comet: numbers, settings and the model.

Listens to  the events of run-log's RunLogger
Changes     nothing
Source      fastai's ``CometCallback`` (Apache-2.0), for the names; written anew
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callboard.errors import OptionError
from callboard_run_log import (
    Outcome,
    RunLogger,
    Step,
    model_file,
    require_client,
    settings_of,
)


class CometCallback(RunLogger):
    """Logs a run to Comet.

    Each fit opens an experiment and ends it; all fits of one object are one experiment.

    Args:
        project_name: The project of a new experiment. Default: as Comet is configured.
        log_model_weights: Keep the weights at the end of the fit.
        offline_directory: Folder for an archive instead of the server, in
            ``learner.path`` unless it is absolute. Default: to the server.
        experiment: An experiment of the user's, to use and to leave open.
        hyper_names: Hyper-parameters of the optimizer that go with every step.
        log_every: Which steps are logged: every one, every tenth, ...; from 1.
    """

    name = "comet"

    def __init__(
        self,
        project_name: str | None = None,
        log_model_weights: bool = True,
        *,
        offline_directory: str | Path | None = None,
        experiment: Any = None,
        hyper_names: Sequence[str] = ("lr", "mom"),
        log_every: int = 1,
    ) -> None:
        super().__init__(hyper_names=hyper_names, log_every=log_every)
        require_client(self.name, "comet_ml", "comet-ml")
        if experiment is not None and not hasattr(experiment, "log_metrics"):
            raise OptionError(
                "comet: experiment must be an experiment of comet_ml, got "
                f"{experiment!r}. Use comet_ml.start(...)."
            )
        self.project_name = project_name
        self.log_model_weights = log_model_weights
        self.offline_directory = offline_directory
        self._given = experiment
        self._experiment: Any = None

    @property
    def experiment(self) -> Any:
        """The experiment while a fit runs, else the user's or None."""
        return self._given if self._experiment is None else self._experiment

    def open_run(self) -> None:
        """Open an experiment: the user's, a new one, or that of ``run_id`` again."""
        self._experiment = self._opened() if self._given is None else self._given
        self._check_alive()
        self.run_id = str(self._experiment.get_key())
        self._experiment.log_parameters(settings_of(self.learn))

    def _opened(self) -> Any:
        import comet_ml

        options: dict[str, Any] = {
            # Everything is logged here, under the names and steps that it belongs to.
            "auto_metric_logging": False,
            "auto_param_logging": False,
            "display_summary_level": 0,
        }
        online: Any
        offline: Any
        if self.run_id is None:
            options["project_name"] = self.project_name
            online = comet_ml.Experiment
            offline = comet_ml.OfflineExperiment
        else:
            options["previous_experiment"] = self.run_id
            online = comet_ml.ExistingExperiment
            offline = comet_ml.ExistingOfflineExperiment
        if self.offline_directory is None:
            return online(**options)
        folder = Path(self.learn.path, self.offline_directory)
        folder.mkdir(parents=True, exist_ok=True)
        return offline(offline_directory=str(folder), **options)

    def _check_alive(self) -> None:
        """Comet says nothing where it drops what is logged."""
        if not self._experiment.alive:
            raise ConnectionError(
                "Comet takes nothing for this experiment: its server cannot be "
                "reached, or another experiment of this process has ended it"
            )

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Log losses and hyper-parameters under the number of their step."""
        self._check_alive()
        for step in steps:
            numbers = {
                "batch__smooth_loss": step.smooth_loss,
                "batch__loss": step.loss,
            }
            for name, value in step.hypers.items():
                numbers[f"batch__opt.hypers.{name}"] = value
            self._experiment.log_metrics(
                numbers, step=step.number, epoch=self.learn.epoch
            )

    def log_results(self, results: Mapping[str, float]) -> None:
        """Log the results of the epoch at its last step."""
        self._check_alive()
        named = {f"epoch__{name}": value for name, value in results.items()}
        self._experiment.log_metrics(
            named, step=self.last_step, epoch=self.learn.epoch + 1
        )

    def finish_fit(self) -> None:
        """Keep the weights where asked to."""
        if self.log_model_weights:
            with model_file(self.learn) as path, path.open("rb") as file:
                # As an open file, of which Comet takes a copy: it sends it later.
                self._experiment.log_model("model", file, file_name=path.name)

    def close_run(self, outcome: Outcome) -> None:
        """End an experiment of our own; the user ends theirs."""
        experiment, self._experiment = self._experiment, None
        if experiment is None or self._given is not None:
            return
        if outcome == "failed":
            experiment.log_other("outcome", "failed")
        experiment.end()


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries it out: on the disk alone."""
    from callboard.testing import Specimen

    def make() -> CometCallback:
        return CometCallback(offline_directory="comet")

    why = "Comet has one experiment at a time in a process, and ends the one before"
    return {
        "comet": Specimen(
            make=make,
            needs=("comet_ml",),
            is_slow=True,
            ignore=("run_id",),
            leaves=("sys.excepthook",),
            exempt={"side-by-side": why},
        )
    }
