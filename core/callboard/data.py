"""Data for the loop: the pair of loaders, and a batch's way from a loader to the model.

A batch is a tuple (inputs, then labels), one tensor (no labels), or a mapping that goes
to the model as keyword arguments.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from operator import call
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from callboard.errors import CallboardWarning, DataError, OptionError
from callboard.keyed import (
    STRIDE,
    KeyedTwin,
    can_be_keyed,
    drawing_parts,
    keyed_generators,
    keyed_twin,
    tell_epoch,
)
from callboard.state import derive_seed
from callboard.streams import (
    MASK,
    SetStream,
    Stream,
    all_streams,
    global_streams,
    own_streams,
)

if TYPE_CHECKING:
    from callboard.learner import Learner

SECONDS_TO_END = 2.0
exhaust = deque[object](maxlen=0).extend
Batches = Iterable[Any]
LABEL_NAMES = ("labels", "label", "targets", "target", "y")


class DataLoaders:
    """The training and the validation data of a Learner.

    Args:
        train: Any iterable of batches that can be gone through once an epoch, with or
            without a length: a ``torch.utils.data.DataLoader``, a list of batches.
        valid: The same for validation, or None for no validation.
        num_inputs: How many elements of a tuple batch go to the model; the rest are
            labels. Default: all but the last, or all where the Learner has no
            ``loss_func``.
        labels: Keys of a mapping batch that are labels. Default: the first present of
            ``labels``, ``label``, ``targets``, ``target``, ``y``; none where the
            Learner has no ``loss_func``.
    """

    def __init__(
        self,
        train: Batches,
        valid: Batches | None = None,
        *,
        num_inputs: int | None = None,
        labels: str | Sequence[str] | None = None,
    ) -> None:
        for name, loader in (("train", train), ("valid", valid)):
            is_missing = loader is None and name == "train"
            if is_missing or (loader is not None and not _is_iterable(loader)):
                raise DataError(
                    f"DataLoaders: {name} must be an iterable of batches (a DataLoader "
                    f"or a list of batches), got {type(loader).__name__}."
                )
        self.train = train
        self.valid = valid
        self.num_inputs = num_inputs
        self.labels = (labels,) if isinstance(labels, str) else labels

    def __getitem__(self, index: int) -> Batches | None:
        return (self.train, self.valid)[index]

    def __iter__(self) -> Iterator[Batches | None]:
        return iter((self.train, self.valid))

    def __len__(self) -> int:
        return 1 if self.valid is None else 2

    def __repr__(self) -> str:
        sizes = [
            f"{name}={_size_in_words(loader)}"
            for name, loader in (("train", self.train), ("valid", self.valid))
        ]
        return f"DataLoaders({', '.join(sizes)})"


def as_dataloaders(data: object) -> DataLoaders:
    """Take ``DataLoaders``, a plain pair of loaders, or training data alone.

    Raises:
        DataError: It is none of these.
    """
    if isinstance(data, DataLoaders):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        train, valid = data
        is_pair = isinstance(data, tuple) or not _looks_like_a_batch(train)
        if is_pair and _is_iterable(train) and (valid is None or _is_iterable(valid)):
            return DataLoaders(train, valid)
    train, valid = getattr(data, "train", None), getattr(data, "valid", None)
    if train is not None and not isinstance(data, torch.nn.Module):
        return DataLoaders(train, valid)
    if _is_iterable(data):
        return DataLoaders(data)  # type: ignore[arg-type]
    raise DataError(
        f"dls must be DataLoaders(train, valid), a pair (train, valid) or an iterable "
        f"of batches, got {type(data).__name__}."
    )


def _is_iterable(data: object) -> bool:
    return hasattr(data, "__iter__") and not isinstance(data, Tensor | str | Mapping)


def _looks_like_a_batch(data: object) -> bool:
    if isinstance(data, tuple | list) and data:
        return isinstance(data[0], Tensor)
    return isinstance(data, Tensor | Mapping | tuple)


def _size_in_words(loader: Batches | None) -> str:
    if loader is None:
        return "none"
    count = num_batches(loader)
    return "batches without a length" if count is None else f"{count} batches"


def num_batches(loader: Batches) -> int | None:
    """Number of batches that a loader will give, or None when it cannot tell."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def batches(
    learner: Learner, num_done: int = 0, place: Any = None
) -> Iterator[tuple[int, tuple[Any, tuple[Any, ...]]]]:
    """Number, inputs and labels of every batch of ``learner.dl``, on the device.

    The global random streams are set before the loader starts, before each batch is
    built (``keyed.py``) and before it is used, from the Learner's seed and the
    position: what a plugin draws moves no other batch, nor does a validation between.

    Args:
        learner: Whose running loader it is.
        num_done: How many batches were done before; they are left out.
        place: What the loader itself said of its place then, if it does.

    Raises:
        DataError: A training loader gives no batch at all.
    """
    phase = "train" if learner.training else learner.stage + "-valid"
    where = (learner.seed, learner._fit_number, learner.epoch, phase)
    part = learner.processes.part
    # Parts of one batch draw apart, in one order of samples; the first as if alone.
    own = (*where, part) if part else where
    base, streams = derive_seed(*own, "use"), _streams_of_use(learner)
    placed, order = _Placement(learner), derive_seed(*where, "order")
    index = num_done - 1
    if learner.training:
        tell_epoch(learner.dl, learner.epoch)
    _set(streams, order)
    with keyed_generators(learner.dl, order), _end_of_workers_awaited(learner.dl):
        keys = derive_seed(*own, "build"), derive_seed(*where, "build")
        loader = _loader(learner, keys, num_done, place)
        for index, batch in enumerate(loader, num_done):
            # In C alone, since every step pays for it.
            exhaust(map(call, streams, repeat(base + (index + 1) * STRIDE & MASK)))
            yield index, placed(batch)
    # What follows draws the same numbers however many batches were gone through.
    _set(streams, derive_seed(*own, "end"))
    if index < 0:
        _complain_of_no_batches(learner)
    learner._saw_batches(index + 1)


