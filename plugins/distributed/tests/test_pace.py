"""How often processes tell each other what they want; the network is a stand-in."""

from types import SimpleNamespace

import pytest

from callboard_distributed.group import Group
from callboard_distributed.strategies import Replicated
from callboard_distributed.together import Together


class Network:
    """Takes every word at once, and counts them."""

    def __init__(self):
        self.sizes = []

    def allreduce(self, tensors, options):
        self.sizes += [tensor.nbytes for tensor in tensors]
        return self

    def wait(self):
        return True


def words_in(num_steps, world_size):
    network = Network()
    together = Together(None, Group(0, world_size, network), Replicated())
    learner = SimpleNamespace(non_finite=None, train_iter=0)
    for learner.train_iter in range(1, num_steps + 1):
        together.tell_and_answer(learner)
    return network.sizes


@pytest.mark.parametrize(
    ("world_size", "num_words"), [(2, 32), (64, 32), (65, 16), (128, 16), (1024, 2)]
)
def test_a_step_has_a_word_of_16_bytes_and_fewer_above_64_processes(
    world_size, num_words
):
    assert words_in(32, world_size) == [16] * num_words
