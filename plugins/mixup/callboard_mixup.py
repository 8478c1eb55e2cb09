"""Train on blends of two items of the batch, and of their labels (mixup).

Listens to  before_fit, before_batch, do_loss
Changes     xb; yb where labels are numbers; the loss where they are classes
Source      Zhang et al. 2018, arXiv:1710.09412; each item has a share of its own, of at
            least one half, as in fastai
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from callboard import Callback
from callboard.errors import DataError, OptionError
from callboard.losses import LossFunction, item_losses, reduction_of
from callboard.state import RandomStream

# The losses of class labels in torch: they leave labels out and weigh classes.
CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)
CLASS_LOSS_FUNCTIONS = (functional.cross_entropy, functional.nll_loss)
IGNORE_INDEX = -100  # torch's default


@dataclass(frozen=True)
class Blend:
    """With whom every item of a batch is blended, and how much of itself it keeps.

    Attributes:
        share: What an item keeps of itself, shape (items,), 0.5 <= share <= 1.
        partner: Number of the item that gives the rest, shape (items,).
    """

    share: Tensor
    partner: Tensor

    def numbers(self, own: Tensor) -> Tensor:
        """``share * own + (1 - share) * own[partner]``, item by item."""
        return self.between(own[self.partner], own)

    def between(self, other: Tensor, own: Tensor) -> Tensor:
        """``share * own + (1 - share) * other``, item by item."""
        return torch.lerp(other, own, self.share_for(own))

    def share_for(self, numbers: Tensor) -> Tensor:
        """The shares, to be multiplied with a tensor of one entry an item."""
        return self.share.to(numbers.dtype).view(-1, *[1] * (numbers.ndim - 1))


def draw_blend(
    stream: RandomStream, alpha: float, num_items: int, device: torch.device
) -> Blend:
    """Draw a partner for every item, and its share from Beta(alpha, alpha).

    The larger of the share and its rest is kept, so that no blend comes twice.

    Args:
        stream: Where the random numbers come from.
        alpha: Strength, above 0; the higher, the nearer shares are to one half.
        num_items: Number of items in the batch.
        device: Where the batch is.
    """
    drawn = stream.beta(alpha, alpha, num_items)
    share = torch.maximum(drawn, 1 - drawn)
    partner = torch.randperm(num_items, generator=stream)
    return Blend(
        share.to(device, non_blocking=True), partner.to(device, non_blocking=True)
    )


def blended_loss(
    loss_func: LossFunction, pred: Any, labels: tuple[Any, ...], blend: Blend
) -> Tensor:
    """The loss towards an item's own labels and towards its partner's, blended.

    Item by item ``share * loss(pred, own) + (1 - share) * loss(pred, partner's)``, then
    reduced as the loss function does it. Where a mean weighs classes or leaves labels
    out, it is divided by what the blended labels count, so that with all shares 1 it
    is the loss without mixup.

    Raises:
        OptionError: The loss function gives no losses of single items, or reduces them
            in another way than by a mean or a sum.
    """
    reduction = reduction_of(loss_func)
    others = with_changed_tensors(labels, lambda label: label[blend.partner])
    own = item_losses(loss_func, pred, labels)
    losses = blend.between(item_losses(loss_func, pred, others), own)
    if reduction == "sum":
        return losses.sum()
    if reduction != "mean":
        raise OptionError(
            f'mixup: the reduction of the loss must be "mean" or "sum", got '
            f"{reduction!r}."
        )
    counts = blend.between(
        label_counts(loss_func, others, losses), label_counts(loss_func, labels, losses)
    )
    return losses.sum() / counts.sum()


def label_counts(
    loss_func: LossFunction, labels: tuple[Any, ...], losses: Tensor
) -> Tensor:
    """What each of the losses counts in their mean: 1, but for torch's class losses.

    There it is the weight of the label's class, and 0 for a label that is left out
    (``ignore_index``).
    """
    options = _class_loss_options(loss_func)
    if options is None:
        return torch.ones_like(losses)
    classes: Tensor = labels[0]
    is_counted: Tensor = classes != options.get("ignore_index", IGNORE_INDEX)
    weight: Tensor | None = options.get("weight")
    if weight is None:
        return is_counted.to(losses.dtype)
    known = classes.where(is_counted, torch.zeros_like(classes))
    return weight[known].to(losses.dtype) * is_counted


def _class_loss_options(loss_func: LossFunction) -> Mapping[str, Any] | None:
    if isinstance(loss_func, CLASS_LOSSES):
        return {"weight": loss_func.weight, "ignore_index": loss_func.ignore_index}
    if isinstance(loss_func, partial) and loss_func.func in CLASS_LOSS_FUNCTIONS:
        return loss_func.keywords
    return {} if loss_func in CLASS_LOSS_FUNCTIONS else None


class MixHandler(Callback):
    """Mixes the items of a training batch and their labels; the base of such plugins.

    Abstract: a subclass says in ``mix`` what becomes of the inputs.

    Args:
        alpha: Strength, above 0: shares are drawn from Beta(alpha, alpha).

    Attributes:
        usual_alpha: A good ``alpha``, for the message about a wrong one.
    """

    name = "mix-handler"
    role = "modify"
    stages = ("fit", "lr-find")
    run_valid = False
    usual_alpha = 0.4

    def __init__(self, alpha: float = 0.5) -> None:
        if not 0 < alpha < math.inf:
            raise OptionError(
                f"{self.name}: alpha must be a number above 0, got {alpha!r}. Use "
                f"{self.usual_alpha}, or half of it for weaker blends."
            )
        self.alpha = alpha
        self._blend: Blend | None = None

    def mix(self, labels: Sequence[Tensor]) -> Blend | None:
        """Mix ``learner.xb`` and say how labels are to be blended.

        Args:
            labels: The tensors in ``learner.yb``, one entry an item each.

        Returns:
            None where the labels are settled already.

        Raises:
            DataError: The inputs cannot be mixed.
        """
        raise NotImplementedError(f"{type(self).__name__} must define mix()")

    def before_fit(self) -> None:
        """Refuse a fit whose labels are out of reach."""
        if self.learn.loss_func is None:
            raise OptionError(
                f"{self.name}: the Learner has no loss_func. A model that works its "
                "loss out itself hides how labels enter it; give "
                "Learner(loss_func=...)."
            )

    def before_batch(self) -> None:
        """Mix the inputs, and blend labels that are numbers."""
        learner, self._blend = self.learn, None
        if not learner.yb:
            return
        labels = list(tensors_in(learner.yb))
        self._check(labels)
        blend = self.mix(labels)
        if blend is None:
            return
        if all(label.is_floating_point() for label in labels):
            learner.yb = with_changed_tensors(learner.yb, blend.numbers)
        else:
            self._blend = blend

    def do_loss(self) -> Tensor | None:
        """Blend the losses where labels are classes; else leave the loss to others."""
        if self._blend is None:
            return None
        learner = self.learn
        assert learner.loss_func is not None
        return blended_loss(learner.loss_func, learner.pred, learner.yb, self._blend)

    def _check(self, labels: Sequence[Tensor]) -> None:
        if not labels or any(label.ndim == 0 for label in labels):
            raise DataError(
                f"{self.name}: labels must be tensors with one entry an item; this "
                "batch has none."
            )
        if any(len(label) != len(labels[0]) for label in labels):
            sizes = ", ".join(str(len(label)) for label in labels)
            message = f"{self.name}: labels are of different numbers of items: {sizes}."
            raise DataError(message)


class MixUp(MixHandler):
    """Trains on blends of two items of the batch, and of their labels.

    Args:
        alpha: Strength, above 0: shares are drawn from Beta(alpha, alpha). At 0.4 most
            blends are nearly one item; at 1 all shares are as likely.
    """

    name = "mixup"
    conflicts_with: Mapping[str, str] = {"cutmix": "both would mix the labels"}

    def __init__(self, alpha: float = 0.4) -> None:
        super().__init__(alpha)

    def mix(self, labels: Sequence[Tensor]) -> Blend:
        """Blend every input of floating-point numbers."""
        learner, num_items = self.learn, len(labels[0])

        def is_blendable(tensor: Tensor) -> bool:
            is_per_item = tensor.ndim > 0 and len(tensor) == num_items
            return is_per_item and tensor.is_floating_point()

        if not any(is_blendable(tensor) for tensor in tensors_in(learner.xb)):
            raise DataError(
                f"{self.name}: no input is a tensor of floating-point numbers with one "
                f"entry for each of {num_items} items, so there is nothing to "
                "blend. Turn images into floats before they reach the loop."
            )
        blend = draw_blend(self.rng, self.alpha, num_items, labels[0].device)

        def blended(tensor: Tensor) -> Tensor:
            return blend.numbers(tensor) if is_blendable(tensor) else tensor

        learner.xb = with_changed_tensors(learner.xb, blended)
        return blend


def tensors_in(data: Any) -> Iterator[Tensor]:
    """All tensors in tuples, lists and mappings."""
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, Mapping):
        for part in data.values():
            yield from tensors_in(part)
    elif isinstance(data, tuple | list):
        for part in data:
            yield from tensors_in(part)


def with_changed_tensors(data: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tuples, lists and mappings with every tensor changed."""
    if isinstance(data, Tensor):
        return change(data)
    if isinstance(data, Mapping):
        return {key: with_changed_tensors(part, change) for key, part in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(with_changed_tensors(part, change) for part in data))
    if isinstance(data, tuple | list):
        return type(data)(with_changed_tensors(part, change) for part in data)
    return data
