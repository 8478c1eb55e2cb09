"""The Learner that callbacks of fastai see: its attributes, views and methods."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import callboard
from callboard import DataLoaders
from callboard_fastai.basics import L, patch
from callboard_fastai.callback.core import Callback
from callboard_fastai.callback.mixup import MixHandler
from callboard_fastai.learner import (
    AvgLoss,
    AvgMetric,
    AvgSmoothLoss,
    Learner,
    Metric,
    Recorder,
    ValueMetric,
    before_batch_cb,
)
from callboard_fastai.metrics import accuracy, mae, mse
from callboard_fastai.optimizer import (
    SGD,
    Adam,
    Lamb,
    Larc,
    Lookahead,
    OptimWrapper,
    QHAdam,
    RAdam,
    RMSProp,
    ranger,
)
from callboard_fastai.test_utils import synth_learner
from callboard_recorder import Recorder as NativeRecorder


@pytest.fixture
def seen(fit):
    """Call a function with a callback at an event, and give what it returns."""

    def seen(event, function, *cbs, **options):
        found = []

        def handler(self):
            found.append(function(self))

        learner = fit(Callback(**{event: handler}), *cbs, **options)
        return found, learner

    return seen


# ---- delegation ---------------------------------------------------------------


def test_reading_goes_from_callback_to_learner_to_model(seen):
    found, _ = seen("before_fit", lambda cb: (cb.n_epoch, cb.in_features, cb.order))

    assert found == [(1, 2, 0)]


def test_parameters_are_the_models(seen):
    found, learner = seen("before_fit", lambda cb: list(cb.parameters()))

    assert all(
        a is b for a, b in zip(found[0], learner.model.parameters(), strict=True)
    )


def test_what_nobody_has_is_an_attribute_error(seen):
    names = ("gather_preds", "lr_finder", "no_such_thing", "results", "stage")

    found, _ = seen("before_fit", lambda cb: [hasattr(cb, name) for name in names])

    assert found == [[False] * len(names)]


def test_writing_goes_to_the_callback_and_says_what_it_hides(fit):
    class Hides(Callback):
        def before_fit(self):
            self.epoch = 9

    with pytest.warns(UserWarning, match="shadowing an attribute .epoch. that exists"):
        learner = fit(Hides())

    assert learner.hides.epoch == 9
    assert learner.epoch == 0


def test_attributes_that_callbacks_put_on_the_learner_stay_in_front(seen):
    def put(cb):
        cb.learn.results = "mine"
        return cb.results

    found, learner = seen("before_fit", put)

    assert found == ["mine"]
    assert learner.results != "mine"


def test_callbacks_are_attributes_by_fastais_names(seen):
    class ShowsUpCallback(Callback):
        pass

    found, _ = seen("before_fit", lambda cb: cb.shows_up, ShowsUpCallback())

    assert isinstance(found[0], ShowsUpCallback)


def test_x_and_y_are_single_elements_where_there_is_one(seen):
    def look(cb):
        cb.learn.xb = (cb.x, cb.x)
        cb.learn.yb = ()
        return len(cb.x), cb.y

    found, _ = seen("before_batch", look, model=Two())

    assert found[0] == (2, None)


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, one, other):
        return self.layer(one) + self.layer(other)


def test_a_function_of_inputs_and_labels_is_a_callback(fit):
    @before_batch_cb
    def doubled(self, xb, yb):
        return (xb[0] * 2,), yb

    class Keeps(Callback):
        order = 5

        def after_batch(self):
            self.largest = max(getattr(self, "largest", 0), float(self.x.abs().max()))

    learner, plain = fit(doubled, Keeps()), fit(Keeps())

    assert learner.keeps.largest == pytest.approx(2 * plain.keeps.largest)


# ---- the loss -----------------------------------------------------------------


def test_loss_and_loss_grad_are_two_tensors(seen):
    def look(cb):
        return cb.loss is cb.loss_grad, bool(cb.loss == cb.loss_grad)

    found, _ = seen("before_backward", look)

    assert found[0] == (False, True)


def test_before_the_first_batch_the_loss_is_zero(seen):
    found, _ = seen("before_fit", lambda cb: float(cb.loss))

    assert found == [0.0]


def test_the_loss_of_the_last_batch_stays_until_the_next(seen):
    found, _ = seen("before_batch", lambda cb: float(cb.loss.detach()))

    assert found[0] == 0.0
    assert all(loss > 0 for loss in found[1:])


# ---- the optimizer ------------------------------------------------------------


def test_hyper_parameters_have_fastais_names(seen):
    adam = partial(torch.optim.Adam, betas=(0.8, 0.7), weight_decay=0.01)
    found = []

    def look(self):
        found.append({k: self.opt.hypers[0][k] for k in ("lr", "mom", "sqr_mom", "wd")})

    data = [(torch.ones(2, 2), torch.ones(2, 1))]
    learner = callboard.Learner(
        data, nn.Linear(2, 1), nn.MSELoss(), adam, 0.1, cbs=Callback(before_fit=look)
    )
    learner.fit(1)

    assert found == [{"lr": 0.1, "mom": 0.8, "sqr_mom": 0.7, "wd": 0.01}]


@pytest.fixture
def view():
    """A view of an optimizer with two groups."""
    groups = [{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)]
    return OptimWrapper(opt=torch.optim.SGD(groups, lr=0.1, momentum=0.9))


def test_hyper_parameters_can_be_written(view):
    view.hypers[0]["lr"] = 0.5
    view.hypers[1]["mom"] = 0.3

    assert [group["lr"] for group in view.opt.param_groups] == [0.5, 0.1]
    assert [group["momentum"] for group in view.opt.param_groups] == [0.9, 0.3]


@pytest.mark.parametrize(
    ("value", "rates"),
    [
        (0.3, [0.3, 0.3]),
        ([0.1, 0.2], [0.1, 0.2]),
        (slice(1e-3), [1e-4, 1e-3]),
        (slice(1e-4, 1e-2), [1e-4, 1e-2]),
        (np.array([0.1, 0.4]), [0.1, 0.4]),
    ],
)
def test_set_hyper_takes_a_number_one_a_group_or_a_slice(view, value, rates):
    view.set_hyper("lr", value)

    assert [h["lr"] for h in view.hypers] == pytest.approx(rates)


def test_a_hyper_parameter_that_the_optimizer_does_not_know_is_kept(view):
    view.set_hyper("kl_weight", 0.5)

    assert "kl_weight" in view.hypers[0]
    assert view.hypers[1]["kl_weight"] == 0.5


def test_hypers_of_one_optimizer_can_be_given_to_another(view):
    other = OptimWrapper([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=1.0)
    other.param_groups.append({**other.param_groups[0], "params": []})

    other.hypers = view.hypers

    assert other.opt.param_groups[0]["lr"] == 0.1


def test_all_params_gives_parameter_group_state_and_hypers(view):
    parameter = view.param_lists[1][0]
    parameter.grad = torch.ones(1)

    every, with_grad = view.all_params(), view.all_params(with_grad=True)

    assert (len(every), len(with_grad)) == (2, 1)
    p, _, state, hyper = with_grad[0]
    state["kept"] = 3
    assert p is parameter
    assert hyper["lr"] == 0.1
    assert view.state[parameter]["kept"] == 3


def test_freezing_is_by_group(view):
    view.freeze()

    assert view.frozen_idx == 1
    assert [p.requires_grad for group in view.param_lists for p in group] == [
        False,
        True,
    ]


def test_an_optimizer_that_a_callback_puts_there_is_used(fit):
    class Swaps(Callback):
        def before_fit(self):
            self.learn.opt = self.learn.opt_func(self.model.parameters(), 0.0)

    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()

    fit(Swaps(), model=model)

    assert torch.equal(model.weight, before)  # a rate of 0


@pytest.mark.parametrize("make", [SGD, Adam, partial(SGD, mom=0.9, wd=0.1)])
def test_optimizers_of_fastai_train(make):
    learn = Learner(
        [(torch.ones(4, 2), torch.ones(4, 1))],
        nn.Linear(2, 1),
        nn.MSELoss(),
        opt_func=make,
        lr=0.05,
    )

    learn.fit(8)

    assert learn.recorder.losses[-1] < learn.recorder.losses[0]


def steps(model, opt, seeds):
    for seed in seeds:
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
        model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()


@pytest.mark.parametrize(
    "make",
    [
        *(SGD, partial(SGD, mom=0.9), Adam, RMSProp, partial(RMSProp, mom=0.9), RAdam),
        *(QHAdam, Larc, Lamb, ranger),
        partial(ranger, k=2),
        lambda params, lr: Lookahead(Adam(params, lr), k=3),
    ],
)
@pytest.mark.parametrize("way", ["state", "copy", "pickle"])
def test_an_optimizer_goes_on_where_another_stopped(make, way):
    model = nn.Linear(2, 1)
    opt = make(model.parameters(), lr=0.05)
    steps(model, opt, range(5))
    if way == "copy":
        other, second = deepcopy((model, opt))
    elif way == "pickle":
        other, second = pickle.loads(pickle.dumps((model, opt)))
    else:
        other = deepcopy(model)
        second = make(other.parameters(), lr=0.9)
        second.load_state_dict(deepcopy(opt.state_dict()))

    steps(model, opt, range(5, 10))
    steps(other, second, range(5, 10))

    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, another)


def test_hooks_of_a_step_are_called_once_a_step():
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.AdamW([weight])  # puts torch's hooks around what Adam derives from
    opt = Adam([weight], lr=0.1)
    called = []
    opt.register_step_post_hook(lambda *args: called.append(args))

    opt.step()

    assert len(called) == 1


def test_a_step_that_fails_leaves_the_groups_as_they_were():
    learn = Learner(
        [(torch.ones(4, 2), torch.ones(4, 1))], nn.Linear(2, 1), nn.MSELoss()
    )
    learn.fit(1)

    def fails():
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        learn.opt.step(fails)

    assert len(learn.opt.param_groups) == 1
    assert len(learn.opt.param_groups[0]["params"]) == 2


def test_a_run_of_its_own_weight_decay_is_for_that_run():
    learn = Learner(
        *([(torch.ones(4, 2), torch.ones(4, 1))], nn.Linear(2, 1), nn.MSELoss()),
        wd=0.3,
    )
    seen = []

    class Sees(Callback):
        def before_batch(self):
            seen.append(self.opt.hypers[0]["wd"])

    learn.add_cb(Sees())
    learn.fit(1)
    learn.fit(1, wd=0.2)
    learn.fit_one_cycle(1, wd=0.1)
    learn.fit_one_cycle(1)
    learn.lr_find(num_it=6, show_plot=False)

    assert seen == pytest.approx([0.3, 0.2, 0.1, 0.3, *[0.3] * 6])


def test_momenta_of_the_learner_are_those_of_a_cycle():
    learn = Learner(
        *([(torch.ones(4, 2), torch.ones(4, 1))] * 4, nn.Linear(2, 1), nn.MSELoss()),
        moms=(0.7, 0.6, 0.7),
    )
    seen = []

    class Sees(Callback):
        order = 70

        def before_batch(self):
            seen.append(self.opt.hypers[0]["mom"])

    learn.add_cb(Sees())
    learn.fit_one_cycle(1)
    learn.fit_one_cycle(1, moms=(0.5, 0.5, 0.5))

    assert seen[:2] == pytest.approx([0.7, 0.6])
    assert seen[4:] == pytest.approx([0.5] * 4)


def test_decoupled_decay_shrinks_weights_alone():
    weight = nn.Parameter(torch.tensor([2.0]))
    weight.grad = torch.tensor([1.0])

    SGD([weight], lr=0.1, wd=0.5).step()

    assert weight.item() == pytest.approx(2 * (1 - 0.05) - 0.1)


# ---- data ---------------------------------------------------------------------


class Words(TensorDataset):
    """Items with a vocabulary."""

    vocab = ("a", "b", "c")


@pytest.fixture
def dls():
    """Data with a vocabulary, as callbacks see it."""
    items = Words(torch.zeros(6, 2), torch.arange(6) % 3)
    pair = DataLoaders(DataLoader(items, batch_size=4), DataLoader(items, batch_size=2))
    learner = callboard.Learner(
        pair, nn.Linear(2, 3), nn.CrossEntropyLoss(), cbs=Callback(), device="cpu"
    )
    return learner.fastai.dls


def test_loaders_are_found_by_name_and_number(dls):
    assert dls[0] is dls.train
    assert dls[1] is dls.valid
    assert len(dls) == len(dls.loaders) == 2


def test_loaders_tell_sizes(dls):
    assert (dls.bs, dls.valid.bs, len(dls.train), len(dls.valid)) == (4, 2, 2, 3)
    assert (dls.train.n, len(dls.train_ds), len(dls.valid_ds)) == (6, 6, 6)


def test_vocabulary_and_classes_are_those_of_the_data(dls):
    assert dls.vocab == ("a", "b", "c")
    assert dls.c == 3


def test_a_batch_can_be_taken(dls):
    x, y = dls.one_batch()

    assert (x.shape, y.shape) == ((4, 2), (4,))
    assert x.device == dls.device


def test_n_inp_can_be_set(dls):
    assert dls.n_inp == 1

    dls.n_inp = 2

    assert dls.n_inp == 2


def test_loaders_have_pipelines_and_indices(dls):
    assert dls.after_batch(3) == 3
    assert dls.train.get_idxs() == list(range(6))
    assert len(dls.train.new(bs=3)) == 2


def test_the_running_loader_is_the_one_of_the_data(seen):
    found, _ = seen("before_batch", lambda cb: cb.dl is cb.dls[0 if cb.training else 1])

    assert all(found)


def test_another_loader_may_take_its_place(fit):
    class Short(Callback):
        total = 0

        def before_train(self):
            self.learn.dl = list(self.dl)[:1]

        def after_step(self):
            self.total += 1

    assert fit(Short()).short.total == 1


# ---- the recorder -------------------------------------------------------------


def test_the_recorder_has_fastais_columns(fit):
    learner = fit(Callback(), NativeRecorder(), metrics=[mae, mse])
    recorder = learner.fastai.recorder

    names = ["epoch", "train_loss", "valid_loss", "mae", "mse", "time"]
    assert list(recorder.metric_names) == names
    assert [len(row) for row in recorder.values] == [4]
    assert len(recorder.log) == 6


def test_metrics_are_the_same_with_and_without_callboards_recorder(fit):
    with_it = fit(Callback(), NativeRecorder(), metrics=[mae])
    without = fit(Callback(), metrics=[mae])

    rows = [list(each.fastai.recorder.values[0]) for each in (with_it, without)]
    assert rows[0] == pytest.approx(rows[1])


def test_a_callback_may_add_a_metric(fit):
    class Adds(Callback):
        def before_fit(self):
            self.learn.metrics = self.learn.metrics + ValueMetric(lambda: 7, "seven")

    learner = fit(Adds(), NativeRecorder(), metrics=[mae])

    names = list(learner.fastai.recorder.metric_names)
    assert names[3:5] == ["mae", "seven"]
    assert learner.fastai.recorder.values[0][-1] == 7


def test_a_metric_sees_the_learner_of_fastai(fit):
    class Batches(Metric):
        def reset(self):
            self.total = 0

        def accumulate(self, learn):
            self.total += len(learn.to_detach(learn.y)) * int(hasattr(learn, "opt"))

        @property
        def value(self):
            return self.total

    learner = fit(Callback(), NativeRecorder(), metrics=[Batches()])

    assert learner.fastai.recorder.values[0][-1] == 4


def test_metrics_are_objects_with_names(seen):
    found, _ = seen("before_fit", lambda cb: cb.metrics, metrics=[mae])

    assert isinstance(found[0], L)
    assert isinstance(found[0][0], AvgMetric)
    assert found[0].attrgot("name") == ["mae"]


def test_the_smoothed_loss_is_there_from_the_first_batch(seen):
    found, _ = seen("after_batch", lambda cb: hasattr(cb, "smooth_loss"))

    assert found == [False, True, True, True]


def test_the_recorder_draws_losses(fit):
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    plt.close("all")  # it draws into the current axes, as fastai does
    learner = fit(Callback(), num_epochs=2)

    axes = learner.fastai.recorder.plot_loss(skip_start=1)

    assert len(axes.lines[0].get_xdata()) == 5


# ---- its own methods ----------------------------------------------------------


def test_a_learner_can_be_made_as_in_fastai():
    learn = synth_learner(metrics=[mae], cbs=Callback())

    learn.fit(2)

    assert isinstance(learn.callboard, callboard.Learner)
    assert len(learn.recorder.values) == 2
    assert learn.callboard.fastai is learn


def test_a_learner_without_a_loss_takes_that_of_the_data():
    items = Words(torch.zeros(4, 2), torch.arange(4) % 3)
    items.loss_func = nn.CrossEntropyLoss()
    data = DataLoader(items, batch_size=2)

    learn = Learner([data, data], nn.Linear(2, 3), metrics=accuracy)
    learn.fit(1)

    assert learn.loss_func is items.loss_func
    with pytest.raises(AssertionError, match="Could not infer loss function"):
        Learner(DataLoader(Words(torch.zeros(2, 2)), batch_size=2), nn.Linear(2, 3))


def test_a_validation_gives_loss_and_metrics(fit):
    learner = fit(Callback(), NativeRecorder(), metrics=[mae])

    loss, error = learner.fastai.validate()

    assert loss == pytest.approx(learner.validate()["valid_loss"])
    assert error == pytest.approx(learner.validate()["mae"])


def test_what_is_saved_can_be_loaded(fit, tmp_path):
    learner = fit(Callback())
    before = learner.model.weight.detach().clone()

    file = learner.fastai.save("here")
    learner.fit(1)
    learner.fastai.load("here")

    assert file == tmp_path / "models" / "here.pth"
    assert torch.equal(learner.model.weight, before)


def test_a_saved_file_is_that_of_fastai(fit):
    learner = fit(Callback())

    state = torch.load(learner.fastai.save("here"), weights_only=True)

    assert state.keys() == {"model", "opt"}
    assert state["model"].keys() == learner.model.state_dict().keys()


def test_methods_of_plugins_are_methods(seen):
    found, _ = seen("before_fit", lambda cb: callable(cb.learn.fit_one_cycle))

    assert found == [True]


def test_methods_that_a_file_patches_on_are_there(seen):
    @patch
    def shout(self: Learner, text):
        return text.upper()

    try:
        found, _ = seen("before_fit", lambda cb: cb.learn.shout("quiet"))
    finally:
        del Learner.shout

    assert found == ["QUIET"]


def test_active_callbacks_can_be_listed_and_grabbed(seen):
    found, _ = seen("before_fit", lambda cb: cb.learn.cbs.attrgot("name"))

    assert "callback" in found[0]
    assert "fastai_recorder" in found[0]


def test_removing_what_is_not_there_is_no_error(fit):
    learner = fit(Callback())

    learner.fastai.remove_cb(MixHandler)
    learner.fastai.remove_cb(Callback())

    assert "callback" in learner.cbs


def test_removing_every_callback_leaves_none(fit):
    learner = fit(Callback(), Callback())

    learner.fastai.remove_cb(Callback)

    assert len(learner.cbs) == 0


def test_a_loss_can_be_had_for_every_item(fit):
    learner = fit(Callback())

    with learner.fastai.loss_not_reduced() as learn:
        losses = learn.loss_func(torch.zeros(3, 1), torch.ones(3, 1))

    assert losses.shape == (3, 1)
    assert learner.loss_func.reduction == "mean"


def test_one_batch_can_be_run_through_all_events(fit):
    class Again(Callback):
        def after_epoch(self):
            self.learn.one_batch(0, self.dls.one_batch())
            self.shape = self.pred.shape

    assert fit(Again()).again.shape == (4, 1)


@pytest.mark.parametrize("name", ["_backward", "_step"])
def test_backward_and_step_can_be_replaced(name, fit):
    class Replaces(Callback):
        total = 0

        def before_fit(self):
            self.own = getattr(self.learn, name)
            setattr(self.learn, name, self.replacement)

        def replacement(self):
            self.total += 1
            self.own()

    learner, plain = fit(Replaces()), fit(Callback())

    assert learner.replaces.total == 3
    assert torch.equal(learner.model.weight, plain.model.weight)


@pytest.fixture
def patched_recorder(monkeypatch):
    """A Recorder of which a file has replaced most, the initialiser included."""
    replaced = "__init__ before_fit after_batch before_validate after_validate"
    for name in replaced.split():  # monkeypatch notes what it has to put back
        monkeypatch.setattr(Recorder, name, vars(Recorder)[name])

    @patch
    def __init__(self: Recorder, add_time=True):
        self.add_time = add_time
        self.loss, self.smooth_loss = AvgLoss(), AvgSmoothLoss()

    @patch
    def before_fit(self: Recorder):
        self.lrs, self.iters, self.losses, self.values = [], [], [], []
        self.measured = L(self.loss) + self.metrics
        self.metric_names = L(
            "epoch", "train_loss", "loss", *self.metrics.attrgot("name")
        )
        self.smooth_loss.reset()

    @patch
    def before_validate(self: Recorder):
        self.measured.map(lambda metric: metric.reset())

    @patch
    def after_validate(self: Recorder):
        self.log += self.measured.map(lambda metric: float(metric.value))

    @patch
    def after_batch(self: Recorder):
        for metric in [self.smooth_loss] if self.training else self.measured:
            metric.accumulate(self.learn)


@pytest.mark.parametrize("others", [(), (NativeRecorder,)], ids=["alone", "beside"])
def test_a_file_may_replace_most_of_the_recorder(fit, patched_recorder, others):
    learner = fit(Callback(), *(other() for other in others), metrics=[mae])

    front = learner.fastai
    assert front.recorder.metric_names == ["epoch", "train_loss", "loss", "mae"]
    assert len(front.recorder.values) == 1
    assert len(front.recorder.values[0]) == 3
    loss, error = front.validate()
    assert [loss, error] == pytest.approx(front.recorder.values[0][1:], rel=1e-6)


def test_a_file_may_patch_backward_onto_the_class(fit):
    own = Learner._backward

    @patch
    def _backward(self: Learner):
        (2 * self.loss_grad).backward()

    try:
        doubled = fit(Callback(), num_epochs=1)
    finally:
        Learner._backward = own

    plain = fit(Callback(), lr=0.2)
    assert torch.allclose(doubled.model.weight, plain.model.weight)


def test_a_learner_of_callboards_is_shown_as_one_of_fastais(fit):
    callback, learner = Callback(), fit(num_epochs=0)

    callback.learn = learner

    assert callback.learn is learner.fastai


def test_defaults_of_a_file_take_part_in_every_learner(fit):
    from callboard_fastai.learner import defaults

    class Everywhere(Callback):
        total = 0

        def after_batch(self):
            self.total += 1

    defaults.callbacks.append(Everywhere)
    try:
        learner = fit(Callback())
    finally:
        defaults.callbacks.remove(Everywhere)

    assert learner.everywhere.total == 4


def test_nothing_is_warned_of_in_a_plain_fit(fit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        fit(Callback(), NativeRecorder(), metrics=[mae])
