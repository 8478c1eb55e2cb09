"""How gradients are clipped, against torch's own functions and by hand."""

import math

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard_gradient_accumulation import GradientAccumulation
from callboard_gradient_clip import GradientClip

INPUTS = torch.tensor([[3.0, 4.0]])
# The loss is sum(10 * w * x), so that its gradient is 10 * x: (30, 40), of norm 50.
BATCHES = [(INPUTS, torch.zeros(1, 1))]


class Gradients(Callback):
    run_after = "gradient-clip"

    def __init__(self):
        self.seen = []

    def before_step(self):
        self.seen.append(self.model.weight.grad.clone().flatten().tolist())


def gradients_with(*cbs, batches=BATCHES):
    model = nn.Linear(2, 1, bias=False)
    keep = Gradients()
    loss_func = lambda pred, target: 10 * pred.sum()  # noqa: E731
    options = {"opt_func": torch.optim.SGD, "lr": 0.01}
    Learner(batches, model, loss_func, cbs=[*cbs, keep], **options).fit(1)
    return keep.seen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.6, 0.8]),
        ({"max_norm": 5.0}, [3.0, 4.0]),
        ({"max_norm": 100.0}, [30.0, 40.0]),
        ({"max_norm": 7.0, "norm_type": 1.0}, [3.0, 4.0]),
        ({"max_norm": 20.0, "norm_type": math.inf}, [15.0, 20.0]),
        ({"max_norm": None, "max_value": 35.0}, [30.0, 35.0]),
        ({"max_norm": 5.0, "max_value": 30.0}, [5 / math.sqrt(2)] * 2),
    ],
)
def test_gradients_are_clipped_by_norm_and_value(options, expected):
    (got,) = gradients_with(GradientClip(**options))

    assert got == pytest.approx(expected, rel=1e-5)


def test_the_norm_before_clipping_can_be_read():
    clip = GradientClip(1.0)
    assert clip.norm is None

    gradients_with(clip)

    assert float(clip.norm) == pytest.approx(50.0)


def test_accumulated_gradients_are_clipped_once_they_are_whole():
    batches = [(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 1))]
    batches += [(torch.tensor([[0.0, 4.0]]), torch.zeros(1, 1))]
    clip = GradientClip(1.0)

    seen = gradients_with(clip, GradientAccumulation(2), batches=batches)

    # The mean of (30, 0) and (0, 40) is (15, 20), of norm 25.
    assert seen == [pytest.approx([0.6, 0.8])]
    assert float(clip.norm) == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 0.0}, "max_norm must be above 0, got 0.0"),
        ({"max_norm": math.nan}, "max_norm"),
        ({"max_value": -1.0}, "max_value must be above 0"),
        ({"norm_type": 0.5}, "norm_type must be from 1 on"),
        ({"max_norm": None}, "max_norm=1.0 or max_value=1.0"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        GradientClip(**options)


def test_nothing_happens_in_a_validation():
    learner = Learner(BATCHES, nn.Linear(2, 1), nn.MSELoss(), cbs=GradientClip())

    assert "valid_loss" in learner.validate(BATCHES)
