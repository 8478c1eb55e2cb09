"""Schedules by their closed forms, and what a run makes of them."""

import math
import pickle
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from callboard import Callback, Learner
from callboard.errors import ActivationError, CallboardWarning, OptionError
from callboard.optim import get_hyper
from callboard.testing.counting import cost_per_step
from callboard_schedule import (
    ParamScheduler,
    SchedCos,
    SchedExp,
    SchedLin,
    SchedNo,
    SchedPoly,
    combine_scheds,
    combined_cos,
    fit_flat_cos,
    fit_one_cycle,
    fit_sgdr,
    plot_schedule,
)

QUARTERS = [0.0, 0.25, 0.5, 0.75, 1.0]
POINTS = {
    # The closed forms, from 0 (1 for the exponential) to 2.
    "linear": (SchedLin(0, 2), [0.0, 0.5, 1.0, 1.5, 2.0]),
    "cosine": (SchedCos(0, 2), [0.0, 0.29289, 1.0, 1.70711, 2.0]),
    "constant": (SchedNo(0, 2), [0.0, 0.0, 0.0, 0.0, 0.0]),
    "exponential": (SchedExp(1, 2), [1.0, 1.18921, 1.41421, 1.68179, 2.0]),
    "polynomial": (SchedPoly(0, 2, 2), [0.0, 0.125, 0.5, 1.125, 2.0]),
}


class Rates(Callback):
    """Notes hyper-parameters as every training batch meets them."""

    run_after = "schedule"
    run_valid = False

    def __init__(self, *hypers):
        self.hypers = hypers or ("lr",)
        self.seen = []

    def before_batch(self):
        values = [get_hyper(self.learn.opt, hyper) for hyper in self.hypers]
        self.seen.append([v[0] if len(v) == 1 else v for v in values])


class AtBatch(Callback):
    """Does something to the Learner once, before a batch of training."""

    run_before = "schedule"
    run_valid = False

    def __init__(self, batch, action):
        self.batch, self.action = batch, action

    def before_batch(self):
        if self.iter == self.batch:
            self.action(self.learn)


def a_learner(num_batches=5, opt_func=torch.optim.SGD, *, cbs=None, groups=1):
    inputs = torch.ones(2, 1)
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(groups)))
    return Learner(
        [(inputs, inputs)] * num_batches,
        model,
        nn.MSELoss(),
        opt_func,
        lr=1e-3,
        cbs=cbs,
        splitter=lambda m: [list(part.parameters()) for part in m],
    )


@pytest.mark.parametrize("shape", POINTS)
def test_a_schedule_has_its_values_at_every_quarter(shape):
    schedule, expected = POINTS[shape]

    assert [schedule(pct) for pct in QUARTERS] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", POINTS)
def test_a_schedule_survives_pickling(shape):
    schedule, _ = POINTS[shape]
    copy = pickle.loads(pickle.dumps(schedule))

    assert [copy(pct) for pct in QUARTERS] == [schedule(pct) for pct in QUARTERS]


def test_one_value_for_each_parameter_group():
    schedule = SchedLin([0.0, 1.0], [1.0, 3.0])

    assert schedule(0.5) == (0.5, 2.0)
    assert SchedLin([0.0, 1.0], 2.0)(0.5) == (1.0, 1.5)


def test_the_ends_of_a_schedule_may_be_arrays_and_tensors():
    schedule = combined_cos(0.25, np.array([0.0, 1.0]), torch.tensor([1.0, 2.0]), 0)

    assert schedule(0.25) == (1.0, 2.0)
    assert SchedLin(np.float32(1), torch.tensor(2))(0.5) == 1.5


@pytest.mark.parametrize("start", ["0.1", [], [[0.1]], None, slice(1e-3, 1e-1)])
def test_ends_that_are_no_numbers_are_refused(start):
    with pytest.raises(OptionError, match="SchedLin: start must be a number, or one"):
        SchedLin(start, 0.1)


def test_ends_of_different_numbers_of_groups_are_refused():
    with pytest.raises(OptionError, match="start has 2 values and end 3"):
        SchedCos([1, 2], [1, 2, 3])


@pytest.mark.parametrize("power", [0, -1, "2"])
def test_a_polynomial_needs_a_power_above_zero(power):
    with pytest.raises(OptionError, match="SchedPoly: power must be above 0"):
        SchedPoly(0, 1, power)


