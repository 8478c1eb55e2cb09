"""Training data drawn by weight, or some of it every epoch.

Listens to  nothing; what it makes are torch's own loaders
Changes     nothing
Source      fastai's ``WeightedDL`` and ``PartialDL`` (Apache-2.0), written anew on
            torch's ``WeightedRandomSampler`` and ``RandomSampler``

    learn.dls = learn.weighted_dataloaders(wgts)

Draws come from the global random stream, which the loop keys by seed and epoch, so a
run draws the same items with any number of workers, and after being resumed too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from callboard.data import DataLoaders, as_dataloaders
from callboard.errors import DataError, OptionError
from callboard.keyed import loader_options

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen

Weights = Sequence[float] | Tensor
# Samplers that choose no items of their own, which another sampler would give up.
REPLACEABLE = (SequentialSampler, RandomSampler, WeightedRandomSampler)


def weighted_sampler(
    dataset: Any,
    wgts: Weights | None = None,
    *,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
) -> WeightedRandomSampler:
    """A sampler that draws items by weight, again and again if it comes so.

    Args:
        dataset: What has a length.
        wgts: One weight for each item, 0 or more; they need not add up to 1. Default:
            the same for all.
        num_samples: Number of items in an epoch. Default: as many as there are.
        generator: What to draw with. Default: the global stream.

    Raises:
        OptionError: The weights are not as many as the items, or are no weights.
    """
    num_items = _length("WeightedDL", dataset)
    weights = torch.ones(num_items) if wgts is None else torch.as_tensor(wgts)
    if weights.shape != (num_items,):
        raise OptionError(
            f"weighted-dl: wgts must be one weight for each of {num_items} items, got "
            f"shape {tuple(weights.shape)}."
        )
    weights = weights.to(torch.float64)
    if not bool(torch.isfinite(weights).all()) or float(weights.min()) < 0:
        raise OptionError(
            "weighted-dl: wgts must be numbers from 0 on, got "
            f"{float(weights.min())} to {float(weights.max())}."
        )
    if not float(weights.sum()) > 0:
        raise OptionError("weighted-dl: all wgts are 0, so there is nothing to draw.")
    count = num_items if num_samples is None else _count("num_samples", num_samples)
    # torch takes a tensor too, whatever its signature says.
    chances = cast("Sequence[float]", weights)
    return WeightedRandomSampler(chances, count, generator=generator)


def partial_sampler(
    dataset: Any,
    partial_n: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> RandomSampler:
    """A sampler that draws ``partial_n`` items anew for every epoch, none twice.

    Args:
        dataset: What has a length.
        partial_n: Number of items in an epoch; all of them where there are fewer.
            Default: all, in random order.
        generator: What to draw with. Default: the global stream.

    Raises:
        OptionError: ``partial_n`` is no whole number from 1 on.
    """
    num_items = _length("PartialDL", dataset)
    count = num_items if partial_n is None else _count("partial_n", partial_n)
    return RandomSampler(
        dataset, num_samples=min(count, num_items), generator=generator
    )


def WeightedDL(
    dataset: Dataset[Any] | Sequence[Any],
    bs: int = 64,
    wgts: Weights | None = None,
    *,
    num_samples: int | None = None,
    drop_last: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """A loader that draws items by weight, as many an epoch as there are.

    Args:
        dataset: Items by number.
        bs: Items in a batch.
        wgts: One weight for each item, 0 or more. Default: the same for all.
        num_samples: Number of items in an epoch. Default: as many as there are.
        drop_last: Leave out a last batch that is not full.
        num_workers: Processes that build batches.
        collate_fn: Makes a batch of items. Default: torch's.
    """
    sampler = weighted_sampler(dataset, wgts, num_samples=num_samples)
    return _loader(dataset, bs, sampler, drop_last, num_workers, collate_fn)


def PartialDL(
    dataset: Dataset[Any] | Sequence[Any],
    bs: int = 64,
    partial_n: int | None = None,
    *,
    drop_last: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """A loader that draws ``partial_n`` items anew for every epoch, none twice.

    Args:
        dataset: Items by number.
        bs: Items in a batch.
        partial_n: Number of items in an epoch; all of them where there are fewer.
        drop_last: Leave out a last batch that is not full.
        num_workers: Processes that build batches.
        collate_fn: Makes a batch of items. Default: torch's.
    """
    sampler = partial_sampler(dataset, partial_n)
    return _loader(dataset, bs, sampler, drop_last, num_workers, collate_fn)


def weighted_dataloaders(
    data: Any,
    wgts: Weights,
    bs: int | None = None,
    *,
    num_samples: int | None = None,
) -> DataLoaders:
    """The same data, the training items drawn by weight.

    Args:
        data: A Learner, ``DataLoaders``, a pair of loaders or a training loader; it
            stays as it is.
        wgts: One weight for each item of the training dataset, 0 or more.
        bs: Items in a batch of training. Default: as many as now.
        num_samples: Number of items in an epoch. Default: as many as there are.

    Returns:
        DataLoaders with the settings of the ones given: workers, collation and all.

    Raises:
        DataError: The training loader chooses its items in a way of its own.
        OptionError: The weights are not as many as the items, or are no weights.
    """

    def sampler_of(loader: DataLoader[Any]) -> Sampler[int]:
        return weighted_sampler(
            loader.dataset, wgts, num_samples=num_samples, generator=loader.generator
        )

    return _with_sampler("weighted_dataloaders", data, sampler_of, bs)


def partial_dataloaders(
    data: Any, partial_n: int | None, bs: int | None = None
) -> DataLoaders:
    """The same data, of the training items ``partial_n`` drawn anew for every epoch.

    Args:
        data: A Learner, ``DataLoaders``, a pair of loaders or a training loader; it
            stays as it is.
        partial_n: Number of items in an epoch; all of them where there are fewer.
        bs: Items in a batch of training. Default: as many as now.

    Returns:
        DataLoaders with the settings of the ones given: workers, collation and all.

    Raises:
        DataError: The training loader chooses its items in a way of its own.
        OptionError: ``partial_n`` is no whole number from 1 on.
    """

    def sampler_of(loader: DataLoader[Any]) -> Sampler[int]:
        return partial_sampler(loader.dataset, partial_n, generator=loader.generator)

    return _with_sampler("partial_dataloaders", data, sampler_of, bs)


def _with_sampler(
    owner: str,
    data: Any,
    sampler_of: Callable[[DataLoader[Any]], Sampler[int]],
    bs: int | None,
) -> DataLoaders:
    dls = copy.copy(as_dataloaders(getattr(data, "dls", data)))
    loader: Any = dls.train
    _check_loader(owner, loader)
    size = loader.batch_size if bs is None else _count("bs", bs)
    batching = {} if size is None else {"drop_last": loader.drop_last}
    dls.train = DataLoader(
        loader.dataset,
        batch_size=size,
        sampler=sampler_of(loader),
        **batching,
        **loader_options(loader),
    )
    return dls


def _check_loader(owner: str, loader: Any) -> None:
    """Refuse a loader that another sampler would make another one of."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        raise DataError(
            f"weighted-dl: {owner} needs a torch.utils.data.DataLoader over a dataset "
            f"that is found by index, got {type(loader).__name__}. Make one with "
            "WeightedDL or PartialDL."
        )
    batches = loader.batch_sampler
    is_plain = batches is None or type(batches) is BatchSampler
    chooser = loader.sampler if is_plain else batches
    if not is_plain or type(chooser) not in REPLACEABLE:
        raise DataError(
            f"weighted-dl: the training loader has a sampler of its own "
            f"({type(chooser).__name__}), which {owner} would give up. Give a loader "
            "without one; torch.utils.data.Subset chooses items too."
        )


def _loader(
    dataset: Any,
    bs: int,
    sampler: Sampler[int],
    drop_last: bool,
    num_workers: int,
    collate_fn: Callable[[list[Any]], Any] | None,
) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=_count("bs", bs),
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        collate_fn=collate_fn,
    )


def _length(owner: str, dataset: Any) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        raise DataError(
            f"weighted-dl: {owner} needs a dataset with a length, got "
            f"{type(dataset).__name__}."
        ) from None


def _count(option: str, value: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise OptionError(
            f"weighted-dl: {option} must be a whole number from 1 on, got {value!r}. "
            "Use 64."
        )
    return int(value)


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try weighted and partial loaders out."""
    from callboard.testing import Specimen

    def fit_on(learner: Learner, dls: DataLoaders) -> None:
        before, learner.dls = learner.dls, dls
        try:
            learner.fit(2)
        finally:
            learner.dls = before

    return {
        "partial_dataloaders": Specimen(
            run=lambda learner: fit_on(learner, partial_dataloaders(learner, 6))
        ),
        "weighted_dataloaders": Specimen(
            run=lambda learner: fit_on(
                learner, weighted_dataloaders(learner, [1.0] * 5 + [2.0] * 5)
            )
        ),
    }
