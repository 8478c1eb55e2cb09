"""The prediction for one item is that of the item in a batch, and has a name."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from callboard import Callback, DataLoaders, Learner
from callboard.errors import OptionError
from callboard_gather_preds import get_preds, predict


class Animals(Dataset):
    """Ten items of three classes, in the manner of torchvision's datasets."""

    classes = ("cat", "dog", "emu")

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(10, 4, generator=generator)

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.inputs[index], index % 3


def make_learner(model=None, loss_func=None, valid=None, **options):
    torch.manual_seed(0)
    data = Animals()
    return Learner(
        DataLoaders(DataLoader(data, 4), valid or DataLoader(data, 4)),
        model or nn.Linear(4, 3),
        loss_func or nn.CrossEntropyLoss(),
        seed=0,
        **options,
    )


def test_prediction_decision_and_name_are_those_of_the_item_in_a_batch():
    learner, data = make_learner(), Animals()
    all_preds, _, decoded = get_preds(learner, with_decoded=True)

    name, decision, pred = predict(learner, data.inputs[3])

    torch.testing.assert_close(pred, all_preds[3])
    assert decision == decoded[3]
    assert name == Animals.classes[decoded[3]]


def test_inputs_come_first_when_asked_for():
    item = Animals().inputs[0]

    inputs, *rest = predict(make_learner(), item, with_input=True)

    assert torch.equal(inputs, item)
    assert len(rest) == 3


def test_activation_can_be_given():
    learner, item = make_learner(), Animals().inputs[0]

    _, _, pred = predict(learner, item, act=lambda scores: scores)

    torch.testing.assert_close(pred, learner.model(item).detach())


def test_names_of_classes_are_found_behind_subsets():
    valid = DataLoader(Subset(Subset(Animals(), range(8)), [1, 2]), 2)
    learner = make_learner(valid=valid)
    learner.dls.train = [(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))]

    name, decision, _ = predict(learner, Animals().inputs[0])

    assert name == Animals.classes[decision]


def test_without_names_the_decision_stands_in_their_place():
    batches = [(Animals().inputs, torch.arange(10) % 3)]
    learner = make_learner(valid=batches)
    learner.dls.train = batches

    name, decision, _ = predict(learner, Animals().inputs[0])

    assert name is decision


def test_several_classes_above_one_half_are_all_named():
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    model.bias.data = torch.tensor([2.0, -1.0, 3.0])
    learner = make_learner(model, nn.BCEWithLogitsLoss())

    names, decision, pred = predict(learner, Animals().inputs[0])

    assert names == ["cat", "emu"]
    assert decision.tolist() == [True, False, True]
    torch.testing.assert_close(pred, torch.tensor([2.0, -1.0, 3.0]).sigmoid())


def test_numbers_are_no_classes():
    learner = make_learner(loss_func=nn.MSELoss())

    name, decision, pred = predict(learner, Animals().inputs[0])

    assert torch.equal(name, pred)
    assert torch.equal(decision, pred)


def test_a_map_of_decisions_is_no_class():
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.linear(inputs)[:, :, None].expand(-1, -1, 5)

    name, decision, _ = predict(make_learner(Pixels()), Animals().inputs[0])

    assert decision.shape == (5,)
    assert name is decision


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, numbers, scale):
        return self.linear(numbers) * scale[:, None]


def test_all_parts_of_a_tuple_are_inputs():
    learner, item = make_learner(TwoInputs()), Animals().inputs[0]
    dls = learner.dls

    inputs, _, _, pred = predict(
        learner, (item, 2.0), with_input=True, act=lambda scores: scores
    )

    expected = learner.model.linear(item).detach() * 2
    torch.testing.assert_close(pred.double(), expected.double())
    assert torch.equal(inputs[0], item)
    assert learner.dls is dls


def test_items_may_be_mappings():
    class ByName(nn.Linear):
        def forward(self, pixels):
            return super().forward(pixels)

    learner, item = make_learner(ByName(4, 3)), Animals().inputs[0]

    inputs, *_, pred = predict(learner, {"pixels": item}, with_input=True)

    torch.testing.assert_close(
        pred, functional.softmax(learner.model(item), dim=0).detach()
    )
    assert torch.equal(inputs["pixels"], item)


def test_model_that_returns_several_predictions_gives_each():
    class Both(nn.Linear):
        def forward(self, inputs):
            scores = super().forward(inputs)
            return scores, {"doubled": scores * 2}

    learner = make_learner(Both(4, 3), lambda pred, y: pred[0].sum())

    _, _, (scores, others) = predict(learner, Animals().inputs[0])

    assert scores.shape == (3,)
    torch.testing.assert_close(others["doubled"], scores * 2)


def collate_tenfold(items):
    inputs, labels = default_collate(items)
    return inputs * 10, labels


def test_collation_of_the_users_own_is_not_replaced_unseen():
    valid = DataLoader(Animals(), 4, collate_fn=collate_tenfold)
    learner = make_learner(valid=valid)

    with pytest.raises(OptionError, match=r"collate_tenfold.*Give predict\(item"):
        predict(learner, Animals().inputs[0])


def test_given_collation_makes_the_batch_and_its_labels_are_left_out():
    valid = DataLoader(Animals(), 4, collate_fn=collate_tenfold)
    learner = make_learner(valid=valid)

    inputs, *_ = predict(
        learner, Animals()[2], collate=collate_tenfold, with_input=True
    )

    assert torch.equal(inputs, Animals().inputs[2] * 10)


def test_callbacks_given_take_part_and_the_learner_is_as_it_was():
    class Halve(Callback):
        stages = ("predict",)

        def after_pred(self):
            self.learn.pred = self.learn.pred / 2

    learner, item = make_learner(), Animals().inputs[0]
    before = (learner.cbs.keys(), learner.stage, learner.epoch, learner.model.training)

    def unchanged(scores):
        return scores

    *_, halved = predict(learner, item, act=unchanged, cbs=Halve)
    *_, whole = predict(learner, item, act=unchanged)

    torch.testing.assert_close(halved, whole / 2)
    after = (learner.cbs.keys(), learner.stage, learner.epoch, learner.model.training)
    assert after == before


def test_an_error_in_the_model_leaves_the_data_of_the_learner_as_it_was():
    learner = make_learner()
    dls = learner.dls

    with pytest.raises(RuntimeError):
        predict(learner, torch.zeros(5))

    assert learner.dls is dls


def test_predicting_within_a_fit_changes_no_bit_of_it():
    class Predict(Callback):
        def after_step(self):
            predict(self.learn, Animals().inputs[0])

    def weights(*cbs):
        learner = make_learner(cbs=[*cbs])
        learner.fit(2)
        return learner.model.weight.tolist()

    assert weights(Predict()) == weights()
