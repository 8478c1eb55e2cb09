"""``vision_learner``: a Learner for images from an architecture and data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from callboard import Learner
from callboard.data import as_dataloaders
from callboard.errors import OptionError
from callboard.optim import Rate, Splitter
from callboard_vision.architectures import (
    Architecture,
    build_architecture,
    found_architecture,
    name_of,
    origin_of,
)
from callboard_vision.body import Cut, create_body, dummy_output
from callboard_vision.head import Init, create_head, init_layers
from callboard_vision.normalize import IMAGENET_STATS, Normalize, Stats
from callboard_vision.splitters import splitter_for


def create_vision_model(
    arch: Architecture | str,
    n_out: int,
    *,
    pretrained: bool = True,
    weights: Any = None,
    cut: Cut | None = None,
    n_in: int = 3,
    init: Init | None = nn.init.kaiming_normal_,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
) -> nn.Sequential:
    """An architecture's body with a new head: ``nn.Sequential(body, head)``.

    Args:
        arch: A function that builds the architecture, or its name.
        n_out: Number of outputs.
        pretrained: Whether the body comes with weights.
        weights: Which: a file, or what the function's own ``weights`` takes.
        cut: Where the body ends; default: before pooling and classifier.
        n_in: Number of channels of the images.
        init: Sets the weights of the head's layers; None leaves torch's.
        custom_head: A head of one's own in place of ``create_head``'s.
        concat_pool: As in ``create_head``, and so all that follow.
        pool: Pool feature maps. A body that gives none is not pooled in any case.
        lin_ftrs: Features between the linear layers.
        ps: Shares of features that are dropped.
        first_bn: Normalise before the first linear layer too.
        bn_final: Normalise the outputs.
        lin_first: Each linear layer before its norm and dropout.
        y_range: Keep outputs between these two numbers.

    Raises:
        OptionError: An option is out of its range, or does not fit the architecture.
        StateError: The weights do not fit the architecture.
    """
    if isinstance(n_out, bool) or not isinstance(n_out, int) or n_out < 1:
        raise OptionError(
            f"vision: n_out must be a number of outputs from 1 on, got {n_out!r}. Use "
            "the number of classes."
        )
    model = build_architecture(arch, pretrained=pretrained, weights=weights)
    body = create_body(model, n_in, pretrained=pretrained, cut=cut)
    head = custom_head
    if head is None:
        features = dummy_output(body)
        head = create_head(
            features.shape[1],
            n_out,
            lin_ftrs,
            ps,
            pool=pool and features.ndim == 4,
            concat_pool=concat_pool,
            first_bn=first_bn,
            bn_final=bn_final,
            lin_first=lin_first,
            y_range=y_range,
        )
    if init is not None:
        init_layers(head, init)
    return nn.Sequential(body, head)


def vision_learner(
    dls: Any,
    arch: Architecture | str,
    *,
    n_out: int | None = None,
    normalize: bool | Stats = False,
    pretrained: bool = True,
    weights: Any = None,
    loss_func: Callable[..., Tensor] | None = None,
    opt_func: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    lr: Rate = 1e-3,
    splitter: Splitter | None = None,
    cbs: Any = None,
    metrics: Any = None,
    path: str | Path = ".",
    device: str | torch.device | None = None,
    seed: int | None = None,
    train_bn: bool = True,
    cut: Cut | None = None,
    init: Init | None = nn.init.kaiming_normal_,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    n_in: int = 3,
) -> Learner:
    """A Learner whose model is an architecture's body with a new head.

    Where the body is pretrained, all but the head is frozen: ``learn.fine_tune`` trains
    the head first, then the whole model.

    Args:
        dls: The data, as for ``Learner``.
        arch: A function that builds the architecture, as
            ``torchvision.models.resnet34``, or its name.
        n_out: Number of outputs. Default: how many ``classes`` the dataset has.
        normalize: Normalise images on the device: with the statistics of ImageNet
            (True), or with ``(mean, std)`` of each channel.
        pretrained: Whether the body comes with weights; it is frozen then.
        weights: Which: a file of them, or what the function's own ``weights`` takes.
        loss_func: As for ``Learner``. Default: cross entropy where the dataset has
            ``classes``.
        opt_func: As for ``Learner``, and so all that follow.
        lr: Learning rate.
        splitter: Parts the model into parameter groups. Default: three groups for
            those of torchvision whose stages are known, else body and head.
        cbs: Callbacks.
        metrics: Metrics.
        path: Where plugins put files.
        device: Where model and batches go.
        seed: What all random numbers of training derive from.
        train_bn: Whether norms keep training while frozen.
        cut: Where the body ends, as in ``create_vision_model``, and so all that follow.
        init: Sets the weights of the head's layers.
        custom_head: A head of one's own.
        concat_pool: Pool by maximum and mean side by side.
        pool: Pool feature maps.
        lin_ftrs: Features between the linear layers.
        ps: Shares of features that are dropped.
        first_bn: Normalise before the first linear layer too.
        bn_final: Normalise the outputs.
        lin_first: Each linear layer before its norm and dropout.
        y_range: Keep outputs between these two numbers.
        n_in: Number of channels of the images.

    Raises:
        OptionError: An option is out of its range, or does not fit the architecture or
            the data.
        StateError: The weights do not fit the architecture.
    """
    data = as_dataloaders(dls)
    classes = _classes_of(data)
    function = found_architecture(arch)
    if n_out is None:
        n_out = _number_of_outputs(classes)
    if loss_func is None:
        loss_func = _usual_loss(classes)
    callbacks = _with_normalize(cbs, normalize, n_in)
    model = create_vision_model(
        function,
        n_out,
        pretrained=pretrained,
        weights=weights,
        cut=cut,
        n_in=n_in,
        init=init,
        custom_head=custom_head,
        concat_pool=concat_pool,
        pool=pool,
        lin_ftrs=lin_ftrs,
        ps=ps,
        first_bn=first_bn,
        bn_final=bn_final,
        lin_first=lin_first,
        y_range=y_range,
    )
    if splitter is None:
        splitter = splitter_for(origin_of(function), name_of(function))
    learner = Learner(
        data,
        model,
        loss_func,
        opt_func,
        lr,
        metrics=metrics,
        cbs=callbacks,
        splitter=splitter,
        path=path,
        device=device,
        seed=seed,
        train_bn=train_bn,
    )
    if pretrained:
        learner.freeze()
    return learner


#: fastai's older name of the same.
cnn_learner = vision_learner


def _classes_of(dls: Any) -> Sequence[Any] | None:
    """The classes of a dataset that has them, as torchvision's do, also of a subset."""
    for loader in (dls.train, dls.valid):
        dataset = getattr(loader, "dataset", None)
        while dataset is not None:
            if getattr(dataset, "classes", None) is not None:
                classes: Sequence[Any] = dataset.classes
                return classes
            dataset = getattr(dataset, "dataset", None)
    return None


