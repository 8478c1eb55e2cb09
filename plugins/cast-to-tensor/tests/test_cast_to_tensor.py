"""Subclasses become plain tensors; all else stays."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from callboard import Callback, DataLoaders, Learner
from callboard_cast_to_tensor import CastToTensor, as_plain


class Picture(torch.Tensor):
    pass


class Category(torch.Tensor):
    pass


class Kinds(Callback):
    run_after = "cast-to-tensor"
    stages = ("fit", "validate", "lr-find")

    def __init__(self):
        self.seen = set()

    def after_loss(self):
        learn = self.learn
        self.seen |= {type(part) for part in (learn.x, learn.y, learn.pred, learn.loss)}


def batches():
    inputs = torch.ones(2, 3).as_subclass(Picture)
    return [(inputs, torch.zeros(2, 1).as_subclass(Category))]


def a_learner(*cbs):
    data = DataLoaders(batches(), batches())
    return Learner(data, nn.Linear(3, 1), nn.MSELoss(), cbs=[*cbs], seed=0)


def test_without_it_torch_refuses_two_kinds_of_tensors():
    with pytest.raises(TypeError, match="no implementation found"):
        a_learner().fit(1)


def test_training_and_evaluations_see_plain_tensors_only():
    kinds = Kinds()
    learner = a_learner(CastToTensor(), kinds)

    learner.fit(1)
    learner.validate()
    with learner.evaluating("lr-find"):
        learner.fit(1)

    assert kinds.seen == {torch.Tensor}


def test_weights_are_those_of_plain_data():
    def weights(learner):
        torch.manual_seed(0)
        nn.init.ones_(learner.model.weight)
        nn.init.zeros_(learner.model.bias)
        learner.fit(2)
        return learner.model.weight.detach()

    plain = a_learner()
    plain.dls = [tuple(part.as_subclass(torch.Tensor) for part in batches()[0])]

    assert torch.equal(weights(a_learner(CastToTensor())), weights(plain))


def test_nothing_is_copied():
    picture = torch.ones(2).as_subclass(Picture)

    plain = as_plain(picture)

    assert type(plain) is torch.Tensor
    assert plain.data_ptr() == picture.data_ptr()


def test_tuples_lists_and_mappings_keep_their_kind():
    Pair = namedtuple("Pair", "a b")
    picture = torch.ones(2).as_subclass(Picture)

    plain = as_plain({"pair": Pair(picture, ["text", picture]), "number": 3})

    assert isinstance(plain["pair"], Pair)
    assert type(plain["pair"].a) is torch.Tensor
    assert type(plain["pair"].b) is list
    assert type(plain["pair"].b[1]) is torch.Tensor
    assert plain["pair"].b[0] == "text"
    assert plain["number"] == 3


def test_tensors_that_hold_their_numbers_in_another_way_stay():
    parts = [torch.ones(2), torch.ones(3)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    parameter = nn.Parameter(torch.ones(2))

    assert as_plain(nested) is nested
    assert as_plain(parameter) is parameter
    assert as_plain(parts)[0] is parts[0]
