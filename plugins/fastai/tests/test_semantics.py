"""Events, losses, records and weights are those that fastai 2.8.12 itself produced.

``oracle.json`` holds what ``record.py`` recorded where fastai is installed.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "fastai_case_names", Path(__file__).with_name("cases.py")
)
CASES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CASES)
# A fit with these dies in fastai's own Recorder.
FAILS_IN_FASTAI = ("CancelEpoch in before_epoch", "CancelFit in before_fit")


@pytest.fixture(params=[name for name in CASES.CASES if name not in FAILS_IN_FASTAI])
def ours_and_fastais(request, cases, oracle):
    """What one case does here, and what it did under fastai."""
    made = cases.run("callboard_fastai", cases.CASES[request.param])
    return json.loads(json.dumps(made)), oracle[request.param]


def test_events_fire_as_in_fastai(ours_and_fastais):
    ours, fastais = ours_and_fastais

    assert ours["trace"] == fastais["trace"]


def test_callbacks_see_what_they_see_in_fastai(ours_and_fastais):
    ours, fastais = ours_and_fastais

    assert ours["said"] == fastais["said"]


def test_weights_are_those_of_fastai(ours_and_fastais):
    ours, fastais = ours_and_fastais

    assert ours["weights"] == pytest.approx(fastais["weights"], rel=1e-4)


def test_the_record_is_that_of_fastai(ours_and_fastais):
    ours, fastais = ours_and_fastais

    columns = ("values", "losses", "iters", "names")
    assert {c: ours[c] for c in columns} == {c: fastais[c] for c in columns}


@pytest.mark.parametrize("name", FAILS_IN_FASTAI)
def test_cancels_before_the_recorder_do_no_harm(name, cases, oracle):
    assert oracle[name] == {"error": "AttributeError"}

    ours = cases.run("callboard_fastai", cases.CASES[name])

    assert ours["trace"][-1] == "after_fit"


def test_every_case_was_recorded(cases, oracle):
    assert oracle.keys() == {*cases.CASES, "optimized"}
    assert oracle["optimized"].keys() == cases.OPTIMIZED.keys()


@pytest.mark.parametrize("is_cycle", [False, True], ids=["fit", "one cycle"])
@pytest.mark.parametrize("name", CASES.OPTIMIZED)
def test_optimizers_step_and_decay_as_in_fastai(name, is_cycle, cases, oracle):
    ours = cases.optimized("callboard_fastai", cases.OPTIMIZED[name], is_cycle)

    expected = oracle["optimized"][name][is_cycle]
    assert ours == pytest.approx(expected, rel=1e-5, abs=2e-6)
