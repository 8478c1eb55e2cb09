"""Schedules by their closed forms, and what a run makes of them."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from callboard import Callback, Learner
from callboard.errors import ActivationError, CallboardWarning, OptionError
from callboard.optim import get_hyper
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


def test_combined_schedules_take_their_shares_of_the_run():
    schedule = combine_scheds([0.25, 0.75], [SchedLin(0, 1), SchedCos(1, 0)])

    at = [0.0, 0.125, 0.25, 0.625, 1.0]
    assert [schedule(pct) for pct in at] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


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
    assert first <= schedule(pct) <= last + 1


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


def test_a_hyper_parameter_that_the_optimizer_lacks_is_named_with_those_it_has():
    learner = a_learner(cbs=ParamScheduler({"momentun": SchedNo(0.9, 0.9)}))

    with pytest.raises(OptionError, match=r"SGD has no.*'momentun'.*lr, mom, wd"):
        learner.fit(1)


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
    rates = Rates("lr", "mom")
    fit_one_cycle(a_learner(8, cbs=rates), 3, 0.1)

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

    assert rest.seen == [pytest.approx(r) for r in whole.seen[8:]]


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

    assert list(learner.cbs[ParamScheduler]) == [learner.schedule]


def test_a_loader_without_a_length_is_told_of_and_moves_once_its_length_is_known():
    class Endless:
        def __iter__(self):
            return iter([(torch.ones(2, 1), torch.ones(2, 1))] * 4)

    rates = Rates()
    learner = Learner(
        Endless(), nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD, cbs=rates
    )

    with pytest.warns(CallboardWarning, match="has no length"):
        learner.fit(2, cbs=ParamScheduler({"lr": SchedLin(1.0, 0.0)}))

    expected = [1.0] * 4 + [0.5, 0.375, 0.25, 0.125]
    assert [r for (r,) in rates.seen] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pct_start": 1.5}, "pct_start is a share"),
        ({"div": 0}, "div must be above 0"),
        ({"lr_max": [1, 2, 3]}, "got 3 values for 1 parameter groups"),
    ],
)
def test_wrong_options_are_refused_before_training(options, message):
    with pytest.raises(OptionError, match=message):
        fit_one_cycle(a_learner(), 1, **options)


def test_the_schedules_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")

    axes = ParamScheduler({"lr": combined_cos(0.25, 0, 1, 0), "mom": SchedNo(1, 1)})
    figure = axes.plot().figure
    figure.savefig(tmp_path / "schedule.png")

    assert [axis.get_ylabel() for axis in figure.axes] == ["lr", "mom"]
    assert plot_schedule(SchedLin(0, 1)).get_xlabel() == "share of the run"
