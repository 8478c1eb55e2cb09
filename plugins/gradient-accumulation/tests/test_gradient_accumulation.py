"""Many small batches step as one big one does."""

import copy

import pytest
import torch
from torch import nn

from callboard import Callback, CancelTrainException, DataLoaders, Learner
from callboard.errors import OptionError
from callboard_gradient_accumulation import GradientAccumulation, expected_samples

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(24, 3, generator=GENERATOR)
LABELS = torch.randn(24, 1, generator=GENERATOR)


def batches(*sizes):
    """The samples in batches of these sizes."""
    count = sum(sizes)
    inputs, labels = INPUTS[:count].split(sizes), LABELS[:count].split(sizes)
    return list(zip(inputs, labels, strict=True))


def without_length(data):
    class Stream:
        def __iter__(self):
            return iter(data)

    return Stream()


def make(data, *cbs, loss_func=None, opt_func=torch.optim.SGD, **options):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loss_func = loss_func or nn.MSELoss()
    options = {"lr": 0.1, "seed": 0, **options}
    return Learner(DataLoaders(data), model, loss_func, opt_func, cbs=[*cbs], **options)


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


class CountSteps(Callback):
    def __init__(self):
        self.at = []

    def after_step(self):
        self.at.append((self.epoch, self.iter))


@pytest.mark.parametrize("loss_func", [nn.MSELoss(), nn.MSELoss(reduction="sum")])
@pytest.mark.parametrize(
    ("options", "small", "big"),
    [
        ({"n_acc": 8}, (4,) * 6, (8,) * 3),
        ({"n_acc": 12}, (4,) * 6, (12,) * 2),
        ({"n_acc": 3, "unit": "batches"}, (4,) * 6, (12,) * 2),
        ({"n_acc": 8}, (4, 4, 4, 4, 4, 4), (8, 8, 8)),
        ({"n_acc": 8}, (5, 3, 8, 2, 6), (8, 8, 8)),
        ({"n_acc": 8}, (5, 5, 6, 8), (10, 14)),
        ({"n_acc": 16}, (4,) * 6, (16, 8)),
        ({"n_acc": 99}, (4,) * 6, (24,)),
    ],
)
def test_small_batches_step_as_big_ones(options, small, big, loss_func):
    expected = make(batches(*big), loss_func=loss_func, lr=0.01)
    expected.fit(3)
    learner = make(
        batches(*small), GradientAccumulation(**options), loss_func=loss_func, lr=0.01
    )
    learner.fit(3)

    torch.testing.assert_close(weights(learner), weights(expected))


def test_what_is_left_is_stepped_where_the_length_is_not_known():
    steps = CountSteps()
    data = without_length(batches(*(4,) * 6))
    learner = make(data, GradientAccumulation(16), steps)
    learner.fit(2)
    expected = make(batches(16, 8))
    expected.fit(2)

    assert len(steps.at) == 4
    torch.testing.assert_close(weights(learner), weights(expected))


def test_an_epoch_that_was_cancelled_leaves_nothing_behind():
    class Cancel(Callback):
        def before_batch(self):
            if self.epoch == 0 and self.iter == 3:
                raise CancelTrainException

    steps = CountSteps()
    learner = make(batches(*(4,) * 6), GradientAccumulation(12), Cancel(), steps)
    learner.fit(2)

    assert steps.at[-2:] == [(1, 2), (1, 5)]


def test_the_recorded_loss_is_that_of_the_batch():
    class Losses(Callback):
        def __init__(self):
            self.seen = []

        def after_batch(self):
            self.seen.append(float(self.loss.detach()))

    plain, accumulated = Losses(), Losses()
    make(batches(*(4,) * 2), plain, lr=0.0).fit(1)
    make(batches(*(4,) * 2), GradientAccumulation(8), accumulated, lr=0.0).fit(1)

    assert accumulated.seen == plain.seen


@pytest.mark.parametrize("number", range(11))
def test_a_run_resumed_between_two_steps_equals_straight_through(number):
    class Keep(Callback):
        def __init__(self):
            self.states = []

        def checkpoint(self):
            self.states.append(copy.deepcopy(self.learn.state_dict()))

    def learner(*cbs):
        accumulate = GradientAccumulation(12)
        return make(batches(*(4,) * 5), accumulate, *cbs, opt_func=torch.optim.Adam)

    keep = Keep()
    whole = learner(keep)
    whole.fit(2)
    resumed = learner()
    resumed.fit(2, resume=keep.states[number], resume_policy="ignore")

    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_acc": 0}, "n_acc must be a whole number of samples from 1 on, got 0"),
        ({"n_acc": 2.5}, "got 2.5"),
        ({"n_acc": True}, "got True"),
        ({"unit": "tokens"}, "unit must be"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        GradientAccumulation(**options)


def test_an_optimizer_that_works_the_loss_out_again_is_refused():
    with pytest.raises(OptionError, match="LBFGS"):
        make(
            batches(*(4,) * 6), GradientAccumulation(8), opt_func=torch.optim.LBFGS
        ).fit(1)


def test_nothing_is_done_in_a_validation():
    learner = make(batches(*(4,) * 6), GradientAccumulation(8))

    assert "valid_loss" in learner.validate(batches(4, 4))


@pytest.mark.parametrize(
    ("n_acc", "unit", "size", "expected"),
    [(32, "samples", 8, 32), (30, "samples", 8, 32), (3, "batches", 8, 24)],
)
def test_expected_samples_are_those_of_whole_batches(n_acc, unit, size, expected):
    assert expected_samples(n_acc, unit, size) == expected
