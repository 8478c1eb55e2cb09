"""Two fits: which parameters move in each, at which rates, against plain PyTorch."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import CallboardWarning, OptionError
from callboard.optim import get_hyper
from callboard_fine_tune import body_rate, fine_tune, head_rate


class Rates(Callback):
    """Writes down the hyper-parameters that each training batch meets."""

    run_after = "schedule"
    run_valid = False

    def __init__(self, *names):
        self.names, self.seen, self.num_fits = names or ("lr",), [], 0

    def before_fit(self):
        self.num_fits += 1

    def before_batch(self):
        self.seen.append([get_hyper(self.learn.opt, name) for name in self.names])


class Moved(Callback):
    """Which parameters a fit has moved."""

    def __init__(self):
        self.seen = []

    def before_fit(self):
        self.before = copy.deepcopy(self.learn.model.state_dict())

    def after_fit(self):
        parameters = dict(self.learn.model.named_parameters())
        moved = {n for n, p in parameters.items() if not torch.equal(p, self.before[n])}
        self.seen.append(moved)


def batches(count=4):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 6, 3, generator=generator)
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


def a_model():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))


def a_learner(opt_func=torch.optim.SGD, *, model=None, splitter=list, **options):
    model = model or a_model()
    return Learner(
        batches(), model, nn.MSELoss(), opt_func, splitter=splitter, seed=0, **options
    )


def one_cycle(pct, high, div=25.0, div_final=1e5, share=0.25):
    if pct < share:
        return (
            high / div + (high - high / div) * (1 - math.cos(math.pi * pct / share)) / 2
        )
    inside = (pct - share) / (1 - share)
    return high + (high / div_final - high) * (1 - math.cos(math.pi * inside)) / 2


def test_rates_of_the_groups():
    assert head_rate(1e-2) == slice(1e-2)
    assert body_rate(1e-2, 50) == slice(1e-4, 5e-3)


def test_first_the_head_alone_moves_and_then_everything():
    moved = Moved()

    fine_tune(a_learner(cbs=moved), 2)

    assert moved.seen[0] == {"2.weight", "2.bias"}
    assert len(moved.seen[1]) == 6


def test_rates_follow_one_cycle_in_both_fits():
    rates = Rates()

    fine_tune(a_learner(cbs=rates), 3, 0.02, freeze_epochs=2)

    first, second = rates.seen[:8], rates.seen[8:]
    assert [lr[-1] for (lr,) in first] == pytest.approx(
        [one_cycle(n / 8, 0.02, share=0.99) for n in range(8)]
    )
    assert len(second) == 12
    for number, (lr,) in enumerate(second):
        # 0.01 for the last group, a hundredth for the first, 0.01 / 10 between.
        highest = [1e-4, 1e-3, 1e-2]
        expected = [one_cycle(number / 12, h, div=5, share=0.3) for h in highest]
        assert lr == pytest.approx(expected)


def test_weights_are_those_of_the_same_training_in_plain_pytorch():
    learner = a_learner()
    model = copy.deepcopy(learner.model)

    fine_tune(learner, 2, 0.02)

    groups = [{"params": [*layer.parameters()], "lr": 0.0} for layer in model]
    opt = torch.optim.SGD(groups, lr=0.0)

    def train(num_epochs, highest, **cycle):
        data = batches() * num_epochs
        for number, (inputs, labels) in enumerate(data):
            for group, high in zip(opt.param_groups, highest, strict=True):
                group["lr"] = one_cycle(number / len(data), high, **cycle)
            opt.zero_grad()
            nn.functional.mse_loss(model(inputs), labels).backward()
            opt.step()

    for layer in model[:2]:
        layer.requires_grad_(False)
    train(1, [0.002, 0.002, 0.02], share=0.99)
    model.requires_grad_(True)
    train(2, [1e-4, 1e-3, 1e-2], share=0.3, div=5)
    for ours, plain in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain)


def test_all_options_reach_the_fits():
    adam = partial(torch.optim.AdamW, weight_decay=0.5)
    rates = Rates("lr", "mom", "wd")

    fine_tune(
        a_learner(adam),
        1,
        0.02,
        1,
        10,
        0.5,
        4,
        div_final=100,
        wd=[0.1, 0.2, 0.3],
        moms=(0.9, 0.7, 0.8),
        cbs=rates,
    )

    assert rates.num_fits == 2
    lr, mom, wd = zip(*rates.seen, strict=True)
    assert lr[0][-1] == pytest.approx(0.02 / 25)
    assert mom[0][-1] == pytest.approx(0.9)
    second = [one_cycle(n / 4, 0.01, div=4, div_final=100, share=0.5) for n in range(4)]
    assert [rate[-1] for rate in lr[4:]] == pytest.approx(second)
    assert [rate[0] for rate in lr[4:]] == pytest.approx([r / 10 for r in second])
    assert [m[0] for m in mom[4:]] == pytest.approx([0.9, 0.8, 0.7, 0.75])
    assert {tuple(w) for w in wd} == {(0.1, 0.2, 0.3)}


def test_normalisation_layers_train_while_frozen_at_a_tenth_of_the_rate():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    moved, rates = Moved(), Rates()

    fine_tune(a_learner(model=model, cbs=[moved, rates]), 0, 0.02)

    assert moved.seen == [{"1.weight", "1.bias", "2.weight", "2.bias"}]
    for (lr,) in rates.seen:
        assert lr[1] == pytest.approx(lr[2] / 10)


def test_the_model_is_unfrozen_and_momenta_forgotten_between_the_fits():
    class LooksAtState(Callback):
        def before_fit(self):
            self.seen.append(len(self.learn.opt.state))

    look = LooksAtState()
    look.seen = []
    learner = a_learner(torch.optim.Adam, cbs=look)
    learner.fit(1)

    fine_tune(learner, 1)

    assert look.seen == [0, 0, 0]
    assert all(p.requires_grad for p in learner.model.parameters())


def test_without_frozen_epochs_the_whole_model_trains_at_once():
    moved, learner = Moved(), a_learner()
    learner.freeze()
    learner.add_cb(moved)

    fine_tune(learner, 1, freeze_epochs=0)

    assert len(moved.seen) == 1
    assert len(moved.seen[0]) == 6


def test_with_no_epoch_after_the_frozen_ones_the_model_ends_unfrozen():
    rates, learner = Rates(), a_learner()

    fine_tune(learner, 0, cbs=rates)

    assert rates.num_fits == 1
    assert all(p.requires_grad for p in learner.model.parameters())


def test_a_new_optimizer_is_made_once_where_it_is_asked_for():
    optimizers = []

    def opt_func(groups, lr):
        optimizers.append(torch.optim.SGD(groups, lr))
        return optimizers[-1]

    learner = a_learner(opt_func)
    learner.fit(1)

    fine_tune(learner, 1, reset_opt=True)

    assert len(optimizers) == 2
    assert learner.opt is optimizers[-1]


def test_one_parameter_group_is_told_of_and_trained_twice():
    moved = Moved()
    learner = a_learner(splitter=lambda model: [model], cbs=moved)

    with pytest.warns(CallboardWarning, match="one parameter group"):
        fine_tune(learner, 1)

    assert [len(names) for names in moved.seen] == [6, 6]


def test_a_stop_in_the_first_fit_ends_the_first_fit():
    class StopOnce(Callback):
        def after_batch(self):
            if self.learn.train_iter == 2 and not self.has_stopped:
                self.has_stopped = True
                self.learn.stop("enough")

    stop, rates = StopOnce(), Rates()
    stop.has_stopped = False

    fine_tune(a_learner(), 1, cbs=[stop, rates])

    assert len(rates.seen) == 2 + 4


@pytest.mark.parametrize("num_batches", [2, 4, 5, 9, 12])
def test_a_run_that_was_cut_off_anywhere_goes_on_to_the_same_weights(num_batches):
    class CutOff(Callback):
        def before_fit(self):
            self.count = getattr(self, "count", 0)

        def checkpoint(self):
            self.count += self.learn.training
            if self.count == num_batches:
                self.saved = copy.deepcopy(self.learn.state_dict())
                raise KeyboardInterrupt

    cut_off, whole = CutOff(), a_learner(torch.optim.Adam)
    fine_tune(whole, 2)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(a_learner(torch.optim.Adam), 2, cbs=cut_off)

    resumed = a_learner(torch.optim.Adam)
    resumed.resume_next_fit(cut_off.saved, "ignore")
    fine_tune(resumed, 2)

    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs must be a whole number of epochs"),
        ({"epochs": 1.5}, "epochs must be a whole number of epochs"),
        ({"freeze_epochs": True}, "freeze_epochs must be a whole number"),
        ({"base_lr": 0}, r"base_lr must be a number above 0, got 0. Use 0\.002"),
        ({"base_lr": slice(1e-3)}, "base_lr must be a number above 0"),
        ({"lr_mult": 0}, "lr_mult must be a number above 0, got 0. Use 100"),
        ({"div": -1}, "div must be a number above 0"),
        ({"div_final": math.inf}, "div_final must be a number above 0"),
        ({"pct_start": 1.5}, r"pct_start is a share .* got 1\.5"),
    ],
)
def test_wrong_options_are_refused_before_the_head_is_trained(options, message):
    rates, learner = Rates(), a_learner()

    with pytest.raises(OptionError, match=f"fine-tune: {message}"):
        fine_tune(learner, **{"epochs": 1, **options}, cbs=rates)

    assert rates.num_fits == 0
    assert all(p.requires_grad for p in learner.model.parameters())


def test_it_is_a_method_of_the_learner():
    rates = Rates()

    a_learner(cbs=rates).fine_tune(1)

    assert len(rates.seen) == 8
