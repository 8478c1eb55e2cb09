"""``callboard order``."""

import json
from pathlib import Path

import pytest
from tests.command_line import run

MODULE = """\
from callboard import Callback, hookimpl

class {cls}(Callback):
    name = "{name}"
    role = "{role}"
    run_after = {after!r}

    def __init__(self, needed{default}):
        raise RuntimeError("nobody makes me")

    def after_epoch(self): ...
    def teardown(self): ...

    @hookimpl(wrapper=True)
    def do_predict(self): return (yield)
"""
TRAIN = """\
import torch
from callboard import Callback, DataLoaders, Learner

class First(Callback):
    def after_epoch(self): ...
    def teardown(self): ...

class Second(First):
    run_after = "first"

def learner():
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    loss = torch.nn.MSELoss()
    dls = DataLoaders(batches)
    return Learner(dls, torch.nn.Linear(1, 1), loss, cbs=[Second, First])
"""


@pytest.fixture
def chain(shop):
    """Callbacks one after two after three, none of which can be made."""
    for name, after in (("one", "two"), ("two", "three"), ("three", ())):
        source = MODULE.format(
            name=name, cls=name.capitalize(), after=after, role="modify", default=""
        )
        shop.install(
            f"shop-{name}",
            callbacks={name: f"shop_{name}:{name.capitalize()}"},
            modules={f"shop_{name}": source},
        )
    return shop


@pytest.fixture
def train(shop):
    Path("train.py").write_text(TRAIN)
    return "train.py"


def ours(names):
    return [name for name in names if name in ("one", "two", "three")]


def test_the_order_of_a_learner_is_told_and_the_loop_with_who_runs_where(train):
    text = run("order", train).stdout

    assert text.startswith("first > second\n")
    assert "\n        after_epoch: first > second\n" in text
    assert "\nteardown: second > first\n" in text


def test_without_a_target_the_order_of_all_that_is_installed_is_told(chain):
    order = json.loads(run("order", "--json").stdout)

    assert ours(order["order"]) == ["three", "two", "one"]
    assert ours(entry["plugin"] for entry in order["events"]["after_epoch"]) == [
        *("three", "two", "one")
    ]
    assert ours(entry["plugin"] for entry in order["events"]["teardown"]) == [
        *("one", "two", "three")
    ]
    assert {
        "before": "two",
        "after": "one",
        "declared_by": "one",
        "attribute": "run_after",
    } in order["constraints"]


def test_who_runs_at_one_event_is_told_first_to_last(chain):
    lines = run("order", "--event", "do_predict").stdout.splitlines()

    names = [line.split()[1] for line in lines]
    assert ours(names) == ["three", "two", "one"]
    assert all("(around)" in line for line in lines if ours(line.split()))
    assert lines[-1].endswith("the loop's own work")


def test_an_event_at_which_nobody_runs_says_so(train):
    text = run("order", train, "--event", "before_step").stdout

    assert text == "Nobody runs at before_step.\n"


def test_a_wrong_event_gets_a_suggestion_before_anything_is_loaded():
    result = run("order", "no_such_file.py", "--event", "after_epock", code=2)

    assert 'Did you mean "after_epoch"?' in result.stderr


def test_the_chain_of_reasons_between_two_plugins_is_told(chain):
    text = run("order", "--explain", "one", "three").stdout

    assert text.startswith("three runs before one because of\n")
    assert 'three before two: two declares run_after = "three"' in text
    assert 'two before one: one declares run_after = "two"' in text


def test_the_chain_of_reasons_is_there_as_json(chain):
    explanation = json.loads(run("order", "--explain", "three", "one", "--json").stdout)

    assert (explanation["first"], explanation["second"]) == ("three", "one")
    assert [link["before"] for link in explanation["chain"]] == ["three", "two"]


def test_a_wrong_name_to_explain_gets_a_suggestion(chain):
    result = run("order", "--explain", "one", "thre", code=2)

    assert 'Did you mean "three"?' in result.stderr


def test_a_broken_plugin_is_left_out_with_a_warning(chain):
    chain.install(
        "shop-torn",
        callbacks={"torn": "shop_torn:Torn"},
        modules={"shop_torn": "import a_module_that_nobody_has"},
    )

    result = run("order", "--json")

    assert "Warning: torn (shop-torn 1.0) is left out" in result.stderr
    assert ours(json.loads(result.stdout)["order"]) == ["three", "two", "one"]


def test_what_is_disabled_is_left_out(chain):
    Path("callboard.toml").write_text("disable = ['two']")

    order = json.loads(run("order", "--json").stdout)

    assert set(ours(order["order"])) == {"one", "three"}


def test_a_ring_is_one_message_that_prints_it(chain):
    source = MODULE.format(
        name="three", cls="Three", after="one", role="modify", default=""
    )
    (chain.folder / "shop_three.py").write_text(source)

    result = run("order", code=2)

    assert "in a ring" in result.stderr
    assert 'three declares run_after = "one"' in result.stderr


def test_event_and_explain_exclude_each_other():
    arguments = ["--event", "after_fit", "--explain", "a", "b"]

    assert "either" in run("order", *arguments, code=2).stderr


def test_the_plugins_of_a_command_line_take_part_in_the_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)

    given = ["train.py", "--with", "mixup:alpha=0.3", "--without", "second"]
    answer = json.loads(run("order", *given, "--json").stdout)

    assert answer["order"] == ["first", "mixup"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--with", "mixup"], "are of a TARGET"),
        (["train.py", "--with", "mixup:alpa=1"], 'Did you mean "alpha"?'),
        (["train.py", "--without", "thrid"], 'no plugin is named "thrid"'),
        (["train.py", "-o", "width=3"], "width"),
    ],
)
def test_a_wrong_plugin_of_the_command_line_is_refused(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)

    assert message in run("order", *arguments, code=2).stderr
