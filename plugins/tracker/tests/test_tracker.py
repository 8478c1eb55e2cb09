"""What is a best, and how a tracker keeps it over a fit."""

import math
import operator

import numpy as np
import pytest
import torch
from torch import nn

from callboard import (
    Callback,
    CancelEpochException,
    CancelTrainException,
    CancelValidException,
    Learner,
)
from callboard.errors import OptionError
from callboard_recorder import Recorder
from callboard_tracker import (
    TrackerCallback,
    direction_of,
    is_better,
    published_directions,
)


class Publish(Callback):
    """Publishes one given value an epoch as ``score``; ``...`` publishes nothing."""

    def __init__(self, *values, higher_is_better=None):
        self.values = values
        self.higher_is_better = higher_is_better or {}

    def after_validate(self):
        value = self.values[self.epoch]
        if value is not ...:
            self.learn.results["score"] = value


class Log(Callback):
    """Notes what the tracker knows at the end of each epoch."""

    run_after = TrackerCallback

    def __init__(self, tracker):
        self.tracker = tracker
        self.best, self.new_best = [], []

    def after_epoch(self):
        self.best.append(self.tracker.best)
        self.new_best.append(self.tracker.new_best)


def make_learner(*cbs, **options):
    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    batches = [(inputs[:4], inputs[:4, :1]), (inputs[4:], inputs[4:, :1])]
    return Learner(
        (batches, batches), nn.Linear(2, 1), nn.MSELoss(), cbs=[*cbs], **options
    )


def tracked(*values, **options):
    """The log of a fit with one epoch for each value."""
    tracker = TrackerCallback("score", **options)
    log = Log(tracker)
    make_learner(Publish(*values), tracker, log).fit(len(values))
    return log


@pytest.mark.parametrize(
    ("value", "best", "min_delta", "answer"),
    [
        (1.0, 2.0, 0.0, True),
        (2.0, 1.0, 0.0, False),
        (1.0, 1.0, 0.0, False),
        (0.9, 1.0, 0.25, False),
        (0.75, 1.0, 0.25, False),
        (0.7, 1.0, 0.25, True),
        (1.0, None, 9.0, True),
        (-math.inf, 1.0, 0.0, True),
    ],
)
def test_lower_is_better_by_more_than_min_delta(value, best, min_delta, answer):
    assert is_better(value, best, direction="min", min_delta=min_delta) is answer

    minus_best = None if best is None else -best
    assert is_better(-value, minus_best, direction="max", min_delta=min_delta) is answer


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("best", [None, 1.0, math.inf])
def test_nothing_nan_and_the_worst_infinity_are_never_a_best(value, best):
    assert not is_better(value, best, direction="min", min_delta=0.0)


def test_any_number_beats_a_best_of_the_worst_infinity():
    assert is_better(1e9, math.inf, direction="min", min_delta=0.1)


@pytest.mark.parametrize(
    ("comp", "direction"),
    [
        (None, None),
        ("min", "min"),
        ("max", "max"),
        (np.less, "min"),
        (np.greater, "max"),
        (operator.lt, "min"),
        (operator.gt, "max"),
    ],
)
def test_direction_is_what_comp_means(comp, direction):
    assert direction_of(comp) == direction


@pytest.mark.parametrize("comp", ["less", operator.eq, operator.add, min, 3, np.abs])
def test_comp_that_means_no_direction_is_refused_with_those_that_do(comp):
    with pytest.raises(OptionError, match=r'tracker: comp must be "min".*"max"'):
        TrackerCallback("score", comp)


@pytest.mark.parametrize("min_delta", [-0.1, math.nan, math.inf])
def test_min_delta_below_zero_or_no_number_is_refused(min_delta):
    with pytest.raises(OptionError, match="tracker: min_delta must be a number from 0"):
        TrackerCallback("score", "max", min_delta)


