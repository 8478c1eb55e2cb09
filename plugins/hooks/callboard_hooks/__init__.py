"""Look into the layers of a model: hooks, and the statistics of their activations.

Listens to  do_fit (around it), before_fit, before_batch, after_batch, teardown
Changes     nothing; hooks are taken off however a fit ends
Source      names and options of fastai's hooks; the colour plot of activations is that
            of Howard & Gugger 2020, Deep Learning for Coders, chapter 13
"""

from __future__ import annotations

from callboard_hooks.callback import HookCallback
from callboard_hooks.hook import (
    Hook,
    Hooks,
    has_params,
    hook_output,
    hook_outputs,
    total_params,
)
from callboard_hooks.sizes import dummy_eval, model_sizes, num_features_model
from callboard_hooks.stats import ActivationStats

__all__ = [
    "ActivationStats",
    "Hook",
    "HookCallback",
    "Hooks",
    "dummy_eval",
    "has_params",
    "hook_output",
    "hook_outputs",
    "model_sizes",
    "num_features_model",
    "total_params",
]
