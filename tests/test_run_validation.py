"""Going through data in a stage of one's own."""

import pytest
import torch
from torch import nn

from callboard import Callback, CallboardError, Learner


class CountBatches(Callback):
    stages = ("predict",)

    def __init__(self):
        self.sizes = []

    def after_batch(self):
        self.sizes.append(len(self.learn.pred))
        assert self.learn.stage == "predict"
        assert not self.learn.pred.requires_grad


def batches(*sizes):
    return [(torch.zeros(size, 2), torch.zeros(size, 1)) for size in sizes]


def make_learner(*cbs):
    return Learner(
        (batches(4), batches(2, 1)), nn.Linear(2, 1), nn.MSELoss(), cbs=[*cbs]
    )


def test_it_goes_through_the_validation_data_or_the_data_given():
    count = CountBatches()
    learner = make_learner(count)

    with learner.evaluating("predict"):
        learner.run_validation()
        learner.run_validation(batches(3))

    assert count.sizes == [2, 1, 3]


def test_the_data_given_is_forgotten_with_the_evaluation():
    class Evaluate(Callback):
        def after_train(self):
            with self.learn.evaluating("predict"):
                self.learn.run_validation(batches(3))

        def before_validate(self):
            self.dl_of_fit = self.learn.dl

    evaluate = Evaluate()
    learner = make_learner(evaluate)

    learner.fit(1)

    assert evaluate.dl_of_fit is learner.dls.valid


def test_outside_an_evaluation_it_is_refused_with_what_to_write():
    class Evaluate(Callback):
        def after_train(self):
            self.learn.run_validation()

    with pytest.raises(CallboardError, match=r"learner\.evaluating"):
        make_learner().run_validation()
    with pytest.raises(CallboardError, match=r"learner\.evaluating"):
        make_learner(Evaluate()).fit(1)
