"""Let the plugins that fit this machine make training faster, and say which and why.

Listens to  after_create
Changes     adds fused-optimizer, prefetch, channels-last, compile and mixed-precision
            (in bfloat16), as they fit
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
from callboard_mixed_precision import MixedPrecision

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen

# What a layer must be like for half precision to save more than conversions cost:
# measured on one core with bfloat16.
MIN_FEATURES = 128
MIN_CHANNELS = 32
MIN_ROWS = 128
SEQUENCE_LAYERS = (nn.Embedding, nn.MultiheadAttention)
FIRST_GPU_WITH_BFLOAT16 = (8, 0)


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
        made = {"mixed-precision": MixedPrecision("bf16")}
        learner.add_cbs(
            [
                made.get(c.plugin, c.plugin)
                for c in self.choices
                if c.is_used and c.plugin not in active
            ]
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
    yield Choice("mixed-precision", *_halved(learner))


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
    reason = _conflict(learner, "compile") or why_not_compiled(
        "inductor", learner.device
    )
    if reason:
        return False, f"since {reason}"
    if learner.device.type == "cpu":
        # Measured: 5 to 15 % less a step, for 6 to 50 s at the beginning.
        return False, "since on a cpu it pays in runs of many minutes only"
    return True, "since kernels of its own make a GPU wait less"


def _halved(learner: Learner) -> tuple[bool, str]:
    device, model = learner.device, learner.model
    reason = _conflict(learner, "mixed-precision")
    if reason:
        return False, f"since {reason}"
    if not _has_bfloat16(device):
        return False, f"since this {device.type} does not calculate in bfloat16"
    if any(p.dtype != torch.float32 for p in model.parameters()):
        return False, "since the weights are not all of float32"
    if not _is_wide(learner):
        return False, "since the layers are so small that converting costs more"
    said = f"in bfloat16, which this {device.type} calculates faster in"
    return True, f"{said}; losses differ in their third digit"


def _is_wide(learner: Learner) -> bool:
    """Whether most of the work is in layers that half precision makes faster."""
    modules = list(learner.model.modules())
    if any(
        isinstance(m, nn.Conv2d) and m.out_channels >= MIN_CHANNELS for m in modules
    ):
        return True
    rows = getattr(learner.dls.train, "batch_size", None) or 0
    if not any(isinstance(m, SEQUENCE_LAYERS) for m in modules) and rows < MIN_ROWS:
        return False
    layers = [m.weight for m in modules if isinstance(m, nn.Linear)]
    wide = [weight for weight in layers if min(weight.shape) >= MIN_FEATURES]
    return 2 * sum(w.numel() for w in wide) > sum(w.numel() for w in layers)


def _conflict(learner: Learner, plugin: str) -> str:
    for member in learner.cbs.members:
        if plugin in member.targets("conflicts_with"):
            return f"{member.key} does not go with it"
    return ""


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_GPU_WITH_BFLOAT16
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    # Without instructions for it, it is only imitated.
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs: no lines between its own."""
    from callboard.testing import Specimen

    return {
        "fast": Specimen(
            make=lambda: Fast(show=False),
            exempt={"removable": "it adds plugins, which stay until they are removed"},
        )
    }
