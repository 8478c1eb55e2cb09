"""Step all weights in one call, where torch has the optimizer in a fused form.

Listens to  after_create, before_fit, teardown
Changes     how the optimizer works out its step: in the same numbers but for rounding;
            what torch loads for it
Source      torch's ``fused`` option of SGD, Adam, AdamW and Adagrad
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import MethodType
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from callboard import Callback

# Optimizers that torch has in a fused form, and the devices for which it does.
FUSED_ON: dict[type[Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("cpu", "cuda", "mps"),
    torch.optim.Adam: ("cpu", "cuda", "mps"),
    torch.optim.AdamW: ("cpu", "cuda", "mps"),
    torch.optim.Adagrad: ("cpu",),
}
# What a parameter group says of how its step is worked out.
HOW = ("fused", "foreach", "capturable", "differentiable")
COMPILER = "torch._dynamo"


class FusedOptimizer(Callback):
    """Lets torch's own optimizers update all weights in one call.

    Without it they take a dozen calls, and on a CPU a host read, for each weight. What
    cannot be fused steps as ever, and ``reason`` says why. Where nothing is compiled,
    torch's compiler is not loaded, which its optimizers spend a second on.

    Attributes:
        reason: Why the optimizer is not fused; empty where it is.
    """

    name = "fused-optimizer"
    role = "modify"
    stages = ("fit", "lr-find")

    def __init__(self) -> None:
        self.reason = ""
        self._has_fused = False

    def after_create(self) -> None:
        """Spare the optimizer that will be made the compiler."""
        spare_compiler()

    def before_fit(self) -> None:
        """Fuse the optimizer."""
        learner = self.learn
        has_sparse = any(getattr(m, "sparse", False) for m in learner.model.modules())
        self.reason = why_not(learner.opt, has_sparse=has_sparse)
        self._has_fused = not self.reason
        if self._has_fused:
            fuse(learner.opt)
        step_without_compiler(learner.opt)

    def teardown(self) -> None:
        """Leave the optimizer as it was."""
        if self._has_fused:
            self._has_fused = False
            unfuse(self.learn.opt)
        step_as_ever(self.learn.opt)


def why_not(opt: Optimizer, *, has_sparse: bool = False) -> str:
    """Why an optimizer cannot be fused; empty where it can.

    Args:
        opt: The optimizer.
        has_sparse: Whether gradients of the model may be sparse.
    """
    name = type(opt).__name__
    if type(opt) not in FUSED_ON:
        known = ", ".join(kind.__name__ for kind in FUSED_ON)
        return f"torch fuses {known}, and this is {name}"
    for group in opt.param_groups:
        for key in HOW[1:]:
            if group.get(key):
                return f"{name} was made with {key}"
    if has_sparse:
        return "gradients are sparse"
    for parameter in parameters_of(opt):
        device = parameter.device.type
        if device not in FUSED_ON[type(opt)]:
            return f"torch has no fused {name} on {device}"
        if not parameter.is_floating_point():
            return f"a parameter is {parameter.dtype}"
    return ""


def fuse(opt: Optimizer) -> None:
    """Fuse an optimizer, in place; its state stays."""
    for group in opt.param_groups:
        group["fused"] = True
        _put_step_counts(opt, group["params"], on_device=True)


def unfuse(opt: Optimizer) -> None:
    """Let an optimizer step as it was made to, in place; its state stays."""
    # Not what stood in the group before: a saved run that goes on brings True along.
    was_made_fused = opt.defaults.get("fused")
    for group in opt.param_groups:
        group["fused"] = was_made_fused
        if not was_made_fused:
            _put_step_counts(opt, group["params"], on_device=False)


def _put_step_counts(
    opt: Optimizer, parameters: list[Parameter], *, on_device: bool
) -> None:
    # A fused step reads them on a GPU, any other on the CPU.
    for parameter in parameters:
        state = opt.state.get(parameter, {})
        if isinstance(state.get("step"), torch.Tensor):
            place = parameter.device if on_device else torch.device("cpu")
            state["step"] = state["step"].to(place)


def parameters_of(opt: Optimizer) -> Iterator[Parameter]:
    """All parameters that an optimizer steps."""
    for group in opt.param_groups:
        yield from group["params"]


def spare_compiler() -> None:
    """Let optimizers be made without loading torch's compiler.

    Torch asks the compiler to keep out of them, and loads it for that, which takes a
    second. As long as nobody else has loaded it, it is out of everything. Does nothing
    where torch is built otherwise.
    """
    for method in vars(Optimizer).values():
        untraced = getattr(method, "__wrapped__", None)
        code = getattr(method, "__code__", None)
        if untraced is None or code is None or "disable_fn" not in code.co_varnames:
            continue
        if not hasattr(untraced, "__dynamo_disable"):
            untraced.__dynamo_disable = partial(_call_untraced, method, untraced)


def _call_untraced(
    method: Callable[..., Any], untraced: Any, *args: Any, **options: Any
) -> Any:
    if COMPILER not in sys.modules:
        return untraced(*args, **options)
    del untraced.__dynamo_disable  # from here on torch finds its own
    return method(*args, **options)


def step_without_compiler(opt: Optimizer) -> None:
    """Let an optimizer of torch step without loading the compiler, in place."""
    kind: Any = type(opt)
    step = _step_of(kind)
    is_changed = "step" in vars(opt) or opt.defaults.get("differentiable")
    if step is not None and not is_changed:
        # A method, since torch's schedulers take it apart to wrap it.
        opt.step = MethodType(step, opt)  # type: ignore[method-assign]


def step_as_ever(opt: Optimizer) -> None:
    """Take back what ``step_without_compiler`` has done."""
    kind: Any = type(opt)
    own = vars(opt).get("step")
    if own is not None and getattr(own, "__func__", None) is _step_of(kind):
        del opt.step


@cache
def _step_of(kind: Any) -> Callable[..., Any] | None:
    """A step that loads no compiler; None for what is not as torch made it."""
    raw = _raw_step(kind)
    if raw is None:
        return None

    def step(opt: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        if COMPILER in sys.modules or _is_watched(opt):
            return kind.step(opt, closure)
        with torch.no_grad():
            return raw(opt, closure)

    return step


def _raw_step(kind: type[Optimizer]) -> Callable[..., Any] | None:
    """What a step does, without what torch has put around it; None if all is other."""
    around: Any = kind.step
    while (inner := getattr(around, "__wrapped__", None)) is not None:
        if "_dynamo" in around.__code__.co_names:
            return inner  # type: ignore[no-any-return]
        around = inner
    return None


def _is_watched(opt: Optimizer) -> bool:
    return bool(
        torch._C._autograd._profiler_enabled()
        or opt._optimizer_step_pre_hooks
        or opt._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )
