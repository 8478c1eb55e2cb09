"""When a fit ends for a loss that is no number, and how."""

import math

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import NonFiniteError, OptionError
from callboard.testing.counting import cost_of
from callboard_recorder import Recorder
from callboard_terminate_on_nan import TerminateOnNaNCallback

BATCHES = [(torch.ones(2, 2), torch.zeros(2, 1))] * 10


class Poison(Callback):
    """Makes the loss this value in one batch of epoch 1."""

    run_before = "terminate-on-nan"

    def __init__(self, value, batch, training=True):
        self.value, self.batch, self.in_training = value, batch, training

    def after_loss(self):
        here = (self.epoch, self.iter, self.training)
        if here == (1, self.batch, self.in_training):
            self.learn.loss = self.learn.loss * 0 + self.value


def make(*cbs):
    return Learner(
        (BATCHES, BATCHES), nn.Linear(2, 1), nn.MSELoss(), cbs=[*cbs], lr=0.01
    )


@pytest.mark.parametrize("others", [(), (Recorder(),)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("every", "seen_at"), [(1, 3), (5, 4), (50, 9)])
def test_the_fit_stops_in_order_where_it_is_looked(value, every, seen_at, others):
    learner = make(Poison(value, 3), TerminateOnNaNCallback(every), *others)
    learner.fit(3)

    assert (
        f"training loss is no finite number any more, by batch {seen_at} of epoch 1"
        in (learner.stop_reason)
    )
    assert learner.epoch == 1
    assert learner.record.reasons[0].plugin == "terminate-on-nan"


def test_a_validation_is_looked_at_too():
    learner = make(Poison(math.nan, 2, training=False), TerminateOnNaNCallback())
    learner.fit(3)

    assert "the validation loss" in learner.stop_reason
    assert learner.epoch == 1


def test_without_it_the_fit_ends_with_an_error():
    with pytest.raises(NonFiniteError, match="epoch 1"):
        make(Poison(math.nan, 9)).fit(3)


def test_a_finite_run_is_left_alone():
    learner = make(TerminateOnNaNCallback(every=3))
    learner.fit(2)

    assert learner.stop_reason is None


def test_a_step_reads_nothing_back():
    cost = cost_of(lambda: TerminateOnNaNCallback(every=1000))

    assert cost.host_reads == 0
    assert cost.python_calls <= 2


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_wrong_option_is_refused(every):
    with pytest.raises(OptionError, match="every must be a whole number"):
        TerminateOnNaNCallback(every)
