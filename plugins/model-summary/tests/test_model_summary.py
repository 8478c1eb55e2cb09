"""What the table says, and that nothing notices that it was made."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.errors import CallboardError, DataError
from callboard_model_summary import model_summary, shape_in_words, summary


class Pair(nn.Module):
    """Takes two inputs and gives two outputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)
        self.unused = nn.Linear(5, 5)

    def forward(self, x, z):
        return self.left(x), self.right(z)


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
    )


def a_learner(*cbs, model=None, train=None, **options):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    train = DataLoader(data, 4, shuffle=True) if train is None else train
    options = {"loss_func": nn.MSELoss(), "seed": 0, **options}
    model = a_model() if model is None else model
    return Learner(DataLoaders(train), model, cbs=[*cbs], **options)


def lines(made):
    return [" ".join(line.split()) for line in str(made).splitlines()]


def test_the_table_names_layers_shapes_and_parameters():
    made = lines(summary(a_learner()))

    assert made[0] == "Sequential (input shape: 4 x 3)"
    assert made[2] == "layer type output shape parameters trained"
    assert "0 Linear 4 x 8 32 yes" in made
    assert "1 BatchNorm1d 4 x 8 16 yes" in made
    assert "2 Dropout 4 x 8" in made
    assert "3 Linear 4 x 1 9 yes" in made


def test_parameters_and_megabytes_are_summed():
    made = summary(a_learner())

    assert (made.num_params, made.num_trained) == (32 + 16 + 9, 57)
    # 57 parameters and the 17 numbers of the normalisation, one of them an int64.
    assert made.megabytes == pytest.approx((57 * 4 + 16 * 4 + 8) / 1e6)
    assert "Parameters: 57 (57 trained, 0 not); 0.00 MB" in lines(made)


def test_optimizer_loss_and_callbacks_are_named():
    learner = a_learner(
        Callback(), opt_func=partial(torch.optim.SGD, momentum=0.9), lr=0.1
    )

    before = lines(summary(learner))
    learner.fit(1)
    after = lines(summary(learner))

    assert "Optimizer: SGD, made by the first fit" in before
    assert "Optimizer: SGD" in after
    assert "Parameter groups: 1, none frozen" in after
    assert "Loss: MSELoss()" in before
    assert "Callbacks: callback" in before


def test_frozen_layers_are_not_trained():
    learner = a_learner(
        splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], m[3]]
    )
    learner.freeze()

    made = lines(summary(learner))

    assert "0 Linear 4 x 8 32 no" in made
    assert "1 BatchNorm1d 4 x 8 16 yes" in made  # trains on when frozen
    assert "3 Linear 4 x 1 9 yes" in made
    assert "Parameters: 57 (25 trained, 32 not); 0.00 MB" in made


def test_a_wholly_frozen_first_group_is_counted():
    learner = a_learner(
        splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], m[3]],
        train_bn=False,
    )
    learner.freeze()

    assert "Parameter groups: 2, frozen up to number 1" in lines(summary(learner))


def test_a_layer_that_is_trained_in_part_says_how_much():
    model = a_model()
    model[0].bias.requires_grad_(False)

    made = lines(summary(a_learner(model=model)))

    assert "0 Linear 4 x 8 32 24 of them" in made


def test_several_inputs_and_outputs_are_nested():
    x, z = torch.randn(4, 3), torch.randn(4, 2)
    learner = a_learner(
        model=Pair(), train=[(x, z, torch.zeros(4))], loss_func=lambda pred, y: None
    )

    made = lines(summary(learner))

    assert made[0] == "Pair (input shape: (4 x 3, 4 x 2))"
    assert "left Linear 4 x 4 16 yes" in made


def test_a_layer_that_is_not_called_comes_last_and_counts():
    made = model_summary(Pair(), torch.randn(4, 3), torch.randn(4, 2))

    assert lines(made)[5] == "unused Linear (not called) 30 yes"
    assert made.num_params == 16 + 12 + 30


def test_mapping_batches_reach_the_model_as_keywords():
    batch = {"x": torch.randn(4, 3), "z": torch.randn(4, 2), "labels": torch.zeros(4)}
    learner = a_learner(model=Pair(), train=[batch], loss_func=lambda pred, y: None)

    made = lines(summary(learner))

    assert made[0] == "Pair (input shape: {x: 4 x 3, z: 4 x 2})"
    assert "right Linear 4 x 4 12 yes" in made


