"""Hidden state, what is unpacked, and penalties against plain PyTorch."""

import copy

import pytest
import torch
from torch import nn

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.errors import ActivationError, DataError, OptionError
from callboard.testing import cost_per_step
from callboard_rnn import (
    ModelResetter,
    RNNCallback,
    RNNRegularizer,
    activation_penalty,
    hidden_state,
    put_back,
    reset_model,
    rnn_cbs,
    temporal_penalty,
)


class Recurrent(nn.Module):
    """A GRU that goes on where the batch before ended, until it is reset."""

    def __init__(self, *, layers=2, as_lists=True):
        super().__init__()
        self.rnns = nn.ModuleList(
            nn.GRU(3 if n == 0 else 4, 4, batch_first=True) for n in range(layers)
        )
        self.head = nn.Linear(4, 1)
        self.as_lists = as_lists
        self.num_resets = 0
        self.reset()

    def reset(self):
        self.num_resets += 1
        self.hidden = None

    def forward(self, inputs):
        hidden = self.hidden or [None] * len(self.rnns)
        outputs, raw, new = inputs, [], []
        for rnn, state in zip(self.rnns, hidden, strict=True):
            outputs, state = rnn(outputs, state)
            raw.append(outputs)
            new.append(state.detach())
        self.hidden = new
        dropped = [0.5 * output for output in raw]
        pred = self.head(dropped[-1])
        if self.as_lists:
            return pred, raw, dropped
        return pred, raw[-1], dropped[-1]


class Plain(Recurrent):
    """The same, with nothing to unpack."""

    def forward(self, inputs):
        return super().forward(inputs)[0]


def batches(count=3, items=2, steps=5):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, items, steps, 3, generator=generator)
    return [(x, x.sum(-1, keepdim=True)) for x in inputs]


def a_model(cls=Recurrent, **options):
    torch.manual_seed(0)
    return cls(**options)


def a_learner(model, *cbs, train=None, valid=None):
    data = DataLoaders(batches() if train is None else train, valid)
    return Learner(
        data, model, nn.MSELoss(), torch.optim.SGD, lr=0.1, cbs=[*cbs], seed=0
    )


def assert_same_weights(one, other):
    for ours, plain in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, plain)


# ---- the pure functions -------------------------------------------------------


def test_penalties_are_mean_squares():
    outputs = torch.tensor([[[1.0], [3.0], [0.0]], [[2.0], [2.0], [1.0]]])

    assert activation_penalty(outputs).item() == pytest.approx((1 + 9 + 4 + 4 + 1) / 6)
    # Steps 2 and -3, 0 and -1.
    assert temporal_penalty(outputs).item() == pytest.approx((4 + 9 + 0 + 1) / 4)


def test_penalties_of_half_precision_are_worked_out_in_full():
    outputs = torch.full((1, 2, 1), 300.0, dtype=torch.float16)

    assert activation_penalty(outputs).item() == 90_000
    assert activation_penalty(outputs).dtype == torch.float32


def test_one_step_has_no_change():
    assert temporal_penalty(torch.ones(4, 1, 3)) is None


def test_a_single_sequence_has_a_change():
    assert temporal_penalty(torch.tensor([[[0.0], [2.0]]])).item() == 4


def test_the_model_answers_for_its_parts_and_else_they_for_themselves():
    model = a_model()
    outer = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"a": model, "b": a_model()}))

    assert reset_model(model) == 1
    assert reset_model(outer) == 2
    assert model.num_resets == 3
    assert reset_model(nn.Linear(1, 1)) == 0


def test_hidden_state_is_what_is_kept_in_attributes():
    model = a_model()
    model(batches()[0][0])
    before = model.hidden

    state = hidden_state(model)
    model.reset()
    put_back(state)

    assert model.hidden is before
    assert [name for _, name, _ in state] == ["hidden"]


# ---- the hidden state ---------------------------------------------------------


class Remembers(Callback):
    """Whether the model remembers something when a batch begins."""

    def __init__(self):
        self.train, self.valid = [], []

    def before_batch(self):
        seen = self.train if self.learn.training else self.valid
        seen.append(self.learn.model.hidden is not None)


