"""``callboard plugins why``: what made a plugin active, or kept it out."""

import json
from pathlib import Path

import pytest
from tests.command_line import run

LAMPS = """\
from callboard import Callback

class Lamp(Callback):
    name = "lamp"
    role = "observe"
    def after_epoch(self): ...

class Shade(Callback):
    name = "shade"
    role = "observe"
    requires = "bulb"
    def after_epoch(self): ...

class Bulb(Callback):
    name = "bulb"
    conflicts_with = "candle"
    def after_epoch(self): ...

class Candle(Callback):
    name = "candle"
    def after_epoch(self): ...

def glow(learner): ...
"""
TRAIN = """\
import torch
from callboard import Callback, DataLoaders, Learner

class Own(Callback):
    requires = "bulb"
    def after_epoch(self): ...

def made(cbs):
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    loss = torch.nn.MSELoss()
    return Learner(DataLoaders(batches), torch.nn.Linear(1, 1), loss, cbs=cbs)

def learner():
    return made([Own, "bulb", "bulb"])

def plain():
    return made([])

def burning():
    return made(["bulb", "candle"])

def off():
    own = Own()
    own.run = False
    return made(["bulb", own])
"""


@pytest.fixture
def train(shop):
    shop.install(
        "shop-lamps",
        plugins={"lamp": "shop_lamps:Lamp", "shade": "shop_lamps:Shade"},
        callbacks={"bulb": "shop_lamps:Bulb", "candle": "shop_lamps:Candle"},
        methods={"glow": "shop_lamps:glow"},
        modules={"shop_lamps": LAMPS},
    )
    Path("train.py").write_text(TRAIN)
    return "train.py"


def why(*arguments):
    return json.loads(run("plugins", "why", *arguments, "--json").stdout)


def test_what_joins_by_being_installed_says_so_and_how_to_leave_it_out(train):
    text = run("plugins", "why", "lamp", train).stdout

    assert text.startswith(
        "lamp is active in train.py: it joins every Learner by being installed.\n"
    )
    assert "installed      shop-lamps 1.0 (plugin)" in text
    assert "--without lamp" in text


def test_without_a_target_it_is_told_what_is_so_in_every_learner(train):
    assert run("plugins", "why", "lamp").stdout.startswith(
        "lamp is active in every Learner: it joins"
    )
    assert run("plugins", "why", "bulb").stdout.startswith(
        "bulb is not active by itself: it takes part when it is named"
    )


def test_who_named_it_and_who_requires_it_are_told(train):
    answer = why("bulb", train)

    assert answer["is_active"]
    assert answer["keys"] == ["bulb", "bulb-2"]
    assert "bulb-2: the program gives it in cbs" in answer["reason"]
    assert answer["facts"]["required by"] == "shade, own"
    assert answer["facts"]["conflicts with"] == "candle"


def test_a_key_of_one_of_several_is_asked_about_alone(train):
    assert why("bulb-2", train)["keys"] == ["bulb-2"]


def test_a_callback_of_the_users_own_is_told_by_its_file(train):
    answer = why("own", train)

    assert answer["reason"] == "the program gives it in cbs."
    assert answer["facts"]["installed"] == "no"
    assert answer["facts"]["code"] == "train.py"
    assert answer["facts"]["requires"] == "bulb"


def test_one_that_is_switched_off_is_active_and_says_that_it_is_off(train):
    facts = why("own", f"{train}:off")["facts"]

    assert facts["switched off"] == "own.run is False"


def test_the_command_line_is_named_where_it_decided(train):
    assert why("bulb", f"{train}:plain", "--with", "bulb")["reason"] == (
        "--with bulb names it."
    )
    answer = why("lamp", f"{train}:plain", "--without", "lamp")
    assert (answer["status"], answer["reason"]) == (
        "disabled",
        "--without lamp keeps it out.",
    )


