"""``callboard.testing``: tiny Learners, comparisons, events, faults and counts."""

import os
import signal
import sys

import pytest
import torch
from tests.command_line import run_python

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard.testing import (
    KINDS,
    InjectedError,
    assert_same_run,
    cancel_at,
    cost_of,
    raise_at,
    record_events,
    tiny_learner,
)

KILLED = """
from callboard.testing import kill_at, tiny_learner
try:
    tiny_learner(cbs=kill_at("after_step", nth=2)).fit(1)
finally:
    print("tidied up")
"""


class Draw(Callback):
    def before_batch(self):
        self.rng.random()


# ---- tiny Learners ----------------------------------------------------------------


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_two_tiny_learners_of_a_kind_train_the_same(kind, valid):
    one, other = (tiny_learner(kind, valid=valid) for _ in range(2))

    for learner in (one, other):
        learner.fit(2)

    assert_same_run(one, other)


def test_another_seed_trains_otherwise():
    one, other = tiny_learner(seed=0), tiny_learner(seed=1)

    for learner in (one, other):
        learner.fit(1)

    with pytest.raises(AssertionError, match=r"model\.0\.weight is not the same in"):
        assert_same_run(one, other)


def test_making_a_tiny_learner_leaves_the_global_stream_alone():
    before = torch.get_rng_state()

    tiny_learner()

    assert torch.equal(torch.get_rng_state(), before)


def test_a_kind_that_there_is_not_gets_the_nearest_one():
    with pytest.raises(OptionError, match='Did you mean "regression"'):
        tiny_learner("regresion")


# ---- comparisons ------------------------------------------------------------------


def test_runs_are_compared_bit_for_bit():
    one, other = tiny_learner(), tiny_learner()
    with torch.no_grad():
        other.model[0].bias[2] = torch.nextafter(
            other.model[0].bias[2], torch.tensor(9.0)
        )

    with pytest.raises(AssertionError, match=r"model\.0\.bias is not the same in 1 of"):
        assert_same_run(one, other)


def test_plugins_count_unless_they_are_left_out():
    plain, drawing = tiny_learner(), tiny_learner(cbs=Draw)
    for learner in (plain, drawing):
        learner.fit(1)

    assert_same_run(plain, drawing, plugins=False)
    with pytest.raises(AssertionError, match=r"only the second one has streams\.draw"):
        assert_same_run(plain, drawing)


def test_not_a_number_is_the_same_as_itself():
    one, other = tiny_learner(), tiny_learner()
    for learner in (one, other):
        learner.results["loss"] = float("nan")

    assert_same_run(one, other)


# ---- events and faults ------------------------------------------------------------


def test_recorded_events_are_those_that_fired():
    learner = tiny_learner(valid=False)
    seen = record_events(learner)

    learner.fit(1)

    assert seen[:4] == ["before_fit", "before_epoch", "before_train", "before_batch"]
    assert seen[-1] == "teardown"
    assert seen.count("after_batch") == 3


def test_actions_and_spans_are_recorded_where_they_are_asked_for():
    learner = tiny_learner(valid=False)
    seen = record_events(learner, ("action", "span"))

    learner.fit(1)

    assert seen[:4] == ["do_epoch", "do_train", "do_batch", "do_predict"]


def test_an_error_is_raised_at_the_nth_time():
    learner = tiny_learner(cbs=raise_at("after_loss", nth=2))

    with pytest.raises(InjectedError, match="on purpose, at after_loss"):
        learner.fit(1)

    assert learner.iter == 1


def test_any_error_can_be_raised():
    with pytest.raises(KeyboardInterrupt):
        tiny_learner(cbs=raise_at("do_step", error=KeyboardInterrupt())).fit(1)


@pytest.mark.parametrize(
    ("event", "level"),
    [
        ("before_step", "step"),
        ("before_backward", "backward"),
        ("after_loss", "batch"),
        ("after_batch", "train"),
        ("before_validate", "validate"),
        ("after_train", "epoch"),
        ("before_epoch", "epoch"),
        ("after_epoch", "fit"),
        ("before_fit", "fit"),
    ],
)
def test_the_innermost_level_that_is_open_is_cancelled(event, level):
    learner = tiny_learner(cbs=cancel_at(event, reason="enough"))

    learner.fit(2)

    [reason] = learner.record.reasons
    assert (reason.what, reason.reason, reason.plugin) == (level, "enough", "fault")


def test_a_level_further_out_can_be_chosen():
    learner = tiny_learner(cbs=cancel_at("before_step", "fit"))

    learner.fit(2)

    assert (learner.epoch, learner.train_iter) == (0, 0)


@pytest.mark.parametrize("make", [raise_at, cancel_at])
def test_a_fault_at_no_event_is_refused(make):
    with pytest.raises(OptionError, match='Did you mean "after_loss"'):
        make("after_los")


def test_nothing_can_be_cancelled_where_nothing_is_open():
    with pytest.raises(OptionError, match="nothing is open at teardown"):
        cancel_at("teardown")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals to kill by")
def test_a_killed_process_tidies_nothing_up():
    killed = run_python("-c", KILLED, code=-signal.SIGKILL)

    assert "tidied up" not in killed.stdout


# ---- counts and imports -----------------------------------------------------------


def test_what_is_printed_while_costs_are_counted_is_not_shown(capsys):
    class Loud(Callback):
        def after_fit(self):
            print("a table")

    cost_of(Loud)

    assert capsys.readouterr().out == ""


def test_the_cost_of_a_plugin_is_what_it_adds_to_a_step():
    cost = cost_of(Draw)

    assert cost.python_calls >= 2
    assert cost.host_reads == 1  # RandomStream.random reads a number


def test_the_kit_imports_torch_only_when_it_is_used():
    code = (
        "import sys, callboard.testing, callboard.testing.pytest_plugin\n"
        "from callboard.testing import Site\n"
        "assert 'torch' not in sys.modules"
    )

    run_python("-c", code)


def test_the_core_does_not_import_the_kit():
    code = (
        "import sys, callboard, callboard.learner, callboard.cli\n"
        "assert 'callboard.testing' not in sys.modules"
    )

    run_python("-c", code)


def test_a_made_up_distribution_counts_as_installed(callboard_site):
    callboard_site.install(
        "strange-violet",
        callbacks={"violet": "strange_violet:Violet"},
        modules={
            "strange_violet": "from callboard import Callback\n"
            "class Violet(Callback):\n    def after_epoch(self): ..."
        },
    )

    learner: Learner = tiny_learner(cbs="violet")

    assert learner.cbs.keys() == ("violet",)


@pytest.mark.parametrize(
    ("switch", "joins"), [(None, False), ("0", False), ("1", True)]
)
def test_what_joins_by_being_installed_stays_out_of_a_tiny_learner_unless_asked_for(
    callboard_site, monkeypatch, switch, joins
):
    callboard_site.install(
        "shop-eager",
        plugins={"eager": "shop_eager:Eager"},
        modules={
            "shop_eager": "from callboard import Callback\n"
            "class Eager(Callback):\n    name, role = 'eager', 'observe'\n"
            "    def after_fit(self): ..."
        },
    )
    if switch is None:
        monkeypatch.delenv("CALLBOARD_AUTOLOAD")
    else:
        monkeypatch.setenv("CALLBOARD_AUTOLOAD", switch)

    names = [cb.name for cb in tiny_learner().cbs]

    assert ("eager" in names) is joins
    assert os.environ.get("CALLBOARD_AUTOLOAD") == switch
