"""Hooks in a fit, and the numbers of activations."""

import copy
import sys

import pytest
import torch
from torch import nn

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.errors import CallboardError, ObserverWarning, OptionError
from callboard.testing import cost_per_step
from callboard_hooks import ActivationStats, HookCallback
from callboard_hooks.stats import activation_stats


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.act(self.body(x)))


class Capture(Callback):
    """Keeps prediction and first activation of every training batch."""

    def __init__(self):
        self.preds, self.activations = [], []

    def after_pred(self):
        learn = self.learn
        if learn.training and learn.stage == "fit":
            self.preds.append(learn.pred.detach())
            with torch.no_grad():
                hidden = learn.model.body(learn.x)
            self.activations.append(hidden)


class Gone(Exception):
    """What a test raises in the middle of a fit."""


def batches(count, size=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, size, 3, generator=generator)
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


def a_learner(*cbs, model=None, num_train=5, num_valid=2, loss_func=None):
    torch.manual_seed(0)
    return Learner(
        DataLoaders(batches(num_train), batches(num_valid) if num_valid else None),
        Net() if model is None else model,
        loss_func or nn.MSELoss(),
        torch.optim.SGD,
        lr=0.1,
        cbs=[*cbs],
        seed=0,
    )


def at(event, action):
    return type("At", (Callback,), {event: lambda self: action(self.learn)})()


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


def head_output():
    """A HookCallback that keeps each prediction, and what it kept."""
    seen = []

    class Heads(HookCallback):
        def hook(self, m, i, o):
            seen.append(o)

    return Heads, seen


# ---- HookCallback -------------------------------------------------------------


def test_hooks_see_what_layers_give_out():
    capture = Capture()
    Heads, seen = head_output()
    learner = a_learner(capture, num_valid=0)

    learner.fit(1, cbs=Heads(learner.model.head))

    assert all(map(torch.equal, seen, capture.preds))


def test_backward_hooks_see_the_gradients_of_predictions():
    gradients = []
    learner = a_learner(num_valid=0)
    capture = Capture()
    learner.add_cb(capture)

    learner.fit(
        1,
        cbs=HookCallback(
            learner.model.head,
            is_forward=False,
            hook=lambda m, gi, go: gradients.append(go[0]),
        ),
    )

    labels = [y for _, y in batches(5)]
    for gradient, pred, label in zip(gradients, capture.preds, labels, strict=True):
        # Of the mean of 6 squares.
        torch.testing.assert_close(gradient, 2 * (pred - label) / 6)


def test_layers_with_parameters_are_hooked_by_default():
    hooks = HookCallback(hook=lambda m, i, o: None)
    learner = a_learner(hooks)

    learner.fit(1)

    assert hooks.layer_names == ["body", "head"]
    assert len(hooks.hooks) == 2


def test_layers_without_parameters_are_hooked_where_asked_for():
    hooks = HookCallback(include_paramless=True, hook=lambda m, i, o: None)

    a_learner(hooks).fit(1)

    assert hooks.layer_names == ["body", "act", "head"]


def test_every_looks_at_the_first_batch_and_each_so_many_after():
    Heads, seen = head_output()
    hooked = []
    look = at("after_pred", lambda learn: hooked.append(num_hooks(learn.model)))
    learner = a_learner(look, num_train=10)

    learner.fit(1, cbs=Heads(learner.model.head, every=4))

    assert len(seen) == 3  # batches 0, 4 and 8 of 10: ceil(10 / 4)
    # Off in between, and for the two batches of the validation.
    assert hooked == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]


def test_hooks_are_off_after_a_fit():
    learner = a_learner(HookCallback(hook=lambda m, i, o: None))

    learner.fit(1)

    assert num_hooks(learner.model) == 0