def test_combined_schedules_take_their_shares_of_the_run():
    schedule = combine_scheds([0.25, 0.75], [SchedLin(0, 1), SchedCos(1, 0)])

    at = [0.0, 0.125, 0.25, 0.625, 1.0]
    assert [schedule(pct) for pct in at] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_combined_schedules_survive_pickling():
    schedule = combined_cos(0.25, [0.5, 1.0], 1.0, 0.0)
    copy = pickle.loads(pickle.dumps(schedule))

    assert [copy(pct) for pct in QUARTERS] == [schedule(pct) for pct in QUARTERS]


@pytest.mark.parametrize(("share", "expected"), [(0, [1, 0.5, 0]), (1, [0, 0.5, 1])])
def test_a_schedule_with_no_share_is_left_out(share, expected):
    schedule = combined_cos(share, 0, 1, 0)

    assert [schedule(pct) for pct in (0.0, 0.5, 1.0)] == pytest.approx(expected)


def test_combined_cos_goes_up_and_down():
    schedule = combined_cos(0.25, 0.5, 1.0, 0.0)

    # At 0.1: 0.5 + 0.5 * (1 - cos(0.4 pi)) / 2.
    expected = [0.5, 0.67275, 1.0, 0.75, 0.25, 0.0]
    at = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]
    assert [schedule(pct) for pct in at] == pytest.approx(expected, abs=1e-4)


@given(
    shares=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any),
    pct=st.floats(0, 1),
)
def test_combined_schedules_are_defined_everywhere(shares, pct):
    total = sum(shares)
    scheds = [SchedLin(n, n + 1) for n in range(len(shares))]
    schedule = combine_scheds([share / total for share in shares], scheds)

    first = next(n for n, share in enumerate(shares) if share)
    last = max(n for n, share in enumerate(shares) if share)
    assert first <= schedule(pct) <= last + 1 + 1e-9  # for rounding


@pytest.mark.parametrize("pcts", [[0.5, 0.6], [1.2, -0.2], [1.0], []])
def test_shares_that_do_not_add_up_are_refused(pcts):
    with pytest.raises(OptionError, match="combine_scheds"):
        combine_scheds(pcts, [SchedLin(0, 1), SchedLin(1, 0)])


def test_exponential_from_zero_is_refused_with_a_good_value():
    with pytest.raises(OptionError, match="above 0, got 0; use 1e-7"):
        SchedExp(0, 1)


def test_each_training_batch_meets_the_schedule_at_its_share_of_the_run():
    rates = Rates()
    schedule = ParamScheduler({"lr": SchedLin(1.0, 0.0)})

    a_learner(5, cbs=[schedule, rates]).fit(2)

    assert [r for (r,) in rates.seen] == pytest.approx([1 - n / 10 for n in range(10)])


def test_any_hyper_parameter_of_the_optimizer_can_be_scheduled():
    rates = Rates("mom", "wd", "eps", "sqr_mom")
    schedules = {
        "mom": SchedLin(0.5, 0.9),
        "wd": SchedNo(0.1, 0.1),
        "eps": SchedNo(1e-3, 0),
        "sqr_mom": SchedNo(0.99, 0),
    }

    a_learner(2, torch.optim.AdamW, cbs=[ParamScheduler(schedules), rates]).fit(1)

    assert rates.seen == [[0.5, 0.1, 1e-3, 0.99], [pytest.approx(0.7), 0.1, 1e-3, 0.99]]


def test_validation_leaves_the_hyper_parameters_alone():
    seen = []

    class LooksWhileValidating(Callback):
        run_train = False

        def before_batch(self):
            seen.append(get_hyper(self.learn.opt, "lr")[0])

    learner = a_learner(4, cbs=[ParamScheduler({"lr": SchedLin(1.0, 0.0)})])
    learner.dls.valid = learner.dls.train
    learner.fit(1, cbs=LooksWhileValidating())

    assert seen == [0.25] * 4  # as the last batch of training left it


def test_two_values_of_one_key_are_scheduled_side_by_side():
    scheds = {"mom": SchedNo(0.7, 0.7), "sqr_mom": SchedNo(0.8, 0.8)}
    learner = a_learner(2, torch.optim.Adam, cbs=ParamScheduler(scheds))

    learner.fit(1)

    assert learner.opt.param_groups[0]["betas"] == (0.7, 0.8)


