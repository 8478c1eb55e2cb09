"""All of a Learner that a plugin could change, read without touching it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from callboard import Learner
from callboard_trace.callback import Weights
from callboard_trace.values import Value, parts_of, value_of, value_of_tensors

Snapshot = dict[str, Value]
PLAIN = ("training", "stop_reason", "lr", "n_epoch", "on_non_finite")
OBJECTS = ("model", "loss_func", "opt_func", "opt", "dl")
BATCH = ("xb", "yb", "pred", "loss")


def snapshot_of(learner: Learner, weights: Weights, known: Snapshot) -> Snapshot:
    """What every attribute is at this moment, by name.

    Args:
        learner: Whose attributes.
        weights: How closely weights, gradients and the optimizer's state are told.
        known: The snapshot before.
    """
    seen = {
        name: value_of(thing, known.get(name)) for name, thing in _attributes(learner)
    }
    if weights == "model":
        for name, tensors in _of_the_model(learner).items():
            seen[name] = value_of_tensors(tensors, known.get(name))
    elif weights == "each":
        for name, tensor in _of_each_weight(learner):
            seen[name] = value_of(tensor, known.get(name))
    return seen


def _attributes(learner: Learner) -> Iterator[tuple[str, Any]]:
    for name in (*PLAIN, *OBJECTS):
        yield name, getattr(learner, name)
    for name in BATCH:
        yield from parts_of(name, getattr(learner, name))
    backward_loss = learner.backward_loss
    is_own = backward_loss is not learner.loss
    yield "loss_grad", backward_loss if is_own else None
    yield "dls.train", learner.dls.train
    yield "dls.valid", learner.dls.valid
    for name, result in learner.results.items():
        yield f"results.{name}", result
    yield "random.torch", torch.default_generator.get_state()
    yield from _of_modules(learner)
    yield from _hyper_parameters(learner)


def _of_modules(learner: Learner) -> Iterator[tuple[str, Any]]:
    modes = [module.training for module in learner.model.modules()]
    yield "model.training", _counted(modes, "modules")
    kept = [not parameter.requires_grad for parameter in learner.model.parameters()]
    yield "model.frozen", _counted(kept, "parameters")


def _counted(flags: list[bool], what: str) -> str:
    """How many, and which, in a line of text."""
    if sum(flags) in (0, len(flags)):
        return f"{'all' if any(flags) else 'none'} of {len(flags)} {what}"
    which = [str(number) for number, flag in enumerate(flags) if flag]
    return f"{len(which)} of {len(flags)} {what} (numbers {', '.join(which)})"


def _hyper_parameters(learner: Learner) -> Iterator[tuple[str, Any]]:
    if learner.opt is None:
        return
    for number, group in enumerate(learner.opt.param_groups):
        for key, setting in group.items():
            if key != "params":
                yield f"opt[{number}].{key}", setting


def _of_the_model(learner: Learner) -> Mapping[str, list[Tensor]]:
    parameters = list(learner.model.parameters())
    return {
        "weights": [*parameters, *learner.model.buffers()],
        "gradients": [p.grad for p in parameters if p.grad is not None],
        "opt.state": [tensor for _, tensor in _optimizer_state(learner)],
    }


def _of_each_weight(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    model = learner.model
    for name, parameter in model.named_parameters():
        yield f"weights.{name}", parameter
        if parameter.grad is not None:
            yield f"gradients.{name}", parameter.grad
    for name, buffer in model.named_buffers():
        yield f"weights.{name}", buffer
    yield from _optimizer_state(learner)


def _optimizer_state(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    if learner.opt is None:
        return
    names = {id(p): name for name, p in learner.model.named_parameters()}
    for parameter, state in learner.opt.state.items():
        name = names.get(id(parameter), "?")
        for key, kept in state.items():
            if isinstance(kept, Tensor):
                yield f"opt.state.{name}.{key}", kept