def test_hooks_stay_on_where_asked_for_and_once_only():
    learner = a_learner(HookCallback(hook=lambda m, i, o: None, remove_end=False))

    learner.fit(1)
    learner.fit(1)

    assert num_hooks(learner.model) == 2
    learner.hooks.hooks.remove()
    assert num_hooks(learner.model) == 0


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("error", [Gone, KeyboardInterrupt])
@pytest.mark.parametrize("event", ["after_pred", "after_batch", "before_validate"])
def test_hooks_are_off_after_an_error(event, error, every):
    def strike(learner):
        raise error

    learner = a_learner(
        HookCallback(hook=lambda m, i, o: None, every=every), at(event, strike)
    )

    with pytest.raises(error):
        learner.fit(1)

    assert num_hooks(learner.model) == 0


def test_hooks_are_off_after_their_callback_left_in_mid_fit():
    hooks = HookCallback(hook=lambda m, i, o: None)

    def leave(learner):
        if hooks in learner.cbs:
            learner.remove_cb(hooks)

    learner = a_learner(hooks, at("after_batch", leave))

    learner.fit(1)

    assert num_hooks(learner.model) == 0


def test_hooks_are_off_after_a_cancelled_batch():
    def cancel(learner):
        raise CancelBatchException

    learner = a_learner(
        HookCallback(hook=lambda m, i, o: None, every=1), at("after_pred", cancel)
    )

    learner.fit(1)

    assert num_hooks(learner.model) == 0


def test_a_hook_callback_without_a_hook_is_refused():
    with pytest.raises(OptionError, match=r"give HookCallback\(hook=function\)"):
        HookCallback()


