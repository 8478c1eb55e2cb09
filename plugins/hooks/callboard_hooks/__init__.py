"""Look into the layers of a model: hooks, and the statistics of their activations.

Listens to  do_fit (around it), before_fit, before_batch, after_pred, after_batch,
            teardown
Changes     nothing; hooks are taken off however a fit ends
Source      names and options of fastai's hooks; the colour plot of activations is that
            of Howard & Gugger 2020, Deep Learning for Coders, chapter 13
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_hooks.callback import HookCallback
from callboard_hooks.hook import (
    Hook,
    Hooks,
    has_params,
    hook_output,
    hook_outputs,
    layers_of,
    total_params,
)
from callboard_hooks.sizes import dummy_eval, model_sizes, num_features_model
from callboard_hooks.stats import ActivationStats

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = [
    "ActivationStats",
    "Hook",
    "HookCallback",
    "Hooks",
    "dummy_eval",
    "has_params",
    "hook_output",
    "hook_outputs",
    "layers_of",
    "model_sizes",
    "num_features_model",
    "total_params",
]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the hooks out."""
    from callboard.testing import Specimen

    return {
        "hooks": Specimen(
            make=lambda: HookCallback(hook=lambda module, inputs, output: None)
        )
    }
