"""What a search does, and above all what it leaves as it was."""

import copy
import random
import sys

import pytest
import torch
from torch import nn

from callboard import Callback, DataLoaders, Learner
from callboard.errors import ActivationError, CallboardWarning, DataError, OptionError
from callboard.testing import cost_per_step
from callboard_lr_finder import LRFinder, lr_find, minimum, slide, steep, valley
from callboard_lr_finder.finder import is_diverged


class Net(nn.Module):
    """Batch normalisation, dropout, a buffer that is not saved, a hidden state."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.hidden = None

    def forward(self, x):
        if self.training:
            self.count = self.count + 1
            self.hidden = x.detach().mean()
        return self.head(self.body(x))


class Watch(Callback):
    """Writes down losses and rates of all training batches, and acts at one."""

    stages = ("fit", "lr-find")
    run_after = "lr-finder"

    def __init__(self, act_at=None, act=None):
        self.act_at, self.act = act_at, act
        # Lists, since what is assigned to a plugin is put back after a search.
        self.losses, self.rates, self.validations = [], [], []

    @property
    def num_seen(self):
        return len(self.losses)

    def before_validate(self):
        self.validations.append(self.learn.epoch)

    def after_loss(self):
        learn = self.learn
        if not learn.training:
            return
        self.losses.append(learn.loss.item())
        self.rates.append([group["lr"] for group in learn.opt.param_groups])
        if self.num_seen == self.act_at:
            self.act(learn)


class Gone(Exception):
    """What a test raises in the middle of a search."""


def batches(count, size=8):
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, size, 3, generator=generator)
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


def a_learner(*cbs, model=None, opt_func=torch.optim.Adam, num_valid=2, **options):
    torch.manual_seed(3)
    valid = batches(num_valid) if num_valid else None
    data = DataLoaders(options.pop("train", batches(7)), valid)
    loss_func = options.pop("loss_func", nn.MSELoss())
    model = Net() if model is None else model
    return Learner(data, model, loss_func, opt_func, cbs=[*cbs], seed=1, **options)


def everything(learner):
    """All that a search might touch, as plain data."""
    tensors = [*learner.model.parameters(), *learner.model.buffers()]
    opt = learner.opt
    return copy.deepcopy(
        {
            "weights": [tensor.detach() for tensor in tensors],
            "gradients": [p.grad for p in learner.model.parameters()],
            "requires_grad": [p.requires_grad for p in learner.model.parameters()],
            "modes": [module.training for module in learner.model.modules()],
            "opt": None if opt is None else opt.state_dict(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "results": learner.results,
            "loop": [learner.epoch, learner.iter, learner.train_iter],
            "more": [learner.pct_train, learner.n_epoch, learner.training],
        }
    )


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def search(learner, **options):
    return lr_find(learner, **{"show_plot": False, **options})


# ---- the search ---------------------------------------------------------------


def test_rates_rise_in_equal_ratios():
    watch = Watch()
    learner = a_learner(watch, opt_func=torch.optim.SGD)

    found = search(learner, start_lr=1e-5, end_lr=1e-1, num_it=20)

    expected = [1e-5 * 1e4 ** (i / 20) for i in range(20)]
    assert found.curve.lrs == pytest.approx(expected)


def test_losses_are_smoothed_with_their_start_taken_out():
    values = iter([4.0, 2.0, 1.0, 8.0, 3.0, 3.0])
    learner = a_learner(loss_func=lambda pred, y: pred.sum() * 0 + next(values))

    found = search(learner, num_it=6, suggest_funcs=minimum)

    # 0.98 * 4 / (1 - 0.98), then (0.98 * 0.08 + 0.02 * 2) / (1 - 0.98 ** 2) ...
    average, expected = 0.0, []
    for number, loss in enumerate([4.0, 2.0, 1.0, 8.0, 3.0, 3.0], 1):
        average = 0.98 * average + 0.02 * loss
        expected.append(average / (1 - 0.98**number))
    assert found.curve.losses == pytest.approx(expected, rel=1e-6)


def test_a_search_lasts_as_many_batches_as_asked_for():
    watch = Watch()

    search(a_learner(watch), num_it=17, stop_div=False)

    assert watch.num_seen == 17


def test_a_search_goes_over_training_data_without_a_length():
    class Endless:
        def __iter__(self):
            return iter(batches(7))

    watch = Watch()

    search(a_learner(watch, train=Endless()), num_it=17, stop_div=False)

    assert watch.num_seen == 17


def test_nothing_is_validated():
    watch = Watch()

    search(a_learner(watch), num_it=20)

    assert watch.validations == []


def test_the_search_stops_when_the_loss_is_four_times_its_lowest():
    values = iter([1.0] * 9 + [400.0] * 20)
    watch = Watch()
    learner = a_learner(watch, loss_func=lambda p, y: p.sum() * 0 + next(values))

    found = search(learner, num_it=29, suggest_funcs=None)

    assert len(found.curve.losses) == 10
    # Losses are read five at a time, so the search may go on for four batches.
    assert watch.num_seen <= 14


def test_an_easy_first_batch_does_not_end_the_search():
    values = iter([0.01] + [1.0] * 28)
    learner = a_learner(loss_func=lambda pred, y: pred.sum() * 0 + next(values))

    found = search(learner, num_it=29, suggest_funcs=None)

    assert len(found.curve.losses) == 29


def test_the_search_goes_on_past_a_divergence_where_asked_to():
    values = iter([1.0] * 9 + [400.0] * 20)
    learner = a_learner(loss_func=lambda pred, y: pred.sum() * 0 + next(values))

    found = search(learner, num_it=29, stop_div=False, suggest_funcs=None)

    assert len(found.curve.losses) == 29


def test_a_nan_ends_the_search_and_is_not_part_of_what_is_looked_at():
    values = iter([3.0, 2.0, 1.0] * 10 + [float("nan")] * 70)
    watch = Watch()
    learner = a_learner(watch, loss_func=lambda p, y: p.sum() * 0 + next(values))

    found = search(learner, suggest_funcs=minimum)

    assert watch.num_seen == 35  # read five at a time, the 31st was NaN
    assert len(found.curve.trimmed().losses) == 20


@pytest.mark.parametrize(
    ("loss", "lowest", "verdict"),
    [(4.1, 1.0, True), (3.9, 1.0, False), (-0.5, -1.0, False), (2.1, -1.0, True)],
)
def test_a_loss_below_zero_is_no_divergence(loss, lowest, verdict):
    assert is_diverged(loss, lowest) is verdict


def test_each_parameter_group_may_rise_on_its_own():
    model = Net()
    watch = Watch()
    learner = a_learner(
        watch, model=model, splitter=lambda m: [list(m.body.parameters()), m.head]
    )

    found = search(learner, start_lr=[1e-7, 1e-6], end_lr=[1e-2, 1e-1], num_it=10)

    assert watch.rates[0] == pytest.approx([1e-7, 1e-6])
    assert watch.rates[5] == pytest.approx([1e-7 * 1e5**0.5, 1e-6 * 1e5**0.5])
    assert found.curve.lrs[0] == pytest.approx(1e-6)


def test_a_suggested_rate_trains_better_than_the_ends_of_the_search():
    def loss_at(rate):
        learner = a_learner(opt_func=torch.optim.SGD, model=nn.Linear(3, 1), lr=rate)
        learner.fit(1)
        return learner.validate()["valid_loss"]

    learner = a_learner(opt_func=torch.optim.SGD, model=nn.Linear(3, 1))

    rate = search(learner).valley

    assert loss_at(rate) < loss_at(1e-5)
    assert loss_at(rate) < loss_at(5.0)


def test_plugins_of_the_stage_take_part_and_others_do_not():
    class Trainings(Callback):
        num_fits = 0

        def before_fit(self):
            self.num_fits += 1

    watch, trainings = Watch(), Trainings()

    search(a_learner(watch, trainings), num_it=10)

    assert watch.num_seen == 10
    assert trainings.num_fits == 0


def test_a_search_takes_one_read_in_five_batches():
    learner = a_learner(opt_func=torch.optim.SGD, model=nn.Linear(3, 1), num_valid=0)

    cost = cost_per_step(
        lambda num_steps: search(
            learner, num_it=num_steps, end_lr=1e-6, suggest_funcs=None
        )
    )

    assert cost.host_reads <= 0.21


# ---- what it leaves as it was -------------------------------------------------


def test_a_search_before_the_first_fit_changes_nothing():
    learner = a_learner(Watch())
    before = everything(learner)

    search(learner)

    assert_same(everything(learner), before)


@pytest.mark.parametrize("opt_func", [torch.optim.Adam, torch.optim.LBFGS])
def test_a_search_between_fits_changes_nothing(opt_func):
    learner = a_learner(opt_func=opt_func, lr=1e-2)
    learner.fit(1)
    before, opt, hidden = everything(learner), learner.opt, learner.model.hidden

    search(learner, num_it=12, suggest_funcs=minimum)

    assert_same(everything(learner), before)
    assert learner.opt is opt
    assert learner.model.hidden is hidden


def test_training_goes_on_as_if_there_had_been_no_search():
    def weights(*, is_searched):
        learner = a_learner()
        learner.fit(1)
        if is_searched:
            search(learner)
        learner.fit(2)
        return list(learner.model.state_dict().values())

    assert_same(weights(is_searched=True), weights(is_searched=False))


@pytest.mark.parametrize("error", [Gone, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_nothing_changed(error):
    def strike(learner):
        raise error

    watch = Watch(act_at=23, act=strike)
    learner = a_learner(watch)
    learner.remove_cb(watch)
    learner.fit(1)
    learner.add_cb(watch)
    before = everything(learner)

    with pytest.raises(error):
        search(learner)

    assert_same(everything(learner), before)
    assert "lr-finder" not in list(learner.cbs.keys())


def test_a_search_inside_a_fit_changes_nothing():
    def weights(action):
        class Search(Callback):
            def after_batch(self):
                if self.learn.training and self.learn.train_iter == 3:
                    action(self.learn)

        learner = a_learner(Search())
        learner.fit(2)
        return list(learner.model.state_dict().values())

    assert_same(weights(search), weights(lambda learner: None))


def test_gradients_that_wait_are_there_afterwards():
    learner = a_learner()
    learner.fit(1)
    x, y = batches(1)[0]
    learner.loss_func(learner.model.eval()(x), y).backward()
    before = everything(learner)

    search(learner, num_it=8)

    assert_same(everything(learner), before)
    assert learner.model.head.weight.grad is not None


def test_what_plugins_hold_in_mind_is_put_back():
    class Counting(Callback):
        stages = ("fit", "lr-find")

        def __init__(self):
            self.count, self.seen = 0, []

        def after_batch(self):
            self.count += 1
            self.seen.append(self.count)

        def state_dict(self):
            return {"seen": list(self.seen)}

        def load_state_dict(self, state):
            self.seen = list(state["seen"])

    counting = Counting()
    learner = a_learner(counting)
    learner.fit(1)
    before = counting.count, list(counting.seen)

    search(learner, num_it=8)

    assert (counting.count, counting.seen) == before


def test_random_streams_of_plugins_are_put_back():
    class Drawing(Callback):
        stages = ("fit", "lr-find")

        def before_batch(self):
            self.drawn = self.rng.random()

    def next_draw(*, is_searched):
        learner = a_learner(Drawing())
        if is_searched:
            search(learner, num_it=8)
        return learner.drawing.rng.random()

    assert next_draw(is_searched=True) == next_draw(is_searched=False)


def test_the_recorder_and_files_know_nothing_of_a_search(tmp_path):
    recorder = pytest.importorskip("callboard_recorder")
    logger = pytest.importorskip("callboard_csv_logger")
    learner = a_learner(
        recorder.Recorder(), logger.CSVLogger(tmp_path / "history.csv"), path=tmp_path
    )
    learner.fit(2)
    values, losses = list(learner.recorder.values), list(learner.recorder.losses)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}

    search(learner)

    assert learner.recorder.values == values
    assert learner.recorder.losses == losses
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_search_sees_the_training_that_mixup_changes():
    mixup = pytest.importorskip("callboard_mixup")

    plain = search(a_learner(), num_it=10, suggest_funcs=None)
    mixed = search(a_learner(mixup.MixUp(1.0)), num_it=10, suggest_funcs=None)

    assert plain.curve.losses != mixed.curve.losses


def test_frozen_groups_stay_frozen_and_as_they_are():
    learner = a_learner(splitter=lambda m: [list(m.body.parameters()), m.head])
    learner.freeze()
    before = everything(learner)

    search(learner)

    assert_same(everything(learner), before)


def test_half_precision_weights_are_put_back_bit_by_bit():
    model = nn.Linear(3, 1).to(torch.bfloat16)
    train = [(x.bfloat16(), y.bfloat16()) for x, y in batches(7)]
    learner = a_learner(model=model, train=train, num_valid=0)
    before = everything(learner)

    search(learner)

    assert_same(everything(learner), before)


def test_a_search_in_a_plain_fit_puts_weights_and_optimizer_back():
    learner = a_learner()
    learner.fit(1)
    before = everything(learner)

    learner.fit(5, cbs=LRFinder(num_it=20))

    after = everything(learner)
    for part in ("weights", "opt", "requires_grad"):
        assert_same(after[part], before[part])


def test_what_monitors_a_result_is_refused_in_a_fit_and_left_out_of_lr_find():
    class Monitor(Callback):
        name = "early-stopping"

        def after_epoch(self):
            raise AssertionError("it takes part in the search")

    learner = a_learner(Monitor())

    with pytest.raises(ActivationError, match=r"monitored; use learn\.lr_find"):
        learner.fit(1, cbs=LRFinder())
    search(learner)


def test_a_model_with_lazy_weights_is_refused_untouched():
    learner = a_learner(model=nn.LazyLinear(1), num_valid=0)

    with pytest.raises(OptionError, match=r"LazyLinear\.weight has no shape yet"):
        search(learner)


# ---- what it returns ----------------------------------------------------------


def test_valley_alone_is_suggested_by_default():
    found = search(a_learner())

    assert found._fields == ("valley",)
    assert 1e-7 < found.valley < 10


def test_several_suggestions_come_as_one_namedtuple():
    found = search(a_learner(), suggest_funcs=(minimum, steep, valley, slide))

    assert type(found).__name__ == "SuggestedLRs"
    assert found._fields == ("minimum", "steep", "valley", "slide")
    assert (found.steep, found.slide) == (found[1], found[3])


def test_suggestions_may_be_given_by_name():
    assert search(a_learner(), suggest_funcs=["valley", "steep"]) == search(
        a_learner(), suggest_funcs=(valley, steep)
    )


def test_an_own_function_may_return_a_rate_alone():
    def middle(lrs, losses, num_it):
        return lrs[len(lrs) // 2]

    found = search(a_learner(), suggest_funcs=middle)

    trimmed = found.curve.trimmed()
    assert found.middle == trimmed.lrs[len(trimmed.lrs) // 2]


def test_without_suggestions_the_curve_is_there():
    found = search(a_learner(), num_it=20, suggest_funcs=None)

    assert found == ()
    assert len(found.curve.lrs) == 20


def test_too_few_losses_say_what_to_do():
    values = iter([1.0, float("nan")] + [1.0] * 30)
    learner = a_learner(loss_func=lambda pred, y: pred.sum() * 0 + next(values))

    with pytest.raises(DataError, match=r"after 2 of 30 batches.*smaller start_lr"):
        search(learner, num_it=30)


def test_batches_without_labels_say_so():
    learner = a_learner(train=[(x,) for x, _ in batches(7)], num_valid=0)

    with pytest.raises(DataError, match="no batch had a loss"):
        search(learner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_it": 5}, "num_it must be a whole number from 6 on, got 5. Use 100"),
        ({"num_it": 10.5}, "num_it must be"),
        ({"start_lr": 0}, "start_lr above 0"),
        ({"start_lr": 1.0, "end_lr": 0.1}, "got start_lr=1 and end_lr=0.1"),
        ({"start_lr": "fast"}, "start_lr must be a number"),
        ({"start_lr": [1e-7, 1e-6, 1e-5], "end_lr": [1, 2]}, "3 values and end_lr 2"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        LRFinder(**options)


def test_an_unknown_suggestion_offers_the_nearest():
    with pytest.raises(OptionError, match='Did you mean "valley"'):
        search(a_learner(), suggest_funcs="vally")


# ---- the picture --------------------------------------------------------------


@pytest.fixture
def plt():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_the_plot_shows_the_curve_and_the_suggestions(plt):
    found = lr_find(a_learner(), suggest_funcs=(valley, steep))

    (ax,) = plt.gcf().axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_xscale() == "log"
    assert list(ax.lines[0].get_xdata()) == found.curve.trimmed().lrs
    assert labels == [f"valley ({found.valley:.2e})", f"steep ({found.steep:.2e})"]


def test_the_curve_can_be_drawn_into_given_axes(plt):
    found = search(a_learner())
    ax = plt.subplots()[1]

    assert found.curve.plot(ax=ax) is ax
    assert len(ax.lines) == 1


def test_without_matplotlib_the_suggestion_comes_with_a_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)

    with pytest.warns(CallboardWarning, match=r"callboard-lr-finder\[plot\]"):
        found = lr_find(a_learner())

    assert found.valley > 0