@pytest.mark.parametrize("monitor", ["", None, 3])
def test_monitor_that_is_no_name_is_refused(monitor):
    with pytest.raises(OptionError, match="tracker: monitor must be the name"):
        TrackerCallback(monitor)


def test_best_and_new_best_follow_the_results():
    log = tracked(3.0, 4.0, 2.0, 2.0, 1.0, comp="min")

    assert log.best == [3.0, 3.0, 2.0, 2.0, 1.0]
    assert log.new_best == [True, False, True, False, True]


def test_a_gain_of_min_delta_or_less_is_no_new_best():
    log = tracked(1.0, 1.5, 1.75, 2.5, comp="max", min_delta=0.75)

    assert log.best == [1.0, 1.0, 1.0, 2.5]


def test_epochs_of_nan_leave_the_best_alone():
    log = tracked(math.nan, 2.0, math.nan, 1.0, comp="min")

    assert log.best == [None, 2.0, 2.0, 1.0]


def test_values_may_be_tensors_and_numpy_numbers():
    log = tracked(torch.tensor(2.0), np.float32(1.5), 1, comp="min")

    assert log.best == [2.0, 1.5, 1.0]
    assert all(type(best) is float for best in log.best)


def test_epoch_of_the_best_is_kept():
    tracker = TrackerCallback("score", "max")

    make_learner(Publish(1.0, 3.0, 2.0), tracker).fit(3)

    assert (tracker.best, tracker.best_epoch, tracker.value) == (3.0, 1, 2.0)


def test_direction_comes_from_the_plugin_that_measures():
    tracker = TrackerCallback("score")
    publish = Publish(1.0, 3.0, 2.0, higher_is_better={"score": True})

    make_learner(tracker, publish).fit(3)

    assert (tracker.direction, tracker.best) == ("max", 3.0)


def test_comp_given_wins_over_the_plugin_that_measures():
    tracker = TrackerCallback("score", "min")
    publish = Publish(1.0, 3.0, 2.0, higher_is_better={"score": True})

    make_learner(tracker, publish).fit(3)

    assert tracker.best == 1.0


def test_losses_need_no_direction_with_the_recorder():
    tracker = TrackerCallback()
    learner = make_learner(tracker, Recorder())

    learner.fit(3)

    rows = learner.recorder.values
    assert tracker.best == min(row["valid_loss"] for row in rows)


def test_result_of_unknown_direction_asks_for_comp_before_any_training():
    publish = Publish(1.0)
    learner = make_learner(publish, TrackerCallback("score"))

    with pytest.raises(OptionError, match=r'tracker: .*give comp="min" or comp="max"'):
        learner.fit(1)

    assert learner.train_iter == 0


def test_misspelled_monitor_is_told_the_known_ones_and_the_nearest():
    publish = Publish(1.0, higher_is_better={"score": True})

    with pytest.raises(OptionError, match=r'score \(max\).*Did you mean "score"\?'):
        make_learner(publish, TrackerCallback("scores")).fit(1)


def test_misspelled_monitor_with_comp_is_told_the_results_of_the_first_epoch():
    with pytest.raises(OptionError, match=r'epoch 0 .*score.*Did you mean "score"\?'):
        make_learner(Publish(1.0), TrackerCallback("scores", "max")).fit(1)


def test_monitor_of_a_validation_that_there_is_not_is_an_error():
    learner = make_learner(TrackerCallback(), Recorder())
    learner.dls.valid = None

    with pytest.raises(OptionError, match="no result 'valid_loss'"):
        learner.fit(1)


class CancelFirst(Callback):
    """Cuts the first epoch short."""

    def __init__(self, event, cancel):
        setattr(self, event, self.cancel)
        self.exception = cancel

    def cancel(self):
        if self.learn.epoch == 0:
            raise self.exception("not now")


