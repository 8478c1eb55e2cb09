"""Parameter groups of a body and its head, first layers first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

# Indexed and sliced as nn.Sequential, whose items mypy knows as plain modules.
Parts = list[Any]


def default_split(model: Any) -> Parts:
    """The body, and what comes behind it."""
    return [model[0], model[1:]]


def resnet_split(model: Any) -> Parts:
    """The first two stages of a ResNet, the other two, the head."""
    return [model[0][:6], model[0][6:], model[1:]]


def squeezenet_split(model: Any) -> Parts:
    """The first two fire modules of a SqueezeNet, the rest, the head."""
    return [model[0][0][:5], model[0][0][5:], model[1:]]


def densenet_split(model: Any) -> Parts:
    """The first dense blocks of a DenseNet, the rest, the head."""
    return [model[0][0][:7], model[0][0][7:], model[1:]]


def vgg_split(model: Any) -> Parts:
    """The first 22 layers of a VGG, the rest, the head."""
    return [model[0][0][:22], model[0][0][22:], model[1:]]


def alexnet_split(model: Any) -> Parts:
    """The first 6 layers of an AlexNet, the rest, the head."""
    return [model[0][0][:6], model[0][0][6:], model[1:]]


Splitter = Callable[[nn.Module], Parts]
# By how the names of torchvision's functions begin.
SPLITTERS: dict[str, Splitter] = {
    "alexnet": alexnet_split,
    "densenet": densenet_split,
    "resnet": resnet_split,
    "resnext": resnet_split,
    "squeezenet": squeezenet_split,
    "vgg": vgg_split,
    "wide_resnet": resnet_split,
}


def splitter_for(origin: str, name: str) -> Splitter:
    """The splitter of an architecture: three groups where it is known, else two.

    Args:
        origin: The package that the architecture is from.
        name: Name of the function that builds it.
    """
    if origin == "torchvision":
        for prefix, splitter in SPLITTERS.items():
            if name.startswith(prefix):
                return splitter
    return default_split
