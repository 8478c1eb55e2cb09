"""When a fit is stopped early, and what the record says of it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from callboard import Callback, CancelEpochException, Learner
from callboard.errors import OptionError
from callboard_early_stopping import EarlyStoppingCallback, stop_reason
from callboard_recorder import Recorder
from callboard_tracker import TrackerCallback


class Publish(Callback):
    """Publishes one given value an epoch as ``score``."""

    def __init__(self, *values):
        self.values = values

    def after_validate(self):
        self.learn.results["score"] = self.values[self.epoch]


class CountEpochs(Callback):
    run_after = "early-stopping"

    def __init__(self):
        self.num_epochs = 0

    def after_epoch(self):
        self.num_epochs += 1


def make_learner(*cbs):
    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    batches = [(inputs[:4], inputs[:4, :1]), (inputs[4:], inputs[4:, :1])]
    return Learner((batches, batches), nn.Linear(2, 1), nn.MSELoss(), cbs=[*cbs])


def num_epochs_of(*values, **options):
    """How many epochs a fit runs that measures these values."""
    counter = CountEpochs()
    stopper = EarlyStoppingCallback("score", **options)
    make_learner(Publish(*values), stopper, counter).fit(len(values))
    return counter.num_epochs


@pytest.mark.parametrize(
    ("patience", "num_epochs"), [(1, 3), (2, 4), (3, 8), (4, 9), (9, 9)]
)
def test_fit_stops_after_patience_epochs_without_a_new_best(patience, num_epochs):
    # New bests come in epochs 0, 1 and 4: two epochs without one, then four.
    values = (1.0, 2.0, 2.0, 1.0, 3.0, 2.0, 2.0, 2.0, 2.0)

    assert num_epochs_of(*values, comp="max", patience=patience) == num_epochs


def test_a_new_best_starts_the_count_anew():
    assert num_epochs_of(3.0, 4.0, 2.0, 4.0, 1.0, 4.0, comp="min", patience=2) == 6


def test_a_gain_of_min_delta_or_less_does_not_count():
    values = (1.0, 0.9, 0.8, 0.7)

    assert num_epochs_of(*values, comp="min", min_delta=0.5, patience=2) == 3
    assert num_epochs_of(*values, comp="min", min_delta=0.05, patience=2) == 4


def test_epochs_of_nan_count_as_epochs_without_a_new_best():
    assert num_epochs_of(1.0, math.nan, math.nan, 0.5, comp="min", patience=2) == 3


def test_epochs_that_measured_nothing_do_not_count():
    class CancelSome(Callback):
        def before_epoch(self):
            if self.epoch in (1, 2, 3):
                raise CancelEpochException("skipped")

    stopper = EarlyStoppingCallback("score", "min", patience=2)
    learner = make_learner(Publish(1.0, 9, 9, 9, 2.0, 2.0, 2.0), stopper, CancelSome())

    learner.fit(7)

    assert learner.epoch == 5


def test_positional_arguments_have_fastais_order():
    stopper = EarlyStoppingCallback("score", np.greater, 0.25, 3, False)

    assert (stopper.monitor, stopper.direction) == ("score", "max")
    assert (stopper.min_delta, stopper.patience) == (0.25, 3)
    assert stopper.reset_on_fit is False


def test_default_watches_the_validation_loss_with_patience_one():
    learner = make_learner(EarlyStoppingCallback(), Recorder())
    learner.opt_func = torch.optim.SGD

    learner.fit(9, lr=0.0)

    assert learner.stop_reason.startswith("valid_loss has not improved for 1 epoch (")
    assert learner.epoch == 1


def test_reason_is_a_sentence_with_the_best_and_its_epoch():
    assert stop_reason("valid_loss", 3, 0.12341, 4) == (
        "valid_loss has not improved for 3 epochs (best 0.1234 in epoch 4)"
    )
    assert stop_reason("accuracy", 1, None, None) == (
        "accuracy has not improved for 1 epoch (no best yet)"
    )


def test_record_says_who_stopped_the_fit_and_why():
    stopper = EarlyStoppingCallback("score", "max", patience=2)
    learner = make_learner(Publish(2.0, 1.0, 1.0, 9.0), stopper)

    learner.fit(4)

    (reason,) = learner.record.reasons
    assert (reason.what, reason.plugin, reason.epoch) == ("stop", "early-stopping", 2)
    assert reason.reason == "score has not improved for 2 epochs (best 2 in epoch 0)"


def test_every_plugin_sees_the_epoch_that_stops_the_fit():
    counter = CountEpochs()
    stopper = EarlyStoppingCallback("score", "max")
    learner = make_learner(Publish(2.0, 1.0, 1.0), counter, stopper)

    learner.fit(3)

    assert list(learner.cbs.keys()).index("early-stopping") < list(
        learner.cbs.keys()
    ).index("count-epochs")
    assert counter.num_epochs == 2


@pytest.mark.parametrize("patience", [0, -1, 1.5, None])
def test_patience_below_one_is_refused_with_an_example(patience):
    with pytest.raises(OptionError, match=r"early-stopping: patience .* Use 3"):
        EarlyStoppingCallback("score", "max", patience=patience)


def test_direction_that_is_not_certain_names_the_plugin():
    with pytest.raises(OptionError, match=r"^early-stopping: no active plugin says"):
        make_learner(Publish(1.0), EarlyStoppingCallback("score")).fit(1)


def test_a_new_fit_waits_anew():
    publish = Publish(2.0, 1.0)
    learner = make_learner(publish, EarlyStoppingCallback("score", "max", patience=2))
    learner.fit(2)

    publish.values = (1.0, 1.0, 1.0)
    learner.fit(3)

    assert learner.record.reasons[0].epoch == 2


def test_a_best_that_is_kept_over_fits_gives_the_next_fit_its_own_patience():
    publish = Publish(5.0, 1.0)
    stopper = EarlyStoppingCallback("score", "max", patience=2, reset_on_fit=False)
    learner = make_learner(publish, stopper)
    learner.fit(2)

    publish.values = (1.0, 1.0, 1.0)
    learner.fit(3)

    assert learner.epoch == 1
    assert stopper.best == 5.0


def test_resumed_fit_stops_in_the_epoch_of_the_fit_straight_through():
    values = (5.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    first = make_learner(
        Publish(*values), EarlyStoppingCallback("score", "max", patience=3)
    )
    first.fit(2)

    second = make_learner(
        Publish(*values), EarlyStoppingCallback("score", "max", patience=3)
    )
    second.load_state_dict(first.state_dict())
    second.fit(6, start_epoch=2)

    assert second.epoch == 3
    assert (
        second.stop_reason == "score has not improved for 3 epochs (best 5 in epoch 0)"
    )


def test_two_with_different_monitors_take_part_side_by_side():
    first = EarlyStoppingCallback("score", "max", patience=5)
    second = EarlyStoppingCallback("score", "min", patience=1)
    learner = make_learner(Publish(1.0, 2.0, 3.0), first, second)

    learner.fit(3)

    assert learner.early_stopping is first
    assert learner.early_stopping_2 is second
    assert learner.record.reasons[0].plugin == "early-stopping-2"


def test_it_is_a_tracker():
    assert isinstance(EarlyStoppingCallback(), TrackerCallback)
