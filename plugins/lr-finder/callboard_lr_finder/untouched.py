"""Put back all that a training changed, however it ended.

The training works on the Learner's own model and optimizer, since other plugins hold on
to them; what it changes is kept on the CPU before and copied back after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callboard import Callback
from callboard.errors import OptionError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from callboard import Learner

PutBack = Callable[[], object]
LEARNER_PARTS = ("model", "loss_func", "opt", "opt_func", "lr", "dls")
# These belong to the core, which looks after them itself.
NOT_A_CALLBACKS_OWN = ("learn", "_learn_ref", "rng")


@contextmanager
def untouched_training(
    learner: Learner, *, asked_by: str = "lr-finder"
) -> Iterator[None]:
    """Leave model, loss and optimizer as they were: values, gradients, hypers.

    Also every plain attribute of their modules, as the hidden state of a recurrent
    network. Memory: a copy of weights and optimizer on the CPU.

    Args:
        learner: Whose training it is.
        asked_by: Name of the plugin that an error is told in.

    Raises:
        OptionError: The model has parameters without a shape yet.
    """
    with ExitStack() as stack:
        modules = list(learner.model.modules())
        if isinstance(learner.loss_func, nn.Module):
            modules += learner.loss_func.modules()
        for part in LEARNER_PARTS:
            stack.callback(setattr, learner, part, getattr(learner, part))
        if learner.opt is not None:
            stack.callback(keep_optimizer(learner.opt))
        for module in modules:
            stack.callback(keep_module(module, asked_by))
        yield


@contextmanager
def untouched_plugins(learner: Learner, stage: str) -> Iterator[None]:
    """Leave what plugins that take part in a stage hold in mind as it was.

    Attributes that they set anew are put back, and what their ``state_dict`` told.
    """
    with ExitStack() as stack:
        for member in learner.cbs.members:
            if isinstance(member.plugin, Callback) and stage in member.stages:
                stack.callback(keep_callback(member.plugin))
        yield


def keep_callback(callback: Callback) -> PutBack:
    """What puts a callback back as it is now."""
    # Not copied but held: copies of a file or a lock would be of no use.
    attributes = dict(vars(callback))
    state = copy.deepcopy(callback.state_dict())

    def put_back() -> None:
        put_back_entries(vars(callback), attributes, but=NOT_A_CALLBACKS_OWN)
        if state:
            callback.load_state_dict(state)

    return put_back


def put_back_entries(
    entries: dict[str, Any], before: Mapping[str, Any], but: tuple[str, ...] = ()
) -> None:
    """Make a dictionary hold what it held before, except for some keys."""
    for key in [key for key in entries if key not in before and key not in but]:
        del entries[key]
    for key, value in before.items():
        if key not in but:
            entries[key] = value


def keep_module(module: nn.Module, asked_by: str) -> PutBack:
    """What puts a module's own parameters, buffers and attributes back."""
    own = [*module._parameters.items(), *module._buffers.items()]
    for name, tensor in own:
        if tensor is not None and is_lazy(tensor):
            raise OptionError(
                f"{asked_by}: {type(module).__name__}.{name} has no shape yet; call "
                "the model on one batch first, then its weights can be put back."
            )
    tensors = [keep_tensor(tensor) for _, tensor in own if tensor is not None]
    before = dict(vars(module))
    registers = [(register, dict(register)) for register in _registers(module)]
    is_extra = type(module).get_extra_state is not nn.Module.get_extra_state
    extra = copy.deepcopy(module.get_extra_state()) if is_extra else None

    def put_back() -> None:
        put_back_entries(vars(module), before)
        for register, entries in registers:
            put_back_entries(register, entries)
        for put_tensor_back in tensors:
            put_tensor_back()
        if is_extra:
            module.set_extra_state(extra)

    return put_back


def _registers(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


def keep_tensor(tensor: Tensor) -> PutBack:
    """What puts values, gradient and ``requires_grad`` of a tensor back, in place."""
    kept, device = tensor.detach().to("cpu", copy=True), tensor.device
    # Set aside, so that nothing adds to it.
    gradient, requires_grad = tensor.grad if tensor.is_leaf else None, None
    if tensor.is_leaf:
        tensor.grad, requires_grad = None, tensor.requires_grad

    @torch.no_grad()
    def put_back() -> None:
        is_alike = tensor.shape == kept.shape and tensor.dtype == kept.dtype
        if not is_alike or tensor.device != device:
            tensor.data = kept.to(device)
        elif not torch.equal(tensor.detach().cpu(), kept):
            tensor.copy_(kept)
        if requires_grad is not None:
            tensor.requires_grad_(requires_grad)
            tensor.grad = gradient

    return put_back


def keep_optimizer(opt: Optimizer) -> PutBack:
    """What puts state and hyper-parameters of an optimizer back."""
    groups = [
        (group, keep_values(group, but=("params",))) for group in opt.param_groups
    ]
    params = [list(group["params"]) for group in opt.param_groups]
    states = [(p, keep_values(state)) for p, state in opt.state.items()]

    def put_back() -> None:
        opt.param_groups[:] = [group for group, _ in groups]
        for (group, values), group_params in zip(groups, params, strict=True):
            group.clear()
            group["params"] = group_params
            group.update(values())
        opt.state.clear()
        for p, values in states:
            opt.state[p] = values()

    return put_back


def keep_values(
    values: Mapping[str, Any], but: tuple[str, ...] = ()
) -> Callable[[], dict[str, Any]]:
    """What gives values as they are now; tensors keep their identity and place."""
    kept = {
        key: partial(_refilled, value, keep_tensor(value))
        if isinstance(value, Tensor)
        else partial(_same, copy.deepcopy(value))
        for key, value in values.items()
        if key not in but
    }
    return lambda: {key: give() for key, give in kept.items()}


def _refilled(tensor: Tensor, put_back: PutBack) -> Tensor:
    put_back()
    return tensor


def _same(value: Any) -> Any:
    return value
