"""Batches whose random numbers hang on their position and on nothing else.

A map-style ``DataLoader`` is run through a twin of itself that knows the seed of every
batch. Whoever builds the batch, this process or any worker, first sets torch's, numpy's
and Python's global streams from it, and those that dataset and collation hold
(``streams.py``). Random augmentation in ``__getitem__`` or ``collate_fn`` then gives
the same samples for any number of workers, whatever anybody else draws. A sampler of
the user's own is set before each of its draws.

The recipe keys a batch and not a sample: for small samples a key each costs up to nine
times the loading, a key a batch about nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler

from callboard.state import derive_seed
from callboard.streams import MASK, SetStream, all_streams, left_as_they_were

# Odd, so that all batch numbers below 2**32 give different seeds; Knuth's
# multiplicative hash, The Art of Computer Programming vol. 3, section 6.4.
STRIDE = 0x9E3779B1
# What separates the draws of a sampler from those of the batch that it is for.
OF_SAMPLER = 0xC2B2AE35


class SeedingSampler(Sampler[Any]):
    """A sampler that sets the random streams before this process builds a batch.

    Attributes:
        sampler: The loader's own sampler or batch sampler.
        draws_at: What draws from random streams while a batch is built here.
        base: What the seeds of the next pass derive from; set before every pass.
        order: What those derive from that are set before the sampler draws.
        num_done: How many batches the next pass leaves out; set before every pass.
    """

    def __init__(self, sampler: Any, draws_at: Sequence[object] = ()) -> None:
        self.sampler = sampler
        self.draws_at = draws_at
        self.base = 0
        self.order = 0
        self.num_done = 0

    def __iter__(self) -> Iterator[Any]:
        base, streams = self.base, all_streams(*self.draws_at)
        for number, index in self._numbered():
            for set_stream in streams:
                set_stream(base + number * STRIDE & MASK)
            yield index

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """What the sampler gives, behind the batches that are done, from number 1 on.

        The streams are set before it draws its order, since how much the loader itself
        has drawn by now hangs on its workers. One that may draw later is set before
        every batch.
        """
        drawing = _users_samplers(self.sampler)
        base, streams = self.order + OF_SAMPLER, all_streams(*drawing)
        for set_stream in streams:
            set_stream(base & MASK)
        numbered: Iterator[tuple[int, Any]] = enumerate(self.sampler, 1)
        if drawing:
            numbered = _with_keyed_draws(numbered, base, streams)
        return islice(numbered, self.num_done, None)

    def __len__(self) -> int:
        return len(self.sampler)


def _with_keyed_draws(
    numbered: Iterator[tuple[int, Any]], base: int, streams: Sequence[SetStream]
) -> Iterator[tuple[int, Any]]:
    for pair in numbered:
        yield pair
        for set_stream in streams:
            set_stream(base + (pair[0] + 1) * STRIDE & MASK)


class Keyed(NamedTuple):
    """What a sampler gave, and the seed of the batch it is for."""

    seed: int
    index: Any


class KeyedSampler(SeedingSampler):
    """A sampler that sends every batch's seed along to the worker that builds it."""

    def __iter__(self) -> Iterator[Keyed]:
        for number, index in self._numbered():
            yield Keyed(self.base + number * STRIDE & MASK, index)


class KeyedDataset(Dataset[Any]):
    """A dataset, in a worker, that sets the random streams before it builds a batch."""

    def __init__(self, dataset: Any, draws_at: Sequence[object] = ()) -> None:
        self.dataset = dataset
        self.draws_at = draws_at
        # Found in the worker, whose objects are others than those here.
        self.streams: list[SetStream] | None = None

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
        if self.streams is None:
            self.streams = all_streams(*self.draws_at)
        for set_stream in self.streams:
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

    def started_from(
        self, base: int, num_done: int = 0, order: int | None = None
    ) -> DataLoader[Any]:
        """The loader, its next pass keyed by ``base`` and without the first batches.

        Args:
            base: What the seeds of batches derive from.
            num_done: How many batches are left out.
            order: What those of the sampler derive from. Default: ``base``.
        """
        self.sampler.base, self.sampler.num_done = base, num_done
        self.sampler.order = base if order is None else order
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
    own = _own_sampler(loader)
    draws_at = (loader.dataset, loader.collate_fn)
    dataset: Any = loader.dataset
    sampler = SeedingSampler(own, draws_at)
    if has_workers:
        dataset, sampler = KeyedDataset(dataset, draws_at), KeyedSampler(own)
    if loader.batch_sampler is None:
        twin = DataLoader(dataset, batch_size=None, sampler=sampler, **options)
    else:
        twin = DataLoader(dataset, batch_sampler=sampler, **options)
    return KeyedTwin(twin, sampler)


def drawing_parts(loader: Any) -> tuple[object, ...]:
    """What of a loader may hold random streams and draw from them in this process."""
    if not isinstance(loader, DataLoader):
        return () if isinstance(loader, list | tuple) else (loader,)
    samplers = _users_samplers(_own_sampler(loader))
    if loader.num_workers:
        return samplers
    return (loader.dataset, loader.collate_fn, *samplers)


def tell_epoch(loader: object, epoch: int) -> None:
    """Call ``set_epoch`` of whatever in a loader has one, as of a sampler by ranks."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    told: list[object] = []
    for part in (
        *(loader, getattr(loader, "dataset", None), getattr(loader, "sampler", None)),
        *(batch_sampler, getattr(batch_sampler, "sampler", None)),
    ):
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch) and not any(part is other for other in told):
            told.append(part)
            set_epoch(epoch)


def _users_samplers(sampler: Any) -> tuple[object, ...]:
    """The samplers that torch does not ship; its own draw once, before the first.

    One that only passes on what another draws says so: ``drawn_from``.
    """
    sampler = getattr(sampler, "drawn_from", sampler)
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    home = type(sampler).__module__
    return () if home.startswith(("torch.utils.data", "torchdata.")) else (sampler,)


def _own_sampler(loader: DataLoader[Any]) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


@contextmanager
def keyed_generators(loader: object, order: int) -> Iterator[None]:
    """Key the generators that a loader was given; leave all its streams as they were.

    The order then hangs on the position, and on the seed that the user gave them, but
    not on how often anybody went through the loader.

    Args:
        loader: A loader with generators of its own, or any other.
        order: What the order of this pass derives from.
    """
    before = [(each, each.get_state()) for each in _own_generators(loader)]
    for generator, _ in before:
        generator.manual_seed(derive_seed(order, generator.initial_seed()))
    with left_as_they_were(*drawing_parts(loader)):
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
