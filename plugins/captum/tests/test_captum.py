"""Attributions that are known beforehand, their pictures, and what stays untouched."""

import copy

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import DataError, OptionError
from callboard_captum import CaptumInterpretation, displayable, interpret


class Left(nn.Module):
    """Class 0 is the sum of the left half of an image, class 1 of the right."""

    def __init__(self, channels=3, side=16):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5))
        self.scale = nn.Parameter(torch.ones(()))
        self.half = side // 2

    def forward(self, x):
        x = self.body(x) * self.scale
        left, right = x[..., : self.half], x[..., self.half :]
        return torch.stack([left.sum((1, 2, 3)), right.sum((1, 2, 3))], 1)


def an_image(channels=3, side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(channels, side, side, generator=generator) + 0.5


def a_learner(model=None, *cbs):
    x = torch.stack([an_image(), an_image() * 2])
    return Learner(
        [(x, torch.tensor([0, 1]))],
        Left() if model is None else model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        lr=0.01,
        cbs=[*cbs],
        seed=0,
        device="cpu",
    )


def why(model=None, **options):
    return CaptumInterpretation(a_learner(model), **options)


@pytest.fixture
def plt():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


# ---- the numbers --------------------------------------------------------------


def test_integrated_gradients_of_a_sum_are_the_pixels_that_are_summed():
    image = an_image()

    found = why().attribute((image, 0), n_steps=20)

    # In eval mode a fresh normalisation divides by the root of 1 + 1e-5.
    expected = image.clone() / (1 + 1e-5) ** 0.5
    expected[..., 8:] = 0
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_attributions_add_up_to_the_difference_from_the_baseline():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(784, 3)
    )
    image = an_image()

    found = why(model).attribute(image, n_steps=200, target=2)

    with torch.no_grad():
        scores = model(torch.stack([image, image * 0]))[:, 2]
    assert found.values.sum().item() == pytest.approx(
        (scores[0] - scores[1]).item(), rel=1e-3
    )


def test_occlusion_of_a_sum_finds_its_half():
    found = why().attribute(an_image(), metric="Occl", target=1)

    # A window reaches eleven pixels, at most, beyond the half that counts.
    assert found.values[..., 12:].min() > 0
    assert found.values[..., 12:].mean() > found.values[..., :4].mean()


def test_a_window_and_its_steps_can_be_chosen():
    found = why().attribute(
        an_image(),
        metric="Occl",
        target=1,
        sliding_window_shapes=(3, 4, 4),
        strides=(3, 4, 4),
    )

    # Windows of 4 lie in one half or the other.
    assert found.values[..., :8].abs().max() == 0
    assert found.values[..., 8:].min() > 0


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_a_noise_tunnel_gives_an_attribution_of_the_same_shape(nt_type):
    found = why().attribute((an_image(), 0), metric="NT", n_steps=5, nt_type=nt_type)

    assert found.values.shape == (3, 16, 16)
    assert found.values[..., 8:].abs().max() == 0
    assert found.values[..., :8].abs().max() > 0


@pytest.mark.parametrize("metric", ["IG", "NT"])
@pytest.mark.parametrize("baseline_type", ["uniform", "gauss"])
def test_noise_is_the_same_in_every_call(metric, baseline_type):
    interpretation = why()
    options = {"metric": metric, "n_steps": 4, "baseline_type": baseline_type}

    first = interpretation.attribute(an_image(), **options)
    torch.rand(3)
    second = interpretation.attribute(an_image(), **options)

    assert torch.equal(first.values, second.values)


def test_baselines_are_zeros_even_or_normal_noise():
    image = torch.randn(1, 3, 64, 64) * 2 + 5
    interpretation = why()

    zeros, uniform, gauss = (
        interpretation.get_baseline_img(image, kind)
        for kind in ("zeros", "uniform", "gauss")
    )

    assert zeros.abs().max() == 0
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert gauss.mean().item() == pytest.approx(image.mean().item(), abs=0.1)
    assert gauss.std().item() == pytest.approx(image.std().item(), rel=0.05)
    assert gauss.min() < image.mean() - 3 * image.std()


def test_the_best_class_is_looked_at_where_there_is_no_label():
    image = an_image()
    image[..., 8:] *= 3

    assert why().attribute(image, n_steps=2).target == 1
    assert why().attribute((image, torch.tensor(0)), n_steps=2).target == 0
    assert why().attribute((image, 0), n_steps=2, target=1).target == 1


def test_a_model_of_one_score_needs_no_class():
    one = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    flat = nn.Sequential(one, nn.Flatten(0))

    assert why(one).attribute(an_image(), n_steps=2).target == 0
    assert why(flat).attribute(an_image(), n_steps=2).target is None


def test_a_score_of_each_pixel_can_be_asked_for():
    model = nn.Conv2d(3, 2, 1)

    found = why(model).attribute(an_image(), n_steps=2, target=(1, 4, 5))

    outside = found.values.abs().sum(0)
    assert outside[4, 5] > 0
    assert outside.count_nonzero() == 1


def test_a_batch_of_one_is_an_image():
    found = why().attribute(an_image()[None], n_steps=2)

    assert found.values.shape == (3, 16, 16)


# ---- what stays as it was -----------------------------------------------------


def everything(learner):
    parameters = list(learner.model.parameters())
    return copy.deepcopy(
        {
            "model": list(learner.model.state_dict().values()),
            "gradients": [p.grad for p in parameters],
            "requires_grad": [p.requires_grad for p in parameters],
            "modes": [module.training for module in learner.model.modules()],
            "random": torch.get_rng_state(),
        }
    )


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("metric", ["IG", "NT", "Occl"])
def test_nothing_is_changed(metric):
    learner = a_learner()
    learner.fit(1)
    learner.model.body[0].weight.requires_grad_(False)
    learner.model.train().scale.grad = torch.ones(())
    before = everything(learner)

    CaptumInterpretation(learner).attribute(an_image(), metric, n_steps=3)

    assert_same(everything(learner), before)


