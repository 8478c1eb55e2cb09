"""State as plain data and tensors: into JSON with the tensors apart, and back.

JSON knows no tuples, no keys but text, no NaN and no bytes: each of these becomes an
object with one key that begins with ``~``. Nothing that comes back can be code.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from callboard.errors import StateError

MARK = "~"
# What safetensors can hold, and nothing that it would hold as something else.
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


def split(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """What JSON can hold of a state, and its tensors by name.

    The tensors are copies in the memory of the CPU, which training cannot change.

    Raises:
        StateError: It holds something that is neither plain data nor a tensor.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(state, "state", tensors), tensors


def _plain(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
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
        return {MARK + "tensor": _kept(value, where, tensors)}
    if isinstance(value, bytes):
        return {MARK + "bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, tensors)
    if isinstance(value, list | tuple):
        parts = [_plain(v, f"{where}[{n}]", tensors) for n, v in enumerate(value)]
        return parts if isinstance(value, list) else {MARK + "tuple": parts}
    raise StateError(
        f"{where} is of type {type(value).__name__}: a state_dict may hold numbers, "
        "text, lists, dicts and tensors only, since loading anything else could run "
        "code. A number of numpy becomes plain by `.item()`."
    )


def _plain_mapping(
    value: Mapping[Any, Any], where: str, tensors: dict[str, Tensor]
) -> Any:
    parts = [(k, _plain(v, f"{where}[{k!r}]", tensors)) for k, v in value.items()]
    if all(isinstance(k, str) and not k.startswith(MARK) for k in value):
        return dict(parts)
    return {MARK + "dict": [[_plain(k, where, tensors), v] for k, v in parts]}


def _kept(tensor: Tensor, where: str, tensors: dict[str, Tensor]) -> str:
    is_dense = tensor.layout is torch.strided and not tensor.is_quantized
    if tensor.dtype not in DTYPES or not is_dense:
        raise StateError(
            f"{where} is a tensor that cannot be saved ({tensor.dtype}, "
            f"{tensor.layout}): keep it as a dense one of another dtype."
        )
    name = str(len(tensors))
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def join(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that ``split`` took apart.

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
    "~bytes": lambda content, tensors: base64.b64decode(content),
    "~tuple": lambda content, tensors: tuple(join(part, tensors) for part in content),
    "~dict": lambda content, tensors: {
        join(key, tensors): join(value, tensors) for key, value in content
    },
}
