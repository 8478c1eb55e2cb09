"""Blends by their closed forms, and what a run makes of them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.errors import ActivationError, DataError, OptionError
from callboard.state import RandomStream
from callboard_mixup import Blend, MixHandler, MixUp, blended_loss, draw_blend


class Capture(Callback):
    """Keeps inputs, labels, prediction and loss of every batch."""

    run_after = "mixup"

    def __init__(self):
        self.seen = []

    def after_loss(self):
        learn = self.learn
        self.seen.append((learn.xb, learn.yb, learn.pred.detach(), learn.loss.detach()))


def stream(seed=0):
    made = RandomStream()
    made.manual_seed(seed)
    return made


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def make_data(num_items=6, num_classes=3):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_items, 4, generator=generator)
    return inputs, torch.arange(num_items) % num_classes


def make_learner(batches, *cbs, model=None, loss_func="cross entropy", seed=0):
    torch.manual_seed(0)
    if loss_func == "cross entropy":
        loss_func = nn.CrossEntropyLoss()
    return Learner(
        DataLoaders(batches, batches),
        model or nn.Linear(4, 3),
        loss_func,
        torch.optim.SGD,
        lr=0.1,
        cbs=[*cbs],
        seed=seed,
    )


def first_blend(num_items=6, alpha=0.4, seed=0):
    """The blend of the first batch that ``MixUp(alpha)`` sees in a Learner."""
    learner = make_learner([make_data()], MixUp(alpha), seed=seed)
    return draw_blend(learner.mixup.rng, alpha, num_items, torch.device("cpu"))


def fit_one_batch(batch, **options):
    """Inputs, labels, prediction and loss of the training batch, then of validation."""
    capture = Capture()
    make_learner([batch], MixUp(), capture, **options).fit(1)
    return capture.seen


# ---- the pure functions -------------------------------------------------------


def test_numbers_are_blended_with_those_of_the_partner():
    blend = Blend(torch.tensor([1.0, 0.75, 0.5]), torch.tensor([1, 2, 0]))
    own = torch.tensor([[0.0, 10.0], [4.0, 20.0], [8.0, 30.0]])

    blended = blend.numbers(own)

    # 0.75 * 4 + 0.25 * 8, 0.75 * 20 + 0.25 * 30; 0.5 * 8 + 0.5 * 0, 0.5 * 30 + 0.5 * 10
    assert blended.tolist() == [[0.0, 10.0], [5.0, 22.5], [4.0, 20.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_blending_keeps_the_dtype(dtype):
    blend = Blend(torch.tensor([0.75, 0.5]), torch.tensor([1, 0]))

    blended = blend.numbers(torch.tensor([[0.0], [4.0]], dtype=dtype))

    assert_same(blended, torch.tensor([[1.0], [2.0]], dtype=dtype))


def test_an_item_keeps_at_least_half_of_itself():
    blend = draw_blend(stream(), 1.0, 10_000, torch.device("cpu"))

    assert blend.share.min() >= 0.5
    assert blend.share.max() <= 1.0
    # The larger of a uniform number and its rest is uniform from one half to one.
    assert blend.share.mean().item() == pytest.approx(0.75, abs=0.01)


def test_every_item_is_a_partner_once():
    blend = draw_blend(stream(), 0.4, 50, torch.device("cpu"))

    assert sorted(blend.partner.tolist()) == list(range(50))


def test_a_higher_alpha_blends_more():
    def mean_share(alpha):
        return draw_blend(stream(), alpha, 5000, torch.device("cpu")).share.mean()

    assert mean_share(0.1) > mean_share(0.4) > mean_share(2.0)


LOSSES = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
    "weighted and smoothed": nn.CrossEntropyLoss(
        weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1
    ),
    "ignoring": nn.CrossEntropyLoss(ignore_index=1),
    "weighted and ignoring": nn.CrossEntropyLoss(
        weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=-1
    ),
    "weighted sum": nn.CrossEntropyLoss(
        weight=torch.tensor([1.0, 2.0, 0.5]), reduction="sum"
    ),
    "margin": nn.MultiMarginLoss(),
    "function": functional.cross_entropy,
    "partial": partial(functional.cross_entropy, weight=torch.tensor([1.0, 2.0, 0.5])),
    "partial sum": partial(functional.cross_entropy, reduction="sum"),
}


@pytest.fixture(params=LOSSES)
def loss_func(request):
    return LOSSES[request.param]


def scores_and_labels(loss_func):
    inputs, labels = make_data()
    if getattr(loss_func, "ignore_index", 0) == -1:
        labels = labels.clone()
        labels[2] = -1
    return inputs[:, :3], labels


def test_with_all_shares_one_the_loss_is_the_one_without_mixup(loss_func):
    scores, labels = scores_and_labels(loss_func)
    blend = Blend(torch.ones(6), torch.tensor([5, 4, 3, 2, 1, 0]))

    loss = blended_loss(loss_func, scores, (labels,), blend)

    torch.testing.assert_close(loss, loss_func(scores, labels))


def test_items_that_are_their_own_partners_have_the_loss_without_mixup(loss_func):
    scores, labels = scores_and_labels(loss_func)
    blend = Blend(torch.linspace(0.5, 1, 6), torch.arange(6))

    loss = blended_loss(loss_func, scores, (labels,), blend)

    torch.testing.assert_close(loss, loss_func(scores, labels))


def test_one_share_for_all_blends_the_losses_towards_both_labels():
    scores, labels = scores_and_labels(None)
    partner = torch.tensor([5, 4, 3, 2, 1, 0])

    loss = blended_loss(
        nn.CrossEntropyLoss(), scores, (labels,), Blend(torch.full((6,), 0.7), partner)
    )

    own = functional.cross_entropy(scores, labels)
    other = functional.cross_entropy(scores, labels[partner])
    torch.testing.assert_close(loss, 0.7 * own + 0.3 * other)


def test_shares_of_its_own_give_the_cross_entropy_to_soft_labels():
    # Cross entropy is linear in the label, so blended losses are the loss of the
    # blended one-hot label: Zhang et al. 2018, equation 2.
    scores, labels = scores_and_labels(None)
    blend = draw_blend(stream(), 1.0, 6, torch.device("cpu"))

    loss = blended_loss(nn.CrossEntropyLoss(), scores, (labels,), blend)

    soft = blend.numbers(functional.one_hot(labels, 3).float())
    torch.testing.assert_close(loss, functional.cross_entropy(scores, soft))


def test_weighted_mean_is_divided_by_what_the_blended_labels_count():
    weight = torch.tensor([1.0, 2.0, 0.5])
    scores, labels = scores_and_labels(None)
    blend = draw_blend(stream(), 1.0, 6, torch.device("cpu"))

    loss = blended_loss(nn.CrossEntropyLoss(weight), scores, (labels,), blend)

    # torch divides by the batch size where labels are probabilities.
    soft = blend.numbers(functional.one_hot(labels, 3).float())
    total = functional.cross_entropy(scores, soft, weight, reduction="sum")
    torch.testing.assert_close(loss, total / (soft * weight).sum())


def test_labels_of_every_position_are_blended_item_by_item():
    scores, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    blend = Blend(torch.tensor([0.6, 0.9]), torch.tensor([1, 0]))

    loss = blended_loss(nn.CrossEntropyLoss(), scores, (labels,), blend)

    each = functional.cross_entropy(scores, labels, reduction="none").mean((1, 2))
    swapped = functional.cross_entropy(scores, labels.flip(0), reduction="none")
    other = swapped.mean((1, 2))
    expected = blend.share * each + (1 - blend.share) * other
    torch.testing.assert_close(loss, expected.mean())


def test_reduction_that_is_neither_mean_nor_sum_is_refused():
    loss_func = nn.CrossEntropyLoss(reduction="none")
    scores, labels = scores_and_labels(None)

    with pytest.raises(OptionError, match='must be "mean" or "sum", got \'none\''):
        blended_loss(loss_func, scores, (labels,), Blend(torch.ones(6), labels))


# ---- in a fit -----------------------------------------------------------------


def test_training_batches_are_blended_and_class_labels_kept():
    inputs, labels = make_data()

    training, validation = fit_one_batch((inputs, labels))

    blend = first_blend()
    xb, yb, pred, loss = training
    assert_same(xb[0], blend.numbers(inputs))
    assert_same(yb[0], labels)
    expected = blended_loss(nn.CrossEntropyLoss(), pred, (labels,), blend)
    torch.testing.assert_close(loss, expected)
    plain, _, valid_pred, valid_loss = validation
    assert_same(plain[0], inputs)
    assert_same(valid_loss, functional.cross_entropy(valid_pred, labels))


def test_gradients_are_those_of_the_loss_to_soft_labels():
    class KeepGradient(Callback):
        def before_step(self):
            self.gradient = self.learn.model.weight.grad.clone()

    inputs, labels = make_data()
    keep, mixup = KeepGradient(), MixUp()
    learner = make_learner([(inputs, labels)], mixup, keep)
    model = nn.Linear(4, 3)
    model.load_state_dict(learner.model.state_dict())
    blend = first_blend()

    learner.fit(1)

    soft = blend.numbers(functional.one_hot(labels, 3).float())
    functional.cross_entropy(model(blend.numbers(inputs)), soft).backward()
    torch.testing.assert_close(keep.gradient, model.weight.grad)


def test_labels_that_are_numbers_are_blended_themselves():
    inputs, labels = make_data()[0], torch.randn(6, 3)

    (_, yb, pred, loss), _ = fit_one_batch((inputs, labels), loss_func=nn.MSELoss())

    assert_same(yb[0], first_blend().numbers(labels))
    assert_same(loss, functional.mse_loss(pred, yb[0]))


def test_labels_that_are_numbers_need_no_loss_of_single_items():
    inputs, labels = make_data()[0], torch.randn(6, 3)

    def my_loss(pred, label):
        return (pred - label).square().mean()

    (_, yb, *_), _ = fit_one_batch((inputs, labels), loss_func=my_loss)

    assert_same(yb[0], first_blend().numbers(labels))


def test_classes_need_a_loss_of_single_items():
    def my_loss(pred, label):
        return functional.cross_entropy(pred, label)

    learner = make_learner([make_data()], MixUp(), loss_func=my_loss)

    with pytest.raises(OptionError, match="my_loss gives no loss of each single item"):
        learner.fit(1)


def test_inputs_that_are_no_numbers_of_an_item_stay_as_they_are():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, numbers, more, categories, scale):
            return self.linear(numbers + more) * scale + categories[:, None]

    inputs, labels = make_data()
    more, categories, scale = torch.randn(6, 4), torch.arange(6), torch.tensor(2.0)

    batch = (inputs, more, categories, scale, labels)

    (xb, *_), _ = fit_one_batch(batch, model=TwoInputs())

    blend = first_blend()
    assert_same(xb[0], blend.numbers(inputs))
    assert_same(xb[1], blend.numbers(more))
    assert_same(xb[2], categories)
    assert_same(xb[3], scale)


def test_batches_that_are_mappings_are_blended():
    class ByName(nn.Linear):
        def forward(self, pixels, number):
            return super().forward(pixels)

    inputs, labels = make_data()
    batch = {"pixels": inputs, "number": torch.arange(6), "labels": labels}

    (xb, *_), _ = fit_one_batch(batch, model=ByName(4, 3))

    assert_same(xb["pixels"], first_blend().numbers(inputs))
    assert_same(xb["number"], torch.arange(6))
    assert_same(batch["pixels"], inputs)


def test_the_data_itself_is_left_alone():
    inputs, labels = make_data()
    before = inputs.clone()

    make_learner([(inputs, labels)], MixUp()).fit(3)

    assert_same(inputs, before)


def test_a_batch_of_one_item_is_trained_as_it_is():
    inputs, labels = make_data(1)

    (xb, _, pred, loss), _ = fit_one_batch((inputs, labels))

    assert_same(xb[0], inputs)
    torch.testing.assert_close(loss, functional.cross_entropy(pred, labels))


def test_batches_without_labels_are_left_alone():
    class SeeInputs(Callback):
        run_after = "mixup"

        def after_pred(self):
            self.inputs = self.learn.x

    inputs, see = make_data()[0], SeeInputs()

    make_learner([(inputs,)], MixUp(), see).fit(1)

    assert_same(see.inputs, inputs)


def test_two_runs_with_one_seed_agree_and_with_another_do_not():
    def weights(seed):
        learner = make_learner([make_data()] * 3, MixUp(), seed=seed)
        learner.fit(2)
        return learner.model.weight.detach()

    assert_same(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_its_draws_move_nobody_elses():
    class Draw(Callback):
        def before_batch(self):
            self.draws.append((torch.rand(()).item(), self.rng.random()))

    def draws(*cbs):
        draw = Draw()
        draw.draws = []
        make_learner([make_data()] * 3, draw, *cbs).fit(2)
        return draw.draws

    assert draws() == draws(MixUp())


def test_removing_it_leaves_the_plain_run():
    def weights(*cbs, remove=None):
        learner = make_learner([make_data()] * 3, *cbs)
        if remove:
            learner.remove_cb(remove)
        learner.fit(2)
        return learner.model.weight.detach()

    assert_same(weights(MixUp(), remove="mixup"), weights())


def test_nothing_stays_replaced_when_a_batch_is_cancelled_or_fails():
    class Disturb(Callback):
        run_after = "mixup"

        def after_pred(self):
            if self.learn.iter == 0:
                raise CancelBatchException
            if self.learn.iter == 2:
                raise RuntimeError("a fault")

    loss_func = nn.CrossEntropyLoss()
    learner = make_learner([make_data()] * 3, MixUp(), Disturb(), loss_func=loss_func)

    with pytest.raises(RuntimeError, match="a fault"):
        learner.fit(1)

    inputs, labels = make_data()
    assert learner.loss_func is loss_func
    assert loss_func.reduction == "mean"
    assert learner.validate()["valid_loss"] == pytest.approx(
        functional.cross_entropy(learner.model(inputs), labels).item()
    )


def test_validate_between_the_blend_and_the_loss_disturbs_neither():
    class Validate(Callback):
        run_after = "mixup"

        def after_pred(self):
            self.learn.validate()

    def weights(*cbs):
        learner = make_learner([make_data()] * 2, MixUp(), *cbs)
        learner.fit(2)
        return learner.model.weight.detach()

    assert_same(weights(Validate()), weights())


def test_a_loss_action_of_another_plugin_before_it_comes_first():
    class Constant(Callback):
        run_before = "mixup"

        def do_loss(self):
            return self.learn.pred.sum() * 0 + 7

    capture = Capture()

    make_learner([make_data()], MixUp(), Constant(), capture).fit(1)

    assert capture.seen[0][3].item() == 7


def test_an_optimizer_that_asks_for_the_loss_again_gets_the_blended_one():
    inputs, labels = make_data()
    learner = make_learner([(inputs, labels)], MixUp())
    learner.opt_func = partial(torch.optim.LBFGS, max_iter=5)
    model = nn.Linear(4, 3)
    model.load_state_dict(learner.model.state_dict())
    blend = first_blend()

    learner.fit(1, lr=0.5)

    opt = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    soft = blend.numbers(functional.one_hot(labels, 3).float())

    def closure():
        opt.zero_grad()
        loss = functional.cross_entropy(model(blend.numbers(inputs)), soft)
        loss.backward()
        return loss

    opt.step(closure)
    torch.testing.assert_close(learner.model.weight, model.weight)


def test_it_takes_part_in_the_search_for_a_learning_rate():
    capture = Capture()
    capture.stages = ("lr-find",)
    learner = make_learner([make_data()], MixUp(), capture)

    with learner.evaluating("lr-find"):
        learner.fit(1)

    inputs = make_data()[0]
    assert_same(capture.seen[0][0][0], first_blend().numbers(inputs))
    assert_same(capture.seen[1][0][0], inputs)


def test_a_way_of_mixing_of_ones_own_gets_labels_and_loss_blended():
    class Halves(MixHandler):
        name = "mixup"

        def mix(self, labels):
            partner = torch.arange(len(labels[0])).flip(0)
            return Blend(torch.full((len(partner),), 0.5), partner)

    capture = Capture()
    make_learner([make_data()], Halves(), capture).fit(1)

    _, _, pred, loss = capture.seen[0]
    labels = make_data()[1]
    both = [functional.cross_entropy(pred, each) for each in (labels, labels.flip(0))]
    torch.testing.assert_close(loss, sum(both) / 2)


# ---- what is refused ----------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_alpha_that_is_not_above_zero_is_refused_with_a_good_one(alpha):
    with pytest.raises(OptionError, match=r"mixup: alpha must be .* Use 0\.4"):
        MixUp(alpha)


def test_learner_without_a_loss_func_is_refused_before_training():
    class OwnLoss(nn.Linear):
        def forward(self, inputs, labels):
            return functional.cross_entropy(super().forward(inputs), labels)

    learner = make_learner([make_data()], MixUp(), model=OwnLoss(4, 3), loss_func=None)

    with pytest.raises(OptionError, match="mixup: the Learner has no loss_func"):
        learner.fit(1)


def test_inputs_that_cannot_be_blended_are_refused():
    inputs, labels = make_data()
    images = inputs.to(torch.uint8)
    learner = make_learner([(images, labels)], MixUp())

    with pytest.raises(DataError, match="mixup: no input is a tensor of floating"):
        learner.fit(1)


@pytest.mark.parametrize("labels", [["a"] * 6, torch.tensor(3)])
def test_labels_that_belong_to_no_item_are_refused(labels):
    learner = make_learner([(make_data()[0], labels)], MixUp())

    with pytest.raises(DataError, match="mixup: labels must be tensors with one entry"):
        learner.fit(1)


def test_it_refuses_to_run_beside_cutmix():
    class CutMix(Callback):
        name = "cutmix"

    with pytest.raises(ActivationError, match="conflicts with"):
        make_learner([make_data()], MixUp(), CutMix())