@contextmanager
def _end_of_workers_awaited(loader: Batches) -> Iterator[None]:
    """Let PyTorch tell of a worker that died here, where only its pipe broke.

    PyTorch does so by raising out of a signal handler, which would come later, amid
    whatever deals with the first error.
    """
    try:
        yield
    except (EOFError, ConnectionError):
        if getattr(loader, "num_workers", 0):
            time.sleep(SECONDS_TO_END)
        raise


def seed_epoch(learner: Learner, epoch: int) -> None:
    """Key what is drawn before the first batch of an epoch by its number."""
    parts = (learner.seed, learner._fit_number, epoch, "epoch")
    _set(_streams_of_use(learner), derive_seed(*parts))


def _set(streams: Iterable[SetStream], seed: int) -> None:
    exhaust(map(call, streams, repeat(seed & MASK)))


def _loader(
    learner: Learner, keys: tuple[int, int], num_done: int, place: Any
) -> Batches:
    """The running loader, behind the batches that are done, with keyed draws.

    Args:
        learner: Whose loader it is.
        keys: What the seeds of batches derive from, and those of their order.
        num_done: How many batches are left out.
        place: What the loader itself said of its place, if it does.
    """
    loader, (base, common) = learner.dl, keys
    if can_be_keyed(loader):
        return _twin_of(learner, loader).started_from(base, num_done, common)
    if isinstance(loader, list | tuple):
        return loader[num_done:] if num_done else loader
    if place is not None:
        loader.load_state_dict(place)
    num_to_drop = 0 if place is not None else num_done
    # Its order may hang on any draw, and must be one order in every process.
    return _built_with_keyed_draws(loader, common, num_done - num_to_drop, num_to_drop)


