"""Learners for images: a pretrained body, a new head, frozen groups.

Listens to  before_batch, with ``Normalize``; ``vision_learner`` itself is a function
Changes     xb, with ``Normalize``
Source      fastai's ``vision_learner`` (Howard & Gugger 2020, arXiv:2002.04688),
            written anew
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_vision.architectures import build_architecture, load_weights
from callboard_vision.body import (
    TimmBody,
    create_body,
    cut_model,
    has_pool_type,
    num_features_model,
    usual_cut,
)
from callboard_vision.head import (
    AdaptiveConcatPool2d,
    LinBnDrop,
    SigmoidRange,
    create_head,
)
from callboard_vision.learner import cnn_learner, create_vision_model, vision_learner
from callboard_vision.normalize import IMAGENET_STATS, Normalize
from callboard_vision.splitters import (
    alexnet_split,
    default_split,
    densenet_split,
    resnet_split,
    squeezenet_split,
    vgg_split,
)

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = [
    "IMAGENET_STATS",
    "AdaptiveConcatPool2d",
    "LinBnDrop",
    "Normalize",
    "SigmoidRange",
    "TimmBody",
    "alexnet_split",
    "build_architecture",
    "cnn_learner",
    "create_body",
    "create_head",
    "create_vision_model",
    "cut_model",
    "default_split",
    "densenet_split",
    "has_pool_type",
    "load_weights",
    "num_features_model",
    "resnet_split",
    "squeezenet_split",
    "usual_cut",
    "vgg_split",
    "vision_learner",
]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the normalisation of images out."""
    from callboard.testing import Specimen

    return {
        "normalize": Specimen(make=lambda: Normalize([0.5], [0.25]), learner="images")
    }
