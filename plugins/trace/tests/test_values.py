"""What is kept of a value: it tells two apart, bit for bit, whatever they are."""

import pytest
import torch

from callboard_trace.values import MAX_PARTS, parts_of, value_of, value_of_tensors

NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), -torch.zeros(2)),  # equal numbers, other bits
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])),
        (torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
        (torch.tensor([1 + 2j]), torch.tensor([1 - 2j])),
        (1, 1.0),
        (1, True),
        ("1", 1),
        (None, 0),
        ((0.9, 0.99), (0.9, 0.999)),
        (object(), object()),
    ],
)
def test_what_is_not_the_same_is_told_apart(one, other):
    assert value_of(one).identity != value_of(other).identity


@pytest.mark.parametrize(
    "thing",
    [
        torch.tensor([NAN, 1.0]),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([1 + 2j]).conj(),
        torch.zeros(0),
        torch.tensor(3.0),
        NAN,
        [1, "a", None],
    ],
)
def test_what_is_the_same_is_told_to_be(thing):
    copied = thing.clone() if isinstance(thing, torch.Tensor) else thing

    assert value_of(thing).identity == value_of(copied).identity


def test_of_a_tensor_shape_dtype_mean_and_digest_are_kept():
    data = value_of(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).as_data()

    assert (data["shape"], data["dtype"], data["mean"]) == ((2,), "bfloat16", 1.5)
    assert len(data["digest"]) == 16


def test_a_mean_that_json_cannot_hold_is_text():
    assert value_of(torch.tensor([NAN])).as_data()["mean"] == "nan"
    assert value_of(torch.tensor([float("inf")])).as_data()["mean"] == "inf"


def test_tensors_without_bits_are_said_to_have_none():
    for tensor in (torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
        assert "cannot be read" in value_of(tensor).text


def test_several_tensors_are_told_as_one_and_in_their_order():
    one, other = torch.tensor([1.0]), torch.tensor([3.0, 5.0])

    both = value_of_tensors([one, other])

    assert (both.shape, both.mean) == ((3,), 3.0)
    assert both.identity != value_of_tensors([other, one]).identity


def test_what_has_not_changed_is_given_back_as_it_was_known():
    known = value_of(torch.ones(3))

    assert value_of(torch.ones(3), known) is known


def test_parts_of_a_batch_are_named_and_bounded():
    batch = {"ids": 1, "more": [2, (3,)]}

    assert dict(parts_of("xb", batch)) == {
        "xb.ids": 1,
        "xb.more[0]": 2,
        "xb.more[1]": 3,
    }
    assert dict(parts_of("xb", (5,))) == {"xb": 5}
    assert len(list(parts_of("xb", list(range(1000))))) == MAX_PARTS
