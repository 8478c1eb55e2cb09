"""Show which pixels of an image a prediction rests on: ``learn.interpret()``.

Listens to  nothing; it works in a nested evaluation of the stage ``predict``
Changes     nothing
Source      Captum (Kokhlikyan et al. 2020, arXiv:2009.07896) does the work; integrated
            gradients: Sundararajan et al. 2017, arXiv:1703.01365; noise tunnel:
            Smilkov et al. 2017, arXiv:1706.03825; occlusion: Zeiler & Fergus 2014,
            arXiv:1311.2901. Names and options are fastai's

Captum and matplotlib are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from callboard.data import to_device
from callboard.errors import DataError, OptionError, suggestion
from callboard.state import derive_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from callboard import Learner

Metric = Literal["IG", "NT", "Occl"]
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
SIGNS = ("all", "positive", "negative", "absolute_value")
# From none to much; darker than the default of matplotlib's, to stand out on white.
COLORS = ((0.0, "#ffffff"), (0.3, "#6fa8dc"), (1.0, "#0b2e59"))
# As many images are held at once; integrated gradients make one a step.
IMAGES_AT_ONCE = 32
WINDOW_SIDE, STRIDE = 15, 4


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


class CaptumInterpretation:
    """Shows which pixels of an image a prediction of the Learner's model rests on.

    Args:
        learn: Whose model it is; it takes one image tensor and gives one tensor.
        cmap_name: Name of the colour map that is made of ``colors``.
        colors: The colour map for maps of one sign: pairs of a place from 0 to 1 and a
            colour. Maps of both signs have red for against and green for.
        N: Number of colours in it.
        methods: What to show, one picture each: ``"original_image"``, ``"heat_map"``,
            ``"blended_heat_map"``, ``"masked_image"``, ``"alpha_scaling"``.
        signs: Which attributions each of them shows: ``"all"``, ``"positive"``,
            ``"negative"``, ``"absolute_value"``.
        outlier_perc: Percent of the largest attributions that do not count for the
            range of colours, from 0 to 100.
        vocab: Names of the classes, for the title.
    """

    def __init__(
        self,
        learn: Learner,
        cmap_name: str = "custom blue",
        colors: Sequence[tuple[float, str]] | None = None,
        N: int = 256,
        methods: Sequence[str] = ("original_image", "heat_map"),
        signs: Sequence[str] = ("all", "positive"),
        outlier_perc: float = 1,
        *,
        vocab: Sequence[str] | None = None,
    ) -> None:
        for method in methods:
            _check_choice("methods", method, METHODS)
        for sign in signs:
            _check_choice("signs", sign, SIGNS)
        if len(methods) != len(signs) or not methods:
            raise OptionError(
                f"captum: there must be a sign for each method, got {len(methods)} "
                f"methods and {len(signs)} signs."
            )
        if not 0 <= outlier_perc < 100:
            raise OptionError(
                f"captum: outlier_perc must be from 0 to below 100, got "
                f"{outlier_perc!r}. Use 1."
            )
        self.learn = learn
        self.cmap_name, self.colors, self.N = cmap_name, tuple(colors or COLORS), N
        self.methods, self.signs = tuple(methods), tuple(signs)
        self.outlier_perc, self.vocab = outlier_perc, vocab

    def visualize(
        self,
        inp: Any,
        metric: Metric = "IG",
        n_steps: int = 1000,
        baseline_type: str = "zeros",
        nt_type: str = "smoothgrad",
        strides: Sequence[int] | None = None,
        sliding_window_shapes: Sequence[int] | None = None,
        *,
        target: Any = None,
        image: Tensor | None = None,
    ) -> Figure:
        """Draw what a prediction rests on; options as for ``attribute``.

        Args:
            image: What to show as the image, shape (channels, height, width), numbers
                from 0 to 1. Default: the input, stretched to that range.

        Returns:
            The figure, which is pyplot's current one.
        """
        found = self.attribute(
            inp,
            metric,
            n_steps,
            baseline_type,
            nt_type,
            strides,
            sliding_window_shapes,
            target=target,
        )
        return self.plot(found, image)

    def attribute(
        self,
        inp: Any,
        metric: Metric = "IG",
        n_steps: int = 1000,
        baseline_type: str = "zeros",
        nt_type: str = "smoothgrad",
        strides: Sequence[int] | None = None,
        sliding_window_shapes: Sequence[int] | None = None,
        *,
        target: Any = None,
    ) -> Attribution:
        """How much every number of an image speaks for a class.

        The model is in eval mode. Weights, gradients, modes and random streams are
        afterwards as they were; the same call gives the same numbers.

        Args:
            inp: An image as the model takes it, shape (channels, height, width) or a
                batch of one; or a pair of it and its label.
            metric: ``"IG"`` for integrated gradients, ``"NT"`` for these averaged over
                noisy images, ``"Occl"`` for what hiding a window changes.
            n_steps: Steps of integrated gradients, from 1 on.
            baseline_type: The image that stands for nothing: ``"zeros"``, ``"uniform"``
                noise from 0 to 1, or ``"gauss"``, normal noise with mean and spread of
                the image.
            nt_type: What is made of noisy images: ``"smoothgrad"``,
                ``"smoothgrad_sq"``, ``"vargrad"``.
            strides: How far the window moves: channels, rows, columns. Default: all
                channels, 4, 4.
            sliding_window_shapes: Its size, likewise. Default: all channels, 15, 15, or
                as much as there is.
            target: The class to look at. Default: the label where there is one, else
                the class with the highest score.

        Raises:
            OptionError: An option has a value that cannot be used.
            DataError: The input is not one image, or the model gives no tensor.
        """
        _check_choice("metric", metric, METRICS)
        _check_choice("baseline_type", baseline_type, BASELINES)
        _check_choice("nt_type", nt_type, NOISE_TUNNELS)
        if not isinstance(n_steps, int) or n_steps < 1:
            message = f"captum: n_steps must be from 1 on, got {n_steps!r}. Use 200."
            raise OptionError(message)
        given, label = _parted(inp)
        with _in_eval_mode(self.learn) as predict:
            images = to_device(given, self.learn.device)
            target = _target(predict(images), label if target is None else target)
            baseline = self.get_baseline_img(images, baseline_type)
            if metric == "Occl":
                window, stride = _window(
                    images.shape[1:], sliding_window_shapes, strides
                )
                values = _occlusion(predict, images, target, baseline, window, stride)
            else:
                tunnel = nt_type if metric == "NT" else None
                values = _gradients(predict, images, target, baseline, n_steps, tunnel)
        return Attribution(
            values[0].detach().cpu(), images[0].detach().cpu(), target, metric
        )

    def get_baseline_img(self, img_tensor: Tensor, baseline_type: str) -> Tensor:
        """An image that stands for nothing, of the shape of another, on its device."""
        if baseline_type == "zeros":
            return torch.zeros_like(img_tensor)
        generator = torch.Generator().manual_seed(_seed_of(self.learn))
        shape = img_tensor.shape
        if baseline_type == "uniform":
            return torch.rand(shape, generator=generator).to(img_tensor)
        noise = torch.randn(shape, generator=generator).to(img_tensor)
        return img_tensor.mean() + img_tensor.std(correction=0) * noise

    def plot(self, found: Attribution, image: Tensor | None = None) -> Figure:
        """Draw an attribution, one picture a method.

        Args:
            found: What ``attribute`` returned.
            image: As for ``visualize``.
        """
        import matplotlib.pyplot as plt

        shown = displayable(found.image if image is None else image)
        if shown.shape[:2] != found.values.shape[1:]:
            raise OptionError(
                f"captum: image is of height and width {tuple(shown.shape[:2])}, the "
                f"attribution of {tuple(found.values.shape[1:])}; give the image as "
                "the model sees it, (channels, height, width)."
            )
        num = len(self.methods)
        figure, axes = plt.subplots(
            1, num, figsize=(4 * num, 4.3), squeeze=False, layout="constrained"
        )
        for ax, method, sign in zip(axes[0], self.methods, self.signs, strict=True):
            self._draw(ax, found.values, shown, method, sign)
        figure.suptitle(self._title(found))
        return figure

    def _draw(
        self, ax: Axes, values: Tensor, shown: Any, method: str, sign: str
    ) -> None:
        from captum.attr import visualization

        words = method.replace("_", " ")
        is_image = method == "original_image"
        if not is_image and not _has_any(values, sign):
            ax.imshow(shown * 0 + 1)
            ax.set(xticks=[], yticks=[], title=f"{words}: nothing {sign}")
            return
        visualization.visualize_image_attr(
            values.permute(1, 2, 0).numpy(),
            shown,
            method=method,
            sign=sign,
            plt_fig_axis=(ax.figure, ax),
            outlier_perc=self.outlier_perc,
            cmap=None if sign == "all" else self._color_map(),
            show_colorbar=method in ("heat_map", "blended_heat_map"),
            title="image" if is_image else f"{words} ({sign.replace('_', ' ')})",
            use_pyplot=False,
        )

    def _color_map(self) -> Any:
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list(
            self.cmap_name, list(self.colors), N=self.N
        )

    def _title(self, found: Attribution) -> str:
        words = METRICS[found.metric]
        if found.target is None:
            return words
        is_named = isinstance(found.target, int) and self.vocab is not None
        name = self.vocab[found.target] if is_named and self.vocab else found.target
        return f"{words}: what speaks for {name}"

    def __repr__(self) -> str:
        return f"CaptumInterpretation({type(self.learn.model).__name__})"


def interpret(
    learner: Learner,
    *,
    methods: Sequence[str] = ("original_image", "heat_map"),
    signs: Sequence[str] = ("all", "positive"),
    outlier_perc: float = 1,
    vocab: Sequence[str] | None = None,
) -> CaptumInterpretation:
    """What shows which pixels a prediction rests on; see ``CaptumInterpretation``."""
    return CaptumInterpretation(
        learner,
        methods=methods,
        signs=signs,
        outlier_perc=outlier_perc,
        vocab=vocab,
    )


def _check_choice(option: str, value: Any, known: Any) -> None:
    if value not in known:
        choices = ", ".join(f'"{each}"' for each in known)
        message = f"captum: {option} must be of {choices}, got {value!r}."
        raise OptionError(message + suggestion(str(value), known))


def _parted(inp: Any) -> tuple[Tensor, Any]:
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
def _in_eval_mode(learner: Learner) -> Iterator[Callable[[Tensor], Tensor]]:
    """The model as a function with gradients, in an evaluation that nothing notices."""
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    with learner.evaluating("predict"), torch.enable_grad():
        learner.model.eval()
        torch.manual_seed(_seed_of(learner))  # noise; put back by the evaluation
        try:
            for parameter in trained:
                # Gradients are those of the image alone, which is half of the work.
                parameter.requires_grad_(False)
            yield lambda images: _checked(learner.model(images))
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def _checked(pred: Any) -> Tensor:
    if isinstance(pred, Tensor):
        return pred
    raise DataError(
        f"captum: the model gave a {type(pred).__name__}; an interpretation needs one "
        "tensor of scores."
    )


def _seed_of(learner: Learner) -> int:
    return derive_seed(learner.seed, "captum")


def _target(scores: Tensor, wanted: Any) -> Any:
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


def _gradients(
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
def _occlusion(
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


def _window(
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


def displayable(image: Tensor) -> Any:
    """An image for showing: (height, width, 3), numbers from 0 to 1, as numpy array.

    What is in that range stays as it is; else it is stretched to it. One channel is
    shown as grey; of two, or more than three, their mean.
    """
    shown = image.detach().float().cpu()
    if shown.ndim == 2:
        shown = shown[None]
    if shown.shape[0] != 3:
        shown = shown.mean(0, keepdim=True).expand(3, -1, -1)
    low, high = shown.min(), shown.max()
    if low < 0 or high > 1:
        shown = (shown - low) / (high - low).clamp(min=torch.finfo(shown.dtype).tiny)
    return shown.permute(1, 2, 0).numpy()


def _has_any(values: Tensor, sign: str) -> bool:
    summed = values.sum(0)
    if sign == "positive":
        return bool((summed > 0).any())
    return bool((summed < 0).any()) if sign == "negative" else bool(summed.any())
