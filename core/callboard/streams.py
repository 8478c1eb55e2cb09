"""The random streams that a run draws from: the global ones, and those of its parts.

A dataset, a transform, a sampler, a collation, a model, a loss or a plugin may hold a
``numpy.random.Generator`` or ``RandomState``, a ``random.Random`` or a
``torch.Generator``, or use its module's. They are found by looking: at attributes,
elements of containers, what a function keeps and which globals its code names. One that
is made only when the first sample is asked for is not found.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import torch

# numpy takes 32 bits, and torch's generator of the CPU uses no more.
MASK = (1 << 32) - 1
# What is looked at: enough for any chain of transforms, little for a list of samples.
MOST_OBJECTS, MOST_ELEMENTS = 2_000, 64
# So that two streams that are set for one batch draw different numbers.
BETWEEN_STREAMS = 0x85EBCA6B
LIBRARIES = (
    *("torch", "numpy", "builtins", "collections", "functools", "typing"),
    "callboard",
)
LEAVES = (str, bytes, bytearray, int, float, complex, type, ModuleType, torch.Tensor)
OF_MODULES = frozenset(vars(torch.nn.Module()))
ARRAY = "array of"
SAMPLERS = "torch.utils.data.sampler"

SetStream = Callable[[int], object]


class Stream(NamedTuple):
    """A random stream: how it is set from a seed, and its state."""

    set: SetStream
    get_state: Callable[[], Any]
    set_state: Callable[[Any], object]


def global_streams() -> list[SetStream]:
    """What sets the global random streams of the CPU."""
    # A generator's own manual_seed takes 2 microseconds, torch.manual_seed 300.
    streams: list[SetStream] = [torch.default_generator.manual_seed, random.seed]
    if "numpy" in sys.modules:
        streams.append(sys.modules["numpy"].random.seed)
    return streams


def all_streams(*roots: object) -> list[SetStream]:
    """What sets the global streams, and those that these objects hold."""
    own = [
        partial(_set_apart, stream.set, number * BETWEEN_STREAMS)
        for number, stream in enumerate(own_streams(*roots), 1)
    ]
    return [*global_streams(), *own]


def _set_apart(set_stream: SetStream, offset: int, seed: int) -> None:
    set_stream(seed + offset & MASK)


@contextmanager
def left_as_they_were(*roots: object) -> Iterator[None]:
    """Put the streams that these objects hold back in the end."""
    with put_back(own_streams(*roots)):
        yield


@contextmanager
def put_back(streams: Iterable[Stream]) -> Iterator[None]:
    """Put these streams back in the end."""
    before = [(stream, stream.get_state()) for stream in streams]
    try:
        yield
    finally:
        for stream, state in before:
            stream.set_state(state)


def states_of(streams: Iterable[Stream]) -> list[Any]:
    """Where streams are: plain data and tensors."""
    return [_plain(stream.get_state()) for stream in streams]


def put_at(streams: Iterable[Stream], states: Iterable[Any]) -> None:
    """Put streams where ``states_of`` has found them.

    Raises:
        ValueError, TypeError: A state is none, or of another kind of stream.
    """
    for stream, state in zip(streams, states, strict=True):
        stream.set_state(_as_it_was(state))


def _plain(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _plain(part) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return [_plain(part) for part in state]
    if hasattr(state, "tolist") and not isinstance(state, torch.Tensor):
        return {ARRAY: str(state.dtype), "values": state.tolist()}
    return state


def _as_it_was(state: Any) -> Any:
    if isinstance(state, Mapping) and ARRAY in state:
        return sys.modules["numpy"].array(state["values"], state[ARRAY])
    if isinstance(state, Mapping):
        return {name: _as_it_was(part) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return tuple(_as_it_was(part) for part in state)
    return state


def own_streams(
    *roots: object, left_out: Iterable[object] = (), without: tuple[type, ...] = ()
) -> list[Stream]:
    """The random streams that objects hold, in an order that hangs on these alone.

    Args:
        roots: Where to look.
        left_out: What is not looked at, nor what only these hold.
        without: The same for all objects of these types.
    """
    found: list[Stream] = []
    known = [*_global_objects(), *left_out]
    seen: dict[int, object] = {id(each): each for each in known}
    waiting = deque(roots)
    num_left = MOST_OBJECTS
    while waiting and num_left:
        held = waiting.popleft()
        if isinstance(held, (*LEAVES, *without)) or held is None or id(held) in seen:
            continue
        if type(held).__module__ == SAMPLERS:  # their generators are the loader's
            continue
        seen[id(held)] = held
        # A model has as many modules as it has; each of them holds little.
        num_left -= not isinstance(held, torch.nn.Module)
        stream = _as_stream(held)
        if stream is not None:
            found.append(stream)
        else:
            waiting.extend(_parts_of(held))
    return found


def _global_objects() -> list[object]:
    """Streams that are set by themselves already."""
    numpy = sys.modules.get("numpy")
    pythons = getattr(random.random, "__self__", None)
    numpys = getattr(numpy and numpy.random.random, "__self__", None)
    return [torch.default_generator, pythons, numpys]


def _as_stream(held: Any) -> Stream | None:
    if isinstance(held, torch.Generator):
        return Stream(held.manual_seed, held.get_state, held.set_state)
    if isinstance(held, random.Random) and not isinstance(held, random.SystemRandom):
        return Stream(held.seed, held.getstate, held.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(held, numpy.random.RandomState):
        return Stream(held.seed, held.get_state, held.set_state)
    if isinstance(held, numpy.random.Generator):
        bits = held.bit_generator
        return Stream(
            partial(_set_bits, bits),
            lambda: bits.state,
            lambda state: setattr(bits, "state", state),
        )
    return None


def _set_bits(bits: Any, seed: int) -> None:
    bits.state = type(bits)(seed).state


def _parts_of(held: Any) -> Iterator[object]:
    if isinstance(held, Mapping):
        yield from _first(held.values())
    elif isinstance(held, list | tuple | set | frozenset | deque):
        yield from _first(held)
    elif isinstance(held, partial):
        yield from (held.func, held.args, held.keywords)
    elif isinstance(held, MethodType):
        yield from (held.__self__, held.__func__)
    elif isinstance(held, BuiltinMethodType):
        yield held.__self__
    elif isinstance(held, FunctionType):
        yield from _parts_of_function(held)
    yield from _attributes(held)
    yield from _methods(held)


def _first(elements: Iterable[object]) -> Iterator[object]:
    try:
        yield from islice(elements, MOST_ELEMENTS)
    except Exception:  # a container that computes what it holds, and cannot now
        return


def _attributes(held: object) -> Iterator[object]:
    # Not by getattr: a property is code of somebody's, which looking must not run.
    attributes: dict[str, Any] = {}
    with suppress(AttributeError):
        attributes = dict(object.__getattribute__(held, "__dict__"))
    if isinstance(held, torch.nn.Module):
        # Of what every module has, its parts alone: a model has thousands of modules.
        yield from attributes.get("_modules", {}).values()
        attributes = {n: v for n, v in attributes.items() if n not in OF_MODULES}
    yield from attributes.values()
    for kind in _users_kinds(held):
        for slot in list(vars(kind).values()):
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):
                    yield slot.__get__(held)


def _methods(held: object) -> Iterator[object]:
    """The methods that a user's class has written, for the globals that they use."""
    for kind in _users_kinds(held):
        for member in list(vars(kind).values()):
            if isinstance(member, staticmethod | classmethod):
                yield member.__func__
            elif isinstance(member, FunctionType):
                yield member


def _users_kinds(held: object) -> Iterator[type]:
    return (kind for kind in type(held).__mro__ if not _is_librarys(kind.__module__))


def _is_librarys(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


def _parts_of_function(function: FunctionType) -> Iterator[object]:
    yield from (function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty as yet
            continue
    if _is_librarys(function.__module__):
        return
    for name in _names_in(function.__code__):
        yield function.__globals__.get(name)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