def test_training_is_the_same_with_an_interpretation_inside_it():
    class Look(Callback):
        def before_backward(self):
            CaptumInterpretation(self.learn).attribute(an_image(), n_steps=3)

        def after_validate(self):
            CaptumInterpretation(self.learn).attribute(an_image(), n_steps=3)

    def weights(*cbs):
        learner = a_learner(None, *cbs)
        learner.fit(3)
        return list(learner.model.state_dict().values())

    assert_same(weights(Look()), weights())


def test_an_error_leaves_nothing_changed():
    learner = a_learner(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))
    before = everything(learner)

    with pytest.raises(RuntimeError):
        CaptumInterpretation(learner).attribute(an_image(), n_steps=3)

    assert_same(everything(learner), before)


# ---- pictures -----------------------------------------------------------------


def test_a_picture_is_drawn_for_each_method(plt):
    interpretation = why(
        methods=["original_image", "heat_map", "blended_heat_map", "masked_image"],
        signs=["all", "all", "absolute_value", "positive"],
        vocab=["left", "right"],
    )

    figure = interpretation.visualize((an_image(), 0), n_steps=5)

    pictures = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in pictures] == [
        "image",
        "heat map (all)",
        "blended heat map (absolute value)",
        "masked image (positive)",
    ]
    assert figure.get_suptitle() == "integrated gradients: what speaks for left"
    assert plt.gcf() is figure


def test_a_map_of_one_sign_has_the_chosen_colours(plt):
    interpretation = why(
        methods=["heat_map"],
        signs=["positive"],
        colors=[(0, "#000000"), (1, "#ff0000")],
        N=16,
    )

    figure = interpretation.visualize((an_image(), 0), n_steps=5)

    color_map = figure.axes[0].images[0].get_cmap()
    assert (color_map.name, color_map.N) == ("custom blue", 16)
    assert color_map(1.0) == (1.0, 0.0, 0.0, 1.0)


def test_nothing_of_a_sign_is_said_in_words(plt):
    interpretation = why(methods=["heat_map"], signs=["negative"])

    figure = interpretation.visualize((an_image(), 0), n_steps=5)

    assert figure.axes[0].get_title() == "heat map: nothing negative"


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (4, 16)])
def test_small_images_and_other_channels_are_drawn(plt, channels, side):
    model = Left(channels, side)

    figure = why(model).visualize(an_image(channels, side), metric="Occl")

    assert figure.axes[0].images[0].get_array().shape == (side, side, 3)


def test_an_image_for_showing_can_be_given(plt):
    shown = torch.zeros(3, 16, 16)

    figure = why().visualize(an_image(), n_steps=2, image=shown)

    assert figure.axes[0].images[0].get_array().max() == 0


def test_an_image_of_another_size_is_refused(plt):
    with pytest.raises(OptionError, match=r"\(20, 20\), the attribution of \(16, 16\)"):
        why().visualize(an_image(), n_steps=2, image=torch.zeros(3, 20, 20))


def test_images_are_stretched_only_where_needed():
    inside = torch.full((1, 2, 2), 0.25)
    outside = torch.tensor([[[-2.0, 0.0], [0.0, 2.0]]])

    assert displayable(inside)[0, 0].tolist() == [0.25, 0.25, 0.25]
    assert displayable(outside)[..., 0].tolist() == [[0.0, 0.5], [0.5, 1.0]]
    assert displayable(torch.full((3, 2, 2), 7.0)).max() == 0


# ---- refusals -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["heatmap", "heat_map"]}, 'Did you mean "heat_map"'),
        ({"signs": ["all", "both"]}, "signs must be of .* got 'both'"),
        ({"methods": ["heat_map"]}, "1 methods and 2 signs"),
        ({"outlier_perc": 100}, "outlier_perc must be .* got 100"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        why(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "GradCam"}, 'metric must be of "IG", "NT", "Occl"'),
        ({"baseline_type": "gaus"}, 'Did you mean "gauss"'),
        ({"nt_type": "smooth"}, "nt_type must be of"),
        ({"n_steps": 0}, "n_steps must be from 1 on, got 0"),
        ({"target": 2}, "target must be a class from 0 to 1, got 2"),
        (
            {"metric": "Occl", "sliding_window_shapes": (3, 20, 20)},
            r"must fit into the image, \(3, 16, 16\), got \(3, 20, 20\)",
        ),
        ({"metric": "Occl", "strides": (3, 20, 4)}, "strides must be from 1 to"),
    ],
)
def test_a_call_that_cannot_be_done_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        why().attribute(an_image(), **options)


@pytest.mark.parametrize(
    ("inp", "message"),
    [
        (torch.zeros(2, 3, 16, 16), r"one image.*got \(2, 3, 16, 16\)"),
        ("cat.jpg", "one image.*got str"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "the image is of torch.uint8"),
    ],
)
def test_what_is_not_one_image_is_refused(inp, message):
    with pytest.raises(DataError, match=message):
        why().attribute(inp)


def test_a_model_that_gives_no_tensor_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 2)

        def forward(self, x):
            return self.layer(x), None

    with pytest.raises(DataError, match="the model gave a tuple"):
        why(Two()).attribute(an_image())


def test_the_learners_method_makes_an_interpretation():
    made = interpret(a_learner(), methods=["heat_map"], signs=["all"])

    assert isinstance(made, CaptumInterpretation)
    assert made.methods == ("heat_map",)
