"""Have the next batch ready while this one is computed.

Tensors in memory are fetched a whole batch at a time, in place of sample by sample.
Data that takes long to load is loaded ahead, in a process of its own, and for a GPU
into pinned memory. The batches are bit for bit those of the loader as it was.

Listens to  before_train, before_batch, after_batch, after_train, before_validate
Changes     ``learner.dl``: how the batches are made, and not what is in them
Source      torch's DataLoader: its workers, ``pin_memory`` and ``__getitems__``
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
)

from callboard import Callback
from callboard.errors import OptionError
from callboard.keyed import can_be_keyed, loader_options

# A process of its own costs a start, and a copy of every batch: only for data that
# keeps the model waiting for this share of an epoch, and this long a batch.
MIN_WAITING_SHARE, MIN_WAITING_SECONDS = 0.1, 0.5e-3


class Prefetch(Callback):
    """Has the next batch ready while this one is computed.

    Args:
        num_workers: Processes that load ahead, for a loader that has none: a number,
            or ``"auto"`` for one from the second epoch on, if the first one was kept
            waiting.

    Attributes:
        reasons: What was done with the loader of training and that of validation.

    Raises:
        OptionError: The number is below 0.
    """

    name = "prefetch"
    role = "modify"
    run_before = "short-epoch"
    stages = ("fit", "validate", "predict", "lr-find")

    def __init__(self, *, num_workers: int | Literal["auto"] = "auto") -> None:
        is_number = isinstance(num_workers, int) and not isinstance(num_workers, bool)
        if num_workers != "auto" and not (is_number and num_workers >= 0):
            raise OptionError(
                f'prefetch: num_workers must be a number from 0 on, or "auto", got '
                f"{num_workers!r}. One process is enough in most cases."
            )
        self.num_workers = num_workers
        self.reasons: dict[str, str] = {}
        self._has_waited_long = False
        self._began = self._ended = self._waited = 0.0
        self._num_waits = 0
        self._made: dict[int, tuple[Any, int, Any]] = {}

    def before_train(self) -> None:
        """Put a faster loader of the same batches in the loader's place."""
        self.learn.dl = self._ahead(self.learn.dl, "train")
        self._began = self._ended = perf_counter()
        self._waited, self._num_waits = 0.0, 0

    def before_batch(self) -> None:
        """Note for how long the batch was waited for."""
        if self.learn.training:
            self._waited += perf_counter() - self._ended
            self._num_waits += 1

    def after_batch(self) -> None:
        """Note when the waiting for the next batch begins."""
        self._ended = perf_counter()

    def after_train(self) -> None:
        """Judge whether loading ahead is worth a process."""
        seconds = perf_counter() - self._began
        is_long = self._waited >= MIN_WAITING_SHARE * seconds
        if is_long and self._waited >= MIN_WAITING_SECONDS * max(1, self._num_waits):
            self._has_waited_long = True

    def before_validate(self) -> None:
        """Put a faster loader of the same batches in the loader's place."""
        self.learn.dl = self._ahead(self.learn.dl, "valid")

    def _ahead(self, loader: Any, phase: str) -> Any:
        num_workers = self._wanted_workers()
        known = self._made.get(id(loader))
        if known is None or known[0] is not loader or known[1] != num_workers:
            is_gpu = self.learn.device.type == "cuda"
            made, reason = faster(loader, num_workers=num_workers, pin_memory=is_gpu)
            self.reasons[phase] = reason
            self._made[id(loader)] = known = (loader, num_workers, made)
        return known[2]

    def _wanted_workers(self) -> int:
        if self.num_workers != "auto":
            return self.num_workers
        # Elsewhere the program is run again in the new process, which not all stand.
        can_fork = multiprocessing.get_start_method(allow_none=True) in (None, "fork")
        has_fork = "fork" in multiprocessing.get_all_start_methods()
        return int(self._has_waited_long and can_fork and has_fork)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own loaders."""
        return {**super().__getstate__(), "_made": {}}


def faster(
    loader: Any, *, num_workers: int = 0, pin_memory: bool = False
) -> tuple[Any, str]:
    """A loader that gives the same batches sooner, and what was done in words.

    Args:
        loader: Any loader; one that nothing can be done for is given back.
        num_workers: Processes that load ahead where the loader has none.
        pin_memory: Whether batches go to a GPU.
    """
    if not can_be_keyed(loader):
        return loader, f"{type(loader).__name__} is left alone: it is no plain loader"
    options = loader_options(loader)
    options["pin_memory"] = loader.pin_memory or pin_memory
    pinned = ", into pinned memory" if options["pin_memory"] else ""
    tensors = tensors_in(loader)
    if tensors is not None:
        options |= {"collate_fn": _as_it_is}
        return _like(loader, tensors, options), f"whole batches are fetched{pinned}"
    if loader.num_workers:
        if options["pin_memory"] == loader.pin_memory:
            return loader, "left alone: it has workers that load ahead"
        return _like(loader, loader.dataset, options), f"loaded ahead{pinned}"
    if num_workers == 0:
        return loader, "left alone: it keeps nobody waiting, as far as is known"
    options |= {"num_workers": num_workers, "persistent_workers": True}
    words = f"loaded ahead, workers: {num_workers}{pinned}"
    return _like(loader, loader.dataset, options), words


def _like(loader: DataLoader[Any], dataset: Any, options: dict[str, Any]) -> Any:
    if loader.batch_sampler is None:
        sampler = loader.sampler
        return DataLoader(dataset, batch_size=None, sampler=sampler, **options)
    return DataLoader(dataset, batch_sampler=loader.batch_sampler, **options)


class WholeBatches(Dataset[Any]):
    """Tensors of equal length, fetched a whole batch at a time.

    Attributes:
        tensors: The tensors, by sample.
        rows: Which of their samples there are; None for all.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: Tensor | None) -> None:
        self.tensors = tensors
        self.rows = rows

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """The batch of these samples, as ``default_collate`` would make it."""
        rows = torch.as_tensor(indices)
        if self.rows is not None:
            rows = self.rows[rows]
        return [tensor[rows] for tensor in self.tensors]

    def __getitem__(self, index: int) -> Any:
        row = index if self.rows is None else int(self.rows[index])
        return tuple(tensor[row] for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0] if self.rows is None else self.rows)


def tensors_in(loader: DataLoader[Any]) -> WholeBatches | None:
    """What fetches a loader's tensors by batch; None where they are none."""
    is_plain = loader.batch_sampler is not None and loader.num_workers == 0
    if not is_plain or loader.collate_fn is not default_collate:
        return None
    dataset, rows = loader.dataset, None
    while type(dataset) is Subset:
        own = torch.as_tensor(dataset.indices)
        rows = own if rows is None else own[rows]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or any(t.is_sparse for t in dataset.tensors):
        return None
    return WholeBatches(dataset.tensors, rows)


def _as_it_is(batch: Any) -> Any:
    return batch
