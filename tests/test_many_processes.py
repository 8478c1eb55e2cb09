"""What docs/distributed.md says of many processes: a sample of it, and its tables."""

import json
import os
import re

import pytest
from benchmarks.processes import cost, losses, page, word
from benchmarks.processes.cost import Cost
from benchmarks.processes.losses import Compared
from benchmarks.processes.word import Word, num_hops

CORE_CALLS = 8
OWN_CALLS = 8


def a_cost(calls=16.0, ours=(1.1, 1.2, 1.3)):
    return Cost("ddp", 2, calls, 1, 0, 1, 16, [1.0] * len(ours), [*ours], 11.0)


def test_a_step_in_two_processes_costs_no_more_than_the_core_and_as_much_again():
    found = cost.measured("ddp", 2, only_counts=True)

    assert found.python_calls <= CORE_CALLS + OWN_CALLS
    assert found.tensor_operations <= 1
    assert found.host_reads == 0
    assert (found.collectives, found.bytes) == (1, 16)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied")
def test_a_word_is_timed_between_processes_that_do_nothing_else():
    found = word.timed(2)

    assert 0 < found.seconds_to_ask < found.seconds
    assert found.seconds_a_hop == found.seconds / 2


def test_a_word_goes_round_twice():
    assert [num_hops(number) for number in (2, 8, 1024)] == [2, 14, 2046]


def test_the_language_model_tells_the_loss_of_every_step(tmp_path):
    learner = losses.learner(str(tmp_path / "losses.json"), 6000)
    learner.add_cb("recorder")

    learner.fit(1)

    told = json.loads((tmp_path / "losses.json").read_text())
    assert len(told["steps"]) == learner.train_iter
    assert told["valid_loss"] == learner.results["valid_loss"]


def test_losses_are_the_same_where_no_step_differs_by_more_than_a_millionth():
    same = Compared("ddp", 2, [0.0, 9e-7], 0.0)
    other = Compared("fsdp2", 4, [0.0, 2e-6], 0.0)

    assert "**is within 1e-06**" in "\n".join(page.losses_table([same]))
    text = "\n".join(page.losses_table([same, other]))
    assert "| FSDP2 | 4 | 2e-06 | 2e-06 | 0e+00 |" in text
    assert "**is not within 1e-06**" in text


def test_the_table_of_a_step_tells_counts_and_ratios():
    text = "\n".join(page.step_table([a_cost()]))

    assert "+16 | +1 | +0 | +1 | +16 | 1000.0 ms | 1.20 (1.15 to 1.25) |" in text
    assert "Of the 16 calls at most 8 are the core's own, and 8 those" in text


def test_the_model_counts_hops_and_says_below_which_step_one_waits():
    text = "\n".join(page.model_table([a_cost()]))

    # 2 * 1023 hops of 20 and 50 us; a word every 16 steps
    assert "| 1,024 | +16 | 16 bytes | 16 steps | 2,046 | 40.9 ms | 2.6 ms |" in text
    assert "| 102.3 ms | 6.4 ms |" in text
    assert "has 11 collectives" in text


def test_the_table_of_words_tells_what_a_hop_takes():
    text = "\n".join(page.word_table([Word(8, 0.00084, 0.000006)]))

    assert "| 8 | 14 | 6 µs | 0.84 ms | 60 µs |" in text


def test_the_page_shows_the_recipes_as_they_are():
    text = page.PAGE.read_text("utf-8")

    assert page.with_parts(text, {}) == text


def test_every_measured_part_has_a_place_on_the_page():
    text = page.PAGE.read_text("utf-8")
    names = page.parts([Compared("ddp", 2, [0.0], 0.0)], [a_cost()], [])

    assert set(re.findall("<!-- begin (.+) -->", text)) == {*names, *page.RECIPES}
