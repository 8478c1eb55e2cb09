"""Batches of any size, made of one batch; and loaders that give batches of a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from callboard.errors import DataError
from callboard.keyed import loader_options


def resized(batch: Any, size: int, before: int) -> Any:
    """A batch of another size: its samples, again and again, or the first of them.

    Args:
        batch: Tensors in tuples, lists and mappings. Those whose length is that of the
            batch have a row for each sample; the rest stays as it is.
        size: Number of samples that it is to have.
        before: Number of samples that it has.
    """
    if isinstance(batch, Tensor):
        if batch.ndim == 0 or batch.shape[0] != before:
            return batch
        rows = torch.arange(size, device=batch.device) % before
        return batch.index_select(0, rows)
    if isinstance(batch, Mapping):
        return {key: resized(part, size, before) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(resized(part, size, before) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(resized(part, size, before) for part in batch)
    return batch


def with_batch_size(loader: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
    """A loader of the same samples, in the same order, in batches of another size.

    Raises:
        DataError: Its batches are not made by torch's own ``BatchSampler``.
    """
    batches = getattr(loader, "batch_sampler", None)
    if type(loader) is not DataLoader or type(batches) is not BatchSampler:
        raise DataError(
            f"with_batch_size: the batches of this {type(loader).__name__} are not "
            "made by torch's own BatchSampler. Make it anew, with the size."
        )
    sampler = BatchSampler(batches.sampler, batch_size, batches.drop_last)
    return DataLoader(loader.dataset, batch_sampler=sampler, **loader_options(loader))