def test_a_configuration_file_is_named_where_it_decided(train):
    Path("callboard.toml").write_text('enable = ["candle"]\ndisable = ["lamp"]\n')

    answer = why("candle", f"{train}:plain")
    assert answer["is_active"]
    assert answer["reason"] == "enable in callboard.toml names it."
    assert answer["facts"]["configuration"].endswith("callboard.toml")
    assert why("lamp")["facts"]["disabled by"] == "disable in callboard.toml"


@pytest.mark.parametrize(
    ("variable", "value"), [("CALLBOARD_DISABLE", "lamp"), ("CALLBOARD_AUTOLOAD", "0")]
)
def test_a_variable_is_named_where_it_decided(train, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)

    answer = why("lamp", f"{train}:plain")

    assert (answer["is_active"], answer["status"]) == (False, "disabled")
    assert variable in answer["reason"]
    assert answer["remedy"] == "--with lamp lets it take part all the same."


def test_a_list_of_allowed_distributions_is_named_where_it_decided(train):
    Path("callboard.toml").write_text('allow = ["another"]\n')

    assert "allow in callboard.toml" in why("lamp", f"{train}:plain")["reason"]


def test_an_automatic_one_whose_requirement_is_not_active_says_which(train):
    answer = why("shade", f"{train}:plain")

    assert (answer["is_active"], answer["status"]) == (False, "left out")
    assert "requires bulb, which is not active" in answer["reason"]
    assert answer["facts"]["is missing"] == "bulb, which it requires"


def test_one_that_would_clash_says_with_whom(train):
    Path("train.py").write_text(TRAIN.replace("made([])", 'made(["candle"])'))

    answer = why("bulb", "train.py:plain")

    assert answer["facts"]["is in the way"] == "candle, it conflicts with it"


def test_where_a_conflict_leaves_no_learner_that_is_the_reason(train):
    answer = why("bulb", f"{train}:burning")

    assert not answer["is_active"]
    assert "bulb (shop-lamps 1.0) declares that it conflicts with" in answer["reason"]


def test_a_broken_one_says_what_is_wrong(train, shop):
    shop.install(
        "shop-torn",
        callbacks={"torn": "shop_torn:Torn"},
        modules={"shop_torn": "import a_module_that_nobody_has"},
    )

    answer = why("torn")

    assert answer["status"] == "broken"
    assert "No module named 'a_module_that_nobody_has'" in answer["reason"]
    assert "plugins check torn" in answer["remedy"]


def test_a_name_that_two_claim_says_who(train, shop):
    shop.install(
        "shop-rivals",
        callbacks={"lamp": "shop_rivals:Lamp"},
        modules={"shop_rivals": LAMPS},
    )

    answer = why("lamp")

    assert answer["status"] == "broken"
    for rival in ("shop-lamps 1.0", "shop-rivals 1.0", "claim this name"):
        assert rival in answer["reason"]


def refusal(*arguments):
    result = run("plugins", "why", *arguments, code=2)
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def test_a_name_that_nobody_knows_is_refused_with_a_suggestion(train):
    assert refusal("lmap") == (
        'Error: No installed plugin is named "lmap". Did you mean "lamp"?'
    )
    assert refusal("lmap", "train.py") == (
        'Error: No installed plugin, and none in the Learner, is named "lmap". '
        'Did you mean "lamp"?'
    )


def test_what_is_not_installed_and_known_says_where_to_get_it(train, monkeypatch):
    monkeypatch.setattr("callboard.metadata.names_in_extras", lambda: ["tide"])

    answer = why("tide")

    assert answer["status"] == "not installed"
    assert "python -m pip install callboard-tide" in answer["remedy"]


def test_a_target_that_gives_no_learner_is_refused(train):
    assert refusal("lamp", "nowhere.py") == "Error: nowhere.py does not exist."


def test_a_method_takes_no_part(train):
    assert why("glow")["reason"] == "it is a method, which takes no part in the loop."
