"""``callboard order --explain A B``: who runs first, where, and who declared it."""

import json
from pathlib import Path

import pytest
from tests.command_line import run

TRAIN = """\
import torch
from callboard import Callback, DataLoaders, Learner, hookimpl

class Early(Callback):
    run_before = "middle"
    def before_fit(self): ...
    def after_epoch(self): ...
    def do_predict(self): ...
    def teardown(self): ...

class Middle(Callback):
    def after_epoch(self): ...

class Late(Callback):
    run_after = "middle"
    def after_epoch(self): ...
    @hookimpl(wrapper=True)
    def do_predict(self): return (yield)
    def teardown(self): ...

class Other(Callback):
    @hookimpl(tryfirst=True)
    def after_epoch(self): ...

class Apart(Callback):
    def before_step(self): ...

def learner():
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    loss = torch.nn.MSELoss()
    cbs = [Late, Middle, Early, Other, Apart]
    return Learner(DataLoaders(batches), torch.nn.Linear(1, 1), loss, cbs=cbs)
"""


@pytest.fixture(autouse=True)
def train(shop):
    Path("train.py").write_text(TRAIN)


def explain(one, other):
    text = run("order", "train.py", "--explain", one, other, "--json").stdout
    return json.loads(text)


def test_the_chain_names_who_declared_each_of_its_links():
    text = run("order", "train.py", "--explain", "late", "early").stdout

    assert text.startswith(
        "early runs before late because of\n"
        '  early before middle: early declares run_before = "middle" (train.py)\n'
        '  middle before late: late declares run_after = "middle" (train.py)\n'
    )


def test_every_event_of_both_is_told_with_who_runs_first_there():
    events = {e["event"]: e for e in explain("late", "early")["events"]}

    assert set(events) == {"after_epoch", "do_predict", "teardown"}
    firsts = {name: event["first"] for name, event in events.items()}
    assert firsts == {"after_epoch": "early", "do_predict": "late", "teardown": "late"}
    assert events["after_epoch"]["because"] == ""
    assert events["do_predict"]["around"] == ["late"]
    assert "wrappers run around" in events["do_predict"]["because"]
    assert events["teardown"]["because"] == "plugins are torn down in reverse"


def test_without_a_constraint_the_tie_break_is_told_and_how_to_settle_it():
    text = run("order", "train.py", "--explain", "middle", "other").stdout

    assert "no constraint orders the two" in text
    assert "middle was given before other" in text.replace("\n", " ")
    assert "declare run_before or run_after" in text


def test_a_marker_of_pluggy_that_turns_the_order_round_is_told():
    (event,) = explain("middle", "other")["events"]

    assert (event["first"], event["because"]) == (
        "other",
        "tryfirst or trylast says so",
    )


def test_two_that_never_meet_are_said_to():
    text = run("order", "train.py", "--explain", "middle", "apart").stdout

    assert "They listen to no event together" in text
    assert "declare run_before" not in text


def test_a_plugin_and_itself_are_one_and_the_same():
    text = run("order", "train.py", "--explain", "middle", "middle").stdout

    assert text == "middle is one and the same plugin.\n"


def test_an_installed_plugin_that_is_not_active_is_pointed_to_why(shop):
    shop.install("shop-lamps", callbacks={"lamp": "shop_lamps:Lamp"})

    error = run("order", "train.py", "--explain", "lamp", "late", code=2).stderr

    assert 'No active plugin has the key "lamp"' in error
    assert "callboard plugins why lamp" in error


def test_a_name_that_is_not_active_gets_a_suggestion_or_where_to_get_it(monkeypatch):
    monkeypatch.setattr("callboard.metadata.names_in_extras", lambda: ["tide"])

    def refusal(name):
        return run("order", "train.py", "--explain", name, "late", code=2).stderr

    assert 'Did you mean "middle"?' in refusal("midle")
    assert "python -m pip install callboard-tide" in " ".join(refusal("tide").split())


def test_many_active_plugins_are_counted_and_not_listed(monkeypatch):
    monkeypatch.setattr("callboard.explaining.MAX_LISTED", 2)

    error = run("order", "train.py", "--explain", "nobody", "late", code=2).stderr

    assert "which `callboard order` lists" in " ".join(error.split())
    assert "middle" not in error
