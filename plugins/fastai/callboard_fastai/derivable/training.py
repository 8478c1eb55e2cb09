"""Callbacks that change how gradients are made and used."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from fastcore.foundation import L
from torch import nn
from torch.amp import GradScaler, autocast

from callboard.control import CancelBatchException, CancelStepException
from callboard_fastai.callback.core import Callback
from callboard_fastai.predefined import Predefined
from callboard_fastai.torch_core import find_bs, to_float


class AMPMode(Enum):
    """The number formats of mixed precision."""

    FP16 = "fp16"
    BF16 = "bf16"


class MixedPrecision(Callback, metaclass=Predefined, plugin="MixedPrecision"):
    """Runs the forward pass in half precision, and scales the loss for float16.

    Args:
        amp_mode: ``"fp16"`` or ``"bf16"``.
        kwargs: Options of ``torch.amp.GradScaler``.
    """

    order = 10

    def __init__(self, amp_mode: str | AMPMode = AMPMode.FP16, **kwargs: Any) -> None:
        self.amp_mode, self.kwargs = AMPMode(amp_mode), kwargs

    def before_fit(self) -> None:
        """Make what casts and what scales."""
        is_fp16 = self.amp_mode is AMPMode.FP16
        dtype = torch.float16 if is_fp16 else torch.bfloat16
        self.autocast: Any = autocast("cuda", dtype=dtype)
        options = {**self.kwargs, "enabled": is_fp16}
        self.learn.scaler, self.scales = GradScaler("cuda", **options), L()

    def before_batch(self) -> None:
        """Begin to cast."""
        self.autocast.__enter__()

    def after_pred(self) -> None:
        """Make predictions float32 again."""
        self.learn.pred = to_float(self.pred)

    def after_loss(self) -> None:
        """Cast no more."""
        self.autocast.__exit__(None, None, None)

    def before_backward(self) -> None:
        """Scale the loss."""
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        """Unscale gradients, and skip the step where they overflowed."""
        self.skipped = True
        self.scaler.step(self)
        if self.skipped:
            raise CancelStepException
        self.scales.append(self.scaler.get_scale())

    def after_step(self) -> None:
        """Let the scale follow."""
        self.learn.scaler.update()

    def after_fit(self) -> None:
        """Leave nothing behind."""
        self.autocast = self.learn.scaler = self.scales = None

    @property
    def param_groups(self) -> Any:
        """The scaler takes this for the optimizer."""
        return self.opt.param_groups

    def step(self, *args: Any, **kwargs: Any) -> None:
        """What the scaler calls where gradients are finite."""
        self.skipped = False


class GradientAccumulation(
    Callback, metaclass=Predefined, plugin="GradientAccumulation"
):
    """Lets the optimizer step once in so many samples.

    Args:
        n_acc: Number of samples.
    """

    order = MixedPrecision.order - 4
    run_valid = False

    def __init__(self, n_acc: int = 32) -> None:
        self.n_acc = n_acc

    def before_fit(self) -> None:
        """Count anew."""
        self.count = 0

    def after_loss(self) -> None:
        """Give the batch its share of the whole."""
        self.learn.loss_grad /= self.n_acc / find_bs(self.learn.yb)

    def before_step(self) -> None:
        """Keep gradients until there are enough samples."""
        size = find_bs(self.learn.yb)
        self.learn.loss_grad *= self.n_acc / size
        self.count += size
        if self.count < self.n_acc:
            raise CancelBatchException
        self.count = 0


class GradientClip(Callback, metaclass=Predefined, plugin="GradientClip"):
    """Keeps the norm of all gradients at most so large.

    Args:
        max_norm: The highest norm.
        norm_type: Which norm.
    """

    order = MixedPrecision.order + 1

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type

    def before_step(self) -> None:
        """Scale gradients down."""
        nn.utils.clip_grad_norm_(self.parameters(), self.max_norm, self.norm_type)


class ModelResetter(Callback, metaclass=Predefined, plugin="ModelResetter"):
    """Calls ``model.reset()`` before every phase and after the fit."""

    def before_train(self) -> None:
        """Reset."""
        self.model.reset()

    def before_validate(self) -> None:
        """Reset."""
        self.model.reset()

    def after_fit(self) -> None:
        """Reset."""
        self.model.reset()


class RNNCallback(Callback, metaclass=Predefined, plugin="RNNCallback"):
    """Takes the prediction out of what a recurrent model gives, and keeps the rest."""

    def after_pred(self) -> None:
        """Keep the last layer's outputs before and after dropout."""
        parts = [o[-1] if isinstance(o, list | tuple) else o for o in self.pred]
        self.learn.pred, self.raw_out, self.out = parts


class RNNRegularizer(Callback, metaclass=Predefined, plugin="RNNRegularizer"):
    """Adds activation regularisation to the loss that backward runs on.

    Args:
        alpha: Weight of the squares of activations.
        beta: Weight of the squares of their differences in time.
    """

    order = RNNCallback.order + 1
    run_valid = False

    def __init__(self, alpha: float = 0.0, beta: float = 0.0) -> None:
        self.alpha, self.beta = alpha, beta

    def after_loss(self) -> None:
        """Add the penalties."""
        if not self.training:
            return
        if self.alpha:
            squares = self.rnn.out.float().pow(2)
            self.learn.loss_grad += self.alpha * squares.mean()
        if self.beta and len(self.rnn.raw_out) > 1:
            raw = self.rnn.raw_out
            steps = (raw[:, 1:] - raw[:, :-1]).float().pow(2)
            self.learn.loss_grad += self.beta * steps.mean()


def rnn_cbs(alpha: float = 0.0, beta: float = 0.0) -> list[Any]:
    """What training a recurrent model takes."""
    penalty = [RNNRegularizer(alpha, beta)] if alpha or beta else []
    return [ModelResetter(), RNNCallback(), *penalty]
