"""The head that goes on a body: pooling, and linear layers with norms and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from callboard.errors import OptionError

Init = Callable[[Tensor], object]
HIDDEN_FEATURES = 512
# What the shift of a new norm starts at.
NORM_BIAS = 1e-3


class AdaptiveConcatPool2d(nn.Module):
    """The maximum and the mean of every feature map, maxima first.

    Args:
        size: Height and width of what is left of each map.
    """

    def __init__(self, size: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.size = size
        self.ap = nn.AdaptiveAvgPool2d(size)
        self.mp = nn.AdaptiveMaxPool2d(size)

    def forward(self, maps: Tensor) -> Tensor:
        """Shape (N, C, H, W) to (N, 2 * C, size, size)."""
        return torch.cat([self.mp(maps), self.ap(maps)], 1)


class SigmoidRange(nn.Module):
    """Keeps numbers between two bounds: ``sigmoid(x) * (high - low) + low``."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, numbers: Tensor) -> Tensor:
        """The numbers, between the bounds."""
        return torch.sigmoid(numbers) * (self.high - self.low) + self.low


class LinBnDrop(nn.Sequential):
    """Batch normalisation, dropout and a linear layer, as far as they are asked for.

    Args:
        n_in: Number of features that come in.
        n_out: Number of features that go out.
        bn: Normalise; the linear layer then has no bias.
        p: Share of the features that are dropped, 0 <= p < 1.
        act: Activation behind the linear layer.
        lin_first: Put the linear layer and its activation first.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bn: bool = True,
        p: float = 0.0,
        act: nn.Module | None = None,
        lin_first: bool = False,
    ) -> None:
        before: list[nn.Module] = []
        if bn:
            before.append(_batch_norm(n_out if lin_first else n_in))
        if p:
            before.append(nn.Dropout(p))
        linear: list[nn.Module] = [nn.Linear(n_in, n_out, bias=not bn)]
        if act is not None:
            linear.append(act)
        super().__init__(*(linear + before if lin_first else before + linear))


def _batch_norm(num_features: int, momentum: float = 0.1) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(num_features, momentum=momentum)
    nn.init.constant_(norm.bias, NORM_BIAS)
    return norm


def create_head(
    nf: int,
    n_out: int,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    *,
    pool: bool = True,
    concat_pool: bool = True,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
) -> nn.Sequential:
    """A head for a body that gives ``nf`` feature maps: pooling, then linear layers.

    Args:
        nf: Number of feature maps, or of features where ``pool`` is False.
        n_out: Number of outputs.
        lin_ftrs: Features between the linear layers. Default: 512.
        ps: Shares of features that are dropped before each linear layer; one number is
            that of the last, and half of it of those before.
        pool: Pool feature maps first.
        concat_pool: Pool by maximum and mean side by side, which doubles the features;
            else by the mean.
        first_bn: Normalise before the first linear layer too.
        bn_final: Normalise the outputs.
        lin_first: Each linear layer before its norm and dropout.
        y_range: Keep outputs between these two numbers.

    Raises:
        OptionError: A number is out of its range.
    """
    num_features = nf * 2 if pool and concat_pool else nf
    sizes = [
        num_features,
        *([HIDDEN_FEATURES] if lin_ftrs is None else lin_ftrs),
        n_out,
    ]
    num_linear = len(sizes) - 1
    drops = _spread_dropout(ps, num_linear)
    _check_range(y_range)
    layers: list[nn.Module] = []
    if pool:
        layers += [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1)]
        layers += [nn.Flatten()]
    if lin_first:
        layers.append(nn.Dropout(drops.pop(0)))
    # With linear layers first the last one stands alone, behind all norms.
    num_blocks = num_linear - 1 if lin_first else num_linear
    for number in range(num_blocks):
        layers += LinBnDrop(
            sizes[number],
            sizes[number + 1],
            bn=first_bn if number == 0 else True,
            p=drops[number],
            act=nn.ReLU(inplace=True) if number < num_linear - 1 else None,
            lin_first=lin_first,
        )
    if lin_first:
        layers.append(nn.Linear(sizes[-2], n_out))
    if bn_final:
        layers.append(_batch_norm(n_out, momentum=0.01))
    if y_range is not None:
        layers.append(SigmoidRange(*y_range))
    return nn.Sequential(*layers)


def _spread_dropout(ps: float | Sequence[float], num_linear: int) -> list[float]:
    given = [ps] if isinstance(ps, Real) else list(ps)  # type: ignore[arg-type]
    shares = [float(p) for p in given]
    if len(shares) == 1:
        shares = [shares[0] / 2] * (num_linear - 1) + shares
    if len(shares) != num_linear:
        raise OptionError(
            f"vision: ps has {len(shares)} numbers for {num_linear} linear layers. "
            "Give one for each, or one for all, as 0.5."
        )
    for share in shares:
        if not 0 <= share < 1:
            raise OptionError(
                f"vision: ps must be at least 0 and below 1, got {share:g}. Use 0.5."
            )
    return shares


def _check_range(y_range: tuple[float, float] | None) -> None:
    if y_range is None:
        return
    is_pair = len(y_range) == 2 and all(math.isfinite(bound) for bound in y_range)
    if not is_pair or not y_range[0] < y_range[1]:
        raise OptionError(
            f"vision: y_range must be two numbers, the lower first, got {y_range!r}. "
            "Use (0, 1)."
        )


def init_layers(module: nn.Module, init: Init) -> None:
    """Set the weights of all layers but norms by ``init``, and their biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            init(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
