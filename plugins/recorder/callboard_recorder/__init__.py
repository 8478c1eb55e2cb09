"""Record the losses, metrics and hyper-parameters of a fit, of each epoch and step.

Listens to  before_fit, before_epoch, before_train, after_batch, after_cancel_train,
            after_train, do_validate (around it), after_cancel_validate,
            after_validate, after_epoch, teardown
Changes     nothing; publishes what it measured in ``learner.results``
Source      the Recorder of fastai (Howard & Gugger 2020, arXiv:2002.04688)
"""

from __future__ import annotations

from callboard_recorder.metrics import (
    EpochMetric,
    MeanMetric,
    accuracy,
    epoch_metric,
    error_rate,
    mae,
    mean_metric,
    mse,
    rmse,
    top_k_accuracy,
)
from callboard_recorder.recorder import MetricValue, Recorder

__all__ = [
    "EpochMetric",
    "MeanMetric",
    "MetricValue",
    "Recorder",
    "accuracy",
    "epoch_metric",
    "error_rate",
    "mae",
    "mean_metric",
    "mse",
    "rmse",
    "top_k_accuracy",
]
