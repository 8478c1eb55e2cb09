"""Let the plugins that fit this machine make training faster, and say which and why.

Listens to  after_create
Changes     adds fused-optimizer, prefetch, channels-last and compile, as they fit
Source      what each of them gains, measured: see "Benchmarks" in the documentation
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from callboard import Callback
from callboard.keyed import can_be_keyed
from callboard_compile import why_not as why_not_compiled
from callboard_fused_optimizer import FUSED_ON

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen


@dataclass(frozen=True)
class Choice:
    """A plugin that was looked at.

    Attributes:
        plugin: Its name.
        is_used: Whether it fits.
        why: Why it does, or does not.
    """

    plugin: str
    is_used: bool
    why: str

    def __str__(self) -> str:
        return f"{self.plugin}: {'on' if self.is_used else 'off'}, {self.why}"


class Fast(Callback):
    """Adds the plugins that make training faster here, and prints which and why.

    A plugin that is active already stays as it is.

    Args:
        show: Print what was chosen.

    Attributes:
        choices: What was chosen, and what was not.
    """

    name = "fast"
    role = "modify"

    def __init__(self, *, show: bool = True) -> None:
        self.show = show
        self.choices: list[Choice] = []

    def after_create(self) -> None:
        """Choose, and add what was chosen."""
        learner = self.learn
        active = set(learner.cbs.keys())
        self.choices = list(choices(learner))
        learner.add_cbs(
            [c.plugin for c in self.choices if c.is_used and c.plugin not in active]
        )
        if self.show:
            for choice in self.choices:
                print(f"fast: {choice}")


def choices(learner: Learner) -> Iterator[Choice]:
    """Which plugins make a Learner faster where it runs, and which do not."""
    yield Choice("fused-optimizer", *_fused(learner))
    yield Choice("prefetch", *_prefetched(learner))
    yield Choice("channels-last", *_turned(learner.model, learner.device))
    yield Choice("compile", *_compiled(learner))
    yield Choice("mixed-precision", False, _why_not_halved(learner.device))


def _fused(learner: Learner) -> tuple[bool, str]:
    made_by: Any = learner.opt_func
    kind = getattr(made_by, "func", made_by)
    name = getattr(kind, "__name__", "the optimizer")
    device = learner.device.type
    if device in FUSED_ON.get(kind, ()):
        return True, f"since torch has {name} in a fused form for {device}"
    return False, f"since torch has no fused {name} for {device}"


def _prefetched(learner: Learner) -> tuple[bool, str]:
    loader = learner.dls.train
    if can_be_keyed(loader):
        return True, "to have the next batch ready in time"
    return False, f"since a {type(loader).__name__} has its batches its own way"


def _turned(model: nn.Module, device: torch.device) -> tuple[bool, str]:
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        return False, "since the model has no two-dimensional convolution"
    if device.type == "cuda":
        return True, "since GPUs convolve so"
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False, f"since convolutions on {device.type} gain little by it"
    if any(layer.groups > 1 for layer in layers):
        return False, "since convolutions in groups take longer so on a cpu"
    return True, "since convolutions on a cpu take about a tenth less so"


def _compiled(learner: Learner) -> tuple[bool, str]:
    for member in learner.cbs.members:
        if "compile" in member.targets("conflicts_with"):
            return False, f"since {member.key} does not go with it"
    reason = why_not_compiled("inductor", learner.device)
    if reason:
        return False, f"since {reason}"
    if learner.device.type == "cpu":
        # Measured: 5 to 15 % less a step, for 6 to 50 s at the beginning.
        return False, "since on a cpu it pays in runs of many minutes only"
    return True, "since kernels of its own make a GPU wait less"


def _why_not_halved(device: torch.device) -> str:
    reason = "since it changes more than the rounding of sums"
    if device.type == "cpu" and not _has_bfloat16():
        return f"{reason}, and this cpu has no bfloat16"
    return f"{reason}; large models gain by --with mixed-precision:amp_mode=bf16"


def _has_bfloat16() -> bool:
    # The operation is there only where torch is built with oneDNN.
    return torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs: no lines between its own."""
    from callboard.testing import Specimen

    return {
        "fast": Specimen(
            make=lambda: Fast(show=False),
            exempt={"removable": "it adds plugins, which stay until they are removed"},
        )
    }
