"""The loop by hand and ``callboard fit`` train the same, and what is said of both."""

from __future__ import annotations

import dataclasses
import json

import pytest

pytest.importorskip("sklearn")

from benchmarks.by_hand import loop, page, train
from benchmarks.by_hand.__main__ import WAYS, command
from benchmarks.by_hand.clock import RESULT, Clock
from benchmarks.by_hand.page import BY_HAND, Run, difference, text_of
from benchmarks.by_hand.tasks import TASKS, Shuffled

NUM_EPOCHS = 2


def a_run(way, epochs, valid_losses, program=10.0, chosen=()):
    seconds = sum(epochs)
    return Run(
        "digits", way, [*chosen], seconds, seconds, epochs, valid_losses, program
    )


def test_both_train_the_same_curve(tmp_path, monkeypatch):
    task = dataclasses.replace(TASKS["digits"], num_epochs=NUM_EPOCHS, goal=0.0)
    monkeypatch.setitem(TASKS, "digits", task)
    monkeypatch.setenv(RESULT, str(tmp_path / "result.json"))
    by_hand = Clock()
    loop.train(task, task.model(), *task.data(), by_hand)

    train.digits().fit(NUM_EPOCHS)

    told = json.loads((tmp_path / "result.json").read_text())
    assert told["valid_losses"] == pytest.approx(by_hand.valid_losses, rel=1e-4)
    assert len(told["epochs"]) == NUM_EPOCHS
    assert sum(told["epochs"]) == pytest.approx(told["processor"])


def test_an_order_hangs_on_its_epoch_alone():
    one, other = Shuffled(10), Shuffled(10)
    first = list(one)
    one.set_epoch(1)
    second = list(one)

    assert first == list(other)
    assert sorted(second) == sorted(first)
    assert second != first


def test_what_is_done_once_is_told_apart_from_epochs():
    run = a_run("", [5.0, 1.0, 1.0, 1.0], [1.0] * 4)

    assert run.per_epoch == 1.0
    assert run.to_begin_with == 4.0


def test_the_difference_of_two_curves_is_that_of_their_common_epochs():
    one, other = a_run("", [1.0], [2.0, 1.1, 9.0]), a_run("", [1.0], [2.0, 1.0])

    assert difference(one, other) == pytest.approx(0.1)


def test_the_page_tells_ratios_and_who_did_not_get_there():
    runs = [
        a_run("`callboard fit --fast`", [1.5, 1.5], [0.5, 0.07], 8.0, ["fast: x: on"]),
        a_run(BY_HAND, [2.0, 2.0], [0.5, 0.07]),
        a_run("`callboard fit`", [2.0, 2.0], [0.5, 0.4]),
    ]

    text = text_of(runs)

    row = "| `callboard fit --fast` | 3.0 s | 0.75 | 0.75 | 0.80 | 0.0 s | 3.0 s | 2 |"
    assert row in text
    assert "| 2, not down |" in text
    assert "fast: x: on" in text
    assert "**No way came down to 0.7 of the time.**" in text


def test_the_page_names_who_reached_the_goal():
    runs = [a_run(BY_HAND, [2.0, 2.0], [0.5]), a_run("a way", [1.0, 1.0], [0.5])]

    assert page.verdict(runs) == "**Down to 0.7 of the time or less came a way.**"


def test_every_way_is_a_command():
    for options in WAYS.values():
        assert command("digits", options)[1] == "-m"
    assert page.PAGE.parent.name == "docs"
