"""fastai's loaders: torch's, with fastai's names for their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from callboard.data import DataLoaders as NativeDataLoaders
from callboard_fastai.exports import Mentioning, exporting
from callboard_fastai.views import viewed_loader


class DataLoader(torch.utils.data.DataLoader[Any], metaclass=Mentioning):
    """A torch ``DataLoader`` with fastai's names for its settings.

    Args:
        dataset: The items.
        bs: Items in a batch.
        num_workers: Processes that make batches.
        shuffle: Take the items in another order in every pass.
        drop_last: Leave out a last batch that is smaller.
        options: Settings of ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Any = None,
        bs: int = 64,
        num_workers: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=options.pop("batch_size", bs),
            num_workers=num_workers,
            shuffle=shuffle,
            drop_last=drop_last,
            **options,
        )


TfmdDL = DataLoader


class DataLoaders(NativeDataLoaders, metaclass=Mentioning):
    """Training and validation data, as fastai makes it.

    Args:
        loaders: One or two loaders.
        path: Where files go.
        device: Where batches go.
    """

    def __init__(
        self, *loaders: Any, path: str | Path = ".", device: Any = None
    ) -> None:
        super().__init__(*(viewed_loader(loader) for loader in loaders[:2]))
        self.path = Path(path)
        self.device = device

    @classmethod
    def from_dsets(
        cls,
        *ds: Any,
        path: str | Path = ".",
        bs: int = 64,
        device: Any = None,
        **options: Any,
    ) -> DataLoaders:
        """Loaders of datasets; the first is shuffled and drops its last small batch."""
        loaders = [
            DataLoader(d, bs=bs, shuffle=not n, drop_last=not n, **options)
            for n, d in enumerate(ds)
        ]
        return cls(*loaders, path=path, device=device)


__getattr__, __dir__ = exporting(__name__)