def test_a_layer_that_is_called_again_is_one_row():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    made = model_summary(Twice(), torch.zeros(2, 3))

    assert "layer Linear 2 x 3 (called 2 times) 12 yes" in lines(made)


def test_shared_parameters_are_counted_once_below():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight

    made = model_summary(model, torch.zeros(2, 4))

    assert [row.num_params for row in made.layers] == [16, 16]
    assert made.num_params == 16


def test_layers_come_in_the_order_of_their_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 1), nn.Linear(2, 3)

        def forward(self, x):
            return self.last(self.first(x))

    made = model_summary(Backwards(), torch.zeros(2, 2))

    assert [row.name for row in made.layers] == ["first", "last"]


def test_a_batch_of_ones_own_can_be_given():
    made = summary(a_learner(), (torch.zeros(7, 3), torch.zeros(7, 1)))

    assert made.inputs == "7 x 3"


def test_a_lazy_model_gets_its_shapes():
    made = model_summary(nn.LazyLinear(2), torch.zeros(4, 5))

    assert made.num_params == 12


def test_shapes_are_said_in_words():
    data = [torch.zeros(2, 3), {"a": torch.tensor(1.0)}, None]

    assert shape_in_words(data) == "(2 x 3, {a: number}, None)"


# ---- nothing notices ----------------------------------------------------------


def everything(learner):
    return copy.deepcopy(
        {
            "model": list(learner.model.state_dict().values()),
            "modes": [module.training for module in learner.model.modules()],
            "random": torch.get_rng_state(),
            "loop": [learner.epoch, learner.iter, learner.train_iter],
            "hooks": [len(m._forward_hooks) for m in learner.model.modules()],
            "results": learner.results,
        }
    )


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_nothing_changes_before_or_after_a_fit():
    learner = a_learner()
    for _ in range(2):
        before = everything(learner)

        summary(learner)

        assert_same(everything(learner), before)
        learner.fit(1)


def test_training_is_the_same_with_a_summary_inside_it():
    class Look(Callback):
        def after_batch(self):
            summary(self.learn)

    def weights(*cbs):
        learner = a_learner(*cbs)
        learner.fit(2)
        return list(learner.model.state_dict().values())

    assert_same(weights(Look()), weights())


def test_a_plain_model_is_left_as_it_was():
    model = a_model()
    model[1].eval()
    before = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    model_summary(model, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))

    assert [module.training for module in model] == [True, False, True, True]
    assert_same(list(model.state_dict().values()), list(before[0].values()))
    assert torch.equal(torch.get_rng_state(), before[1])


def test_buffers_that_a_model_changes_in_eval_mode_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.layer = nn.Linear(3, 1)

        def forward(self, x):
            self.count += 1
            return self.layer(x)

    learner = a_learner(model=Counting())

    summary(learner)

    assert learner.model.count == 0


def test_an_error_of_the_model_leaves_no_hook_behind():
    learner = a_learner()
    before = everything(learner)

    with pytest.raises(RuntimeError):
        summary(learner, (torch.zeros(4, 99), torch.zeros(4, 1)))

    assert_same(everything(learner), before)


def test_a_loss_that_cannot_take_the_batch_does_not_matter():
    def refuse(pred, y):
        raise AssertionError("the loss was asked for")

    assert summary(a_learner(loss_func=refuse)).num_params == 57


def test_a_model_with_a_loss_of_its_own_is_summed_up():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x, y):
            return (self.layer(x) - y).square().mean()

    made = lines(summary(a_learner(model=Own(), loss_func=None)))

    assert "Loss: the model's own" in made
    assert made[0] == "Own (input shape: (4 x 3, 4 x 1))"


def test_a_generator_is_not_robbed_of_its_first_batch():
    train = iter([(torch.zeros(4, 3), torch.zeros(4, 1))])
    learner = a_learner(train=train)

    with pytest.raises(DataError, match=r"give learn\.summary\(batch="):
        summary(learner)

    assert len(list(train)) == 1


def test_a_batch_that_another_plugin_cancels_is_an_error():
    class Cancel(Callback):
        stages = ("predict",)

        def before_batch(self):
            raise CancelBatchException

    with pytest.raises(CallboardError, match="the model was not called"):
        summary(a_learner(Cancel()))