def test_a_model_without_layers_is_refused():
    class Bare(nn.Module):
        def forward(self, x):
            return x.sum(1, keepdim=True).requires_grad_()

    learner = a_learner()
    learner.model = nn.Sequential(nn.ReLU())
    hooks = HookCallback(hook=lambda m, i, o: None)
    learner.add_cb(hooks)
    learner.splitter = lambda model: [nn.Parameter(torch.zeros(1))]

    with pytest.raises(OptionError, match="Sequential has no layer"):
        learner.fit(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be .* got 0. Use 10"),
        ({"every": 2.5}, "every must be"),
        ({"modules": ["head"]}, "modules must be modules of the model.*'head'"),
        ({"max_points": 1}, "max_points must be .* got 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        ActivationStats(**options)


# ---- the numbers --------------------------------------------------------------


def test_statistics_are_mean_spread_and_share_near_zero():
    activation = torch.tensor([[-1.0, 0.0], [0.04, 3.0]])

    stats = activation_stats(activation, with_hist=False)

    assert stats.tolist() == pytest.approx(
        [activation.mean().item(), activation.std().item(), 0.75]
    )


def test_a_histogram_has_forty_bins_from_0_to_10():
    activation = torch.tensor([-1.0, 0.0, 0.1, 0.25, 9.9, 10.0, 11.0])

    counts = activation_stats(activation, with_hist=True)[3:]

    assert counts.shape == (40,)
    assert (counts[0], counts[1], counts[39], counts.sum()) == (2, 1, 2, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_statistics_of_any_dtype_are_float32(dtype):
    stats = activation_stats(torch.tensor([1, 3], dtype=dtype), with_hist=True)

    assert stats.dtype == torch.float32
    assert stats[0] == 2


def test_one_value_has_no_spread_and_none_has_no_statistics():
    assert activation_stats(torch.tensor([2.0]), with_hist=False).tolist() == [2, 0, 0]
    assert activation_stats(torch.empty(0, 4), with_hist=True).isnan().all()


# ---- ActivationStats ----------------------------------------------------------


def test_numbers_are_those_of_each_training_batch_and_layer():
    capture, stats = Capture(), ActivationStats()

    a_learner(capture, stats).fit(2)

    assert len(stats.stats) == 10
    assert stats.steps == list(range(10))
    assert stats.layer_names == ["body", "head"]
    for noted, hidden, pred in zip(
        stats.stats, capture.activations, capture.preds, strict=True
    ):
        for layer, output in zip(noted, (hidden, pred), strict=True):
            near_zero = (output <= 0.05).float().mean().item()
            assert layer["mean"] == pytest.approx(output.mean().item(), rel=1e-5)
            assert layer["std"] == pytest.approx(output.std().item(), rel=1e-5)
            assert layer["near_zero"] == pytest.approx(near_zero)


def test_layer_stats_are_columns():
    stats = ActivationStats()

    a_learner(stats).fit(1)

    means, stds, near_zeros = stats.layer_stats("body")
    assert means == [batch[0]["mean"] for batch in stats.stats]
    assert stds == [batch[0]["std"] for batch in stats.stats]
    assert near_zeros == [batch[0]["near_zero"] for batch in stats.stats]
    assert stats.layer_stats(-1) == stats.layer_stats("head") == stats.layer_stats(1)


def test_hist_is_the_logarithm_of_counts_bins_by_batches():
    capture, stats = Capture(), ActivationStats(with_hist=True)

    a_learner(capture, stats).fit(1)

    expected = [torch.histc(a, 40, 0, 10).log1p() for a in capture.activations]
    torch.testing.assert_close(stats.hist("body"), torch.stack(expected, 1))
    assert stats.stats[0][0]["hist"].shape == (40,)


def test_every_takes_one_batch_in_so_many():
    stats = ActivationStats(every=4)

    a_learner(stats, num_train=10).fit(1)

    assert stats.steps == [0, 4, 8]
    assert len(stats.stats) == 3


def test_validation_is_not_counted_inside_a_callback_either():
    capture = Capture()
    stats = ActivationStats()
    nested = at(
        "after_loss", lambda learn: learn.validate() if learn.training else None
    )

    a_learner(capture, stats, nested).fit(1)

    means = stats.layer_stats("head")[0]
    assert means == pytest.approx([p.mean().item() for p in capture.preds], rel=1e-5)


def test_whoever_else_calls_the_model_is_not_counted():
    class Tracer(Callback):
        run_before = "activation-stats"

        def after_batch(self):
            with torch.no_grad():
                self.learn.model(torch.full((2, 3), 100.0))

    plain, traced = a_learner(ActivationStats()), a_learner(ActivationStats(), Tracer())
    plain.fit(1)
    traced.fit(1)

    torch.testing.assert_close(
        traced.activation_stats.numbers, plain.activation_stats.numbers
    )


def test_a_layer_that_gives_several_tensors_has_several_rows():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4, batch_first=True)
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.rnn(x[:, None])[0][:, 0])

    stats = ActivationStats()

    a_learner(stats, model=Recurrent()).fit(1)

    assert stats.layer_names == ["rnn[0]", "rnn[1]", "rnn[2]", "head"]
    assert stats.numbers.shape == (5, 4, 3)
    assert not stats.numbers.isnan().any()


def test_a_layer_that_is_left_out_of_a_batch_has_no_numbers_there():
    class Sometimes(Net):
        def forward(self, x):
            self.count = getattr(self, "count", 0) + 1
            hidden = self.body(x) if self.count % 2 else x[:, [0, 0, 0, 0]]
            return self.head(hidden)

    stats = ActivationStats()

    a_learner(stats, model=Sometimes(), num_valid=0).fit(1)

    is_missing = stats.numbers.isnan().all(dim=2)
    assert is_missing[:, 0].tolist() == [False, True, False, True, False]
    assert not is_missing[:, 1].any()


def test_a_batch_that_was_cancelled_before_the_model_is_left_out():
    def cancel(learner):
        if learner.training and learner.iter == 1:
            raise CancelBatchException

    stats = ActivationStats()

    a_learner(at("before_batch", cancel), stats).fit(1)

    assert stats.steps == [0, 2, 3, 4]


def test_a_model_with_parameters_of_its_own_is_a_layer():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 1))

        def forward(self, x):
            return x @ self.weight

    stats = ActivationStats()

    a_learner(stats, model=Line()).fit(1)

    assert stats.layer_names == ["Line"]


