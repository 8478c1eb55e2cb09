"""Loaders that give all items, in the order of the dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)


def loader_over_all(loader: Any, *, reorder: bool) -> tuple[Any, list[Any] | None]:
    """A loader for an evaluation, and its indices where results need sorting by them.

    A ``DataLoader`` is never gone through itself: with persistent workers that would
    end a pass that is under way. Its twin gives all items, in the order of the dataset;
    batches of the user's own batch sampler stay together and are sorted afterwards.
    Other iterables are used as they are.
    """
    is_torchs = isinstance(loader, DataLoader)
    if not is_torchs or type(loader).__iter__ is not DataLoader.__iter__:
        return loader, None
    twin = partial(DataLoader, loader.dataset, **_settings(loader))
    batches, size = loader.batch_sampler, loader.batch_size
    if isinstance(loader.dataset, IterableDataset):
        return twin(batch_size=size), None
    if batches is None:
        sampler = in_order(loader.sampler) if reorder else loader.sampler
        return twin(batch_size=None, sampler=sampler), None
    if not reorder:
        return twin(batch_sampler=batches), None
    if type(batches) is BatchSampler:
        sampler = in_order(batches.sampler)
        return twin(batch_size=batches.batch_size, sampler=sampler), None
    all_batches = [list(batch) for batch in batches]
    indices = [index for batch in all_batches for index in batch]
    return twin(batch_sampler=all_batches), indices if _are_numbers(indices) else None


def in_order(sampler: Any) -> Any:
    """The indices that a sampler gives, sorted; all of a dataset that it shuffles."""
    if type(sampler) is SequentialSampler:
        return sampler
    if type(sampler) is RandomSampler and not sampler.replacement:
        num_items = len(sampler.data_source)
        if sampler.num_samples == num_items:
            return range(num_items)
    indices = list(sampler)
    return sorted(indices) if _are_numbers(indices) else indices


def _are_numbers(indices: Sequence[Any]) -> bool:
    return all(isinstance(index, int) for index in indices)


def _settings(loader: DataLoader[Any]) -> dict[str, Any]:
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "in_order": loader.in_order,
    }


@contextmanager
def untouched_generators(loader: Any) -> Iterator[None]:
    """Leave the generators that a loader and its samplers own as they were."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batch_sampler)
    owners = (loader, *samplers, getattr(batch_sampler, "sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
