"""Test-time augmentation: predictions averaged over changed inputs, ``learn.tta()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from callboard import Callback, Learner
from callboard.errors import DataError, OptionError
from callboard_gather_preds.decisions import Activation
from callboard_gather_preds.gather import get_preds
from callboard_gather_preds.joining import combined

Augmentation = Callable[[Any], Any]


class Augment(Callback):
    """Changes the inputs of every batch that is predicted.

    Args:
        augmentations: Functions of the inputs of a batch, applied one after the other.
            Each takes the one input, the tuple of several or the mapping, and returns
            the same kind.
    """

    name = "augment"
    stages = ("predict",)

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = augmentations

    def before_batch(self) -> None:
        """Change the inputs."""
        learner = self.learn
        for augmentation in self.augmentations:
            inputs = augmentation(learner.x)
            is_single = not isinstance(learner.xb, dict) and len(learner.xb) == 1
            learner.xb = (inputs,) if is_single else inputs


def tta(
    learner: Learner,
    ds_idx: int = 1,
    dl: Any = None,
    n: int = 4,
    *,
    batch_tfms: Augmentation | Sequence[Augmentation] = (),
    beta: float | None = 0.25,
    use_max: bool = False,
    aug_dl: Any = None,
    act: Activation | None = None,
    cbs: Any = None,
) -> tuple[Any, Any]:
    """Predictions that are averaged over ``n`` passes with changed inputs.

    ``beta * plain + (1 - beta) * mean of the changed``. Random numbers that an
    augmentation draws from the global streams are other ones in every pass, and the
    same ones in every call.

    Args:
        ds_idx: Which data: 0 for training, 1 for validation.
        dl: Batches to use instead.
        n: Number of passes with changed inputs, at least 1.
        batch_tfms: One function of the inputs of a batch, or several that are applied
            one after the other, on the device.
        beta: Share of the predictions for the inputs as they are, 0 to 1; None returns
            both apart.
        use_max: Take the highest of all predictions in place of the means.
        aug_dl: Batches of the same items in the same order, that change them by
            themselves.
        act: Makes predictions of what the model gives, as in ``get_preds``; before the
            mean.
        cbs: Callbacks that take part; ``"predict"`` must be among their ``stages``.

    Returns:
        ``(preds, targets)``; with ``beta=None`` ``((changed, plain), targets)``.

    Raises:
        OptionError: There is nothing that changes inputs, a number is out of its range,
            or the items come in another order in each pass.
    """
    augmentations = [batch_tfms] if callable(batch_tfms) else list(batch_tfms)
    _check(augmentations, aug_dl, n, beta, dl)
    passes = _passes(learner, ds_idx, dl, augmentations, aug_dl, n, act, cbs)
    changed: Any = None
    with learner.evaluating("predict"):
        plain, targets = get_preds(learner, ds_idx, dl, act=act, cbs=cbs)
        _check_complete(plain)
        for number, (preds, its_targets) in enumerate(passes):
            _check_complete(preds)
            _check_order(targets, its_targets)
            if number == 0:
                changed = preds
            else:
                combine = torch.maximum if use_max else _blend(1 / (number + 1))
                changed = combined(changed, preds, combine)
    if use_max:
        return combined(changed, plain, torch.maximum), targets
    if beta is None:
        return (changed, plain), targets
    return combined(changed, plain, _blend(beta)), targets


def _passes(
    learner: Learner,
    ds_idx: int,
    dl: Any,
    augmentations: Sequence[Augmentation],
    aug_dl: Any,
    n: int,
    act: Activation | None,
    cbs: Any,
) -> Iterator[tuple[Any, ...]]:
    loader = dl if aug_dl is None else aug_dl
    for number in range(n):
        # The random numbers of a batch hang on its epoch, so that each pass has others.
        learner.epoch = number
        with learner.added_cbs(Augment(augmentations)):
            predicted = get_preds(learner, ds_idx, loader, act=act, cbs=cbs)
        # Outside, since whoever goes through the passes may not come back for the next.
        yield predicted


def _blend(share: float) -> Callable[[Tensor, Tensor], Tensor]:
    def blend(own: Tensor, other: Tensor) -> Tensor:
        return torch.lerp(own, other, share) if own.is_floating_point() else own

    return blend


def _check(
    augmentations: Sequence[Any], aug_dl: Any, n: int, beta: float | None, dl: Any
) -> None:
    if aug_dl is None and not augmentations:
        raise OptionError(
            "tta: nothing changes the inputs. Give batch_tfms, a function of the "
            "inputs of a batch, as lambda x: x.flip(-1), or aug_dl, a loader whose "
            "dataset augments."
        )
    for augmentation in augmentations:
        if not callable(augmentation):
            raise OptionError(
                "tta: batch_tfms must be a function of the inputs of a batch, or "
                f"several, got {augmentation!r}. Use lambda x: x.flip(-1)."
            )
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise OptionError(f"tta: n must be a whole number from 1 on, got {n!r}. Use 4.")
    if beta is not None and not (isinstance(beta, Real) and 0 <= beta <= 1):
        raise OptionError(
            f"tta: beta must be from 0 to 1, or None, got {beta!r}. Use 0.25."
        )
    for name, loader in (("dl", dl), ("aug_dl", aug_dl)):
        if isinstance(loader, Iterator):
            raise OptionError(
                f"tta: {name} can be gone through once only, and tta does so several "
                "times. Give a DataLoader or a list of batches."
            )


def _check_complete(preds: Any) -> None:
    if preds is None:
        raise DataError(
            "tta: a pass gave no predictions, since another plugin cancelled it. Take "
            "that plugin out: with learner.removed_cbs(...)."
        )


def _check_order(targets: Any, others: Any) -> None:
    if not _are_same(targets, others):
        raise OptionError(
            "tta: the items came in another order, or with other targets, in a later "
            "pass; their predictions cannot be averaged. Give a loader that gives the "
            "same items in the same order each time, as torch's DataLoader does here "
            "whether it shuffles or not."
        )


def _are_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_are_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_are_same(a, b) for a, b in pairs)
    return True
