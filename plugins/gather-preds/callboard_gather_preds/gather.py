"""Collect what an evaluation predicts: the callback, and ``learn.get_preds``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard.losses import item_losses
from callboard_gather_preds.decisions import (
    Activation,
    activation_of,
    applied,
    decoder_of,
)
from callboard_gather_preds.joining import joined, on_cpu, reordered
from callboard_gather_preds.loaders import loader_over_all, untouched_generators


class GatherPredsCallback(Callback):
    """Collects on the CPU what an evaluation predicts.

    Args:
        with_input: Keep the inputs too.
        with_loss: Keep the loss of every item too.
        save_preds: Folder for the predictions, one file a batch: ``000000.pt``.
        save_targs: Folder for the targets, likewise.
        with_preds: Keep the predictions in memory.
        with_targs: Keep the targets in memory.
        concat_dim: Dimension along which batches are joined.

    Attributes:
        inputs: The inputs of all batches, joined. None, as all of these, where they
            were not to be kept or there are none; a list of one entry a batch where
            they cannot be joined.
        preds: The predictions as the model made them.
        targets: The labels.
        losses: One loss an item.
    """

    name = "gather-preds"
    # Not an observer: one that fails is set aside, and predictions with holes in them
    # would be returned as if they were whole.
    role = "control"
    stages = ("predict",)

    def __init__(
        self,
        with_input: bool = False,
        with_loss: bool = False,
        save_preds: str | Path | None = None,
        save_targs: str | Path | None = None,
        with_preds: bool = True,
        with_targs: bool = True,
        concat_dim: int = 0,
    ) -> None:
        self.with_input = with_input
        self.with_loss = with_loss
        self.save_preds = None if save_preds is None else Path(save_preds)
        self.save_targs = None if save_targs is None else Path(save_targs)
        self.with_preds = with_preds
        self.with_targs = with_targs
        self.concat_dim = concat_dim
        self.inputs: Any = None
        self.preds: Any = None
        self.targets: Any = None
        self.losses: Any = None
        self._batches: dict[str, list[Any]] = {}

    def before_validate(self) -> None:
        """Start with nothing collected."""
        if self.with_loss and self.learn.loss_func is None:
            raise OptionError(
                f"{self.name}: with_loss needs a loss of each item, and the Learner "
                "has no loss_func; give Learner(loss_func=...)."
            )
        for folder in (self.save_preds, self.save_targs):
            if folder is not None:
                self._prepare(folder)
        self._batches = {"inputs": [], "preds": [], "targets": [], "losses": []}

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.pt")):
            raise OptionError(
                f"{self.name}: {folder} already holds batches, which would be taken "
                "for batches of this run; give an empty folder."
            )

    def after_batch(self) -> None:
        """Keep, or write, what this batch gave."""
        learner = self.learn
        if learner.pred is None:  # the batch was cancelled
            return
        pred, target = on_cpu(learner.pred), on_cpu(learner.y) if learner.yb else None
        if self.save_preds is not None:
            torch.save(pred, self.save_preds / f"{learner.iter:06d}.pt")
        if self.save_targs is not None and target is not None:
            torch.save(target, self.save_targs / f"{learner.iter:06d}.pt")
        if self.with_preds:
            self._batches["preds"].append(pred)
        if self.with_targs:
            self._batches["targets"].append(target)
        if self.with_input:
            self._batches["inputs"].append(on_cpu(learner.x))
        if self.with_loss:
            self._batches["losses"].append(self._item_losses())

    def _item_losses(self) -> Tensor | None:
        """One loss an item, its mean where an item has several, on the CPU."""
        learner = self.learn
        if not learner.yb or learner.loss_func is None:
            return None
        losses = item_losses(learner.loss_func, learner.pred, learner.yb)
        if losses.ndim > 1:
            losses = losses.flatten(1).mean(1)
        return losses.detach().cpu()

    def after_validate(self) -> None:
        """Join the batches."""
        # Empty where a cancel hid before_validate from this plugin.
        batches, self._batches = defaultdict(list, self._batches), {}
        self.inputs = joined(batches["inputs"], self.concat_dim)
        self.preds = joined(batches["preds"], self.concat_dim)
        self.targets = joined(batches["targets"], self.concat_dim)
        self.losses = joined(batches["losses"], 0)


def get_preds(
    learner: Learner,
    ds_idx: int = 1,
    dl: Any = None,
    *,
    with_input: bool = False,
    with_decoded: bool = False,
    with_loss: bool = False,
    act: Activation | None = None,
    reorder: bool = True,
    cbs: Any = None,
    save_preds: str | Path | None = None,
    save_targs: str | Path | None = None,
    with_preds: bool = True,
    with_targs: bool = True,
    concat_dim: int = 0,
) -> tuple[Any, ...]:
    """Predictions and targets for a whole loader, on the CPU.

    Works at any moment, inside a fit and inside a callback, and leaves the loop, the
    recorder and all random streams as they were.

    Args:
        ds_idx: Which data: 0 for training, 1 for validation.
        dl: Batches to use instead.
        with_input: Return the inputs too, before the predictions.
        with_decoded: Return decisions too, after the targets: the class of the highest
            score, or whether a probability is above one half.
        with_loss: Return the loss of every item too, last.
        act: Makes the predictions of what the model gives. Default: what belongs to
            the loss function; ``lambda pred: pred`` for none.
        reorder: Go through all items of a torch ``DataLoader``'s dataset in its order,
            whatever the loader does. A sampler that chooses items still chooses.
        cbs: Callbacks that take part; ``"predict"`` must be among their ``stages``.
        save_preds: Folder for what the model gives, one file a batch.
        save_targs: Folder for the targets, likewise.
        with_preds: Return predictions; else None in their place.
        with_targs: Return targets; else None in their place.
        concat_dim: Dimension along which batches are joined.

    Returns:
        ``(preds, targets)``; with all asked for ``(inputs, preds, targets, decoded,
        losses)``. None stands for what the data has not.

    Raises:
        OptionError: There is no such data, or it cannot be done as asked.
    """
    loader = learner.dls[_checked_index(learner, ds_idx)] if dl is None else dl
    gather = GatherPredsCallback(
        with_input,
        with_loss,
        save_preds,
        save_targs,
        with_preds,
        with_targs,
        concat_dim,
    )
    with (
        _taking_part(learner, cbs),
        learner.added_cbs(gather),
        learner.evaluating("predict"),
        untouched_generators(loader),
    ):
        # In here, since a sampler may draw from the global random streams.
        loader, indices = loader_over_all(loader, reorder=reorder)
        learner.run_validation(loader)
    collected = [gather.inputs, gather.preds, gather.targets, gather.losses]
    if indices is not None:
        collected = [reordered(part, indices, concat_dim) for part in collected]
    inputs, preds, targets, losses = collected
    activation = activation_of(learner.loss_func) if act is None else act
    if preds is not None:
        preds = applied(activation, preds)
    result = [preds, targets]
    if with_input:
        result.insert(0, inputs)
    if with_decoded:
        decode = decoder_of(learner.loss_func)
        result.append(None if preds is None else applied(decode, preds))
    if with_loss:
        result.append(losses)
    return tuple(result)


def _checked_index(learner: Learner, ds_idx: int) -> int:
    if ds_idx not in (0, 1) or learner.dls[ds_idx] is None:
        raise OptionError(
            f"get_preds: the Learner has no data with ds_idx={ds_idx!r}; 0 is "
            "training, 1 is validation where there is some. For other data give "
            "get_preds(dl=...)."
        )
    return ds_idx


@contextmanager
def _taking_part(learner: Learner, cbs: Any) -> Iterator[None]:
    """Callbacks that were given take part, and are refused where they never would."""
    before = set(learner.cbs.keys())
    with learner.added_cbs(cbs):
        for member in learner.cbs.members:
            if member.key not in before and "predict" not in member.stages:
                stages = ", ".join(member.stages)
                raise OptionError(
                    f"get_preds: {member.label} takes part in the stages {stages} "
                    'only, so here it would do nothing. Give it stages = ("predict",).'
                )
        yield
