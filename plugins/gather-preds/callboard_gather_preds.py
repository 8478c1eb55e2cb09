"""Collect predictions, targets and losses over a whole loader: ``learn.get_preds()``.

Listens to  before_validate, after_batch, after_validate; in the stage "predict" only
Changes     nothing
Source      fastai's ``GatherPredsCallback`` and ``Learner.get_preds`` (Apache-2.0),
            written anew
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard.losses import item_losses

Activation = Callable[[Any], Any]


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
        batches, self._batches = self._batches, {}
        self.inputs = joined(batches["inputs"], self.concat_dim)
        self.preds = joined(batches["preds"], self.concat_dim)
        self.targets = joined(batches["targets"], self.concat_dim)
        self.losses = joined(batches["losses"], 0)


def on_cpu(data: Any) -> Any:
    """A copy of every tensor in tuples, lists and mappings, on the CPU and detached.

    Copied there too: a model or loader may write its next batch into the same memory.
    """
    if isinstance(data, Tensor):
        return data.detach().to("cpu", copy=True)
    if isinstance(data, Mapping):
        return {key: on_cpu(part) for key, part in data.items()}
    if isinstance(data, tuple | list):
        parts = [on_cpu(part) for part in data]
        return tuple(parts) if isinstance(data, tuple) else parts
    return data


def joined(batches: Sequence[Any], dim: int) -> Any:
    """All batches as one, tensor by tensor along a dimension.

    Tuples and mappings are joined part by part. Where tensors do not fit together the
    result is a list of one entry a batch; where there is nothing, None.
    """
    if all(batch is None for batch in batches):
        return None
    first = batches[0]
    if all(isinstance(batch, Tensor) for batch in batches):
        return _joined_tensors(batches, dim)
    if all(isinstance(b, Mapping) and b.keys() == first.keys() for b in batches):
        return {key: joined([b[key] for b in batches], dim) for key in first}
    if all(isinstance(batch, tuple | list) for batch in batches):
        if all(len(b) == len(first) and _has_tensor(b) for b in batches):
            return tuple(joined(parts, dim) for parts in zip(*batches, strict=True))
        if not any(map(_has_tensor, batches)):  # texts, one an item
            return [item for batch in batches for item in batch]
    return list(batches)


def _joined_tensors(batches: Sequence[Tensor], dim: int) -> Tensor | list[Tensor]:
    if all(batch.ndim == 0 for batch in batches):
        return torch.stack(list(batches))
    try:
        return torch.cat(list(batches), dim)
    except (IndexError, RuntimeError):
        return list(batches)


def _has_tensor(data: Any) -> bool:
    if isinstance(data, Mapping):
        data = tuple(data.values())
    if isinstance(data, tuple | list):
        return any(map(_has_tensor, data))
    return isinstance(data, Tensor)


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
        _untouched_generators(loader),
    ):
        # In here, since a sampler may draw from the global random streams.
        loader, indices = loader_over_all(loader, reorder=reorder)
        learner.run_validation(loader)
    collected = [gather.inputs, gather.preds, gather.targets, gather.losses]
    if indices is not None:
        collected = [_reordered(part, indices, concat_dim) for part in collected]
    inputs, preds, targets, losses = collected
    activation = activation_of(learner.loss_func) if act is None else act
    if preds is not None:
        preds = _applied(activation, preds)
    result = [preds, targets]
    if with_input:
        result.insert(0, inputs)
    if with_decoded:
        decode = decoder_of(learner.loss_func)
        result.append(None if preds is None else _applied(decode, preds))
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


# ---- the loader ---------------------------------------------------------------


def loader_over_all(loader: Any, *, reorder: bool) -> tuple[Any, list[Any] | None]:
    """A loader for an evaluation, and its indices where results need sorting by them.

    A ``DataLoader`` is never gone through itself: with persistent workers that would
    end a pass that is under way. Its twin gives all items, in the order of the dataset;
    batches of the user's own batch sampler stay together and are sorted afterwards.
    Other iterables are used as they are.
    """
    is_torchs = isinstance(loader, DataLoader)
    if not is_torchs or type(loader).__iter__ is not DataLoader.__iter__:
        return loader, None
    twin = partial(DataLoader, loader.dataset, **_settings(loader))
    batches, size = loader.batch_sampler, loader.batch_size
    if isinstance(loader.dataset, IterableDataset):
        return twin(batch_size=size), None
    if batches is None:
        sampler = in_order(loader.sampler) if reorder else loader.sampler
        return twin(batch_size=None, sampler=sampler), None
    if not reorder:
        return twin(batch_sampler=batches), None
    if type(batches) is BatchSampler:
        sampler = in_order(batches.sampler)
        return twin(batch_size=batches.batch_size, sampler=sampler), None
    all_batches = [list(batch) for batch in batches]
    indices = [index for batch in all_batches for index in batch]
    return twin(batch_sampler=all_batches), indices if _are_numbers(indices) else None


def in_order(sampler: Any) -> Any:
    """The indices that a sampler gives, sorted; all of a dataset that it shuffles."""
    if type(sampler) is SequentialSampler:
        return sampler
    if type(sampler) is RandomSampler and not sampler.replacement:
        num_items = len(sampler.data_source)
        if sampler.num_samples == num_items:
            return range(num_items)
    indices = list(sampler)
    return sorted(indices) if _are_numbers(indices) else indices


def _are_numbers(indices: Sequence[Any]) -> bool:
    return all(isinstance(index, int) for index in indices)


def _settings(loader: DataLoader[Any]) -> dict[str, Any]:
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "in_order": loader.in_order,
    }


@contextmanager
def _untouched_generators(loader: Any) -> Iterator[None]:
    """Leave the generators that a loader and its samplers own as they were."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batch_sampler)
    owners = (loader, *samplers, getattr(batch_sampler, "sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _reordered(data: Any, indices: Sequence[int], dim: int) -> Any:
    """Items that came in the order of ``indices``, in the order of the dataset."""
    places = sorted(range(len(indices)), key=indices.__getitem__)
    if isinstance(data, Tensor):
        dim = dim if data.ndim > dim else 0
        if data.shape[dim] == len(places):
            return data.index_select(dim, torch.tensor(places))
    if isinstance(data, Mapping):
        return {key: _reordered(part, indices, dim) for key, part in data.items()}
    if isinstance(data, tuple):
        return tuple(_reordered(part, indices, dim) for part in data)
    if data is None:
        return None
    if isinstance(data, list) and len(data) == len(places) and not _has_tensor(data):
        return [data[place] for place in places]
    raise OptionError(
        "get_preds: batches of different shapes cannot be put into the order of the "
        "dataset. Give reorder=False and take them in the order of the loader."
    )


# ---- from scores to predictions -----------------------------------------------


def activation_of(loss_func: Any) -> Activation:
    """What makes predictions of scores for a loss: its ``activation``, if it has one.

    Else a softmax over classes for a cross entropy, a sigmoid for a binary one from
    logits, and nothing for any other.
    """
    if hasattr(loss_func, "activation"):
        activation: Activation = loss_func.activation
        return activation
    if _is_one_of(loss_func, nn.CrossEntropyLoss, functional.cross_entropy):
        return class_probabilities
    if _is_one_of(loss_func, *BINARY_LOSSES):
        return torch.sigmoid
    return _unchanged


def decoder_of(loss_func: Any) -> Activation:
    """What makes decisions of predictions for a loss: its ``decodes``, if it has it."""
    if hasattr(loss_func, "decodes"):
        decodes: Activation = loss_func.decodes
        return decodes
    if _is_one_of(loss_func, nn.CrossEntropyLoss, functional.cross_entropy):
        return partial(torch.argmax, dim=1)
    if _is_one_of(loss_func, *BINARY_LOSSES):
        return _above_one_half
    return _unchanged


BINARY_LOSSES = (nn.BCEWithLogitsLoss, functional.binary_cross_entropy_with_logits)


def class_probabilities(scores: Tensor) -> Tensor:
    """A softmax over dimension 1, where torch's cross entropy has the classes."""
    return torch.softmax(scores, dim=1)


def _above_one_half(probability: Tensor) -> Tensor:
    return probability > 0.5


def _unchanged(pred: Any) -> Any:
    return pred


def _is_one_of(loss_func: Any, loss_class: type, function: Any) -> bool:
    plain = loss_func.func if isinstance(loss_func, partial) else loss_func
    return isinstance(plain, loss_class) or plain is function


def _applied(function: Activation, preds: Any) -> Any:
    """Of all predictions, or of each batch of them where they could not be joined."""
    return (
        [function(pred) for pred in preds]
        if isinstance(preds, list)
        else function(preds)
    )