def _built_with_keyed_draws(
    loader: Batches, base: int, number: int, num_to_drop: int
) -> Iterator[Any]:
    """Batches of a loader of any kind, the global streams set before each is built.

    Those that are done are built again and dropped, so that a loader with a state that
    nobody can see is where it was.
    """
    streams = all_streams(*drawing_parts(loader))
    for set_stream in streams:
        set_stream(base & MASK)
    iterator = iter(loader)
    while True:
        for set_stream in streams:
            set_stream(base + number * STRIDE & MASK)
        try:
            batch = next(iterator)
        except StopIteration:
            return
        number += 1
        if num_to_drop:
            num_to_drop -= 1
        else:
            yield batch


def _twin_of(learner: Learner, loader: DataLoader[Any]) -> KeyedTwin:
    if learner._depth > 1:
        # The one of the fit may be in mid-pass, and persistent workers make only one.
        return keyed_twin(loader, persistent_workers=False)
    if loader not in learner._keyed_twins:
        twin = keyed_twin(loader, persistent_workers=loader.persistent_workers)
        learner._keyed_twins[loader] = twin
    return learner._keyed_twins[loader]


def _streams_of_use(learner: Learner) -> list[SetStream]:
    """What sets all random streams that may be drawn from where batches are used."""
    streams = global_streams()
    device = learner.device
    if device.type == "cuda":
        streams.append(torch.cuda.default_generators[device.index].manual_seed)
    elif device.type == "mps":
        streams.append(torch.mps.manual_seed)
    return streams


def streams_held(learner: Learner) -> dict[str, list[Stream]]:
    """The random streams that the loss, the model and plugins hold, by who holds them.

    Those of observers are their own, and so is ``self.rng`` of any plugin. A loader
    that a plugin holds is set where it runs.
    """
    members = [m for m in learner._board.members.values() if m.role != "observe"]
    holders = {f"plugin {member.key}": member.plugin for member in members}
    holders = {"loss_func": learner.loss_func, "model": learner.model, **holders}
    own = [getattr(holder, "__dict__", {}).get("rng") for holder in holders.values()]
    loaders = (learner.dls, learner.dls.train, learner.dls.valid)
    known = (learner, learner.opt, *loaders, *own, *holders.values())
    return {
        name: own_streams(
            holder,
            left_out=[each for each in known if each is not holder],
            without=(DataLoader, Dataset, Sampler),
        )
        for name, holder in holders.items()
    }


def _complain_of_no_batches(learner: Learner) -> None:
    if not learner.training:
        warnings.warn(
            f"Validation in epoch {learner.epoch} got no batch: the loader "
            f"({type(learner.dl).__name__}) is empty, so there are no results.",
            CallboardWarning,
            stacklevel=2,
        )
        return
    used_up = ""
    if learner.epoch > 0 or learner._fit_number > 1:
        used_up = (
            " It gave batches before: a generator can be gone through once only; give "
            "a list, a DataLoader or an object whose __iter__ starts anew."
        )
    raise DataError(
        f"The training loader ({type(learner.dl).__name__}) gave no batch in epoch "
        f"{learner.epoch}: nothing can be trained.{used_up}"
    )