def test_the_model_forgets_between_phases_and_remembers_inside():
    remembers = Remembers()

    a_learner(a_model(Plain), ModelResetter(), remembers, valid=batches(2)).fit(2)

    assert remembers.train == [False, True, True] * 2
    assert remembers.valid == [False, True] * 2


def test_without_it_the_model_goes_on_remembering():
    remembers = Remembers()

    a_learner(a_model(Plain), remembers, valid=batches(2)).fit(1)

    assert remembers.valid == [True, True]


def test_nothing_is_remembered_after_a_fit_that_failed():
    class Fail(Callback):
        def after_pred(self):
            raise RuntimeError("a fault")

    model = a_model(Plain)

    with pytest.raises(RuntimeError, match="a fault"):
        a_learner(model, ModelResetter(), Fail()).fit(1)

    assert model.hidden is None


def test_a_validation_starts_with_nothing_remembered():
    remembers, model = Remembers(), a_model(Plain)
    remembers.stages = ("validate",)
    model(batches()[0][0])

    a_learner(model, ModelResetter(), remembers, valid=batches(2)).validate()

    assert remembers.valid == [False, True]


@pytest.mark.parametrize("event", ["before_batch", "after_batch"])
def test_a_validation_in_the_middle_leaves_the_hidden_state(event):
    def validate(self):
        if self.learn.training:
            self.learn.validate()

    def trained(*cbs):
        model = a_model()
        learner = a_learner(model, *rnn_cbs(1, 1), *cbs, valid=batches(2, items=3))
        learner.fit(2)
        return model

    nested = type("Nested", (Callback,), {event: validate})()

    assert_same_weights(trained(nested), trained())


def test_a_model_without_a_reset_is_refused():
    with pytest.raises(OptionError, match="neither Linear nor any part of it has"):
        a_learner(nn.Linear(3, 1), ModelResetter()).fit(1)


# ---- what the model returns ---------------------------------------------------


@pytest.mark.parametrize("as_lists", [True, False])
def test_the_prediction_is_unpacked_and_the_last_layer_kept(as_lists):
    class Look(Callback):
        run_after = "rnn"

        def after_loss(self):
            rnn = self.learn.rnn
            self.seen = self.learn.pred, rnn.raw_out, rnn.out

    look, model = Look(), a_model(as_lists=as_lists)
    expected = copy.deepcopy(model)(batches(1)[0][0])

    a_learner(model, RNNCallback(), look, train=batches(1)).fit(1)

    for ours, whole in zip(look.seen, expected, strict=True):
        last = whole[-1] if isinstance(whole, list) else whole
        torch.testing.assert_close(ours, last)


def test_it_takes_part_in_evaluations():
    learner = a_learner(a_model(), *rnn_cbs(), valid=batches(2))

    assert learner.validate()["valid_loss"] > 0


def test_outputs_are_held_no_longer_than_the_fit():
    rnn = RNNCallback()

    a_learner(a_model(), rnn).fit(1)

    assert rnn.raw_out is None
    assert rnn.out is None


def test_other_plugins_find_no_outputs_of_the_batch_before():
    class Look(Callback):
        run_after = "rnn"

        def before_batch(self):
            self.seen.append(self.learn.rnn.out)

    look = Look()
    look.seen = []

    a_learner(a_model(), RNNCallback(), look).fit(1)

    assert look.seen == [None, None, None]


@pytest.mark.parametrize(
    ("returned", "got"), [(lambda p: p, "Tensor"), (lambda p: (p, p), "tuple of 2")]
)
def test_a_model_that_returns_no_three_is_refused(returned, got):
    class Other(nn.Linear):
        def forward(self, inputs):
            return returned(super().forward(inputs))

    with pytest.raises(DataError, match=f"rnn: the model must return .* got {got}"):
        a_learner(Other(3, 1), RNNCallback()).fit(1)


# ---- the penalties ------------------------------------------------------------