def test_any_function_of_progress_is_a_schedule_and_plain_numbers_are_set():
    schedule = ParamScheduler({"lr": lambda pct: np.array([1 - pct, pct])})
    learner = a_learner(4, groups=2, cbs=schedule)

    learner.fit(1)

    rates = [group["lr"] for group in learner.opt.param_groups]
    assert rates == [0.25, 0.75]
    assert {type(rate) for rate in rates} == {float}


@pytest.mark.parametrize("returned", [None, "0.1", [0.1, 0.2, 0.3]])
def test_a_schedule_that_returns_no_value_for_each_group_is_refused(returned):
    learner = a_learner(groups=2, cbs=ParamScheduler({"lr": lambda pct: returned}))

    with pytest.raises(OptionError, match="the schedule of 'lr' returned"):
        learner.fit(1)


def test_a_scheduler_added_while_a_fit_runs_takes_over_from_there():
    rates = Rates()
    added = ParamScheduler({"lr": SchedLin(1.0, 0.0)})
    adds = AtBatch(2, lambda learner: learner.add_cb(added))

    a_learner(4, cbs=[adds, rates]).fit(1)

    assert [r for (r,) in rates.seen] == [1e-3, 1e-3, 1e-3, 0.25]


def test_another_optimizer_in_the_middle_of_a_fit_is_scheduled_from_then_on():
    def use_adam(learner):
        learner.opt = torch.optim.Adam(learner.model.parameters(), lr=5.0)

    learner = a_learner(4, cbs=ParamScheduler({"mom": SchedLin(1.0, 0.0)}))
    learner.fit(1, cbs=AtBatch(1, use_adam))

    assert learner.opt.param_groups[0]["betas"] == (0.25, 0.999)


def test_an_optimizer_that_loads_its_state_in_the_middle_of_a_fit_is_still_scheduled():
    def load_state(learner):
        learner.opt.load_state_dict(learner.opt.state_dict())

    learner = a_learner(4, cbs=ParamScheduler({"lr": SchedLin(1.0, 0.0)}))
    learner.fit(1, cbs=AtBatch(1, load_state))

    assert get_hyper(learner.opt, "lr") == [0.25]


def test_a_parameter_group_that_joins_later_gets_the_value_of_all():
    def add_group(learner):
        group = {"params": [nn.Parameter(torch.ones(1))], "lr": 5.0}
        learner.opt.add_param_group(group)

    learner = a_learner(4, cbs=ParamScheduler({"lr": SchedLin(1.0, 0.0)}))
    learner.fit(1, cbs=AtBatch(1, add_group))

    assert get_hyper(learner.opt, "lr") == [0.25, 0.25]


def test_a_parameter_group_that_joins_later_without_a_value_is_an_error():
    def add_group(learner):
        learner.opt.add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    learner = a_learner(4, groups=2)

    with pytest.raises(OptionError, match="got 2 values for 3 parameter groups"):
        fit_one_cycle(learner, 1, slice(1e-3, 1e-1), cbs=AtBatch(1, add_group))


def test_a_loader_with_more_batches_than_it_says_stays_at_the_end_of_the_schedule():
    class Understated(list):
        def __len__(self):
            return 2

    inputs = torch.ones(2, 1)
    rates = Rates()
    learner = a_learner(cbs=[rates, ParamScheduler({"lr": SchedCos(1.0, 0.0)})])
    learner.dls.train = Understated([(inputs, inputs)] * 4)

    learner.fit(1)

    assert [r for (r,) in rates.seen] == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_the_optimizer_is_not_kept_alive_after_a_fit():
    schedule = ParamScheduler({"lr": SchedNo(1, 1)})
    learner = a_learner(cbs=schedule)
    learner.fit(1)
    optimizer = weakref.ref(learner.opt)

    learner.create_opt()

    assert optimizer() is None


def test_a_hyper_parameter_that_the_optimizer_lacks_is_named_with_those_it_has():
    learner = a_learner(cbs=ParamScheduler({"momentun": SchedNo(0.9, 0.9)}))

    with pytest.raises(OptionError, match=r"SGD has no.*'momentun'.*lr, mom, wd"):
        learner.fit(1)


