"""What each input has to do with a prediction: gradients and occlusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from callboard.errors import DataError, OptionError, suggestion
from callboard.state import derive_seed

if TYPE_CHECKING:
    from callboard import Learner

Metric = Literal["IG", "NT", "Occl"]
WINDOW_SIDE = 15
STRIDE = 4
METRICS = {
    "IG": "integrated gradients",
    "NT": "noise tunnel",
    "Occl": "occlusion",
}
BASELINES = ("zeros", "uniform", "gauss")
NOISE_TUNNELS = ("smoothgrad", "smoothgrad_sq", "vargrad")
METHODS = (
    "original_image",
    "heat_map",
    "blended_heat_map",
    "masked_image",
    "alpha_scaling",
)
# As many images are held at once; integrated gradients make one a step.
IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Attribution:
    """How much every number of an image speaks for a class.

    Attributes:
        values: Attributions, shape (channels, height, width), on the CPU.
        image: The image as the model sees it, likewise.
        target: The class that it is about; None where the model gives one number.
        metric: How it was found: ``"IG"``, ``"NT"`` or ``"Occl"``.
    """

    values: Tensor
    image: Tensor
    target: Any
    metric: str


def parted(inp: Any) -> tuple[Tensor, Any]:
    """A batch of one image, and its label where there is one."""
    image, label = (
        inp if isinstance(inp, tuple | list) and len(inp) == 2 else (inp, None)
    )
    if isinstance(image, Tensor) and image.ndim == 3:
        image = image[None]
    if not isinstance(image, Tensor) or image.ndim != 4 or len(image) != 1:
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            "captum: the input must be one image, a tensor of shape (channels, height, "
            f"width), or a pair of it and its label; got {what}."
        )
    if not image.is_floating_point():
        raise DataError(
            f"captum: the image is of {image.dtype}; give it as the model takes it, in "
            "floating-point numbers."
        )
    return image, label.item() if isinstance(label, Tensor) else label


@contextmanager
def in_eval_mode(learner: Learner) -> Iterator[Callable[[Tensor], Tensor]]:
    """The model as a function with gradients, in an evaluation that nothing notices."""
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    with learner.evaluating("predict"), torch.enable_grad():
        learner.model.eval()
        torch.manual_seed(seed_of(learner))  # noise; put back by the evaluation
        try:
            for parameter in trained:
                # Gradients are those of the image alone, which is half of the work.
                parameter.requires_grad_(False)
            yield lambda images: checked(learner.model(images))
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def checked(pred: Any) -> Tensor:
    if isinstance(pred, Tensor):
        return pred
    raise DataError(
        f"captum: the model gave a {type(pred).__name__}; an interpretation needs one "
        "tensor of scores."
    )


def seed_of(learner: Learner) -> int:
    return derive_seed(learner.seed, "captum")


def target_of(scores: Tensor, wanted: Any) -> Any:
    """The class to look at; None where the model gives one number an image.

    Raises:
        OptionError: There is no such class.
        DataError: It does not follow from the scores.
    """
    if scores.ndim == 1:
        return None
    if wanted is None and scores.ndim == 2:
        return int(scores[0].argmax())
    if wanted is None:
        raise DataError(
            f"captum: the model gives scores of shape {tuple(scores.shape)}; say which "
            "of them in target, as target=(3, 10, 12)."
        )
    if scores.ndim > 2:
        return tuple(wanted)
    num_classes = scores.shape[1]
    if num_classes == 1:
        return 0
    if not isinstance(wanted, int) or not 0 <= wanted < num_classes:
        raise OptionError(
            f"captum: target must be a class from 0 to {num_classes - 1}, got "
            f"{wanted!r}."
        )
    return wanted


def gradients_of(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    target: Any,
    baseline: Tensor,
    n_steps: int,
    noise_tunnel: str | None,
) -> Tensor:
    """Integrated gradients, of the image or averaged over noisy ones."""
    from captum.attr import IntegratedGradients, NoiseTunnel

    integrated = IntegratedGradients(predict)
    options: dict[str, Any] = {
        "baselines": baseline,
        "target": target,
        "n_steps": n_steps,
        "internal_batch_size": IMAGES_AT_ONCE,
    }
    if noise_tunnel is None:
        found: Tensor = integrated.attribute(images, **options)
        return found
    tunnel: Tensor = NoiseTunnel(integrated).attribute(
        images, nt_type=noise_tunnel, nt_samples_batch_size=1, **options
    )
    return tunnel


@torch.no_grad()
def occlusion_of(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    target: Any,
    baseline: Tensor,
    window: tuple[int, ...],
    stride: tuple[int, ...],
) -> Tensor:
    from captum.attr import Occlusion

    found: Tensor = Occlusion(predict).attribute(
        images,
        sliding_window_shapes=window,
        strides=stride,
        baselines=baseline,
        target=target,
        perturbations_per_eval=IMAGES_AT_ONCE,
    )
    return found


def window_of(
    shape: torch.Size, window: Sequence[int] | None, stride: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size and step of the window that hides a part of an image.

    Raises:
        OptionError: It does not fit into the image, or leaves pixels out.
    """
    channels, height, width = shape
    sides = (channels, min(WINDOW_SIDE, height), min(WINDOW_SIDE, width))
    size = sides if window is None else tuple(window)
    fits = len(size) == 3 and all(
        1 <= a <= b for a, b in zip(size, shape, strict=False)
    )
    if not fits:
        raise OptionError(
            f"captum: sliding_window_shapes must fit into the image, {tuple(shape)}, "
            f"got {size}. Use {sides}."
        )
    usual = (size[0], min(STRIDE, size[1]), min(STRIDE, size[2]))
    step = usual if stride is None else tuple(stride)
    if len(step) != 3 or not all(1 <= a <= b for a, b in zip(step, size, strict=False)):
        raise OptionError(
            f"captum: strides must be from 1 to the size of the window, {size}, so "
            f"that no pixel is left out; got {step}. Use {usual}."
        )
    return size, step


def check_choice(option: str, value: Any, known: Any) -> None:
    if value not in known:
        choices = ", ".join(f'"{each}"' for each in known)
        message = f"captum: {option} must be of {choices}, got {value!r}."
        raise OptionError(message + suggestion(str(value), known))
