"""The body of an architecture: all that comes before its pooling and classifier."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from callboard.errors import OptionError
from callboard_vision.architectures import CLASSIFIER_NAMES

Cut = int | Callable[[nn.Module], nn.Module]
# Sizes of images that are tried; 224 is what many transformers are fixed to.
SIZES = (64, 128, 224, 256, 384, 512)
USUAL_CHANNELS = 3
# What models raise where an image is too small for them.
MISFITS = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)


def has_pool_type(module: nn.Module) -> bool:
    """Whether a module is a pooling layer, or holds one somewhere inside."""
    return any(
        re.search(r"Pool[123]d$", type(each).__name__) for each in module.modules()
    )


def cut_model(model: nn.Module, cut: Cut) -> nn.Module:
    """The first ``cut`` children in sequence, or what a function makes of the model.

    Raises:
        OptionError: Nothing is left, or the function returns no module.
    """
    if callable(cut):
        body = cut(model)
        if not isinstance(body, nn.Module):
            raise OptionError(
                f"vision: cut must return a module, got {type(body).__name__}. Use "
                "lambda model: model.features."
            )
        return body
    if isinstance(cut, bool) or not isinstance(cut, int):
        raise OptionError(
            "vision: cut must be a number of children or a function of the model, got "
            f"{cut!r}. Use -2 to leave out the last two."
        )
    children = list(model.children())[:cut]
    if not any(_has_parameters(child) for child in children):
        names = ", ".join(name for name, _ in model.named_children())
        raise OptionError(
            f"vision: cut={cut} leaves no layer with weights of "
            f"{type(model).__name__}, whose children are {names}. Use -2 to leave out "
            "the last two."
        )
    return nn.Sequential(*children)


def usual_cut(model: nn.Module) -> int:
    """How many children of a model come before its pooling and its classifier.

    The classifier is the last child with weights, where its name says so (``fc``,
    ``classifier``, ``head``, ...); pooling and flattening right before it are left out
    too. Else the model is cut at its last pooling layer.

    Raises:
        OptionError: There is neither.
    """
    children = list(model.named_children())
    end = _start_of_classifier(children)
    if end is None:
        end = _end_of_last_pooling(children)
    while end and _is_between_body_and_head(children[end - 1][1]):
        end -= 1
    if not any(_has_parameters(child) for _, child in children[:end]):
        names = ", ".join(name for name, _ in children) or "none"
        raise OptionError(
            f"vision: it is not clear where the body of {type(model).__name__} ends; "
            f"its children are {names}. Give cut, a number of children or a function, "
            "as lambda model: model.features."
        )
    return end


def _start_of_classifier(children: list[tuple[str, nn.Module]]) -> int | None:
    places = [i for i, (_, child) in enumerate(children) if _has_parameters(child)]
    if places and children[places[-1]][0] in CLASSIFIER_NAMES:
        return places[-1]
    return None


def _end_of_last_pooling(children: list[tuple[str, nn.Module]]) -> int:
    pools = [i for i, (_, child) in enumerate(children) if has_pool_type(child)]
    return pools[-1] + 1 if pools else 0


def _is_between_body_and_head(module: nn.Module) -> bool:
    if _has_parameters(module):
        return False
    passes_on = nn.Flatten | nn.Identity | nn.Dropout | nn.Dropout2d
    return has_pool_type(module) or isinstance(module, passes_on)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def create_body(
    model: nn.Module, n_in: int = 3, *, pretrained: bool = True, cut: Cut | None = None
) -> nn.Module:
    """The body of a model, made of the model's own layers.

    Args:
        model: A whole architecture, classifier included.
        n_in: Number of channels of the images; another first layer is made where the
            model takes another number.
        pretrained: Make a new first layer of the weights of the old one.
        cut: How many children to keep (negative: how many to leave out), or a function
            that makes the body of the model. Default: ``usual_cut``, or for models in
            the manner of timm their ``forward_features``.

    Raises:
        OptionError: It is not clear where the body ends, or the model does more than
            call its children one after the other.
    """
    if cut is not None:
        body = cut_model(model, cut)
    elif is_timm_like(model):
        body = TimmBody(model)
    else:
        body = cut_model(model, usual_cut(model))
    if isinstance(body, nn.Sequential) and not callable(cut):
        _check_sequence(model, body)
    update_first_layer(body, n_in, pretrained=pretrained)
    return body


def is_timm_like(model: nn.Module) -> bool:
    """Whether a model tells its features apart from its classifier, as timm's do."""
    return callable(getattr(model, "forward_features", None)) and isinstance(
        getattr(model, "num_features", None), int
    )


class TimmBody(nn.Module):
    """The features of a model in the manner of timm.

    Feature maps where the model gives some, of shape (N, C, H, W); else, as for
    transformers, the features of an item, shape (N, C).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        _take_off_classifier(model)
        self.model = model
        maps = dummy_output(model, model.forward_features)
        self.gives_maps = maps.ndim == 4 and maps.shape[1] == model.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Images to features."""
        model: Any = self.model
        features: Tensor = (
            model.forward_features(images) if self.gives_maps else model(images)
        )
        return features


