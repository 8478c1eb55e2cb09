"""Log a run to Azure Machine Learning: numbers, settings and the model.

Listens to  the events of run-log's RunLogger
Changes     nothing
Source      fastai's ``AzureMLCallback`` (Apache-2.0), for the names; written anew
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from callboard.errors import OptionError
from callboard_run_log import (
    Outcome,
    RunLogger,
    Step,
    as_text,
    model_file,
    require_client,
    settings_of,
)


class AzureMLCallback(RunLogger):
    """Logs a run to Azure Machine Learning, which opens and ends it.

    Args:
        azurerun: The run, an ``azureml.core.Run``. Default: the one that this process
            is a job of.
        log_to_parent: Log to the run's parent too, where it has one, as the runs of a
            sweep do.
        log_model: Upload the weights at the end of the fit, to ``outputs``.
        hyper_names: Hyper-parameters of the optimizer that go with every step.
        log_every: Which steps are logged: every one, every tenth, ...; from 1.
    """

    name = "azure-ml"

    def __init__(
        self,
        azurerun: Any = None,
        log_to_parent: bool = True,
        *,
        log_model: bool = False,
        hyper_names: Sequence[str] = ("lr", "mom"),
        log_every: int = 1,
    ) -> None:
        super().__init__(hyper_names=hyper_names, log_every=log_every)
        if azurerun is None:
            require_client(self.name, "azureml.core", "azureml-core")
        elif not callable(getattr(azurerun, "log", None)):
            raise OptionError(
                f"azure-ml: azurerun must be a run of azureml.core, got {azurerun!r}. "
                "Use azureml.core.Run.get_context()."
            )
        self.log_to_parent = log_to_parent
        self.log_model = log_model
        self._given = azurerun
        self._azurerun: Any = None
        self._runs: list[tuple[Any, bool]] = []

    @property
    def azurerun(self) -> Any:
        """The run while a fit runs, else the user's or None."""
        return self._given if self._azurerun is None else self._azurerun

    def open_run(self) -> None:
        """Find the run, and its parent."""
        self._azurerun = current_run() if self._given is None else self._given
        parent = getattr(self._azurerun, "parent", None) if self.log_to_parent else None
        runs = [self._azurerun] if parent is None else [self._azurerun, parent]
        self._runs = [(run, takes_steps(run)) for run in runs]
        self.run_id = str(self._azurerun.id)
        settings = settings_of(self.learn).items()
        self._azurerun.set_tags({name: as_text(value) for name, value in settings})

    def _log(self, name: str, value: float, step: int) -> None:
        for run, does_take_steps in self._runs:
            if does_take_steps:
                run.log(name, value, step=step)
            else:
                run.log(name, value)

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Log losses and hyper-parameters under the number of their step."""
        for step in steps:
            self._log("batch__loss", step.loss, step.number)
            self._log("batch__smooth_loss", step.smooth_loss, step.number)
            for name, value in step.hypers.items():
                self._log(f"batch__opt.hypers.{name}", value, step.number)

    def log_results(self, results: Mapping[str, float]) -> None:
        """Log the results of the epoch at its last step."""
        for name, value in results.items():
            self._log(f"epoch__{name}", value, self.last_step)

    def finish_fit(self) -> None:
        """Upload the weights where asked to."""
        if self.log_model:
            with model_file(self.learn) as file:
                self._azurerun.upload_file(f"outputs/{file.name}", str(file))

    def close_run(self, outcome: Outcome) -> None:
        """See to it that all has been sent; Azure Machine Learning ends the run."""
        run, self._azurerun, self._runs = self._azurerun, None, []
        # A service that is gone would be waited for once more.
        if run is not None and outcome != "unreachable":
            run.flush()


def current_run() -> Any:
    """The run that this process is a job of.

    Raises:
        LookupError: It is none.
    """
    from azureml.core import Run
    from azureml.exceptions import RunEnvironmentException

    try:
        return Run.get_context(allow_offline=False)
    except RunEnvironmentException as error:
        raise LookupError(
            "this process is no job of Azure Machine Learning, so there is no run to "
            "log to; give azurerun=experiment.start_logging()"
        ) from error


def takes_steps(run: Any) -> bool:
    """Whether a run's ``log`` takes the number of a step; offline runs do not."""
    return "step" in inspect.signature(run.log).parameters


def callboard_specimens() -> dict[str, Any]:
    """How the conformance suite tries it out: with an offline run of the client."""
    from callboard.testing import Specimen

    def make() -> AzureMLCallback:
        from azureml.core import Run

        return AzureMLCallback(Run.get_context())

    return {
        "azure-ml": Specimen(
            make=make, needs=("azureml",), is_slow=True, ignore=("run_id",)
        )
    }
