"""What is kept of the batches of a fit."""

from collections import namedtuple

import torch
from torch import nn

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.testing import cost_per_step
from callboard_collect_data import CollectDataCallback, on_cpu


def batches(count, offset=0.0):
    return [(torch.full((2, 3), n + offset), torch.ones(2, 1)) for n in range(count)]


def a_learner(train, valid=None, *cbs, model=None, **options):
    torch.manual_seed(0)
    options = {"loss_func": nn.MSELoss(), "opt_func": torch.optim.SGD, **options}
    data = DataLoaders(train, valid)
    return Learner(data, model or nn.Linear(3, 1), lr=1e-5, cbs=[*cbs], **options)


def test_every_batch_of_training_and_validation_is_kept_in_order():
    collect = CollectDataCallback()

    a_learner(batches(3), batches(2, offset=10.0), collect).fit(2)

    assert [int(b.xb[0][0, 0]) for b in collect.data] == [0, 1, 2, 10, 11] * 2


def test_parts_are_those_of_the_batch():
    class Plain(Callback):
        def after_loss(self):
            learn = self.learn
            self.seen.append((learn.x, learn.y, learn.pred.clone(), learn.loss.clone()))

    plain, collect = Plain(), CollectDataCallback()
    plain.seen = []

    a_learner(batches(2), batches(1), plain, collect).fit(1)

    for (xb, yb, pred, loss), seen in zip(collect.data, plain.seen, strict=True):
        for ours, expected in zip((*xb, *yb, pred, loss), seen, strict=True):
            assert torch.equal(ours, expected)
            assert not ours.requires_grad


def test_what_is_written_into_the_batch_later_changes_nothing():
    class Overwrite(Callback):
        run_after = "collect-data"

        def after_batch(self):
            self.learn.x.fill_(-1)
            self.learn.pred.detach().fill_(-1)

    collect = CollectDataCallback()

    a_learner(batches(2), None, collect, Overwrite()).fit(1)

    assert [int(b.xb[0][0, 0]) for b in collect.data] == [0, 1]
    assert all((batch.pred != -1).all() for batch in collect.data)


def test_a_new_fit_starts_with_nothing():
    collect = CollectDataCallback()
    learner = a_learner(batches(2), None, collect)

    learner.fit(1)
    learner.fit(1)

    assert len(collect.data) == 2


def test_a_nested_validation_is_not_kept():
    class Validate(Callback):
        def after_batch(self):
            self.learn.validate()

    collect = CollectDataCallback()

    a_learner(batches(2), batches(3), collect, Validate()).fit(1)

    assert len(collect.data) == 2 + 3


def test_a_cancelled_batch_has_no_prediction():
    class Cancel(Callback):
        def before_batch(self):
            if self.learn.iter == 1:
                raise CancelBatchException

    collect = CollectDataCallback()

    a_learner(batches(2), None, collect, Cancel()).fit(1)

    assert collect.data[0].pred is not None
    assert collect.data[1].pred is None
    assert collect.data[1].loss is None


def test_mappings_and_named_tuples_keep_their_kind():
    Pair = namedtuple("Pair", "a b")
    pair = Pair(torch.zeros(1, requires_grad=True), ["text", torch.ones(1)])

    copied = on_cpu({"pair": pair, "number": 3})

    assert isinstance(copied["pair"], Pair)
    assert not copied["pair"].a.requires_grad
    assert copied["pair"].b[0] == "text"
    assert copied["number"] == 3


def test_training_is_that_without_it():
    def weights(*cbs):
        learner = a_learner(batches(3), batches(1), *cbs)
        learner.fit(2)
        return learner.model.weight.detach()

    assert torch.equal(weights(), weights(CollectDataCallback()))


def test_a_batch_costs_one_copy_of_each_tensor():
    def run(steps, *cbs):
        a_learner(batches(steps), None, *cbs).fit(1)

    extra = cost_per_step(lambda n: run(n, CollectDataCallback()), few=4, many=20)
    plain = cost_per_step(run, few=4, many=20)

    # Four tensors, each detached and copied; to() is two operations.
    assert (extra - plain).tensor_operations <= 4 * 4
