"""Train and validate on the first batches of every epoch only, to try a run out.

Listens to  before_train, before_validate, teardown
Changes     the running loader: it ends early
Source      fastai's ``ShortEpochCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, Sampler

from callboard import Callback
from callboard.data import Batches, num_batches
from callboard.errors import DataError, OptionError
from callboard.keyed import loader_options

# 0.1 * 30 is 3.0000000000000004, which is three batches and not four.
SLACK = 1e-9


def num_batches_of(pct: float, num_batches_in_all: int) -> int:
    """How many batches a share of an epoch is: rounded up, and at least one.

    >>> num_batches_of(0.01, 250), num_batches_of(0.01, 20)
    (3, 1)
    """
    return max(math.ceil(pct * num_batches_in_all - SLACK), 1)


class FirstBatches(Sampler[Any]):
    """The first of what a sampler, or a batch sampler, gives.

    Attributes:
        whole: The sampler itself.
        count: How much of it.
    """

    def __init__(self, whole: Any, count: int) -> None:
        self.whole = whole
        self.count = count

    @property
    def sampler(self) -> Any:
        """The sampler of a batch sampler, where whoever keys its draws looks for it."""
        return getattr(self.whole, "sampler", None)

    @property
    def generator(self) -> Any:
        """The sampler's own generator, likewise."""
        return getattr(self.whole, "generator", None)

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.whole), self.count)

    def __len__(self) -> int:
        return self.count


class FirstOfLoader:
    """The first batches of a loader of any kind."""

    def __init__(self, whole: Batches, count: int) -> None:
        self.whole = whole
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.whole), self.count)

    def __len__(self) -> int:
        return self.count


def shortened(loader: Batches, count: int) -> Batches:
    """A loader that gives the first ``count`` batches of another.

    That of a torch ``DataLoader`` is one too, with the same dataset, workers and
    collation, so that its workers build no batch that nobody wants, and its random
    numbers are keyed as those of the whole.
    """
    if isinstance(loader, list | tuple):
        return loader[:count]
    # A subclass may do anything in its __iter__.
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return FirstOfLoader(loader, count)
    options = loader_options(loader)
    if loader.batch_sampler is None:
        sampler = FirstBatches(loader.sampler, count)
        return DataLoader(loader.dataset, batch_size=None, sampler=sampler, **options)
    sampler = FirstBatches(loader.batch_sampler, count)
    return DataLoader(loader.dataset, batch_sampler=sampler, **options)


class ShortEpochCallback(Callback):
    """Ends every epoch of a fit early, to try out a run or to write a test.

    Args:
        pct: Share of the batches of an epoch that is run, above 0, up to 1; rounded up
            to whole batches.
        short_valid: Shorten the validation of an epoch too.
    """

    name = "short-epoch"
    role = "modify"

    def __init__(self, pct: float = 0.01, short_valid: bool = True) -> None:
        if not 0 < pct <= 1:
            raise OptionError(
                f"{self.name}: pct is a share of an epoch's batches, above 0 and at "
                f"most 1, got {pct!r}. Use 0.01 for one batch in a hundred."
            )
        self.pct = pct
        self.short_valid = short_valid
        # Phase -> the whole loader and the short one, so that workers may persist.
        self._loaders: dict[str, tuple[Batches, Batches]] = {}

    def before_train(self) -> None:
        """Let training end early."""
        self._shorten("training")

    def before_validate(self) -> None:
        """Let validation end early, where that is asked for."""
        if self.short_valid:
            self._shorten("validation")

    def teardown(self) -> None:
        self._loaders = {}

    def _shorten(self, phase: str) -> None:
        whole: Batches = self.learn.dl
        in_all = num_batches(whole)
        if in_all is None:
            raise DataError(
                f"{self.name}: the {phase} loader ({type(whole).__name__}) has no "
                "length, so nobody knows what share of it a batch is. Give it a "
                "__len__, or leave short-epoch out."
            )
        count = num_batches_of(self.pct, in_all)
        if count >= in_all:
            return
        known, short = self._loaders.get(phase, (None, ()))
        if known is not whole or num_batches(short) != count:
            short = shortened(whole, count)
            self._loaders[phase] = whole, short
        self.learn.dl = short
