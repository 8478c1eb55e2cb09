"""Batches of any structure: copied to the CPU, joined, put into order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from callboard.errors import OptionError


def on_cpu(data: Any) -> Any:
    """A copy of every tensor in tuples, lists and mappings, on the CPU and detached.

    Copied there too: a model or loader may write its next batch into the same memory.
    """
    if isinstance(data, Tensor):
        return data.detach().to("cpu", copy=True)
    if isinstance(data, Mapping):
        return {key: on_cpu(part) for key, part in data.items()}
    if isinstance(data, tuple | list):
        parts = [on_cpu(part) for part in data]
        return tuple(parts) if isinstance(data, tuple) else parts
    return data


def joined(batches: Sequence[Any], dim: int) -> Any:
    """All batches as one, tensor by tensor along a dimension.

    Tuples and mappings are joined part by part. Where tensors do not fit together the
    result is a list of one entry a batch; where there is nothing, None.
    """
    if all(batch is None for batch in batches):
        return None
    first = batches[0]
    if all(isinstance(batch, Tensor) for batch in batches):
        return _joined_tensors(batches, dim)
    if all(isinstance(b, Mapping) and b.keys() == first.keys() for b in batches):
        return {key: joined([b[key] for b in batches], dim) for key in first}
    if all(isinstance(batch, tuple | list) for batch in batches):
        if all(len(b) == len(first) and has_tensor(b) for b in batches):
            return tuple(joined(parts, dim) for parts in zip(*batches, strict=True))
        if not any(map(has_tensor, batches)):  # texts, one an item
            return [item for batch in batches for item in batch]
    return list(batches)


def _joined_tensors(batches: Sequence[Tensor], dim: int) -> Tensor | list[Tensor]:
    if all(batch.ndim == 0 for batch in batches):
        return torch.stack(list(batches))
    try:
        return torch.cat(list(batches), dim)
    except (IndexError, RuntimeError):
        return list(batches)


def reordered(data: Any, indices: Sequence[int], dim: int) -> Any:
    """Items that came in the order of ``indices``, in the order of the dataset."""
    places = sorted(range(len(indices)), key=indices.__getitem__)
    if isinstance(data, Tensor):
        dim = dim if data.ndim > dim else 0
        if data.shape[dim] == len(places):
            return data.index_select(dim, torch.tensor(places))
    if isinstance(data, Mapping):
        return {key: reordered(part, indices, dim) for key, part in data.items()}
    if isinstance(data, tuple):
        return tuple(reordered(part, indices, dim) for part in data)
    if data is None:
        return None
    if isinstance(data, list) and len(data) == len(places) and not has_tensor(data):
        return [data[place] for place in places]
    raise OptionError(
        "get_preds: batches of different shapes cannot be put into the order of the "
        "dataset. Give reorder=False and take them in the order of the loader."
    )


def combined(
    first: Any, second: Any, combine: Callable[[Tensor, Tensor], Tensor]
) -> Any:
    """Two things of one structure as one, tensor by tensor."""
    if isinstance(first, Tensor):
        return combine(first, second)
    if isinstance(first, Mapping):
        return {key: combined(first[key], second[key], combine) for key in first}
    if isinstance(first, tuple | list):
        pairs = zip(first, second, strict=True)
        parts = [combined(one, other, combine) for one, other in pairs]
        return tuple(parts) if isinstance(first, tuple) else parts
    return first


def has_tensor(data: Any) -> bool:
    if isinstance(data, Mapping):
        data = tuple(data.values())
    if isinstance(data, tuple | list):
        return any(map(has_tensor, data))
    return isinstance(data, Tensor)