def _take_off_classifier(model: Any) -> None:
    if callable(getattr(model, "reset_classifier", None)):
        model.reset_classifier(0)
        return
    get = getattr(model, "get_classifier", None)
    classifier = get() if callable(get) else None
    names = [name for name, each in model.named_modules() if each is classifier]
    if not names:
        raise OptionError(
            f"vision: {type(model).__name__} has forward_features, and neither "
            "reset_classifier nor get_classifier, which tell its classifier. Give "
            "cut, a function that makes the body of the model."
        )
    parent_name, _, attribute = names[0].rpartition(".")
    setattr(model.get_submodule(parent_name), attribute, nn.Identity())


def num_features_model(body: nn.Module) -> int:
    """Number of channels, or of features, that a body gives."""
    return int(dummy_output(body).shape[1])


def dummy_output(
    model: nn.Module, forward: Callable[[Tensor], Any] | None = None
) -> Tensor:
    """What a model gives for one small image, in evaluation mode, without gradients.

    Raises:
        OptionError: It takes no image of any usual size.
    """
    error: Exception | None = None
    for size in SIZES:
        with _evaluating(model):
            try:
                output = (forward or model)(_dummy_image(model, size))
            except MISFITS as problem:
                error = problem
                continue
        if isinstance(output, Tensor) and output.ndim >= 2:
            return output
        error = TypeError(f"it gives {type(output).__name__}")
    raise OptionError(
        f"vision: {type(model).__name__} made no features of an image of any size "
        f"from {SIZES[0]} to {SIZES[-1]} ({error}). Give cut, a function that makes "
        "the body of the architecture."
    ) from error


def _dummy_image(model: nn.Module, size: int) -> Tensor:
    first = first_layer(model)
    channels = USUAL_CHANNELS if first is None else first[1].in_channels
    weight = next(model.parameters())
    # A generator of its own, since building a model may move nobody's random numbers.
    image = torch.rand(
        1, channels, size, size, generator=torch.Generator().manual_seed(0)
    )
    return image.to(weight.device, weight.dtype)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_sequence(model: nn.Module, body: nn.Sequential) -> None:
    """Refuse a model whose forward pass is not that of its children in sequence.

    The output of the body's last layer with weights, in a pass through the whole model,
    must be that in a pass through the body alone.
    """
    last = [child for child in body if _has_parameters(child)][-1]
    for size in SIZES:
        image = _dummy_image(model, size)
        whole, alone = (_output_within(each, last, image) for each in (model, body))
        if whole is None:
            continue  # too small for this architecture
        if alone is None or whole.shape != alone.shape:
            break
        if torch.allclose(whole, alone, rtol=1e-3, atol=1e-5):
            return
        break
    raise OptionError(
        f"vision: {type(model).__name__} does more than call its children one after "
        "the other, so its body cannot be cut by a number of them. Give cut, a "
        "function that makes the body of the model."
    )


def _output_within(model: nn.Module, layer: nn.Module, image: Tensor) -> Tensor | None:
    """What a layer gives in a pass through a model; None where it is not reached."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append(output.clone())  # some activate it in place afterwards

    handle = layer.register_forward_hook(keep)
    try:
        # What is behind the body may fail: it may want images of another size.
        with _evaluating(model), suppress(*MISFITS):
            model(image)
    finally:
        handle.remove()
    return seen[-1] if seen else None


def first_layer(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Name and module of the first convolution, which takes the channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    return None


def update_first_layer(model: nn.Module, n_in: int, *, pretrained: bool) -> None:
    """Make the first convolution take ``n_in`` channels, in place.

    Where it is pretrained, the weights for one channel are the sums of those for three,
    for two the first two times 1.5, so that sums stay of their size; for more, the
    channels after the third start at 0.

    Raises:
        OptionError: There is no convolution to change, or it is pretrained for another
            number of channels than 3.
    """
    if isinstance(n_in, bool) or not isinstance(n_in, int) or n_in < 1:
        raise OptionError(
            f"vision: n_in must be a number of channels from 1 on, got {n_in!r}. Use 3."
        )
    found = first_layer(model)
    if found is None:
        if n_in == USUAL_CHANNELS:
            return
        raise OptionError(
            f"vision: {type(model).__name__} has no convolution to give n_in={n_in} "
            "channels to. Give an arch that takes them."
        )
    name, old = found
    if old.in_channels == n_in:
        return
    if pretrained and old.in_channels != USUAL_CHANNELS:
        raise OptionError(
            f"vision: the pretrained first layer takes {old.in_channels} channels; "
            f"only one of {USUAL_CHANNELS} can be made one of n_in={n_in}. Give "
            "pretrained=False."
        )
    parent_name, _, attribute = name.rpartition(".")
    new = _with_channels(old, n_in)
    if pretrained:
        _take_over(new, old)
    setattr(model.get_submodule(parent_name), attribute, new)


def _with_channels(old: nn.Conv2d, n_in: int) -> nn.Conv2d:
    if old.groups != 1:
        raise OptionError(
            f"vision: the first layer has {old.groups} groups of channels and cannot "
            f"take n_in={n_in}. Give an arch that does."
        )
    return nn.Conv2d(
        n_in,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )


@torch.no_grad()
def _take_over(new: nn.Conv2d, old: nn.Conv2d) -> None:
    weight = old.weight
    if new.in_channels == 1:
        new.weight.copy_(weight.sum(1, keepdim=True))
    elif new.in_channels == 2:
        new.weight.copy_(weight[:, :2] * 1.5)
    else:
        new.weight.zero_()
        new.weight[:, :USUAL_CHANNELS].copy_(weight)
    if new.bias is not None and old.bias is not None:
        new.bias.copy_(old.bias)
