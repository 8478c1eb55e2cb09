"""The interpretation of a Learner, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard.data import to_device
from callboard.errors import OptionError
from callboard_captum.attributing import (
    BASELINES,
    METHODS,
    METRICS,
    NOISE_TUNNELS,
    Attribution,
    Metric,
    check_choice,
    gradients_of,
    in_eval_mode,
    occlusion_of,
    parted,
    seed_of,
    target_of,
    window_of,
)
from callboard_captum.pictures import COLORS, SIGNS, displayable, has_any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from callboard import Learner


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
            check_choice("methods", method, METHODS)
        for sign in signs:
            check_choice("signs", sign, SIGNS)
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
        check_choice("metric", metric, METRICS)
        check_choice("baseline_type", baseline_type, BASELINES)
        check_choice("nt_type", nt_type, NOISE_TUNNELS)
        if not isinstance(n_steps, int) or n_steps < 1:
            message = f"captum: n_steps must be from 1 on, got {n_steps!r}. Use 200."
            raise OptionError(message)
        given, label = parted(inp)
        with in_eval_mode(self.learn) as predict:
            images = to_device(given, self.learn.device)
            target = target_of(predict(images), label if target is None else target)
            baseline = self.get_baseline_img(images, baseline_type)
            if metric == "Occl":
                window, stride = window_of(
                    images.shape[1:], sliding_window_shapes, strides
                )
                values = occlusion_of(predict, images, target, baseline, window, stride)
            else:
                tunnel = nt_type if metric == "NT" else None
                values = gradients_of(
                    predict, images, target, baseline, n_steps, tunnel
                )
        return Attribution(
            values[0].detach().cpu(), images[0].detach().cpu(), target, metric
        )

    def get_baseline_img(self, img_tensor: Tensor, baseline_type: str) -> Tensor:
        """An image that stands for nothing, of the shape of another, on its device."""
        if baseline_type == "zeros":
            return torch.zeros_like(img_tensor)
        generator = torch.Generator().manual_seed(seed_of(self.learn))
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
        if not is_image and not has_any(values, sign):
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
