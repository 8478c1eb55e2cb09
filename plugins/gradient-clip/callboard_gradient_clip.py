"""Clip the gradients before each step, by their norm or each value by itself.

Listens to  before_step
Changes     gradients
Source      Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; fastai's ``GradientClip``
            (Apache-2.0), written anew; the arithmetic is torch.nn.utils'
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from callboard import Callback
from callboard.errors import OptionError


class GradientClip(Callback):
    """Clips the gradients of all parameters that the optimizer steps.

    Args:
        max_norm: Largest norm of all gradients together, above 0; longer ones are
            shortened. None leaves the norm alone.
        norm_type: Which norm: 2.0, another number from 1 on, or ``math.inf``.
        max_value: Largest magnitude of each single value, above 0. None leaves values
            alone.

    Attributes:
        norm: The norm before clipping at the latest step, on the device of the
            gradients; reading it waits for that device. None before the first step and
            without ``max_norm``.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "gradient-clip"
    role = "modify"
    # What it clips must be whole, and in its own scale.
    run_after = ("gradient-accumulation", "mixed-precision")
    stages = ("fit", "lr-find")
    run_valid = False

    def __init__(
        self,
        max_norm: float | None = 1.0,
        norm_type: float = 2.0,
        *,
        max_value: float | None = None,
    ) -> None:
        for option, value in (("max_norm", max_norm), ("max_value", max_value)):
            if value is not None and not value > 0:
                raise OptionError(
                    f"gradient-clip: {option} must be above 0, got {value!r}. Use 1.0, "
                    "or None to leave it alone."
                )
        if not norm_type >= 1:
            raise OptionError(
                f"gradient-clip: norm_type must be from 1 on, got {norm_type!r}. Use "
                f"2.0, or {math.inf} for the largest value."
            )
        if max_norm is None and max_value is None:
            raise OptionError("gradient-clip: give max_norm=1.0 or max_value=1.0.")
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.max_value = max_value
        self.norm: Tensor | None = None

    def before_step(self) -> None:
        """Clip in place: values first, then the norm of what is left."""
        groups = self.learn.opt.param_groups
        parameters = [p for group in groups for p in group["params"]]
        if self.max_value is not None:
            clip_grad_value_(parameters, self.max_value)
        if self.max_norm is not None:
            self.norm = clip_grad_norm_(parameters, self.max_norm, self.norm_type)