def _number_of_outputs(classes: Sequence[Any] | None) -> int:
    if classes is None:
        raise OptionError(
            "vision: n_out was not given, and the dataset has no `classes` to count. "
            "Give n_out=10 for ten classes."
        )
    return len(classes)


def _usual_loss(classes: Sequence[Any] | None) -> Callable[..., Tensor]:
    if classes is None:
        raise OptionError(
            "vision: loss_func was not given, and the dataset has no `classes`, which "
            "would make it cross entropy. Give loss_func=torch.nn.CrossEntropyLoss()."
        )
    return nn.CrossEntropyLoss()


def _with_normalize(cbs: Any, normalize: bool | Stats, n_in: int) -> list[Any]:
    is_many = isinstance(cbs, Sequence) and not isinstance(cbs, str)
    given = list(cbs) if is_many else [cbs] if cbs is not None else []
    if normalize is False:
        return given
    stats = IMAGENET_STATS if normalize is True else normalize
    try:
        mean, std = stats
        callback = Normalize(tuple(mean), tuple(std))
    except TypeError as error:
        raise OptionError(
            f"vision: normalize must be True, False or (mean, std), got {normalize!r}. "
            "Use True for the statistics of ImageNet."
        ) from error
    if len(callback.mean) != n_in:
        raise OptionError(
            f"vision: normalize has numbers for {len(callback.mean)} channels, and the "
            f"images have n_in={n_in}. Give (mean, std) with {n_in} numbers each."
        )
    return [callback, *given]
