"""The loss of every single item, of whatever kind the loss function is."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from callboard.errors import OptionError
from callboard.losses import item_losses, reduction_of

SCORES = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
CLASSES = torch.tensor([0, 0, 1])
EACH = functional.cross_entropy(SCORES, CLASSES, reduction="none")


@pytest.mark.parametrize(
    "loss_func",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(reduction="none"),
        functional.cross_entropy,
        partial(functional.cross_entropy, reduction="sum"),
    ],
)
def test_item_losses_are_those_before_reduction(loss_func):
    torch.testing.assert_close(item_losses(loss_func, SCORES, (CLASSES,)), EACH)


@pytest.mark.parametrize(
    ("loss_func", "reduction"),
    [
        (nn.MSELoss(), "mean"),
        (nn.MSELoss(reduction="sum"), "sum"),
        (functional.mse_loss, "mean"),
        (partial(functional.mse_loss, reduction="sum"), "sum"),
        (lambda pred, label: pred, None),
        (max, None),
    ],
)
def test_reduction_is_what_the_loss_function_does_by_itself(loss_func, reduction):
    assert reduction_of(loss_func) == reduction


def test_loss_function_is_as_before_even_when_it_fails():
    loss_func = nn.CrossEntropyLoss(reduction="sum")

    with pytest.raises(IndexError):
        item_losses(loss_func, SCORES, (torch.tensor([0, 1, 7]),))

    assert loss_func.reduction == "sum"


def test_losses_of_every_position_keep_the_items_first():
    scores, classes = torch.randn(4, 5, 3), torch.zeros(4, 3, dtype=torch.long)

    losses = item_losses(nn.CrossEntropyLoss(), scores, (classes,))

    assert losses.shape == (4, 3)


def test_function_without_a_reduction_is_refused_by_name_with_what_to_give():
    def my_loss(pred, label):
        return functional.cross_entropy(pred, label)

    with pytest.raises(OptionError, match=r"my_loss .*nn\.CrossEntropyLoss\(\)"):
        item_losses(my_loss, SCORES, (CLASSES,))


def test_loss_that_reduces_all_the_same_is_refused_with_its_shape():
    class Stubborn(nn.Module):
        reduction = "mean"

        def forward(self, pred, label):
            return functional.cross_entropy(pred, label)

    with pytest.raises(OptionError, match=r"Stubborn .* shape \(\) for 3 items"):
        item_losses(Stubborn(), SCORES, (CLASSES,))
