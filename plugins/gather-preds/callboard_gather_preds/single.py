"""The prediction for one item: ``learn.predict(item)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from callboard import DataLoaders, Learner
from callboard.errors import OptionError
from callboard_gather_preds.decisions import Activation
from callboard_gather_preds.gather import get_preds

Collate = Callable[[list[Any]], Any]


def predict(
    learner: Learner,
    item: Any,
    *,
    collate: Collate | None = None,
    with_input: bool = False,
    act: Activation | None = None,
    cbs: Any = None,
) -> tuple[Any, ...]:
    """The prediction for one item.

    Args:
        item: The inputs of one item, without its label, as the dataset gives them: one
            input, a tuple of several, or a mapping.
        collate: Makes a batch of ``[item]`` as a loader's ``collate_fn`` does; what it
            returns is split into inputs and labels as every batch is. Default: torch's,
            on the inputs alone.
        with_input: Return the inputs too, first, as the model got them.
        act: Makes the prediction of what the model gives, as in ``get_preds``.
        cbs: Callbacks that take part; ``"predict"`` must be among their ``stages``.

    Returns:
        ``(name, decision, prediction)``. The name is that of the class, or those of the
        classes above one half, where the dataset has ``classes``; else the decision.

    Raises:
        OptionError: The loaders collate in a way of their own, and ``collate`` was not
            given.
    """
    if collate is None:
        _refuse_unknown_collation(learner)
        num_inputs = len(item) if isinstance(item, tuple) else 1
        with _all_are_inputs(learner, num_inputs):
            return _predicted(learner, _batch_of(item), with_input, act, cbs)
    return _predicted(learner, collate([item]), with_input, act, cbs)


def _predicted(
    learner: Learner, batch: Any, with_input: bool, act: Activation | None, cbs: Any
) -> tuple[Any, ...]:
    inputs, preds, _, decoded = get_preds(
        learner, dl=[batch], with_input=True, with_decoded=True, act=act, cbs=cbs
    )
    decision = first_item(decoded)
    result = (named(decision, classes_of(learner)), decision, first_item(preds))
    return (first_item(inputs), *result) if with_input else result


def _batch_of(item: Any) -> Any:
    if isinstance(item, Mapping):
        return default_collate([item])
    parts = item if isinstance(item, tuple) else (item,)
    return tuple(default_collate([part]) for part in parts)


def _refuse_unknown_collation(learner: Learner) -> None:
    """Torch's collation in place of the user's would predict something else, unseen."""
    for loader in (learner.dls.valid, learner.dls.train):
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            continue
        collate = loader.collate_fn
        if collate is not default_collate:
            name = getattr(collate, "__name__", type(collate).__name__)
            raise OptionError(
                f"predict: the loaders make batches with {name}, which may do more "
                "than torch's collation. Give predict(item, collate=...): "
                "learn.dls.valid.collate_fn for an item as the dataset has it, or "
                "torch.utils.data.default_collate."
            )


@contextmanager
def _all_are_inputs(learner: Learner, count: int) -> Iterator[None]:
    """Have none of the parts of a batch taken for a label."""
    before = learner.dls
    learner.dls = DataLoaders(
        before.train, before.valid, num_inputs=count, labels=before.labels
    )
    try:
        yield
    finally:
        learner.dls = before


def first_item(data: Any) -> Any:
    """The first item of joined batches of any structure."""
    if isinstance(data, Mapping):
        return {key: first_item(part) for key, part in data.items()}
    if isinstance(data, tuple):
        return tuple(first_item(part) for part in data)
    if isinstance(data, list) or (isinstance(data, Tensor) and data.ndim):
        return data[0]
    return data


def classes_of(learner: Learner) -> Sequence[Any] | None:
    """The names of the classes where a dataset has them, as torchvision's do."""
    for loader in (learner.dls.valid, learner.dls.train):
        dataset = getattr(loader, "dataset", None)
        while dataset is not None:
            if getattr(dataset, "classes", None) is not None:
                classes: Sequence[Any] = dataset.classes
                return classes
            dataset = getattr(dataset, "dataset", None)  # of a Subset
    return None


def named(decision: Any, classes: Sequence[Any] | None) -> Any:
    """A class by its name, or the names of all classes that were decided for.

    The decision itself where it is not about these classes.
    """
    if classes is None or not isinstance(decision, Tensor):
        return decision
    if decision.is_floating_point():
        return decision
    numbers = decision.tolist()
    if isinstance(numbers, bool):
        return classes[int(numbers)] if len(classes) == 2 else decision
    if isinstance(numbers, int):
        return classes[numbers] if numbers < len(classes) else decision
    if len(numbers) == len(classes) and all(isinstance(n, bool) for n in numbers):
        return [name for name, is_so in zip(classes, numbers, strict=True) if is_so]
    return decision
