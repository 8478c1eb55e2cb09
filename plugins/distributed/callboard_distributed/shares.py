"""Which part of every batch is a process's own, for every kind of data.

The batches stay those of the user's loader, in its order. A loader that finds samples
by index loads only its own; a stream gives every process each n-th of its samples; of
anything else all load the whole batch and take their slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

from callboard.data import batch_size, num_batches
from callboard.errors import DataError, OptionError
from callboard.keyed import can_be_keyed, loader_options
from callboard.processes import Processes

Sizes = tuple[int, int]


class Share(Protocol):
    """A process's part of a loader.

    Attributes:
        loader: Gives the parts of the batches, in the order of the batches.
    """

    @property
    def loader(self) -> Any: ...

    def sizes(self, number: int) -> Sizes:
        """Samples in a batch that has been given: its own part, and the whole."""


def bounds(size: int, part: int, num_parts: int) -> tuple[int, int]:
    """Where a part of so many samples begins and ends; the first parts are larger.

    >>> [bounds(10, part, 4) for part in range(4)]
    [(0, 3), (3, 6), (6, 8), (8, 10)]
    """
    each, left = divmod(size, num_parts)
    begin = part * each + min(part, left)
    return begin, begin + each + (part < left)


def share_of(loader: Any, processes: Processes) -> Share:
    """The part of a loader that is this process's own.

    Raises:
        DataError, OptionError: It cannot be parted.
    """
    if can_be_keyed(loader) and loader.batch_sampler is not None:
        return _ShareOfLoader(loader, processes)
    is_plain_stream = type(loader) is DataLoader and loader.batch_size is not None
    if is_plain_stream and isinstance(loader.dataset, IterableDataset):
        return _ShareOfStream(loader, processes)
    if isinstance(loader, list | tuple):
        return _ShareOfList(loader, processes)
    return _ShareOfBatches(loader, processes)


class PartSampler(Sampler[list[Any]]):
    """The indices of a process's own samples, batch by batch.

    A process that has none in a batch takes its first one, to keep in step.

    Attributes:
        whole: What gives the indices of whole batches.
        sizes: Samples in each batch of this pass: its own, and those of the whole.
    """

    def __init__(self, whole: Any, part: int, num_parts: int) -> None:
        self.whole = whole
        self.part = part
        self.num_parts = num_parts
        self.sizes: list[Sizes] = []

    def __iter__(self) -> Iterator[list[Any]]:
        self.sizes = sizes = []
        known: dict[int, tuple[int, int]] = {}  # most batches are of one size
        for batch in self.whole:
            indices = list(batch)
            size = len(indices)
            if size not in known:
                known[size] = bounds(size, self.part, self.num_parts)
            begin, end = known[size]
            sizes.append((end - begin, size))
            yield indices[begin:end] or indices[:1]

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def drawn_from(self) -> Any:
        """What draws the indices; this one draws nothing of its own."""
        return self.whole

    @property
    def sampler(self) -> Any:
        """The sampler of samples that the batches are made of, if there is one."""
        return getattr(self.whole, "sampler", None)

    @property
    def generator(self) -> Any:
        """The random stream that the batches are drawn with, if there is one."""
        return getattr(self.whole, "generator", None)

    def set_epoch(self, epoch: int) -> None:
        """Tell what gives the batches the number of the epoch, where it asks."""
        set_epoch = getattr(self.whole, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


class _ShareOfLoader:
    """Of a loader that finds samples by index: loads its own samples alone."""

    def __init__(self, loader: DataLoader[Any], processes: Processes) -> None:
        part, num_parts = processes.part, processes.world_size
        self.sampler = PartSampler(loader.batch_sampler, part, num_parts)
        self.loader = DataLoader(
            loader.dataset, batch_sampler=self.sampler, **loader_options(loader)
        )

    def sizes(self, number: int) -> Sizes:
        return self.sampler.sizes[number]


class EachNth(IterableDataset[Any]):
    """Each n-th sample of a stream, in whichever worker it is read."""

    def __init__(self, dataset: Any, part: int, num_parts: int) -> None:
        self.dataset = dataset
        self.part = part
        self.num_parts = num_parts

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.dataset), self.part, None, self.num_parts)

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream the number of the epoch, where it asks."""
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