@pytest.mark.parametrize("key", ["betas", "amsgrad", "foreach"])
def test_a_key_that_holds_no_number_is_refused(key):
    learner = a_learner(1, torch.optim.Adam, cbs=ParamScheduler({key: SchedNo(1, 1)}))

    with pytest.raises(OptionError, match=f"'{key}' of Adam is .* no number"):
        learner.fit(1)


def test_one_hyper_parameter_under_two_names_is_refused():
    scheds = {"mom": SchedNo(0.9, 0.9), "momentum": SchedNo(0.8, 0.8)}

    with pytest.raises(OptionError, match="'mom' and 'momentum' are the same"):
        a_learner(cbs=ParamScheduler(scheds)).fit(1)


def test_asking_for_the_plugin_by_name_alone_says_what_to_write_instead():
    with pytest.raises(OptionError, match="--schedule one-cycle"):
        ParamScheduler()


@pytest.mark.parametrize("scheds", [{}, {"lr": 3}, None, 0.1])
def test_what_is_no_schedule_is_refused(scheds):
    with pytest.raises(OptionError, match="must map hyper-parameters to functions"):
        ParamScheduler(scheds)


def one_cycle(pct, low, high, end, share=0.25):
    if pct < share:
        return low + (high - low) * (1 - math.cos(math.pi * pct / share)) / 2
    inside = (pct - share) / (1 - share)
    return high + (end - high) * (1 - math.cos(math.pi * inside)) / 2


def test_one_cycle_moves_rate_and_momentum_against_each_other():
    rates, sgd = Rates("lr", "mom"), partial(torch.optim.SGD, momentum=0.5)
    fit_one_cycle(a_learner(8, sgd, cbs=rates), 3, 0.1)

    at = [n / 24 for n in range(24)]
    assert [r[0] for r in rates.seen] == pytest.approx(
        [one_cycle(pct, 0.1 / 25, 0.1, 0.1 / 1e5) for pct in at]
    )
    assert [r[1] for r in rates.seen] == pytest.approx(
        [one_cycle(pct, 0.95, 0.85, 0.95) for pct in at]
    )


def test_a_run_that_starts_later_meets_the_rest_of_the_same_schedule():
    whole, rest = Rates(), Rates()
    for rates, start in ((whole, 0), (rest, 2)):
        fit_one_cycle(a_learner(4, cbs=rates), 3, 0.1, start_epoch=start)

    assert rest.seen == whole.seen[8:]  # to the last bit


@pytest.mark.parametrize(
    "fit", [partial(fit_flat_cos, n_epoch=7), partial(fit_sgdr, n_cycles=3)]
)
def test_other_runs_that_start_later_meet_the_rest_of_the_same_schedule(fit):
    whole, rest = Rates(), Rates()
    for rates, start in ((whole, 0), (rest, 4)):
        fit(a_learner(3, cbs=rates), start_epoch=start)

    assert rest.seen == whole.seen[12:]


@pytest.mark.parametrize(
    "opt_func",
    [
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        partial(torch.optim.RMSprop, momentum=0.9),
        partial(torch.optim.Muon, momentum=0.9),
    ],
)
def test_one_cycle_moves_the_momentum_of_any_optimizer_that_has_it(opt_func):
    rates = Rates("lr", "mom")
    inputs = torch.ones(2, 2)
    model = nn.Linear(2, 2, bias=False)
    learner = Learner([(inputs, inputs)] * 4, model, nn.MSELoss(), opt_func, cbs=rates)

    fit_one_cycle(learner, 1, 0.1, pct_start=0.5)

    assert [r[0] for r in rates.seen] == pytest.approx([0.004, 0.052, 0.1, 0.0500005])
    assert [r[1] for r in rates.seen] == pytest.approx([0.95, 0.9, 0.85, 0.9])


def test_momentum_is_left_alone_where_none_is_asked_for():
    learner = a_learner(4, partial(torch.optim.SGD, momentum=0.5))

    fit_one_cycle(learner, 1, 0.1, moms=None)

    assert get_hyper(learner.opt, "mom") == [0.5]


def test_the_rate_is_the_learners_where_none_is_given():
    rates = Rates()

    fit_one_cycle(a_learner(4, cbs=rates), 1, pct_start=0)

    assert rates.seen[0] == [1e-3]