@pytest.mark.parametrize(
    ("event", "cancel"),
    [
        ("before_epoch", CancelEpochException),
        ("after_loss", CancelEpochException),
        ("before_validate", CancelValidException),
    ],
)
def test_epoch_that_was_cut_short_is_no_best_and_no_error(event, cancel):
    tracker = TrackerCallback("score", "max")
    quiet = Publish(..., 1.0)

    make_learner(quiet, tracker, CancelFirst(event, cancel)).fit(2)

    assert (tracker.best, tracker.best_epoch) == (1.0, 1)


def test_cancelled_training_with_a_complete_validation_counts():
    tracker = TrackerCallback("score", "max")
    cancel = CancelFirst("after_batch", CancelTrainException)
    cancel.run_valid = False

    make_learner(Publish(2.0, 1.0), tracker, cancel).fit(2)

    assert (tracker.best, tracker.best_epoch) == (2.0, 0)


def test_result_that_comes_only_in_some_epochs_is_no_error():
    log = tracked(2.0, ..., 3.0, comp="max")

    assert log.best == [2.0, 2.0, 3.0]
    assert log.new_best == [True, False, True]


def test_a_new_fit_forgets_the_best():
    tracker = TrackerCallback("score", "max")
    publish = Publish(5.0, 4.0)
    learner = make_learner(publish, tracker)
    learner.fit(2)

    publish.values = (1.0, 2.0)
    learner.fit(2)

    assert tracker.best == 2.0


def test_reset_on_fit_false_keeps_the_best_over_fits():
    tracker = TrackerCallback("score", "max", reset_on_fit=False)
    publish = Publish(5.0, 4.0)
    learner = make_learner(publish, tracker)
    learner.fit(2)

    publish.values = (1.0, 6.0)
    learner.fit(2)

    assert (tracker.best, tracker.best_epoch) == (6.0, 1)


def test_a_fit_that_goes_on_later_keeps_the_best():
    tracker = TrackerCallback("score", "max")
    learner = make_learner(Publish(5.0, 4.0, 3.0), tracker)
    learner.fit(2)

    learner.fit(3, start_epoch=2)

    assert (tracker.best, tracker.best_epoch) == (5.0, 0)


def test_state_goes_to_a_fresh_learner_which_ends_as_one_straight_through():
    values = (5.0, 4.0, 6.0, 5.5)
    straight = TrackerCallback("score", "max")
    make_learner(Publish(*values), straight).fit(4)
    first = make_learner(Publish(*values), TrackerCallback("score", "max"))
    first.fit(2)

    resumed = TrackerCallback("score", "max")
    second = make_learner(Publish(*values), resumed)
    second.load_state_dict(first.state_dict())
    second.fit(4, start_epoch=2)

    assert resumed.state_dict() == straight.state_dict()


def test_validate_inside_and_between_fits_leaves_the_best_alone():
    class ValidateInside(Callback):
        def after_train(self):
            self.learn.validate()

    tracker = TrackerCallback("score", "max")
    log = Log(tracker)
    learner = make_learner(Publish(1.0, 2.0), ValidateInside(), tracker, log)

    learner.validate()
    learner.fit(2)
    learner.validate()

    assert log.best == [1.0, 2.0]
    assert tracker.best == 2.0


def test_tracker_added_during_a_fit_tracks_from_there():
    class AddTracker(Callback):
        def after_train(self):
            if self.epoch == 1:
                self.learn.add_cb(tracker)

    tracker = TrackerCallback("score")
    publish = Publish(5.0, 1.0, 2.0, higher_is_better={"score": True})

    make_learner(publish, AddTracker()).fit(3)

    assert (tracker.best, tracker.best_epoch) == (2.0, 2)


def test_directions_are_read_from_every_plugin_that_says_them():
    plugins = [Publish(higher_is_better={"a": True}), object(), Recorder]
    other = Publish(higher_is_better={"b": False})

    assert published_directions([*plugins, other]) == {"a": "max", "b": "min"}
