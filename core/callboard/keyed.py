"""Batches whose random numbers hang on their position and on nothing else.

A map-style ``DataLoader`` is run through a twin of itself that knows the seed of every
batch. Whoever builds the batch, this process or any worker, first sets torch's, numpy's
and Python's global streams from it. Random augmentation in ``__getitem__`` or
``collate_fn`` then gives the same samples for any number of workers, whatever anybody
else draws.

The recipe keys a batch and not a sample: for small samples a key each costs up to nine
times the loading, a key a batch about nothing.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from callboard.state import derive_seed

# Odd, so that all batch numbers below 2**32 give different seeds; Knuth's
# multiplicative hash, The Art of Computer Programming vol. 3, section 6.4.
STRIDE = 0x9E3779B1
# numpy takes 32 bits, and torch's generator of the CPU uses no more.
MASK = (1 << 32) - 1


def global_streams() -> list[Callable[[int], object]]:
    """What sets the global random streams that a dataset may draw from."""
    # A generator's own manual_seed takes 2 microseconds, torch.manual_seed 300.
    streams: list[Callable[[int], object]] = [
        torch.default_generator.manual_seed,
        random.seed,
    ]
    if "numpy" in sys.modules:
        streams.append(sys.modules["numpy"].random.seed)
    return streams


class SeedingSampler(Sampler[Any]):
    """A sampler that sets the random streams before this process builds a batch.

    Attributes:
        sampler: The loader's own sampler or batch sampler.
        base: What the seeds of the next pass derive from; set before every pass.
        num_done: How many batches the next pass leaves out; set before every pass.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.base = 0
        self.num_done = 0

    def __iter__(self) -> Iterator[Any]:
        base, streams = self.base, global_streams()
        # Before the sampler draws its order: how much the loader itself has drawn by
        # now hangs on its workers.
        for set_stream in streams:
            set_stream(base & MASK)
        to_do = islice(enumerate(self.sampler, 1), self.num_done, None)
        for number, index in to_do:
            for set_stream in streams:
                set_stream(base + number * STRIDE & MASK)
            yield index

    def __len__(self) -> int:
        return len(self.sampler)


class Keyed(NamedTuple):
    """What a sampler gave, and the seed of the batch it is for."""

    seed: int
    index: Any


class KeyedSampler(SeedingSampler):
    """A sampler that sends every batch's seed along to the worker that builds it."""

    def __iter__(self) -> Iterator[Keyed]:
        base = self.base
        for set_stream in global_streams():
            set_stream(base & MASK)
        to_do = islice(enumerate(self.sampler, 1), self.num_done, None)
        for number, index in to_do:
            yield Keyed(base + number * STRIDE & MASK, index)


class KeyedDataset(Dataset[Any]):
    """A dataset, in a worker, that sets the random streams before it builds a batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, keyed: Keyed) -> Any:
        self._set_streams(keyed.seed)
        fetch_many = getattr(self.dataset, "__getitems__", None)
        if fetch_many is not None:
            return fetch_many(keyed.index)
        return [self.dataset[index] for index in keyed.index]

    def __getitem__(self, keyed: Keyed) -> Any:
        self._set_streams(keyed.seed)
        return self.dataset[keyed.index]

    def _set_streams(self, seed: int) -> None:
        for set_stream in global_streams():
            set_stream(seed)


def can_be_keyed(loader: object) -> bool:
    """Whether a loader is torch's own, over a dataset that is found by index.

    torchdata's is one too where nothing in it keeps a state of its own. Any other
    subclass may do anything in its ``__iter__`` and is left alone.
    """
    if type(loader) is not DataLoader and not _is_torchdatas(loader):
        return False
    dataset: Any = getattr(loader, "dataset", None)
    is_stateful = _is_torchdatas(loader) and hasattr(dataset, "state_dict")
    return not isinstance(dataset, IterableDataset) and not is_stateful


def _is_torchdatas(loader: object) -> bool:
    home = type(loader).__module__
    return isinstance(loader, DataLoader) and home.startswith("torchdata.stateful_")


def keeps_its_place(loader: object) -> bool:
    """Whether a loader itself tells where it is, and goes on from there."""
    has_state = all(
        callable(getattr(loader, name, None))
        for name in ("state_dict", "load_state_dict")
    )
    return has_state and not can_be_keyed(loader)


@dataclass(frozen=True)
class KeyedTwin:
    """A loader that gives what another gives, with keyed random numbers."""

    loader: DataLoader[Any]
    sampler: SeedingSampler

    def started_from(self, base: int, num_done: int = 0) -> DataLoader[Any]:
        """The loader, its next pass keyed by ``base`` and without the first batches."""
        self.sampler.base, self.sampler.num_done = base, num_done
        return self.loader


def loader_options(loader: DataLoader[Any]) -> dict[str, Any]:
    """The options of a loader but for dataset, batches and sampler.

    For a loader that differs from another in these only:

        DataLoader(loader.dataset, batch_sampler=mine, **loader_options(loader))
    """
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": loader.generator,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
        "in_order": getattr(loader, "in_order", True),
    }


def keyed_twin(loader: DataLoader[Any], *, persistent_workers: bool) -> KeyedTwin:
    """The keyed twin of a loader: same dataset, sampler, workers and collation."""
    options = loader_options(loader) | {"persistent_workers": persistent_workers}
    has_workers = loader.num_workers > 0
    dataset = KeyedDataset(loader.dataset) if has_workers else loader.dataset
    kind = KeyedSampler if has_workers else SeedingSampler
    if loader.batch_sampler is None:
        sampler = kind(loader.sampler)
        twin = DataLoader(dataset, batch_size=None, sampler=sampler, **options)
    else:
        sampler = kind(loader.batch_sampler)
        twin = DataLoader(dataset, batch_sampler=sampler, **options)
    return KeyedTwin(twin, sampler)


@contextmanager
def keyed_generators(loader: object, order: int) -> Iterator[None]:
    """Key the generators that a loader was given, and leave them as they were.

    The order then hangs on the position, and on the seed that the user gave them, but
    not on how often anybody went through the loader.

    Args:
        loader: A loader with generators of its own, or any other.
        order: What the order of this pass derives from.
    """
    before = [(each, each.get_state()) for each in _own_generators(loader)]
    for generator, _ in before:
        generator.manual_seed(derive_seed(order, generator.initial_seed()))
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


def _own_generators(loader: object) -> list[torch.Generator]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batch_sampler)
    owners = (loader, *samplers, getattr(batch_sampler, "sampler", None))
    found = {id(g): g for g in (getattr(owner, "generator", None) for owner in owners)}
    return [g for g in found.values() if isinstance(g, torch.Generator)]