def test_weight_decay_is_set_for_the_run():
    rates = Rates("wd")

    fit_one_cycle(a_learner(2, cbs=rates, groups=2), 1, 0.1, wd=[0.1, 0.2])

    assert rates.seen == [[[0.1, 0.2]]] * 2


def test_a_new_optimizer_is_made_where_it_is_asked_for():
    learner = a_learner(2, torch.optim.Adam)
    learner.fit(1)
    first = learner.opt

    fit_one_cycle(learner, 1, 0.1, reset_opt=True)

    assert learner.opt is not first


def test_discriminative_rates_keep_their_ratios():
    rates = Rates()
    fit_one_cycle(a_learner(4, cbs=rates, groups=3), 1, slice(1e-3, 1e-1))

    for (values,) in rates.seen:
        assert values[1] / values[0] == pytest.approx(10)
        assert values[2] / values[1] == pytest.approx(10)


def test_flat_then_cosine():
    rates = Rates()
    fit_flat_cos(a_learner(8, cbs=rates), 1, 0.1, start_epoch=0)

    tail = [one_cycle(n / 8, 0, 0.1, 1e-6, share=0.75) for n in (6, 7)]
    assert [r for (r,) in rates.seen] == pytest.approx([0.1] * 6 + tail)


def test_warm_restarts_run_cycles_that_get_longer():
    rates = Rates()
    learner = a_learner(3, cbs=rates)
    fit_sgdr(learner, 3, 1, 0.1)

    expected = [
        0.1 * (1 + math.cos(math.pi * n / (3 * length))) / 2
        for length in (1, 2, 4)
        for n in range(3 * length)
    ]
    assert learner.n_epoch == 7
    assert [r for (r,) in rates.seen] == pytest.approx(expected)


@pytest.mark.parametrize("n_cycles", [5, 10, 13, 20])
def test_every_restart_begins_with_the_first_batch_of_its_epoch(n_cycles):
    rates = Rates()

    fit_sgdr(a_learner(2, cbs=rates), n_cycles, 1, 0.1, cycle_mult=1)

    # Sums of 1 / n_cycles are off by rounding; a restart must not come a batch late.
    assert [r for (r,) in rates.seen[::2]] == [0.1] * n_cycles


@pytest.mark.parametrize("opt_func", [torch.optim.RMSprop, torch.optim.SGD])
def test_momentum_that_was_left_at_zero_stays_there(opt_func):
    learner = a_learner(4, opt_func)
    learner.fit(1)

    fit_one_cycle(learner, 2, 0.1)

    assert get_hyper(learner.opt, "mom") == [0]


def test_an_optimizer_without_momentum_is_scheduled_without_it_and_told():
    rates = Rates()
    learner = a_learner(4, torch.optim.Adagrad, cbs=rates)

    with pytest.warns(CallboardWarning, match="Adagrad has no 'mom'"):
        fit_one_cycle(learner, 1, 0.1)

    assert rates.seen[1] == [pytest.approx(0.1)]


def test_a_rate_that_is_kept_in_a_tensor_is_set_in_place():
    def capturable(groups, lr):
        return torch.optim.Adam(
            [{**g, "lr": torch.tensor(g["lr"])} for g in groups], lr=torch.tensor(lr)
        )

    learner = a_learner(4, capturable)
    learner.create_opt()
    rate = learner.opt.param_groups[0]["lr"]
    learner.fit(1, cbs=ParamScheduler({"lr": SchedLin(1.0, 0.0)}))

    assert learner.opt.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.25)


def test_two_schedules_of_one_hyper_parameter_are_refused():
    learner = a_learner(cbs=ParamScheduler({"lr": SchedNo(1, 1)}))

    with pytest.raises(ActivationError, match="two schedules set lr"):
        fit_one_cycle(learner, 1)

    assert [cb.name for cb in learner.cbs] == ["schedule"]


def test_two_schedules_of_one_hyper_parameter_under_two_names_are_refused():
    first = ParamScheduler({"wd": SchedNo(0.1, 0.1)})
    second = ParamScheduler({"weight_decay": SchedNo(0.2, 0.2)})

    with pytest.raises(ActivationError, match=r"remove_cb\('schedule'\)"):
        a_learner(cbs=[first, second]).fit(1)


