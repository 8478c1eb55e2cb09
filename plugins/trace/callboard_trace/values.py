"""What a value was at a moment: enough to tell it apart, and to show it to somebody."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

MAX_TEXT = 80
MAX_PARTS = 64
DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Value:
    """What something was at a moment.

    Attributes:
        identity: Two values with equal ones are the same, bit for bit.
        text: What is shown of it.
        shape: Of a tensor.
        dtype: Of a tensor.
        mean: Of a tensor's numbers.
        digest: Of a tensor's bits.
        thing: What it is, held for as long as its identity is that of an object.
    """

    identity: str
    text: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    mean: float | None = None
    digest: str | None = None
    thing: object = field(default=None, compare=False, repr=False)

    def as_data(self) -> dict[str, Any]:
        """Plain data, as a trace keeps it."""
        if self.digest is None:
            return {"text": self.text}
        return {
            "text": self.text,
            "shape": self.shape,
            "dtype": self.dtype,
            "mean": _plain_number(self.mean),
            "digest": self.digest,
        }


def _plain_number(number: float | None) -> float | str | None:
    """JSON has no NaN and no infinity."""
    if number is None or number - number == 0:
        return number
    return str(number)


def parts_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors and other parts of a batch or prediction, each by its name."""
    return islice(_parts(name, value, depth=0), MAX_PARTS)


def _parts(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and depth < 4:
        for key, part in value.items():
            yield from _parts(f"{name}.{key}", part, depth + 1)
    elif isinstance(value, list | tuple) and depth < 4:
        if len(value) == 1:
            yield from _parts(name, value[0], depth + 1)
        else:
            for number, part in enumerate(value):
                yield from _parts(f"{name}[{number}]", part, depth + 1)
    else:
        yield name, value


def value_of(thing: Any, known: Value | None = None) -> Value:
    """What a thing is at this moment.

    Args:
        thing: A tensor, plain data or any object.
        known: What it was before: given back where it is the same, so that the mean is
            worked out only of what has changed.
    """
    if isinstance(thing, Tensor):
        return value_of_tensors([thing], known, shape=tuple(thing.shape))
    if thing is None or isinstance(thing, str | int | float | bool):
        return _plain(repr(thing))
    if isinstance(thing, list | tuple) and all(
        part is None or isinstance(part, str | int | float | bool) for part in thing
    ):
        return _plain(repr(thing))
    kind = getattr(thing, "__name__", None) or f"a {type(thing).__name__}"
    return Value(f"object {id(thing)}", _short(str(kind)), thing=thing)


def _plain(text: str) -> Value:
    return Value(f"plain {text}", _short(text))


def _short(text: str) -> str:
    line = text if len(text) < MAX_TEXT and "\n" not in text else " ".join(text.split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 3] + "..."


def value_of_tensors(
    tensors: Iterable[Tensor],
    known: Value | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> Value:
    """What tensors are together, as one long row of numbers unless a shape is given."""
    plain = [tensor.detach() for tensor in tensors]
    hasher = hashlib.sha256()  # twice as fast as BLAKE2 where the processor helps
    try:
        for tensor in plain:
            _feed(hasher, tensor)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        # Such as one that is sparse, or on the meta device: it has no bits to read.
        kind = ", ".join(sorted({f"{t.dtype} on {t.device}" for t in plain}))
        return Value(f"unreadable {kind}", f"a tensor that cannot be read ({kind})")
    digest = hasher.hexdigest()[:DIGEST_DIGITS]
    if known is not None and known.digest == digest:
        return known
    size = sum(tensor.numel() for tensor in plain)
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in plain})
    mean = _mean(plain, size)
    return Value(
        identity=f"tensor {digest}",
        text=f"{mean:.6g}" if mean is not None else "no mean" if size else "no numbers",
        shape=(size,) if shape is None else shape,
        dtype=", ".join(dtypes) or None,
        mean=mean,
        digest=digest,
    )


def _feed(hasher: Any, tensor: Tensor) -> None:
    kind = f"{tensor.dtype} {tuple(tensor.shape)}"
    hasher.update(kind.encode())
    if not tensor.numel():
        return
    own = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    num_bytes = own.numel() * own.element_size()
    # As .numpy() would, but numpy need not be there, and it knows no bfloat16.
    hasher.update((ctypes.c_char * num_bytes).from_address(own.data_ptr()))


def _mean(tensors: list[Tensor], size: int) -> float | None:
    try:
        return sum(map(_sum, tensors)) / size if size else None
    except (RuntimeError, NotImplementedError):
        return None  # of bits that are no numbers


def _sum(tensor: Tensor) -> float:
    own = tensor.abs() if tensor.is_complex() else tensor
    # On the CPU, since MPS has no float64.
    return float(own.cpu().sum(dtype=torch.float64)) if own.numel() else 0.0
