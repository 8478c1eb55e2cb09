"""What a fit finds and has to leave as it was, beside what is trained."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from callboard import Learner
from callboard.testing.conformance.watching import Same, in_words

ATTRIBUTES = (
    *("loss_func", "opt_func", "lr", "splitter", "path", "device", "seed"),
    *("train_bn", "model"),
)
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"),
    *("_backward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks"),
)
# Variables that torch sets by itself, when a part of it is first used.
TORCHS_OWN = "TORCHINDUCTOR_"
Furnishing = dict[str, Any]


def furnishing_of(learner: Learner) -> Furnishing:
    """What is there now: the Learner's parts, hooks, switches of torch, the process."""
    return {
        **dict(_of_learner(learner)),
        **dict(_of_model(learner.model)),
        **surroundings(),
    }


def surroundings() -> Furnishing:
    """What everything in this process shares: switches of torch, the process itself."""
    return {**dict(_of_torch()), **dict(_of_process())}


def _of_learner(learner: Learner) -> Iterator[tuple[str, Any]]:
    for name in ATTRIBUTES:
        value = getattr(learner, name)
        is_plain = isinstance(value, str | int | float)
        yield f"learner.{name}", value if is_plain else Same(value)
    yield "learner.dls", [Same(part) for part in (learner.dls, *learner.dls)]
    yield "learner.metrics", [Same(metric) for metric in learner.metrics]
    yield "learner.cbs", learner.cbs.keys()
    yield "learner.stage", learner.stage


def _of_model(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        place = f"model.{name}" if name else "model"
        yield f"{place}'s class", Same(type(module))
        for hooks in HOOKS:
            yield f"{place}.{hooks}", len(getattr(module, hooks))
        own = [key for key in vars(module) if not key.startswith("_")]
        yield f"{place}'s attributes", own
    for name, parameter in model.named_parameters():
        accumulated = getattr(parameter, "_post_accumulate_grad_hooks", None)
        yield f"hooks on model.{name}", len(accumulated or ())


def _of_torch() -> Iterator[tuple[str, Any]]:
    yield "torch.is_grad_enabled()", torch.is_grad_enabled()
    yield "torch.is_autocast_enabled()", torch.is_autocast_enabled("cpu")
    yield "torch.get_default_dtype()", torch.get_default_dtype()
    yield "torch.is_anomaly_enabled()", torch.is_anomaly_enabled()
    yield (
        "torch.are_deterministic_algorithms_enabled()",
        torch.are_deterministic_algorithms_enabled(),
    )
    yield "torch.get_num_threads()", torch.get_num_threads()
    yield (
        "torch.get_float32_matmul_precision()",
        torch.get_float32_matmul_precision(),
    )
    yield "torch.backends.cudnn.benchmark", torch.backends.cudnn.benchmark
    yield "torch.backends.cudnn.deterministic", torch.backends.cudnn.deterministic


def _of_process() -> Iterator[tuple[str, Any]]:
    for number in signal.Signals:
        yield f"the handler of {number.name}", Same(signal.getsignal(number))
    for name in ("stdout", "stderr", "excepthook"):
        yield f"sys.{name}", Same(getattr(sys, name))
    yield "the trace function", Same(sys.gettrace())
    yield "the profile function", Same(sys.getprofile())
    yield "the working folder", os.getcwd()
    own = (item for item in os.environ.items() if not item[0].startswith(TORCHS_OWN))
    yield "the environment", dict(own)
    yield "gc.isenabled()", gc.isenabled()
    yield "handlers of the root logger", [Same(each) for each in logging.root.handlers]
    yield "the level of the root logger", logging.root.level
    threads = (thread for thread in threading.enumerate() if not thread.daemon)
    # Without the numbers that Python gives them, which are others every time.
    yield "running threads", sorted(re.sub(r"\d+", "N", t.name) for t in threads)


def what_was_left(
    before: Furnishing, after: Furnishing, may_change: Collection[str] = ()
) -> Iterator[str]:
    """What is not as it was, a sentence each."""
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if was != now and name not in may_change:
            was, now = _where_they_differ(was, now)
            yield f"{name} was {in_words(was)} and is {in_words(now)}."


def _where_they_differ(was: Any, now: Any) -> tuple[Any, Any]:
    """The entries of two mappings or lists that differ; anything else as it is."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        return tuple({k: d[k] for k in keys if k in d} for d in (was, now))  # type: ignore[return-value]
    if isinstance(was, list) and isinstance(now, list):
        gone, new = _without(was, now), _without(now, was)
        return (gone, new) if gone or new else (was, now)
    return was, now


def _without(parts: list[Any], others: list[Any]) -> list[Any]:
    """A list without those of another one, each as often as it is in there."""
    left = list(parts)
    for each in others:
        if each in left:
            left.remove(each)
    return left