def test_two_schedules_of_different_hyper_parameters_run_side_by_side():
    learner = a_learner(4, cbs=ParamScheduler({"wd": SchedNo(0.3, 0.3)}))

    fit_flat_cos(learner, 1, 0.1)

    assert get_hyper(learner.opt, "wd") == [0.3]
    assert get_hyper(learner.opt, "lr") == pytest.approx([0.1])


def test_a_run_whose_scheduler_is_disabled_is_refused(monkeypatch):
    monkeypatch.setenv("CALLBOARD_DISABLE", "schedule")

    with pytest.raises(ActivationError, match="schedule is disabled"):
        fit_one_cycle(a_learner(), 1, 0.1)


@pytest.mark.parametrize("wrap", [lambda cb: cb, lambda cb: (cb,), lambda cb: {cb}])
def test_callbacks_of_a_run_may_be_one_or_many(wrap):
    rates = Rates()

    fit_one_cycle(a_learner(3), 1, 0.1, cbs=wrap(rates))

    assert len(rates.seen) == 3


def test_scheduling_calls_little_python_and_no_tensor_operation():
    def cost(fit):
        return cost_per_step(lambda steps: fit(a_learner(steps, torch.optim.Adam), 1))

    extra = cost(fit_one_cycle) - cost(Learner.fit)

    # The hook, and the formula of lr and of mom.
    assert extra.python_calls <= 3
    assert extra.tensor_operations == 0
    assert extra.host_reads == 0


def test_a_loader_without_a_length_is_told_of_and_moves_once_its_length_is_known():
    class Endless:
        def __iter__(self):
            return iter([(torch.ones(2, 1), torch.ones(2, 1))] * 4)

    rates = Rates()
    learner = Learner(
        Endless(), nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD, cbs=rates
    )

    with pytest.warns(CallboardWarning, match="has no length") as told:
        learner.fit(2, cbs=ParamScheduler({"lr": SchedLin(1.0, 0.0)}))

    assert len(told) == 1
    expected = [1.0] * 4 + [0.5, 0.375, 0.25, 0.125]
    assert [r for (r,) in rates.seen] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pct_start": 1.5}, "pct_start is a share"),
        ({"div": 0}, "div must be above 0"),
        ({"div_final": "many"}, "div_final must be above 0"),
        ({"lr_max": [1, 2, 3]}, "got 3 values for 1 parameter groups"),
        ({"lr_max": -0.1}, "learning rate: must not be negative"),
        ({"lr_max": "fast"}, "fit_one_cycle: learning rate"),
        ({"moms": (0.9, 0.8)}, "moms must be three numbers"),
        ({"wd": [1, 2]}, "wd: got 2 values for 1 parameter groups"),
        ({"n_epoch": 1.5}, "n_epoch must be a whole number"),
    ],
)
def test_wrong_options_are_refused_before_training(options, message):
    with pytest.raises(OptionError, match=message):
        fit_one_cycle(a_learner(), **{"n_epoch": 1, **options})


@pytest.mark.parametrize("counts", [(0, 1), (2, 1.5), (True, 1)])
def test_warm_restarts_need_whole_numbers(counts):
    with pytest.raises(OptionError, match=r"fit_sgdr: .* must be 1 or more"):
        fit_sgdr(a_learner(), *counts, 0.1)


def test_the_schedules_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")

    axes = ParamScheduler({"lr": combined_cos(0.25, 0, 1, 0), "mom": SchedNo(1, 1)})
    figure = axes.plot().figure
    figure.savefig(tmp_path / "schedule.png")

    assert [axis.get_ylabel() for axis in figure.axes] == ["lr", "mom"]
    assert plot_schedule(SchedLin(0, 1)).get_xlabel() == "share of the run"


def test_a_schedule_of_several_groups_is_drawn_with_a_line_for_each():
    pytest.importorskip("matplotlib").use("Agg")

    axis = plot_schedule(SchedLin([0, 1, 2], 3))

    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["group 1 (first)", "group 2", "group 3 (last)"]


def test_several_schedules_do_not_fit_on_one_axes():
    pytest.importorskip("matplotlib").use("Agg")
    axis = plot_schedule(SchedLin(0, 1))

    with pytest.raises(OptionError, match="for 2 schedules"):
        plot_schedule({"lr": SchedLin(0, 1), "mom": SchedLin(1, 0)}, ax=axis)