class _Placement:
    """Splits batches into inputs and labels and moves them to the device."""

    def __init__(self, learner: Learner) -> None:
        self.learner, dls = learner, learner.dls
        self.has_loss_func = learner.loss_func is not None
        # Beyond any batch: without a loss_func everything goes to the model.
        everything = None if self.has_loss_func else sys.maxsize
        self.num_inputs = dls.num_inputs or everything
        self.labels = dls.labels
        #: The type of batches that are on the device, inputs first and one label last.
        self.plain_type: Any = None

    def __call__(self, batch: Any) -> tuple[Any, tuple[Any, ...]]:
        if type(batch) is not self.plain_type:
            return self._look_closer(batch)
        # One element alone is an input.
        return tuple(batch[:-1] or batch), tuple(batch[1:][-1:])

    def _look_closer(self, batch: Any) -> tuple[Any, tuple[Any, ...]]:
        device = self.learner.device
        # Loaders make all batches where the first one is: mostly on the CPU.
        is_moved = device.type != "cpu" or not _is_on(batch, device)
        batch = to_device(batch, device)
        if not isinstance(batch, tuple | list):
            return self._split_other(batch)
        if not is_moved and self.num_inputs is None:
            self.plain_type = type(batch)
        num_inputs = self.num_inputs or len(batch) - 1 or 1
        return tuple(batch[:num_inputs]), tuple(batch[num_inputs:])

    def _split_other(self, batch: Any) -> tuple[Any, tuple[Any, ...]]:
        if isinstance(batch, Mapping):
            self.learner._predict_by_keyword()
            return self._split_mapping(dict(batch))
        return (batch,), ()

    def _split_mapping(
        self, batch: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        names = self.labels
        if names is None:
            present = [name for name in LABEL_NAMES if name in batch]
            names = present[:1] if self.has_loss_func else ()
        missing = [name for name in names if name not in batch]
        if missing and len(missing) < len(names):
            raise DataError(
                f"A batch lacks the labels {missing}; it has {sorted(map(str, batch))}."
            )
        return batch, tuple(batch.pop(name) for name in names if name in batch)


def _is_on(batch: Any, device: torch.device) -> bool:
    if isinstance(batch, Tensor):
        return batch.device == device
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, tuple | list):
        return all(_is_on(part, device) for part in batch)
    return not hasattr(batch, "to")


def to_device(data: Any, device: torch.device) -> Any:
    """Move every tensor in tuples, lists and mappings; leave the rest as it is.

    Moves to a GPU do not wait for it (``non_blocking``): the work that uses the tensor
    is queued behind the copy.
    """
    if isinstance(data, Tensor):
        if data.device == device:
            return data
        return data.to(device, non_blocking=True)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_device(element, device) for element in data))
    if isinstance(data, tuple | list):
        return type(data)(to_device(element, device) for element in data)
    if isinstance(data, Mapping):
        moved = {key: to_device(value, device) for key, value in data.items()}
        return moved if isinstance(data, dict) else _like(data, moved)
    if hasattr(data, "to") and not isinstance(data, torch.nn.Module | type):
        return data.to(device)
    return data


def _like(original: Mapping[Any, Any], moved: dict[Any, Any]) -> Mapping[Any, Any]:
    try:
        return type(original)(moved)  # type: ignore[call-arg]
    except TypeError:
        return moved


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best one there is: CUDA, MPS, CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and torch.backends.mps.is_available():
            device = "mps"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise OptionError(
            f'device: {device!r} is no device of torch; give "cpu", "cuda" or "mps".'
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"device: {device!r} was asked for, and torch {torch.__version__} finds no "
            "CUDA device here. Leave device out to train on what there is."
        )
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", torch.cuda.current_device())
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError(
            f"device: {device!r} was asked for, and torch {torch.__version__} finds no "
            "Apple GPU here. Leave device out to train on what there is."
        )
    if chosen.type == "mps" and chosen.index is None:
        chosen = torch.device("mps", 0)
    return chosen


def batch_size(xb: Any) -> int:
    """Number of samples in a batch: the length of its first tensor, else 1."""
    if isinstance(xb, Tensor):
        return xb.shape[0] if xb.ndim else 1
    if isinstance(xb, Mapping):
        xb = tuple(xb.values())
    if isinstance(xb, tuple | list):
        for part in xb:
            if isinstance(part, Tensor | tuple | list | Mapping):
                return batch_size(part)
    return 1


def example_batch(loader: Batches) -> Any:
    """The first batch of a loader, for looking at its shape."""
    for batch in loader:
        return batch
    raise DataError(f"The loader ({type(loader).__name__}) is empty.")


__all__ = ["DataLoader", "DataLoaders", "as_dataloaders", "num_batches", "to_device"]
