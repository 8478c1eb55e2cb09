"""The sizes of what the layers of an image model give out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from callboard.errors import OptionError
from callboard_hooks.hook import hook_outputs

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 512


def dummy_eval(m: nn.Module, size: tuple[int, int] = (64, 64)) -> Any:
    """What an image model gives for one blank image, in eval mode, without gradients.

    Modes are put back.

    Args:
        m: A model whose first weight with four dimensions takes the image.
        size: Height and width, in pixels.
    """
    weight = _first_image_weight(m)
    image = torch.zeros(
        1, weight.shape[1], *size, dtype=weight.dtype, device=weight.device
    )
    modes = [(module, module.training) for module in m.modules()]
    try:
        with torch.no_grad():
            return m.eval()(image)
    finally:
        for module, mode in modes:
            module.training = mode


def _first_image_weight(m: nn.Module) -> Tensor:
    for module in m.modules():
        if isinstance(module, nn.Conv2d):
            # Grouped convolutions see in_channels / groups in their weight.
            return module.weight.new_empty(1, module.in_channels)
    raise OptionError(
        f"hooks: {type(m).__name__} has no nn.Conv2d, so the number of channels of an "
        "image is not known; call the model on a batch of yours with hook_outputs."
    )


def model_sizes(m: nn.Module, size: tuple[int, int] = (64, 64)) -> list[torch.Size]:
    """Shape of the output of each direct child of a model, for one image.

    Args:
        m: A model that can be gone through child by child, as ``nn.Sequential``.
        size: Height and width, in pixels.
    """
    with hook_outputs(m.children()) as hooks:
        dummy_eval(m, size)
        return [hook.stored.shape for hook in hooks]


def num_features_model(m: nn.Module) -> int:
    """Number of channels that a model gives out, for an image as small as it takes."""
    size = SMALLEST_IMAGE
    while True:
        try:
            return model_sizes(m, (size, size))[-1][1]
        except OptionError:
            raise
        except (RuntimeError, ValueError):
            # Too small for its strides, mostly.
            size *= 2
            if size > LARGEST_IMAGE:
                raise