def plain_training(model, alpha, beta, data):
    """The same training in plain PyTorch; returns the losses without penalties."""
    opt, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    model.reset()
    for inputs, labels in data:
        pred, raw, dropped = model(inputs)
        loss = nn.functional.mse_loss(pred, labels)
        losses.append(loss.item())
        steps = raw[-1].diff(dim=1)
        loss = loss + alpha * dropped[-1].pow(2).mean() + beta * steps.pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    return losses


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (0.0, 1.0), (2.0, 1.0)])
def test_training_is_that_with_the_penalties_in_plain_pytorch(alpha, beta):
    class Losses(Callback):
        def after_batch(self):
            self.seen.append(self.learn.loss.item())

    losses, model = Losses(), a_model()
    losses.seen = []
    plain = copy.deepcopy(model)

    a_learner(model, *rnn_cbs(alpha, beta), losses).fit(1)

    expected = plain_training(plain, alpha, beta, batches())
    assert_same_weights(model, plain)
    # The loss that is recorded is the one without penalties.
    assert losses.seen == pytest.approx(expected)


def test_with_weights_of_zero_training_is_that_without_it():
    def trained(*cbs):
        model = a_model()
        a_learner(model, *cbs).fit(2)
        return model

    zero = [*rnn_cbs(), RNNRegularizer()]

    assert_same_weights(trained(*zero), trained(*rnn_cbs()))


def test_sequences_of_one_step_train_without_a_change_penalty():
    model = a_model()

    a_learner(model, *rnn_cbs(beta=1), train=batches(steps=1)).fit(1)

    assert all(p.isfinite().all() for p in model.parameters())


def test_batches_without_labels_are_left_alone():
    model = a_model()

    a_learner(model, *rnn_cbs(1, 1), train=[(x,) for x, _ in batches()]).fit(1)

    assert_same_weights(model, a_model())


def test_a_cancelled_batch_leaves_the_next_one_whole():
    class Cancel(Callback):
        run_after = "rnn"

        def after_pred(self):
            if self.learn.iter == 1:
                raise CancelBatchException

    model = a_model()
    plain = copy.deepcopy(model)

    a_learner(model, *rnn_cbs(1, 1), Cancel()).fit(1)

    opt = torch.optim.SGD(plain.parameters(), lr=0.1)
    for number, (inputs, labels) in enumerate(batches()):
        pred, raw, dropped = plain(inputs)
        if number == 1:
            continue
        loss = nn.functional.mse_loss(pred, labels) + dropped[-1].pow(2).mean()
        opt.zero_grad()
        (loss + raw[-1].diff(dim=1).pow(2).mean()).backward()
        opt.step()
    assert_same_weights(model, plain)


def test_penalties_read_nothing_from_the_device():
    def run(steps, *cbs):
        a_learner(a_model(as_lists=False), *cbs, train=batches(steps)).fit(1)

    few = {"few": 4, "many": 20}
    extra = cost_per_step(lambda n: run(n, *rnn_cbs(2, 1)), **few)

    assert extra.host_reads == 0


# ---- together -----------------------------------------------------------------


def test_the_callbacks_of_a_recurrent_model():
    assert [cb.name for cb in rnn_cbs()] == ["model-resetter", "rnn"]
    assert [cb.name for cb in rnn_cbs(beta=1)][-1] == "rnn-regularizer"
    assert rnn_cbs(2, 1)[-1].alpha == 2
    assert rnn_cbs(2, 1)[-1].beta == 1


def test_the_regulariser_needs_who_unpacks_the_outputs():
    with pytest.raises(ActivationError, match="rnn"):
        a_learner(a_model(), RNNRegularizer(1, 1))


def test_it_runs_after_the_outputs_are_unpacked_whatever_the_sequence():
    learner = a_learner(a_model(), RNNRegularizer(1, 1), RNNCallback())

    learner.fit(1)

    assert all(p.isfinite().all() for p in learner.model.parameters())


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused_with_a_good_one(value):
    with pytest.raises(OptionError, match=r"rnn-regularizer: alpha must .* Use 2"):
        RNNRegularizer(alpha=value)
    with pytest.raises(OptionError, match=r"rnn-regularizer: beta must .* Use 1"):
        RNNRegularizer(beta=value)
