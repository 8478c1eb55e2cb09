"""The random streams that data holds are found, wherever they are held."""

import random
import sys
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from callboard.streams import all_streams, left_as_they_were, own_streams

OF_THE_MODULE = random.Random(0)
HELD = (np.random.default_rng(0), np.random.RandomState(0), random.Random(0))


class Holder:
    def __init__(self, stream):
        self.stream = stream


class Slotted:
    __slots__ = ("empty", "stream")

    def __init__(self, stream):
        self.stream = stream


class Derived(Slotted):
    """It has slots and a __dict__."""


class Transform(nn.Module):
    def __init__(self, stream):
        super().__init__()
        self.stream = stream


class Careful:
    @property
    def costly(self):
        raise AssertionError("looking has run a property")

    def __getattr__(self, name):
        raise AssertionError("looking has asked for an attribute")


def keeper(stream):
    def draw(scale=1):
        return scale * stream.random()

    return draw


def with_default(index, stream=OF_THE_MODULE):
    return stream.random()


def with_global(index):
    return [OF_THE_MODULE.random() for _ in range(index)]


class OfTheModule:
    def __getitem__(self, index):
        return with_global(index)


def draw(stream):
    if isinstance(stream, torch.Generator):
        return torch.rand((), generator=stream).item()
    return stream.random()


Pair = namedtuple("Pair", "one other")
WAYS = {
    "itself": lambda stream: stream,
    "attribute": Holder,
    "slot": Slotted,
    "slot of a base": Derived,
    "list": lambda stream: [1, [2, stream]],
    "mapping": lambda stream: {"a": {"b": stream}},
    "named tuple": lambda stream: Pair(1, stream),
    "modules": lambda stream: nn.Sequential(nn.ReLU(), Transform(stream)),
    "closure": keeper,
    "partial": lambda stream: partial(draw, stream),
    "bound method": lambda stream: stream.random,
    "bound method of a holder": lambda stream: Holder(Holder(stream)).__init__,
    "dataset of torch": lambda stream: torch.utils.data.Subset(Holder(stream), [0]),
}


@pytest.mark.parametrize("stream", HELD, ids=lambda stream: type(stream).__name__)
@pytest.mark.parametrize("way", WAYS)
def test_a_stream_is_found_set_and_left_as_it_was(way, stream):
    held = WAYS[way](stream)

    def drawn():
        for set_stream in all_streams(held):
            set_stream(7)
        return draw(stream)

    assert len(own_streams(held)) == 1
    with left_as_they_were(held):
        first = drawn()
        assert drawn() == first
    after = draw(stream)
    with left_as_they_were(held):
        drawn()
    assert draw(stream) != after  # it goes on from where it was, not from a seed


def test_a_generator_of_torch_is_found_too():
    generator = torch.Generator()

    [stream] = own_streams(Holder([generator]))
    stream.set(5)

    assert draw(generator) == draw(torch.Generator().manual_seed(5))


@pytest.mark.parametrize("held", [with_default, with_global, OfTheModule()])
def test_one_that_only_code_names_is_found(held):
    assert len(own_streams(held)) == 1


def test_two_streams_do_not_draw_the_same():
    one, other = random.Random(0), random.Random(0)

    for set_stream in all_streams([one, other]):
        set_stream(3)

    assert one.random() != other.random()


def test_a_stream_that_is_held_twice_is_set_once():
    stream = random.Random(0)

    assert len(own_streams(Holder(stream), [stream, {"a": stream}])) == 1


NO_STREAMS = {
    "random": random.random,
    "numpy": np.random,
    "numpy's function": np.random.rand,
    "torch's generator": torch.default_generator,
    "torch's function": torch.rand,
    "the system's": random.SystemRandom(),
    "numbers": [0.5] * 10,
    "nothing": None,
    "text": "text",
    "guarded attributes": Careful(),
    "a module": sys,
}


@pytest.mark.parametrize("name", NO_STREAMS)
def test_the_global_streams_and_what_is_no_stream_are_left_out(name):
    assert own_streams(NO_STREAMS[name]) == []


def test_circles_and_large_containers_end():
    circle = [random.Random(0)]
    circle.append(circle)
    large = [[number] for number in range(100_000)]

    assert len(own_streams(circle, large, {"more": large})) == 1
