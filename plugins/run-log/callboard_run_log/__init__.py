"""Hand the numbers of a run to a function; base of the plugins for trackers.

``RunLogCallback`` gives them to a function or to Python's ``logging``. ``RunLogger`` is
the abstract base of tensorboard, wandb, mlflow, comet and azure-ml: it counts steps
over fits and resumed runs, keeps losses on the device until some fifty are read at
once, and picks samples of what the model predicts. A tracker says where they go.

Listens to  before_fit, before_epoch, before_train, after_batch, after_train,
            before_validate, after_epoch, after_cancel_fit, after_fit, on_exception,
            teardown
Changes     nothing
Source      what fastai's TensorBoardCallback, WandbCallback, CometCallback and
            AzureMLCallback (Apache-2.0) have in common, written anew
"""

from __future__ import annotations

from callboard_run_log.function import RunLogCallback
from callboard_run_log.logger import Outcome, RunLogger, require_client
from callboard_run_log.samples import (
    Sample,
    as_picture,
    as_text,
    picked,
    positions,
    samples_of,
)
from callboard_run_log.settings import settings_of
from callboard_run_log.steps import Step
from callboard_run_log.weights import model_file

__all__ = [
    "Outcome",
    "RunLogCallback",
    "RunLogger",
    "Sample",
    "Step",
    "as_picture",
    "as_text",
    "model_file",
    "picked",
    "positions",
    "require_client",
    "samples_of",
    "settings_of",
]
