"""Test-time augmentation is the mean that it says, over passes that differ."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from callboard import Callback, DataLoaders, Learner
from callboard.errors import OptionError
from callboard_gather_preds import get_preds, tta


def make_data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(10, 4, generator=generator)
    return TensorDataset(inputs, torch.arange(10) % 3)


def make_learner(*cbs, model=None, valid=None, loss_func=None):
    torch.manual_seed(0)
    data = make_data()
    return Learner(
        DataLoaders(DataLoader(data, 4, shuffle=True), valid or DataLoader(data, 4)),
        model or nn.Linear(4, 3),
        loss_func or nn.CrossEntropyLoss(),
        cbs=[*cbs],
        seed=0,
    )


def probabilities(learner, change=lambda x: x):
    with torch.no_grad():
        return learner.model(change(make_data().tensors[0])).softmax(1)


def flip(inputs):
    return inputs.flip(-1)


def jitter(inputs):
    return inputs + torch.randn_like(inputs)


def test_a_quarter_is_the_prediction_for_the_inputs_as_they_are():
    learner = make_learner()

    preds, targets = tta(learner, batch_tfms=flip)

    expected = 0.25 * probabilities(learner) + 0.75 * probabilities(learner, flip)
    torch.testing.assert_close(preds, expected)
    assert torch.equal(targets, make_data().tensors[1])


@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_beta_is_the_share_of_the_plain_prediction(beta):
    learner = make_learner()

    preds, _ = tta(learner, batch_tfms=flip, n=1, beta=beta)

    plain, flipped = probabilities(learner), probabilities(learner, flip)
    torch.testing.assert_close(preds, beta * plain + (1 - beta) * flipped)


def test_without_beta_both_are_returned_apart():
    learner = make_learner()

    (changed, plain), _ = tta(learner, batch_tfms=flip, beta=None)

    torch.testing.assert_close(changed, probabilities(learner, flip))
    torch.testing.assert_close(plain, probabilities(learner))


def test_the_highest_can_be_taken_in_place_of_the_mean():
    learner = make_learner()

    preds, _ = tta(learner, batch_tfms=flip, use_max=True)

    both = [probabilities(learner), probabilities(learner, flip)]
    torch.testing.assert_close(preds, torch.stack(both).amax(0))


def test_several_functions_are_applied_one_after_the_other():
    learner = make_learner()

    preds, _ = tta(learner, batch_tfms=[flip, lambda x: x + 1], beta=0)

    torch.testing.assert_close(
        preds, probabilities(learner, lambda x: flip(x) + 1), rtol=1e-5, atol=1e-6
    )


def test_random_augmentations_differ_from_pass_to_pass_and_not_from_call_to_call():
    seen = []

    def watched(inputs):
        changed = jitter(inputs)
        seen.append(changed)
        return changed

    learner = make_learner()

    first, _ = tta(learner, n=3, batch_tfms=watched)
    second, _ = tta(learner, n=3, batch_tfms=watched)

    starts = {changed[0, 0].item() for changed in seen[::3]}
    assert len(seen) == 2 * 3 * 3  # calls, passes, batches
    assert len(starts) == 3
    assert torch.equal(first, second)


def test_the_mean_is_over_all_passes():
    seen = []

    def watched(inputs):
        seen.append(jitter(inputs))
        return seen[-1]

    learner = make_learner()

    preds, _ = tta(learner, n=4, batch_tfms=watched, beta=0)

    with torch.no_grad():
        scores = learner.model(torch.cat(seen)).softmax(1)
    torch.testing.assert_close(preds, scores.view(4, 10, 3).mean(0))


def test_items_of_a_shuffled_loader_meet_their_own():
    learner = make_learner()

    preds, targets = tta(learner, 0, batch_tfms=flip, beta=0)

    torch.testing.assert_close(preds, probabilities(learner, flip))
    assert torch.equal(targets, make_data().tensors[1])


def test_items_that_are_drawn_are_the_same_ones_in_all_passes():
    valid = DataLoader(make_data(), 4, sampler=WeightedRandomSampler([1.0] * 10, 8))
    learner = make_learner(valid=valid)

    (changed, plain), _ = tta(learner, batch_tfms=lambda x: x, beta=None)

    torch.testing.assert_close(changed, plain)


def test_a_loader_that_augments_by_itself_can_be_given():
    class Noisy(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            inputs, label = make_data()[index]
            return inputs + torch.randn(4), label

    learner = make_learner()

    (changed, plain), _ = tta(learner, aug_dl=DataLoader(Noisy(), 4), n=2, beta=None)

    once, _ = get_preds(learner, dl=DataLoader(Noisy(), 4))
    torch.testing.assert_close(plain, probabilities(learner))
    assert not torch.allclose(changed, plain)
    assert not torch.allclose(changed, once)


def test_inputs_that_are_several_or_named_are_changed_together():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, one, two):
            return self.linear(one + two)

    inputs, labels = make_data().tensors
    several = [(inputs, inputs * 2, labels)]
    named = [{"one": inputs, "two": inputs * 2, "label": labels}]

    learner = make_learner(model=Sum())

    first, _ = tta(learner, dl=several, batch_tfms=lambda x: (x[1], x[1]), beta=0)
    second, _ = tta(
        learner,
        dl=named,
        batch_tfms=lambda x: {"one": x["two"], "two": x["two"]},
        beta=0,
    )

    with torch.no_grad():
        expected = learner.model(inputs * 2, inputs * 2).softmax(1)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected)


def test_predictions_of_several_parts_are_averaged_part_by_part():
    class Both(nn.Linear):
        def forward(self, inputs):
            scores = super().forward(inputs)
            return {"scores": scores, "class": scores.argmax(1)}

    learner = make_learner(
        model=Both(4, 3), loss_func=lambda pred, y: pred["scores"].sum()
    )

    preds, _ = tta(learner, batch_tfms=flip, beta=0)
    highest, _ = tta(learner, batch_tfms=flip, use_max=True)

    assert preds["scores"].shape == (10, 3)
    assert preds["class"].dtype == torch.long
    assert (highest["scores"] >= preds["scores"]).all()


def test_nothing_of_the_learner_is_changed_within_a_fit():
    class Augmented(Callback):
        def after_step(self):
            before = self.learn.epoch, self.learn.cbs.keys(), torch.get_rng_state()
            tta(self.learn, batch_tfms=jitter, n=2)
            assert (self.learn.epoch, self.learn.cbs.keys()) == before[:2]
            assert torch.equal(torch.get_rng_state(), before[2])

    def weights(*cbs):
        learner = make_learner(*cbs)
        learner.fit(2)
        return learner.model.weight.tolist()

    assert weights(Augmented()) == weights()


def test_an_augmentation_that_fails_leaves_nothing_behind():
    def fails(inputs):
        raise RuntimeError("a fault")

    learner = make_learner()

    with pytest.raises(RuntimeError, match="a fault"):
        tta(learner, batch_tfms=fails)

    assert (learner.stage, learner.epoch) == ("fit", 0)
    assert "augment" not in learner.cbs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing changes the inputs"),
        ({"batch_tfms": [3]}, "batch_tfms must be a function"),
        ({"batch_tfms": flip, "n": 0}, "n must be a whole number from 1 on, got 0"),
        ({"batch_tfms": flip, "n": 1.5}, "n must be a whole number"),
        ({"batch_tfms": flip, "beta": 2}, "beta must be from 0 to 1, or None, got 2"),
        ({"batch_tfms": flip, "dl": iter([])}, "dl can be gone through once only"),
        ({"aug_dl": iter([])}, "aug_dl can be gone through once only"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(OptionError, match=f"tta: {message}"):
        tta(make_learner(), **options)


def test_items_in_another_order_in_each_pass_are_refused():
    class Restless:
        def __iter__(self):
            order = torch.randperm(10)
            yield tuple(part[order] for part in make_data().tensors)

    with pytest.raises(OptionError, match="tta: the items came in another order"):
        tta(make_learner(), dl=Restless(), batch_tfms=flip)
