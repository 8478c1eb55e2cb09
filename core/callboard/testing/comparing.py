"""Whether two runs are the same, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from callboard import Learner
from callboard.errors import CallboardError

# How long something took is never the same twice.
MEASURED = ("time", "seconds")
# What a state tells of how a run was made, and not of what came of it.
CIRCUMSTANCES = ("lock", "environment")


def assert_same_run(
    a: Learner | Mapping[str, Any],
    b: Learner | Mapping[str, Any],
    *,
    plugins: bool = True,
    ignore: Collection[str] = MEASURED,
) -> None:
    """Fail unless two runs ended the same, bit for bit.

    Compared are the model, the optimizer, the loss function, the position and the
    results; and the states and random streams of plugins.

    Args:
        a: A Learner after its fit, or what its ``state_dict`` returned.
        b: The other one.
        plugins: Whether plugins' states and results count. Where not, two runs with
            different plugins can be the same.
        ignore: Names that do not count at any depth: what clocks measured.

    Raises:
        AssertionError: They differ; says where, and how.
    """
    for difference in differences(a, b, plugins=plugins, ignore=ignore):
        raise AssertionError(f"The two runs are not the same: {difference}")


def differences(
    a: Learner | Mapping[str, Any],
    b: Learner | Mapping[str, Any],
    *,
    plugins: bool = True,
    ignore: Collection[str] = MEASURED,
) -> Iterator[str]:
    """Where two runs differ, a sentence each, as ``assert_same_run``."""
    one, other = (_what_came_of(run, plugins=plugins) for run in (a, b))
    yield from value_differences(one, other, ignore=ignore)


def value_differences(
    a: Any, b: Any, where: str = "", *, ignore: Collection[str] = MEASURED
) -> Iterator[str]:
    """Where two values made of numbers, text, tensors and containers differ.

    Args:
        a: A value.
        b: The other one.
        where: What they are called.
        ignore: Keys that do not count at any depth.
    """
    yield from _differences(a, b, where, frozenset(ignore))


def _what_came_of(run: Learner | Mapping[str, Any], *, plugins: bool) -> dict[str, Any]:
    state = dict(run.state_dict() if isinstance(run, Learner) else run)
    if "model" not in state or "loop" not in state:
        message = (
            "assert_same_run compares Learners, or what their state_dict returned."
        )
        raise CallboardError(message)
    for name in CIRCUMSTANCES:
        state.pop(name, None)
    if not plugins:
        state.pop("plugins"), state.pop("streams")
        # Plugins publish results.
        state["loop"] = {k: v for k, v in state["loop"].items() if k != "results"}
    return state


def _differences(a: Any, b: Any, where: str, ignored: frozenset[str]) -> Iterator[str]:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if not same_bits(a, b):
            yield f"{where} is {_in_words(a, b)}."
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            if key in ignored:
                continue
            place = f"{where}.{key}" if where else str(key)
            if key not in a or key not in b:
                which = "first" if key in a else "second"
                yield f"only the {which} one has {place}."
            else:
                yield from _differences(a[key], b[key], place, ignored)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            yield f"{where} has {len(a)} entries in one and {len(b)} in the other."
        for number, pair in enumerate(zip(a, b, strict=False)):
            yield from _differences(*pair, f"{where}.{number}", ignored)
    elif type(a) is not type(b) or not _is_equal(a, b):
        yield f"{where} is {a!r} in one and {b!r} in the other."


def _is_equal(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)  # NaN is the same as NaN


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits in the same type and shape."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_bits(a), _bits(b))


def _bits(tensor: Tensor) -> Tensor:
    # A tensor of no dimension cannot be seen as bytes.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _in_words(a: Tensor, b: Tensor) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        kinds = [f"{each.dtype} of shape {tuple(each.shape)}" for each in (a, b)]
        return f"{kinds[0]} in one and {kinds[1]} in the other"
    one, other = a.detach().cpu().reshape(-1), b.detach().cpu().reshape(-1)
    differs = (one != other) & ~((one != one) & (other != other))
    places = differs.nonzero().flatten().tolist()
    if not places:
        return "the same in value, but not in bits (NaN, or zeros of either sign)"
    first = places[0]
    return (
        f"not the same in {len(places)} of {a.numel()} numbers; the first are "
        f"{one[first].item()!r} and {other[first].item()!r}"
    )
