"""What a plugin changes in a Learner: seen before and after each of its hookimpls."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from callboard import Learner
from callboard.activation import ActivePlugin
from callboard.hookimpls import Hookimpl

Seen = dict[str, Any]
# What the loop keeps for itself; of the results, only what others have published there.
NOT_WATCHED = ("results", "plan", "record", "pct_train")
RESULT = "learner.results"
HYPER, GLOBAL_STREAM, OWN_STREAM = "opt.param_groups", "stream of", "plugin stream of"


@dataclass(frozen=True)
class Change:
    """Something that was not the same after a hookimpl as before it."""

    event: str
    attribute: str
    before: str
    after: str

    def __str__(self) -> str:
        return (
            f"{self.event} changed {self.attribute} from {self.before} to {self.after}."
        )


class Watcher:
    """Looks on at the hookimpls of the plugins that join a Learner from now on.

    Attributes:
        changes: What they have changed.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.changes: list[Change] = []
        self._published: set[str] = set()
        learner._board.watch = self._around

    def _around(self, member: ActivePlugin, impl: Hookimpl) -> Callable[..., Any]:
        def watched(*given: Any) -> Any:
            with self._watching(impl.event):
                return impl.function(*given)

        def watched_wrapper(*given: Any) -> Generator[Any, Any, Any]:
            generator = impl.function(*given)
            with self._watching(impl.event):
                first = next(generator)
            result = None
            try:
                result = yield first
            except BaseException as error:
                go_on = partial(generator.throw, error)
            else:
                go_on = partial(generator.send, result)
            with self._watching(impl.event):
                try:
                    go_on()
                except StopIteration as end:
                    self._has_returned(impl.event, result, end.value)
                    return end.value
            raise RuntimeError(f"{impl.event} has a second `yield`")

        return watched_wrapper if impl.is_wrapper else watched

    @contextmanager
    def _watching(self, event: str) -> Iterator[None]:
        before = seen(self.learner)
        try:
            yield
        finally:
            after = seen(self.learner)
            self.changes += [
                Change(event, name, in_words(before.get(name)), in_words(value))
                for name, value in after.items()
                if name != RESULT and not is_same(before.get(name), value)
            ]
            self.changes += self._of_results(event, before, after)

    def _of_results(self, event: str, before: Seen, after: Seen) -> Iterator[Change]:
        """What became of results that somebody else had published."""
        then, now = before[RESULT], after[RESULT]
        self._published |= now.keys() - then.keys()
        for key in then.keys() - self._published:
            if key not in now or not is_same(then[key], now[key]):
                became = in_words(now[key]) if key in now else "nothing"
                yield Change(event, f'{RESULT}["{key}"]', in_words(then[key]), became)

    def _has_returned(self, event: str, given: Any, returned: Any) -> None:
        """Look at what a wrapper made of the result that it was given."""
        if returned is not None and returned is not given:
            words = in_words(_token(given)), in_words(_token(returned))
            self.changes.append(Change(event, "the result of the event", *words))


def seen(learner: Learner) -> Seen:
    """All of a Learner that a plugin could change, in a form that can be compared."""
    found: Seen = dict(_attributes(learner))
    found |= _of_model(learner.model)
    found |= _of_optimizer(learner.opt)
    found |= _of_streams(learner)
    return found


def _attributes(learner: Learner) -> Iterator[tuple[str, Any]]:
    for name, value in vars(learner).items():
        if not name.startswith("_") and name not in NOT_WATCHED:
            yield f"learner.{name}", _token(value)
    # Reading it makes a tensor of its own of it, which changes no number.
    loss_grad = learner._loss_grad
    loss = learner.loss if loss_grad is None else loss_grad
    yield "learner.loss_grad", _token(loss)
    yield RESULT, {key: _token(value) for key, value in learner.results.items()}
    dls = learner.dls
    yield "learner.dls", [Same(loader) for loader in (dls, *dls)]


def _of_model(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        yield f"model.{name}", _token(parameter)
        yield f"model.{name}.grad", _token(parameter.grad)
        yield f"model.{name}.requires_grad", parameter.requires_grad
    for name, buffer in model.named_buffers():
        yield f"model.{name}", _token(buffer)
    for name, module in model.named_modules():
        place = f"model.{name}" if name else "model"
        yield f"{place}.training", module.training


def _of_optimizer(opt: torch.optim.Optimizer | None) -> Iterator[tuple[str, Any]]:
    if opt is None:
        return
    for number, group in enumerate(opt.param_groups):
        for key, value in group.items():
            if key != "params":
                yield f"{HYPER}[{number}].{key}", _token(value)
    for number, state in enumerate(opt.state.values()):
        for key, value in state.items():
            yield f"opt.state[{number}].{key}", _token(value)


def global_streams() -> Iterator[tuple[str, Any]]:
    """The random streams that everybody draws from who asks for no other."""
    yield f"{GLOBAL_STREAM} torch", _token(torch.get_rng_state())
    yield f"{GLOBAL_STREAM} Python's random", random.getstate()
    if "numpy" in sys.modules:
        state = sys.modules["numpy"].random.get_state(legacy=False)["state"]
        yield f"{GLOBAL_STREAM} numpy", (state["key"].tobytes(), state["pos"])


def _of_streams(learner: Learner) -> Iterator[tuple[str, Any]]:
    yield from global_streams()
    for key, stream in learner._streams.items():
        yield f"{OWN_STREAM} {key}", _token(stream.get_state())


class Same:
    """Stands for an object of which only matters that it is this one."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __repr__(self) -> str:
        name = getattr(self.thing, "__name__", "")
        return str(name or f"a {type(self.thing).__name__}")


@dataclass(frozen=True)
class _Tensor:
    """What a tensor was at a moment."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    content: bytes
    mean: float

    def __repr__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}{list(self.shape)} of mean {self.mean:.6g}"


def _token(value: Any) -> Any:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        mean = float(plain.double().mean()) if plain.numel() else 0.0
        return _Tensor(plain.dtype, tuple(plain.shape), content, mean)
    if isinstance(value, Mapping):
        return {key: _token(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_token(part) for part in value]
    is_plain = value is None or isinstance(value, str | int | float | bool)
    return value if is_plain else Same(value)


def is_same(before: Any, after: Any) -> bool:
    """Whether two of the forms that ``seen`` gives stand for the same."""
    return bool(before == after) or (before != before and after != after)


def in_words(value: Any) -> str:
    """What stood there, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
