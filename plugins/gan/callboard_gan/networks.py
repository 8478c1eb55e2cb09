"""The pair of networks as one model, and usual networks for images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from callboard.errors import OptionError

Activation = Callable[[], nn.Module]
SMALLEST_MAP = 4
# What the shift of a new norm starts at.
NORM_BIAS = 1e-3


class GANModule(nn.Module):
    """A generator and a critic as one model, of which one answers at a time.

    Args:
        generator: Makes items.
        critic: Says of items how real they look; one number or several an item.
        gen_mode: Whether the generator answers, or the critic.
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, gen_mode: bool = False
    ) -> None:
        super().__init__()
        self.generator = generator
        self.critic = critic
        self.gen_mode = gen_mode

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the one of the two says whose turn it is."""
        answer: Tensor = (self.generator if self.gen_mode else self.critic)(*inputs)
        return answer

    def switch(self, gen_mode: bool | None = None) -> None:
        """Let the generator answer, or the critic; None: the other one than now."""
        self.gen_mode = not self.gen_mode if gen_mode is None else gen_mode


class AddChannels(nn.Module):
    """Adds dimensions of size 1 at the end, as noise needs to become an image.

    Args:
        n_dim: How many dimensions.
    """

    def __init__(self, n_dim: int) -> None:
        super().__init__()
        self.n_dim = n_dim

    def forward(self, numbers: Tensor) -> Tensor:
        """Shape (N, C) to (N, C, 1, ..., 1)."""
        return numbers.reshape(*numbers.shape, *[1] * self.n_dim)


class SelfAttention(nn.Module):
    """Lets every place of a feature map look at all others.

    Zhang et al. 2018, arXiv:1805.08318, equation 3; starts as the identity.

    Args:
        n_channels: Number of feature maps, at least 8.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        inner = n_channels // 8
        self.query = _spectral_conv1d(n_channels, inner)
        self.key = _spectral_conv1d(n_channels, inner)
        self.value = _spectral_conv1d(n_channels, n_channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps of the same shape."""
        flat = maps.flatten(2)
        scores = self.query(flat).transpose(1, 2) @ self.key(flat)
        seen = self.value(flat) @ scores.softmax(1)
        attended: Tensor = (self.gamma * seen + flat).view_as(maps)
        return attended


def _spectral_conv1d(num_in: int, num_out: int) -> nn.Module:
    conv = nn.Conv1d(num_in, num_out, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    spectral: nn.Module = spectral_norm(conv)
    return spectral


def _conv_layer(
    conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: bool, activation: Activation
) -> list[nn.Module]:
    nn.init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers: list[nn.Module] = [conv]
    if norm:
        batch_norm = nn.BatchNorm2d(conv.out_channels)
        nn.init.constant_(batch_norm.bias, NORM_BIAS)
        layers.append(batch_norm)
    return [*layers, activation()]


def basic_critic(
    in_size: int,
    n_channels: int,
    n_features: int = 64,
    n_extra_layers: int = 0,
    *,
    norm: bool = True,
    activation: Activation = nn.ReLU,
) -> nn.Sequential:
    """A critic of images of ``n_channels`` x ``in_size`` x ``in_size``.

    Convolutions halve the maps and double their number until they are 4 x 4.

    Args:
        in_size: Height and width; halved again and again it must come to 4, as 8, 16
            and 64 do.
        n_channels: Number of channels.
        n_features: Number of maps after the first layer.
        n_extra_layers: Layers after the first that leave size and number as they are.
        norm: Normalise by batch after all layers but the first.
        activation: Makes the activations; a class, or a function without arguments.

    Raises:
        OptionError: The size does not come to 4.
    """
    size, features = in_size // 2, n_features
    first = nn.Conv2d(n_channels, features, 4, 2, 1)
    layers = _conv_layer(first, norm=False, activation=activation)
    for _ in range(n_extra_layers):
        extra = nn.Conv2d(features, features, 3, 1, 1, bias=not norm)
        layers += _conv_layer(extra, norm=norm, activation=activation)
    while size > SMALLEST_MAP:
        half = nn.Conv2d(features, features * 2, 4, 2, 1, bias=not norm)
        layers += _conv_layer(half, norm=norm, activation=activation)
        size, features = size // 2, features * 2
    if size != SMALLEST_MAP:
        raise OptionError(
            f"gan: in_size must come to {SMALLEST_MAP} when it is halved again and "
            f"again, and {in_size} does not. Resize images to 32 or 64."
        )
    last = nn.Conv2d(features, 1, SMALLEST_MAP)
    nn.init.kaiming_normal_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last, nn.Flatten())


def basic_generator(
    out_size: int,
    n_channels: int,
    in_sz: int = 100,
    n_features: int = 64,
    n_extra_layers: int = 0,
    *,
    activation: Activation = nn.ReLU,
) -> nn.Sequential:
    """A generator of images of ``n_channels`` x ``out_size`` x ``out_size``, -1 to 1.

    Takes noise of shape (N, in_sz); transposed convolutions double the maps from 4 x 4.

    Args:
        out_size: Height and width: 8, 16, 32, ...
        n_channels: Number of channels.
        in_sz: How many numbers an image is made of.
        n_features: Number of maps before the last layer.
        n_extra_layers: Layers before the last that leave size and number as they are.
        activation: Makes the activations; a class, or a function without arguments.

    Raises:
        OptionError: The size is none that doubling comes to.
    """
    if out_size < 2 * SMALLEST_MAP or out_size & (out_size - 1):
        raise OptionError(
            f"gan: out_size must be {SMALLEST_MAP} doubled once or more, got "
            f"{out_size!r}. Use 32 or 64."
        )
    features = n_features * (out_size // (2 * SMALLEST_MAP))
    layers: list[nn.Module] = [AddChannels(2)]
    first = nn.ConvTranspose2d(in_sz, features, SMALLEST_MAP, 1, bias=False)
    layers += _conv_layer(first, norm=True, activation=activation)
    size = SMALLEST_MAP
    while size < out_size // 2:
        double = nn.ConvTranspose2d(features, features // 2, 4, 2, 1, bias=False)
        layers += _conv_layer(double, norm=True, activation=activation)
        size, features = size * 2, features // 2
    for _ in range(n_extra_layers):
        extra = nn.ConvTranspose2d(features, features, 3, 1, 1, bias=False)
        layers += _conv_layer(extra, norm=True, activation=activation)
    last = nn.ConvTranspose2d(features, n_channels, 4, 2, 1, bias=False)
    return nn.Sequential(*layers, last, nn.Tanh())


def gan_critic(
    n_channels: int = 3, nf: int = 128, n_blocks: int = 3, p: float = 0.15
) -> nn.Sequential:
    """A critic with spectral norms and self-attention, for fine-tuned generators.

    It gives one number for each part of an image, and so takes images of many sizes:
    at least 64 x 64 with three blocks.

    Args:
        n_channels: Number of channels.
        nf: Number of maps after the first layer.
        n_blocks: How many more times the maps are halved and doubled in number.
        p: Share of the maps that are dropped, 0 <= p < 1.
    """
    layers = [_spectral_conv(n_channels, nf, 4, 2), nn.Dropout2d(p / 2), _Dense(nf)]
    features = nf * 2
    for number in range(n_blocks):
        layers += [nn.Dropout2d(p), _spectral_conv(features, features * 2, 4, 2)]
        features *= 2
        if number == 0:
            layers.append(SelfAttention(features))
    last = nn.Conv2d(features, 1, 4, bias=False)
    nn.init.kaiming_normal_(last.weight)
    return nn.Sequential(*layers, spectral_norm(last), nn.Flatten())


def _spectral_conv(num_in: int, num_out: int, size: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(num_in, num_out, size, stride, (size - 1) // 2)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(spectral_norm(conv), nn.LeakyReLU(0.2))


class _Dense(nn.Module):
    """Puts what two convolutions make of the maps beside them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            _spectral_conv(num_features, num_features, 3, 1),
            _spectral_conv(num_features, num_features, 3, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.convs(maps), maps], 1)