def test_a_new_fit_starts_with_nothing():
    stats = ActivationStats()
    learner = a_learner(stats)

    learner.fit(2)
    learner.fit(1)

    assert stats.steps == list(range(5))


def test_memory_is_bounded_by_dropping_every_second_batch():
    stats = ActivationStats(max_points=100)

    a_learner(stats, num_train=1000, num_valid=0).fit(1)

    assert 50 <= len(stats.steps) <= 100 + 64
    assert stats.numbers.shape[0] == len(stats.steps)
    assert stats.steps == list(range(0, 1000, 16))


def test_an_error_in_the_statistics_does_not_end_the_fit(monkeypatch):
    def fail(activation, *, with_hist):
        raise Gone("no statistics today")

    monkeypatch.setattr("callboard_hooks.stats.activation_stats", fail)
    stats = ActivationStats()
    learner = a_learner(stats)

    with pytest.warns(ObserverWarning, match="activation-stats") as warned:
        learner.fit(1)

    assert "no statistics today" in str(warned[0].message)
    assert num_hooks(learner.model) == 0
    assert learner.train_iter == 5


def test_training_is_the_same_with_and_without():
    def weights(*cbs):
        learner = a_learner(*cbs)
        learner.fit(2)
        return torch.cat([p.detach().flatten() for p in learner.model.parameters()])

    assert torch.equal(weights(ActivationStats(with_hist=True)), weights())


def test_nothing_is_read_from_the_device_batch_by_batch():
    def run(*cbs):
        return cost_per_step(
            lambda steps: a_learner(*cbs, num_train=steps, num_valid=0).fit(1)
        )

    with_stats = run(ActivationStats(with_hist=True))

    assert with_stats.host_reads - run().host_reads <= 1 / 64 + 0.01


def test_a_resumed_fit_has_the_same_numbers():
    whole = ActivationStats(with_hist=True)
    a_learner(whole).fit(2)
    saved = []
    half = a_learner(
        ActivationStats(with_hist=True),
        at("checkpoint", lambda learn: saved.append(copy.deepcopy(learn.state_dict()))),
    )
    half.fit(2)
    resumed = ActivationStats(with_hist=True)

    a_learner(resumed).fit(2, resume=saved[6], resume_policy="ignore")

    torch.testing.assert_close(resumed.numbers, whole.numbers, rtol=0, atol=0)
    assert resumed.steps == whole.steps


def test_an_unknown_layer_lists_the_known_ones():
    stats = ActivationStats()
    a_learner(stats).fit(1)

    with pytest.raises(OptionError, match=r'body, head. Did you mean "head"'):
        stats.layer_stats("heat")
    with pytest.raises(OptionError, match="no layer 2"):
        stats.layer_stats(2)


def test_histograms_that_were_not_counted_say_how_to():
    stats = ActivationStats()
    a_learner(stats).fit(1)

    with pytest.raises(OptionError, match="with_hist=True"):
        stats.color_dim(0)


# ---- pictures -----------------------------------------------------------------


@pytest.fixture
def plt():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_color_dim_shows_a_column_for_each_batch(plt):
    stats = ActivationStats(with_hist=True)
    a_learner(stats).fit(2)
    ax = plt.subplots()[1]

    assert stats.color_dim("body", ax=ax) is ax

    (image,) = ax.images
    assert image.get_array().shape == (40, 10)
    assert image.get_extent() == [0, 10, 0, 10]
    assert ax.get_title() == "layer body"


def test_layer_stats_are_three_lines(plt):
    stats = ActivationStats()
    a_learner(stats).fit(1)

    axes = stats.plot_layer_stats(0)

    drawn = [list(ax.lines[0].get_ydata()) for ax in axes]
    assert drawn == stats.layer_stats(0)


def test_without_matplotlib_a_plot_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    stats = ActivationStats()
    a_learner(stats).fit(1)

    with pytest.raises(CallboardError, match=r"callboard-hooks\[plot\]"):
        stats.plot_layer_stats(0)
