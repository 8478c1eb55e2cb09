"""Which batch normalisation layers keep their statistics."""

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard_bn_freeze import BnFreeze, frozen_batchnorms

INPUTS = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
BATCHES = [(INPUTS, INPUTS.mean((1, 2)).unsqueeze(1))] * 2


def make(*cbs, **options):
    body = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 1))
    model = nn.Sequential(body, head)
    options = {"splitter": lambda m: [m[0], m[1]], "train_bn": False, **options}
    return Learner((BATCHES, BATCHES), model, nn.MSELoss(), cbs=[*cbs], **options)


def test_frozen_statistics_stay_and_the_others_move():
    learner = make(BnFreeze())
    learner.freeze()
    learner.fit(1)

    frozen, trained = learner.model[0][1], learner.model[1][1]
    assert torch.equal(frozen.running_mean, torch.zeros(4))
    assert int(frozen.num_batches_tracked) == 0
    assert int(trained.num_batches_tracked) == 2


def test_without_it_frozen_layers_move_their_statistics():
    learner = make()
    learner.freeze()
    learner.fit(1)

    assert int(learner.model[0][1].num_batches_tracked) == 2


def test_layers_that_are_unfrozen_on_the_way_move_from_the_next_epoch_on():
    class Thaw(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                self.learn.model.requires_grad_(True)

    learner = make(BnFreeze(), Thaw())
    learner.freeze()
    learner.fit(3)

    assert int(learner.model[0][1].num_batches_tracked) == 4


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_batch_normalisation_of_any_dimension_is_found(dimensions):
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    layer = kinds[dimensions - 1](2).requires_grad_(False)

    assert frozen_batchnorms(nn.Sequential(layer)) == [layer]


def test_layers_that_train_or_have_no_weights_are_left_alone():
    half = nn.BatchNorm1d(2)
    half.weight.requires_grad_(False)
    layers = [half, nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False)]

    assert frozen_batchnorms(nn.Sequential(*layers)) == []
