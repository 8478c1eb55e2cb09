"""Callbacks that collect predictions and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fastcore.basics import detuplify
from fastcore.foundation import L

from callboard.control import CancelTrainException, CancelValidException
from callboard_fastai.callback.core import Callback
from callboard_fastai.predefined import Predefined
from callboard_fastai.torch_core import find_bs, to_concat


class GatherPredsCallback(Callback, metaclass=Predefined, plugin="GatherPredsCallback"):
    """Collects predictions and targets of a validation.

    Args:
        with_input: Collect inputs too.
        with_loss: Collect losses too.
        save_preds: Folder for predictions, one file a batch.
        save_targs: Folder for targets.
        with_preds: Collect predictions.
        with_targs: Collect targets.
        concat_dim: Dimension along which batches are joined.
        pickle_protocol: Of the files.
    """

    _stateattrs = ("preds", "targets", "inputs", "losses")

    def __init__(
        self,
        with_input: bool = False,
        with_loss: bool = False,
        save_preds: Path | None = None,
        save_targs: Path | None = None,
        with_preds: bool = True,
        with_targs: bool = True,
        concat_dim: int = 0,
        pickle_protocol: int = 2,
    ) -> None:
        self.with_input, self.with_loss = with_input, with_loss
        self.save_preds, self.save_targs = save_preds, save_targs
        self.with_preds, self.with_targs = with_preds, with_targs
        self.concat_dim, self.pickle_protocol = concat_dim, pickle_protocol

    def before_validate(self) -> None:
        """Collect anew."""
        self.preds: Any = []
        self.targets: Any = []
        self.inputs: Any = []
        self.losses: Any = []

    def before_batch(self) -> None:
        """Keep inputs, as they are before anybody changes them."""
        if self.with_input:
            self.inputs.append(self.learn.to_detach(self.xb))

    def after_batch(self) -> None:
        """Keep what the batch gave."""
        pred, targets = self.learn.to_detach(self.pred), self.learn.to_detach(self.yb)
        if self.with_preds:
            self.preds.append(pred)
        if self.with_targs:
            self.targets.append(targets)
        if self.save_preds is not None:
            torch.save(pred, self.save_preds / str(self.iter))
        if self.save_targs is not None:
            torch.save(targets[0], self.save_targs / str(self.iter))
        if self.with_loss:
            size, loss = find_bs(self.yb), self.loss
            of_items = loss if loss.numel() == size else loss.view(size, -1).mean(1)
            self.losses.append(self.learn.to_detach(of_items))

    def after_validate(self) -> None:
        """Join the batches."""
        dim = self.concat_dim
        for name in ("inputs", "preds", "targets"):
            setattr(self, name, detuplify(to_concat(getattr(self, name), dim=dim)))
        self.losses = to_concat(self.losses)

    def all_tensors(self) -> list[Any]:
        """Inputs, predictions, targets and losses, as far as they were collected."""
        found = [
            self.preds if self.with_preds else None,
            self.targets if self.with_targs else None,
        ]
        found = [self.inputs, *found] if self.with_input else found
        return [*found, self.losses] if self.with_loss else found


class FetchPredsCallback(Callback, metaclass=Predefined, plugin="FetchPredsCallback"):
    """Gets predictions after every validation.

    Args:
        ds_idx: Which data: 0 for training, 1 for validation.
        dl: Other data.
        with_input: Get inputs too.
        with_decoded: Get decisions too.
        cbs: Callbacks that take no part meanwhile.
        reorder: In the order of the dataset.

    Attributes:
        preds: What ``Learner.get_preds`` returned.
    """

    remove_on_fetch = True

    def __init__(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        with_input: bool = False,
        with_decoded: bool = False,
        cbs: Any = None,
        reorder: bool = True,
    ) -> None:
        # Names that the Learner has too.
        self.__dict__.update(cbs=L(cbs), dl=dl)
        self.ds_idx, self.with_input = ds_idx, with_input
        self.with_decoded, self.reorder = with_decoded, reorder

    def after_validate(self) -> None:
        """Get predictions, unless this is an evaluation itself."""
        if self.learn.callboard.stage != "fit":
            return
        gone = [cb for cb in self.learn.cbs if getattr(cb, "remove_on_fetch", False)]
        gone = [cb for cb in gone if cb is not self]
        with self.learn.removed_cbs(gone + list(self.cbs)) as learn:
            self.preds = learn.get_preds(
                ds_idx=self.ds_idx,
                dl=vars(self)["dl"],
                with_input=self.with_input,
                with_decoded=self.with_decoded,
                inner=True,
                reorder=self.reorder,
            )


class CollectDataCallback(Callback, metaclass=Predefined, plugin="CollectDataCallback"):
    """Keeps inputs, labels, prediction and loss of every batch."""

    def before_fit(self) -> None:
        """Collect anew."""
        self.data = L()

    def after_batch(self) -> None:
        """Keep the batch."""
        batch = self.xb, self.yb, self.pred, self.loss
        self.data.append(self.learn.to_detach(batch))


class ShortEpochCallback(Callback, metaclass=Predefined, plugin="ShortEpochCallback"):
    """Ends every phase after a share of its batches.

    Args:
        pct: The share.
        short_valid: Also in validation.
    """

    def __init__(self, pct: float = 0.01, short_valid: bool = True) -> None:
        self.pct, self.short_valid = pct, short_valid

    def after_batch(self) -> None:
        """End the phase where it is time."""
        if self.iter / self.n_iter < self.pct:
            return
        if self.training:
            raise CancelTrainException
        if self.short_valid:
            raise CancelValidException
