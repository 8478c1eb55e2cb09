"""The losses of the generator and of the critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from callboard.errors import OptionError
from callboard_gan.networks import GANModule

# (what the critic says of fakes, fakes, targets), (of real items, of fakes).
GeneratorLoss = Callable[..., Tensor]
CriticLoss = Callable[[Tensor, Tensor], Tensor]
LossFunction = Callable[..., Tensor]


class GANLoss(nn.Module):
    """The loss of whichever of the two networks is trained.

    Args:
        gen_loss_func: Of what the critic says of fakes, the fakes, and the targets.
        crit_loss_func: Of what the critic says of real items, and of fakes.
        gan_model: The pair of networks.

    Attributes:
        gen_loss: The last loss of the generator, detached.
        crit_loss: The last loss of the critic, detached.
    """

    def __init__(
        self,
        gen_loss_func: GeneratorLoss,
        crit_loss_func: CriticLoss,
        gan_model: GANModule,
    ) -> None:
        super().__init__()
        self.gen_loss_func = gen_loss_func
        self.crit_loss_func = crit_loss_func
        # In a tuple, so that the model is no part of the loss and is saved once.
        self._gan = (gan_model,)
        self.gen_loss: Tensor | None = None
        self.crit_loss: Tensor | None = None

    def forward(self, output: Tensor, *targets: Any) -> Tensor:
        """The loss of the generator or of the critic, as the model's mode is."""
        if self._gan[0].gen_mode:
            return self.generator(output, *targets)
        return self.critic(output, *targets)

    def generator(self, output: Tensor, *targets: Tensor) -> Tensor:
        """How little the critic was fooled by what the generator made."""
        fake_pred = self._gan[0].critic(output)
        loss = self.gen_loss_func(fake_pred, output, *targets)
        self.gen_loss = loss.detach()
        return loss

    def critic(self, real_pred: Tensor, *inputs: Tensor) -> Tensor:
        """How badly the critic tells real items from fakes made of ``inputs``."""
        gan = self._gan[0]
        with torch.no_grad():
            fake = gan.generator(*inputs)
        loss = self.crit_loss_func(real_pred, gan.critic(fake))
        self.crit_loss = loss.detach()
        return loss


def wgan_generator_loss(fake_pred: Tensor, output: Tensor, *targets: Tensor) -> Tensor:
    """The mean of what the critic says of fakes, which goes down as they look real."""
    return fake_pred.mean()


def wgan_critic_loss(real_pred: Tensor, fake_pred: Tensor) -> Tensor:
    """What the critic says of real items less what it says of fakes, in the mean."""
    return real_pred.mean() - fake_pred.mean()


@dataclass(frozen=True)
class _FoolingLoss:
    """What the generator of ``gan_loss_from_func`` is trained with."""

    loss_gen: LossFunction
    loss_crit: LossFunction
    weights: tuple[float, float]

    def __call__(self, fake_pred: Tensor, output: Tensor, *targets: Tensor) -> Tensor:
        fooled = self.loss_crit(fake_pred, torch.ones_like(fake_pred))
        resembles = self.loss_gen(output, *targets)
        return self.weights[0] * fooled + self.weights[1] * resembles


@dataclass(frozen=True)
class _TellingLoss:
    """What the critic of ``gan_loss_from_func`` is trained with."""

    loss_crit: LossFunction

    def __call__(self, real_pred: Tensor, fake_pred: Tensor) -> Tensor:
        real = self.loss_crit(real_pred, torch.ones_like(real_pred))
        fake = self.loss_crit(fake_pred, torch.zeros_like(fake_pred))
        return (real + fake) / 2


def gan_loss_from_func(
    loss_gen: LossFunction,
    loss_crit: LossFunction,
    weights_gen: Sequence[float] | None = None,
) -> tuple[GeneratorLoss, CriticLoss]:
    """The losses of generator and critic from the loss that each was trained with.

    The critic is to say 1 of real items and 0 of fakes: the mean of both losses. The
    generator: ``weights_gen[0] * loss_crit(critic of fakes, 1) + weights_gen[1] *
    loss_gen(fakes, targets)``.

    Args:
        loss_gen: Compares what the generator made with targets.
        loss_crit: Compares what the critic says with ones or zeros of the same shape.
        weights_gen: Weights of the two parts. Default: 1 and 1.

    Raises:
        OptionError: There are not two weights.
    """
    weights = (1.0, 1.0) if weights_gen is None else tuple(weights_gen)
    if len(weights) != 2:
        raise OptionError(
            "gan: weights_gen must be two numbers, of being real and of the target, "
            f"got {weights_gen!r}. Use (1, 50)."
        )
    return (
        _FoolingLoss(loss_gen, loss_crit, (weights[0], weights[1])),
        _TellingLoss(loss_crit),
    )


class AdaptiveLoss(nn.Module):
    """A loss whose targets are one number an item and whose outputs may be several.

    Args:
        crit: The loss, as ``nn.BCEWithLogitsLoss()``.
    """

    def __init__(self, crit: LossFunction) -> None:
        super().__init__()
        self.crit = crit

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss towards the target, expanded to the output's shape."""
        return self.crit(output, _expanded(target, output))


def accuracy_thresh_expand(
    y_pred: Tensor, y_true: Tensor, thresh: float = 0.5, sigmoid: bool = True
) -> Tensor:
    """Share of a critic's outputs that lie on the right side: a metric.

    Args:
        y_pred: Outputs, shape (N, outputs an item).
        y_true: One 0 or 1 an item, shape (N,).
        thresh: What lies above is a 1.
        sigmoid: Turn outputs into probabilities first.
    """
    probabilities = y_pred.sigmoid() if sigmoid else y_pred
    is_real = _expanded(y_true, y_pred).bool()
    return ((probabilities > thresh) == is_real).float().mean()


def _expanded(target: Tensor, output: Tensor) -> Tensor:
    shape = [*target.shape, *[1] * (output.ndim - target.ndim)]
    return target.view(shape).expand_as(output).to(output.dtype)
