"""Dropout that stays on in evaluations, and leaves everything else as it was."""

import pytest
import torch
from torch import nn
from torch.backends import mha
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import CallboardWarning
from callboard_gather_preds import get_preds
from callboard_mc_dropout import MCDropoutCallback, dropout_modules


class DropoutBlock(nn.Module):
    """Drops out by itself, and holds a layer that learns from batches."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, inputs):
        return nn.functional.dropout(self.norm(inputs), 0.5, self.training)


class Modes(Callback):
    """The modes of all modules at every batch."""

    stages = ("fit", "validate", "predict")

    def __init__(self):
        self.seen = []

    def before_batch(self):
        self.seen.append([m.training for m in self.learn.model.modules()])


def a_model(*layers):
    torch.manual_seed(0)
    middle = layers or (nn.BatchNorm1d(8), nn.Dropout(0.5), nn.AlphaDropout(0.2))
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.Linear(8, 1))


def a_learner(model=None, *cbs, **options):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(12, 4, generator=generator)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 4)
    data = DataLoaders(loader, loader)
    model = model or a_model()
    return Learner(data, model, nn.MSELoss(), cbs=[*cbs], seed=0, **options)


def predict(learner, *cbs):
    return get_preds(learner, cbs=[*cbs])[0]


def test_dropout_modules_are_found_by_the_name_of_their_class():
    model = a_model(DropoutBlock(), nn.Dropout2d(), nn.FeatureAlphaDropout())

    names = [type(module).__name__ for module in dropout_modules(model)]

    assert names == ["DropoutBlock", "Dropout2d", "FeatureAlphaDropout"]


def test_only_dropout_modules_are_in_training_mode():
    modes, learner = Modes(), a_learner()

    predict(learner, MCDropoutCallback(), modes)

    # Sequential, Linear, BatchNorm1d, Dropout, AlphaDropout, Linear.
    assert modes.seen == [[False, False, False, True, True, False]] * 3


def test_what_a_dropout_module_holds_stays_in_evaluation_mode():
    modes, model = Modes(), a_model(DropoutBlock())
    mean = model[1].norm.running_mean.clone()

    predict(a_learner(model), MCDropoutCallback(), modes)

    # Sequential, Linear, DropoutBlock, its BatchNorm1d, Linear.
    assert modes.seen[0] == [False, False, True, False, False]
    assert torch.equal(model[1].norm.running_mean, mean)


def test_predictions_of_several_evaluations_differ():
    learner, mc_dropout = a_learner(), MCDropoutCallback()

    first, second = predict(learner, mc_dropout), predict(learner, mc_dropout)

    assert not torch.equal(first, second)


def test_predictions_with_several_instances_differ():
    learner = a_learner()

    first, second = (predict(learner, MCDropoutCallback()) for _ in range(2))

    assert not torch.equal(first, second)


def test_masks_of_the_batches_of_one_evaluation_differ():
    inputs = torch.ones(8, 4)
    loader = DataLoader(TensorDataset(inputs, torch.ones(8, 1)), 4)
    learner = a_learner()
    learner.dls.valid = loader

    preds = predict(learner, MCDropoutCallback())

    assert not torch.equal(preds[:4], preds[4:])


def test_the_mean_is_that_of_dropped_out_models():
    # One weight for each input that is kept with a chance of one half, and doubled.
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1, bias=False))
    nn.init.ones_(model[1].weight)
    learner = a_learner(model)
    learner.dls.valid = [(torch.ones(1000, 4), torch.ones(1000, 1))]

    preds = predict(learner, MCDropoutCallback())

    assert set(preds.unique().tolist()) == {0, 2, 4, 6, 8}
    # Mean 4, variance 4 * 4 * 1/4: three standard deviations of the mean are 0.19.
    assert preds.mean().item() == pytest.approx(4, abs=0.19)
    assert preds.var().item() == pytest.approx(4, rel=0.2)


def test_the_same_seed_gives_the_same_masks():
    def samples():
        torch.manual_seed(3)
        mc_dropout = MCDropoutCallback()
        learner = a_learner(a_model())
        return [predict(learner, mc_dropout) for _ in range(2)]

    for one, other in zip(samples(), samples(), strict=True):
        assert torch.equal(one, other)


def test_validate_drops_out_too():
    learner, mc_dropout = a_learner(), MCDropoutCallback()

    losses = {learner.validate(cbs=mc_dropout)["valid_loss"] for _ in range(3)}

    assert len(losses) == 3
    assert learner.validate() == learner.validate()


def test_a_fit_and_its_validation_are_those_without_it():
    modes = Modes()

    def trained(*cbs):
        learner = a_learner(a_model(), *cbs)
        learner.fit(2)
        return learner

    mc_dropout = MCDropoutCallback()
    learner = trained(mc_dropout, modes)

    plain = trained()
    for ours, expected in zip(
        learner.model.parameters(), plain.model.parameters(), strict=True
    ):
        assert torch.equal(ours, expected)
    assert [any(modes) for modes in modes.seen] == ([True] * 3 + [False] * 3) * 2


def test_predicting_in_the_middle_of_training_changes_no_weight():
    mc_dropout = MCDropoutCallback()

    class Predict(Callback):
        def before_batch(self):
            predict(self.learn, mc_dropout)

    def trained(*cbs):
        learner = a_learner(a_model(), *cbs)
        learner.fit(2)
        return learner.model[0].weight.detach()

    assert torch.equal(trained(Predict()), trained())


def test_modes_are_put_back_where_an_evaluation_fails():
    class Fail(Callback):
        stages = ("predict",)

        def after_pred(self):
            raise RuntimeError("a fault")

    learner = a_learner()
    learner.model.eval()

    with pytest.raises(RuntimeError, match="a fault"):
        predict(learner, MCDropoutCallback(), Fail())

    assert not any(module.training for module in learner.model.modules())
    assert mha.get_fastpath_enabled()


def test_transformers_drop_out_although_torch_has_a_fast_path_that_does_not():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    model = a_model(nn.Unflatten(1, (1, 8)), layer, nn.Flatten())
    learner, mc_dropout = a_learner(model), MCDropoutCallback()

    first, second = predict(learner, mc_dropout), predict(learner, mc_dropout)

    assert not torch.equal(first, second)
    assert torch.equal(predict(learner), predict(learner))
    assert mha.get_fastpath_enabled()


def test_a_model_without_dropout_is_told_of():
    learner = a_learner(nn.Linear(4, 1))

    with pytest.warns(CallboardWarning, match="Linear has no dropout module"):
        predict(learner, MCDropoutCallback())
