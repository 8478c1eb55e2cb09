"""When the learning rate falls, and how far."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import ActivationError, OptionError
from callboard_recorder import Recorder
from callboard_reduce_lr_on_plateau import ReduceLROnPlateau
from callboard_schedule import ParamScheduler, SchedCos, SchedLin


class Publish(Callback):
    """Publishes one given value an epoch as ``score``; keeps the rates and states."""

    role = "observe"
    run_before = "reduce-lr-on-plateau"

    def __init__(self, *values):
        self.values, self.rates, self.states = values, [], []

    def before_batch(self):
        if self.training and self.iter == 0:
            self.rates.append([group["lr"] for group in self.opt.param_groups])

    def after_validate(self):
        self.learn.results["score"] = self.values[self.epoch]

    def checkpoint(self):
        self.states.append(copy.deepcopy(self.learn.state_dict()))


class Moms(Callback):
    role = "observe"
    run_after = "schedule"

    def __init__(self, moms):
        self.moms = moms

    def before_batch(self):
        if self.training and self.iter == 0:
            self.moms.append(self.opt.param_groups[0]["momentum"])


def make(*cbs, **options):
    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    batches = [(inputs[:4], inputs[:4, :1]), (inputs[4:], inputs[4:, :1])]
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    options = {"opt_func": torch.optim.SGD, "lr": 1.0, "seed": 0, **options}
    return Learner((batches, batches), model, nn.MSELoss(), cbs=[*cbs], **options)


def rates_of(*values, lr=1e-2, **options):
    publish = Publish(*values)
    make(publish, ReduceLROnPlateau("score", **options)).fit(len(values), lr)
    return [rates[0] for rates in publish.rates]


def test_the_rate_falls_after_patience_epochs_without_a_new_best():
    # A new best in epochs 0 and 1 only; two epochs without one, twice.
    rates = rates_of(2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, comp="min", patience=2)

    assert rates == pytest.approx([1e-2] * 4 + [1e-3] * 2 + [1e-4])


def test_a_new_best_starts_the_count_anew():
    rates = rates_of(2.0, 2.0, 1.0, 1.0, 1.0, comp="min", patience=2)

    assert rates == pytest.approx([1e-2] * 5)


def test_higher_may_be_better_and_a_little_not_enough():
    rates = rates_of(1.0, 1.05, 1.2, 1.25, comp="max", min_delta=0.1, factor=2.0)

    assert rates == pytest.approx([1e-2, 1e-2, 5e-3, 5e-3])


def test_the_rate_does_not_fall_below_min_lr_nor_rise_to_it():
    falling = rates_of(*[1.0] * 5, comp="min", min_lr=2e-3)
    low = rates_of(*[1.0] * 3, comp="min", min_lr=0.5)

    assert falling == pytest.approx([1e-2, 1e-2, 2e-3, 2e-3, 2e-3])
    assert low == pytest.approx([1e-2] * 3)


def test_nan_counts_as_an_epoch_without_a_new_best():
    assert rates_of(1.0, math.nan, math.nan, comp="min")[-1] == pytest.approx(1e-3)


def test_every_group_falls_by_the_same_factor():
    publish = Publish(1.0, 1.0, 1.0)
    reduce = ReduceLROnPlateau("score", "min")
    learner = make(publish, reduce, splitter=lambda m: [m[0], m[1]])
    learner.fit(3, slice(1e-3, 1e-2))

    assert publish.rates[2] == pytest.approx([1e-4, 1e-3])
    # Behind the last epoch it fell once more.
    assert reduce.reductions == [1, 2]


def test_the_direction_comes_from_who_measures():
    learner = make(Recorder(), ReduceLROnPlateau("valid_loss"))
    learner.fit(1)

    assert learner.reduce_lr_on_plateau.direction == "min"


@pytest.mark.parametrize("number", [2, 5, 8])
def test_a_resumed_run_falls_where_the_whole_one_does(number):
    values = (1.0, 1.0, 1.0, 0.5, 0.5)

    def learner():
        publish = Publish(*values)
        return make(publish, ReduceLROnPlateau("score", "min", patience=2))

    whole = learner()
    whole.fit(5, 1e-2)
    resumed = learner()
    resumed.fit(5, 1e-2, resume=whole.publish.states[number])

    assert resumed.publish.rates[-1] == whole.publish.rates[-1]
    assert resumed.reduce_lr_on_plateau.reductions == [2]


def test_a_schedule_that_would_undo_it_is_refused():
    schedule = ParamScheduler({"lr": SchedCos(0.1, 0.0)})

    with pytest.raises(ActivationError, match=r"plateau.*would undo each reduction"):
        make(Recorder(), ReduceLROnPlateau()).fit(1, cbs=schedule)


def test_a_schedule_that_leaves_the_rate_alone_may_run_beside_it():
    publish, moms = Publish(1.0, 1.0, 1.0), []
    schedule = ParamScheduler({"mom": SchedLin(0.9, 0.6)})
    sgd = partial(torch.optim.SGD, momentum=0.9)
    learner = make(publish, ReduceLROnPlateau("score", "min"), opt_func=sgd)

    learner.fit(3, 1e-2, cbs=[schedule, Moms(moms)])

    # The rate falls behind epoch 1, while momentum goes down over the whole run.
    assert [rates[0] for rates in publish.rates] == pytest.approx([1e-2, 1e-2, 1e-3])
    assert moms == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be a whole number"),
        ({"patience": True}, "patience"),
        ({"factor": 1.0}, "factor must be above 1, got 1.0"),
        ({"min_lr": -1e-3}, "min_lr must be from 0 on"),
        ({"min_lr": math.nan}, "min_lr"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        ReduceLROnPlateau(**options)