class _ShareOfStream:
    """Of a stream: as many batches in every process, however it ends.

    How large a batch is nobody knows before all have theirs, so each is counted: one
    small sum a batch. One whose stream is over repeats its last batch, to keep in step.
    """

    def __init__(self, loader: DataLoader[Any], processes: Processes) -> None:
        num_parts, size = processes.world_size, loader.batch_size or 1
        if size % num_parts:
            raise OptionError(
                f"distributed: a stream's batch_size must be a multiple of the number "
                f"of processes, {num_parts}, got {size}. Use "
                f"{size + num_parts - size % num_parts}."
            )
        own = EachNth(loader.dataset, processes.part, num_parts)
        self.inner: DataLoader[Any] = DataLoader(
            own,
            batch_size=size // num_parts,
            drop_last=loader.drop_last,
            **loader_options(loader),
        )
        self.length = num_batches(loader)
        self.processes = processes
        self.size = size
        self.latest = (0, 0)

    @property
    def loader(self) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        last = None
        for batch in chain(self.inner, repeat(None)):
            own = 0 if batch is None else batch_size(batch)
            total = int(self.processes.sum([own])[0])
            if total == 0 or (self.inner.drop_last and total < self.size):
                return
            last = last if batch is None else batch
            if last is None:
                raise DataError(
                    "distributed: the stream has fewer samples than there are "
                    "processes, and this one got none. Start fewer processes."
                )
            self.latest = (own, total)
            yield last

    def sizes(self, number: int) -> Sizes:
        return self.latest


class _ShareOfList:
    """Of batches in memory: views of its slices."""

    def __init__(self, loader: Sequence[Any], processes: Processes) -> None:
        ours = processes.part, processes.world_size
        self.counted = [own_size(batch_size(batch), *ours) for batch in loader]
        self.loader = [own_slice(batch, *ours) for batch in loader]

    def sizes(self, number: int) -> Sizes:
        return self.counted[number]


class _ShareOfBatches:
    """Of a loader whose batches only come whole: its slice of each."""

    def __init__(self, loader: Any, processes: Processes) -> None:
        self.whole = loader
        self.part, self.num_parts = processes.part, processes.world_size
        self.latest = (0, 0)

    @property
    def loader(self) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        for batch in self.whole:
            self.latest = own_size(batch_size(batch), self.part, self.num_parts)
            yield own_slice(batch, self.part, self.num_parts)

    def __len__(self) -> int:
        return len(self.whole)

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader the number of the epoch, where it asks."""
        set_epoch = getattr(self.whole, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

    def load_state_dict(self, place: Any) -> None:
        """Let the loader go on where it says that it was."""
        self.whole.load_state_dict(place)

    def sizes(self, number: int) -> Sizes:
        return self.latest


def own_size(total: int, part: int, num_parts: int) -> Sizes:
    """Number of samples in a part of a batch, and in the whole of it."""
    begin, end = bounds(total, part, num_parts)
    return end - begin, total


def own_slice(batch: Any, part: int, num_parts: int) -> Any:
    """A part of a batch; its first sample where there are too few for all parts."""
    size = batch_size(batch)
    begin, end = bounds(size, part, num_parts)
    own = slice(begin, end) if begin < end else slice(0, 1)
    return sliced(batch, size, own)


def sliced(data: Any, size: int, own: slice) -> Any:
    """A slice of every tensor, list or array of ``size`` samples in a batch."""
    if isinstance(data, Tensor):
        return data[own] if data.ndim and data.shape[0] == size else data
    if isinstance(data, Mapping):
        return {key: sliced(value, size, own) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(sliced(part, size, own) for part in data))
    if isinstance(data, tuple | list):
        if len(data) == size and not any(isinstance(part, Tensor) for part in data):
            return data[own]
        return type(data)(sliced(part, size, own) for part in data)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return data[own] if not isinstance(data, str) and len(data) == size else data
    return data
