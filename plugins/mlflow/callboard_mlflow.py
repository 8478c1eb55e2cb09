"""Log a run to MLflow: numbers, settings, samples and the model.

Listens to  the events of run-log's RunLogger
Changes     nothing
Source      the interface of MLflow's client (Apache-2.0); names as in fastai's trackers
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from callboard.errors import OptionError
from callboard_run_log import (
    Outcome,
    RunLogger,
    Sample,
    Step,
    as_text,
    model_file,
    require_client,
    settings_of,
)

# What a server takes in one request, and as the value of a parameter.
METRICS_PER_REQUEST = 1000
PARAMETERS_PER_REQUEST = 100
LONGEST_VALUE = 500
NAMES_OF_ENDS = {"finished": "FINISHED", "failed": "FAILED"}


class MLFlowCallback(RunLogger):
    """Logs a run to MLflow.

    A run that is active (``mlflow.start_run()``), or that ``MLFLOW_RUN_ID`` names, is
    used and left open. Without one a run is made, and all fits of one object are one
    run.

    Args:
        experiment_name: The experiment that a new run belongs to; it is made where
            there is none. Default: as MLflow is configured.
        run_name: Name of a new run. Default: MLflow's choice.
        tracking_uri: Where MLflow keeps runs, such as ``"http://localhost:5000"`` or
            ``"sqlite:///mlflow.db"``. Default: as MLflow is configured.
        log_preds: Keep samples of the validation with predictions, after every epoch.
        n_preds: How many.
        log_model: Keep the weights as an artifact at the end of the fit.
        hyper_names: Hyper-parameters of the optimizer that go with every step.
        log_every: Which steps are logged: every one, every tenth, ...; from 1.
    """

    name = "mlflow"

    def __init__(
        self,
        experiment_name: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        *,
        log_preds: bool = False,
        n_preds: int = 9,
        log_model: bool = False,
        hyper_names: Sequence[str] = ("lr", "mom"),
        log_every: int = 1,
    ) -> None:
        super().__init__(
            hyper_names=hyper_names,
            log_every=log_every,
            num_samples=n_preds if log_preds else 0,
        )
        require_client(self.name, "mlflow", "mlflow-skinny")
        for option, value in (
            ("experiment_name", experiment_name),
            ("run_name", run_name),
        ):
            if value is not None and not value.strip():
                raise OptionError(
                    f"mlflow: {option} must be a name, got {value!r}. Leave it out for "
                    "the one that MLflow is configured with."
                )
        self.experiment_name = experiment_name
        self.run_name = run_name
        self.tracking_uri = tracking_uri
        self.log_preds = log_preds
        self.n_preds = n_preds
        self.log_model = log_model
        self._client: Any = None
        self._is_own = False
        self._last_known = {"raw_loss": 0, "epoch": 0}

    def open_run(self) -> None:
        """Take the user's run, or make one, or go on in that of ``run_id``."""
        import mlflow

        self._client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        active = mlflow.active_run()
        named = active.info.run_id if active else os.environ.get("MLFLOW_RUN_ID")
        self._is_own = named is None
        if named is not None:
            self.run_id = named
        elif self.run_id is None:
            run = self._client.create_run(self._experiment_id(), run_name=self.run_name)
            self.run_id = run.info.run_id
        else:
            self._client.update_run(self.run_id, status="RUNNING")
        self._last_known = {name: self._last(name) for name in self._last_known}
        self._log_settings()

    def _experiment_id(self) -> str:
        chosen = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if self.experiment_name is None and chosen:
            return chosen
        name = self.experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        experiment = self._client.get_experiment_by_name(name or "Default")
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(name or "Default"))

    def _last(self, metric: str) -> int:
        """The last step that the run has a metric of; 0 where it has none."""
        history = self._client.get_metric_history(self.run_id, metric)
        return max((entry.step for entry in history), default=0)

    def _log_settings(self) -> None:
        from mlflow.entities import Param

        # MLflow refuses another value for a parameter that it has.
        known = self._client.get_run(self.run_id).data.params
        settings = [
            Param(name, str(value)[:LONGEST_VALUE])
            for name, value in settings_of(self.learn).items()
            if name not in known
        ]
        for some in chunks(settings, PARAMETERS_PER_REQUEST):
            self._client.log_batch(self.run_id, params=some)

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Log losses and hyper-parameters under the number of their step."""
        new = [step for step in steps if step.number > self._last_known["raw_loss"]]
        self._send(
            (name, value, step.number)
            for step in new
            for name, value in {
                "train_loss": step.smooth_loss,
                "raw_loss": step.loss,
                **step.hypers,
            }.items()
        )

    def log_results(self, results: Mapping[str, float]) -> None:
        """Log the results of the epoch at its last step."""
        if self.last_step <= self._last_known["epoch"]:
            return
        named = {
            "epoch_train_loss" if name == "train_loss" else name: value
            for name, value in results.items()
        }
        named["epoch"] = self.learn.epoch + 1
        self._send((name, value, self.last_step) for name, value in named.items())

    def _send(self, numbers: Iterator[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value, step in numbers]
        for some in chunks(metrics, METRICS_PER_REQUEST):
            self._client.log_batch(self.run_id, metrics=some)

    def log_samples(self, samples: Sequence[Sample]) -> None:
        """Keep samples as a file with a table."""
        parts = ("input", "target", "prediction")
        table = {
            "columns": list(parts),
            "data": [[as_text(getattr(s, part)) for part in parts] for s in samples],
        }
        file = f"samples/step_{self.last_step:07d}.json"
        self._client.log_dict(self.run_id, table, file)

    def finish_fit(self) -> None:
        """Keep the weights where asked to."""
        if self.log_model:
            with model_file(self.learn) as file:
                self._client.log_artifact(self.run_id, str(file), "model")

    def close_run(self, outcome: Outcome) -> None:
        """Say how a run of our own ended; the user ends theirs."""
        client, self._client = self._client, None
        # A server that is gone would be waited for once more.
        if client is not None and self._is_own and outcome in NAMES_OF_ENDS:
            client.set_terminated(self.run_id, NAMES_OF_ENDS[outcome])


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Parts of a sequence of at most ``size`` items.

    >>> list(chunks([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries it out: on the disk alone."""
    from callboard.testing import Specimen

    def make() -> MLFlowCallback:
        return MLFlowCallback(tracking_uri="sqlite:///mlflow.db")

    return {
        "mlflow": Specimen(
            make=make,
            needs=("mlflow", "sqlalchemy"),
            is_slow=True,
            ignore=("run_id",),
            leaves=("the environment",),
        )
    }
