"""State as plain data and tensors: into JSON with the tensors apart, and back.

JSON knows no tuples, no keys but text, no NaN and no bytes: each of these becomes an
object with one key that begins with ``~``. Nothing that comes back can be code.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from callboard.errors import StateError

MARK = "~"
SPREAD = MARK + "spread"
Where = tuple[Any, ...]
# What safetensors can hold, and nothing that it would hold as something else.
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


class Parts(NamedTuple):
    """A state, taken apart.

    Attributes:
        plain: What JSON can hold of it.
        tensors: Its tensors by number: copies in the memory of the CPU, which training
            cannot change.
        spread: Those that are spread over processes, by where they stand in the state
            (``model/0.weight``): no copies.
    """

    plain: Any
    tensors: dict[str, Tensor]
    spread: dict[str, Tensor]


def split(state: Any) -> Parts:
    """What JSON can hold of a state, and its tensors.

    Raises:
        StateError: It holds something that is neither plain data nor a tensor.
    """
    parts = Parts(None, {}, {})
    return parts._replace(plain=_plain(state, (), parts))


def _plain(value: Any, where: Where, parts: Parts) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and type(value).__module__ != "numpy":
        return int(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {MARK + "float": str(number)}
    if isinstance(value, Tensor):
        if hasattr(value, "to_local"):
            return {SPREAD: _spread(value, where, parts.spread)}
        return {MARK + "tensor": _kept(value, where, parts.tensors)}
    if isinstance(value, bytes):
        return {MARK + "bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, parts)
    if isinstance(value, list | tuple):
        values = [_plain(v, (*where, n), parts) for n, v in enumerate(value)]
        return values if isinstance(value, list) else {MARK + "tuple": values}
    raise StateError(
        f"{_said(where)} is of type {type(value).__name__}: a state_dict may hold "
        "numbers, text, lists, dicts and tensors only, since loading anything else "
        "could run code. A number of numpy becomes plain by `.item()`."
    )


def _plain_mapping(value: Mapping[Any, Any], where: Where, parts: Parts) -> Any:
    values = [(k, _plain(v, (*where, k), parts)) for k, v in value.items()]
    if all(isinstance(k, str) and not k.startswith(MARK) for k in value):
        return dict(values)
    return {MARK + "dict": [[_plain(k, where, parts), v] for k, v in values]}


def _kept(tensor: Tensor, where: Where, tensors: dict[str, Tensor]) -> str:
    _check(tensor, where)
    name = str(len(tensors))
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def _spread(tensor: Tensor, where: Where, spread: dict[str, Tensor]) -> str:
    """A name that is the same in all processes, as a JSON pointer is (RFC 6901)."""
    _check(tensor, where)
    name = "/".join(str(k).replace("~", "~0").replace("/", "~1") for k in where)
    if name in spread:
        raise StateError(f"{_said(where)} stands in the state twice.")
    spread[name] = tensor.detach()
    return name


def _check(tensor: Tensor, where: Where) -> None:
    is_dense = tensor.layout is torch.strided and not tensor.is_quantized
    if tensor.dtype not in DTYPES or not is_dense:
        raise StateError(
            f"{_said(where)} is a tensor that cannot be saved ({tensor.dtype}, "
            f"{tensor.layout}): keep it as a dense one of another dtype."
        )


def _said(where: Where) -> str:
    return "state" + "".join(f"[{key!r}]" for key in where)


def join(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that ``split`` took apart.

    Args:
        plain: As of ``Parts``.
        tensors: All of its tensors; those that were spread by ``SPREAD`` and name.

    Raises:
        StateError: It is nothing that ``split`` makes.
    """
    if isinstance(plain, list):
        return [join(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    mark = next((key for key in plain if key.startswith(MARK)), None)
    if mark is None:
        return {key: join(value, tensors) for key, value in plain.items()}
    try:
        return _READERS[mark](plain[mark], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{mark!r} cannot be read: {error}") from error


_READERS: Mapping[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "~float": lambda content, tensors: float(content),
    "~tensor": lambda content, tensors: tensors[content],
    SPREAD: lambda content, tensors: tensors[SPREAD + content],
    "~bytes": lambda content, tensors: base64.b64decode(content),
    "~tuple": lambda content, tensors: tuple(join(part, tensors) for part in content),
    "~dict": lambda content, tensors: {
        join(key, tensors): join(value, tensors) for key, value in content
    },
}
