"""``callboard plugins list``, ``show`` and ``check``."""

import json
import signal
import sys
from pathlib import Path

import pytest
from tests.command_line import run, run_python

LAMPS = '''\
"""Lamps that watch."""

import click
from callboard import Callback, hookimpl


class Lamp(Callback):
    """Shine at every batch.

    Args:
        brightness: How bright, from 0 to 1.
    """

    name = "lamp"
    role = "observe"

    def __init__(self, *, brightness: float = 0.5, colours: list[str] | None = None):
        self.brightness = brightness

    def after_batch(self):
        pass


class Mixer(Callback):
    name = "mixer"
    run_after = "lamp"
    requires = (Lamp,)
    order = 3

    def __init__(self, alpha: float):
        self.alpha = alpha

    def before_batch(self):
        pass

    @hookimpl(wrapper=True)
    def do_predict(self):
        return (yield)


def fit_slowly(learner, n_epoch: int, lr: float | None = None) -> None:
    """Fit without haste."""
    learner.fit(n_epoch, lr)


@click.command()
def lights():
    """Count the lights."""
    click.echo("four")
'''
TRAIN = """\
import torch
from torch import nn
from callboard import Callback, DataLoaders, Learner

class Own(Callback):
    run_after = "mixer"

    def after_epoch(self):
        pass

def learner():
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    dls = DataLoaders(batches, batches)
    return Learner(dls, nn.Linear(1, 1), nn.MSELoss(), cbs=[Own, "mixer"])
"""


@pytest.fixture
def lamps(shop):
    """One distribution with something in each of the four groups."""
    shop.install(
        "shop-lamps",
        "2.1",
        plugins={"lamp": "shop_lamps:Lamp"},
        callbacks={"mixer": "shop_lamps:Mixer"},
        methods={"fit_slowly": "shop_lamps:fit_slowly"},
        commands={"lights": "shop_lamps:lights"},
        modules={"shop_lamps": LAMPS},
    )
    return shop


def install_broken(shop):
    """One plugin for each way to be broken that the source shows."""
    sources = {
        "absent": "import a_module_that_nobody_has",
        "raising": "raise RuntimeError('not today')",
        "misspelt": "from callboard import Callback\n"
        "class Misspelt(Callback):\n    def after_epock(self): ...",
        "asking": "from callboard import Callback\n"
        "class Asking(Callback):\n    def after_epoch(self, epoch): ...",
        "nameless": "class Other: ...",
    }
    for name, source in sources.items():
        shop.install(
            f"shop-{name}",
            callbacks={name: f"shop_{name}:{name.capitalize()}"},
            modules={f"shop_{name}": source},
        )
    return {
        "absent": "No module named 'a_module_that_nobody_has'",
        "raising": "RuntimeError: not today",
        "misspelt": 'Did you mean "after_epoch"?',
        "asking": "asks for 'epoch'",
        "nameless": 'has no "Nameless"',
    }


def listed(*arguments):
    """The rows of ``plugins list --json``, by name."""
    rows = json.loads(run("plugins", "list", "--json", *arguments).stdout)
    return {row["name"]: row for row in rows}


def line_of(text, name):
    [line] = [line for line in text.splitlines() if f" {name} " in f" {line} "]
    return line.split()


def configure(text):
    Path("callboard.toml").write_text(text)


# list


def test_a_line_tells_name_status_source_and_reason(lamps):
    text = run("plugins", "list").stdout

    assert line_of(text, "lamp") == ["lamp", "active", "shop-lamps", "2.1", "installed"]
    assert line_of(text, "mixer")[:4] == ["mixer", "available", "shop-lamps", "2.1"]


def test_methods_and_commands_are_listed_when_all_is_asked_for(lamps):
    short = run("plugins", "list")
    long = run("plugins", "list", "--all").stdout

    assert "fit_slowly" not in short.stdout
    assert "--all lists them" in short.stderr
    assert line_of(long, "fit_slowly")[1:3] == ["method", "available"]
    assert line_of(long, "lights")[1:3] == ["command", "available"]


def test_json_lists_every_kind_with_all_that_is_known(lamps):
    rows = listed()

    assert rows["mixer"] == {
        "name": "mixer",
        "kind": "callback",
        "status": "available",
        "reason": "when it is named",
        "distribution": "shop-lamps",
        "version": "2.1",
        "entry_point": "shop_lamps:Mixer",
        "origin": "shop-lamps 2.1",
    }
    kinds = {rows[name]["kind"] for name in ("lamp", "mixer", "fit_slowly", "lights")}
    assert kinds == {"plugin", "callback", "method", "command"}


@pytest.mark.parametrize(
    ("configuration", "environment", "name", "status", "reason"),
    [
        ("", {}, "lamp", "active", "installed"),
        ("autoload = false", {}, "lamp", "disabled", "autoload = false in callboard.t"),
        ("allow = []", {}, "lamp", "disabled", "allow in callboard.toml does not name"),
        ("disable = ['lamp']", {}, "lamp", "disabled", "disable in callboard.toml"),
        ("enable = ['mixer']", {}, "mixer", "active", "enable in callboard.toml"),
        ("", {"CALLBOARD_DISABLE": "lamp"}, "lamp", "disabled", "CALLBOARD_DISABLE"),
        ("", {"CALLBOARD_AUTOLOAD": "0"}, "lamp", "disabled", "CALLBOARD_AUTOLOAD=0"),
        (
            "enable = ['mixer']",
            {"CALLBOARD_DISABLE": "mixer"},
            "mixer",
            "disabled",
            "CALLBOARD_DISABLE",
        ),
        (
            "autoload = false",
            {"CALLBOARD_AUTOLOAD": "1"},
            "lamp",
            "active",
            "installed",
        ),
    ],
)
def test_the_list_says_which_of_all_sources_decided(
    lamps, monkeypatch, configuration, environment, name, status, reason
):
    configure(configuration)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)

    row = listed()[name]

    assert row["status"] == status
    assert row["reason"].startswith(reason)


def test_broken_plugins_are_listed_with_their_reason_and_nothing_is_imported(lamps):
    reasons = install_broken(lamps)

    rows = listed()

    for name, reason in reasons.items():
        assert rows[name]["status"] == "broken"
        assert reason in rows[name]["reason"]
    assert rows["lamp"]["status"] == "active"
    assert not [name for name in sys.modules if name.startswith("shop_")]


def test_a_name_that_two_distributions_claim_is_broken_and_both_are_named(lamps):
    lamps.install("shop-rival", callbacks={"mixer": "shop_lamps:Mixer"})

    row = listed()["mixer"]

    assert row["status"] == "broken"
    assert "shop-lamps 2.1 and shop-rival 1.0 claim this name" in row["reason"]


def test_what_is_disabled_is_listed_as_disabled_even_if_it_is_broken(lamps):
    install_broken(lamps)
    configure("disable = ['raising']")

    assert listed()["raising"]["status"] == "disabled"


def test_damaged_metadata_is_told_of_beside_the_list(lamps):
    dist_info = lamps.install("shop-torn", callbacks={"torn": "shop_torn:Torn"})
    (dist_info / "METADATA").unlink()

    result = run("plugins", "list")

    assert "Warning: A distribution in" in result.stderr
    assert "lamp" in result.stdout


def test_a_wrong_configuration_file_is_one_message(lamps):
    configure("disabel = ['lamp']")

    result = run("plugins", "list", code=2)

    assert 'Did you mean "disable"?' in result.stderr


def test_with_a_target_the_plugins_of_its_learner_are_listed_in_order(lamps):
    configure("allow = ['shop-lamps']\n[options.mixer]\nalpha = 0.5")
    Path("train.py").write_text(TRAIN)

    text = run("plugins", "list", "train.py").stdout
    rows = listed("train.py")

    assert [line.split()[0] for line in text.splitlines()[1:]] == list(rows)
    assert list(rows) == ["lamp", "mixer", "own"]
    assert rows["own"] | {} == {
        "name": "own",
        "kind": "callback",
        "status": "active",
        "reason": "cbs",
        "distribution": None,
        "version": None,
        "entry_point": None,
        "origin": "train.py",
    }


def test_with_a_target_and_all_what_is_not_active_in_it_follows(lamps):
    configure("allow = ['shop-lamps']\n[options.mixer]\nalpha = 0.5")
    Path("train.py").write_text(TRAIN)
    lamps.install("shop-more", callbacks={"more": "shop_lamps:Mixer"})

    rows = listed("train.py", "--all")

    assert list(rows)[:3] == ["lamp", "mixer", "own"]
    assert rows["more"]["status"] == "available"
    assert rows["fit_slowly"]["kind"] == "method"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plugins", "list"], ["plugins", "list", "--json"], ["events"]],
)
def test_what_needs_no_plugin_imports_neither_torch_nor_anything_as_heavy(
    lamps, arguments
):
    code = (
        "import sys\nfrom callboard.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print('IMPORTED', *sys.modules)"
    )

    imported = run_python("-c", code, paths=[lamps.folder]).stdout.partition(
        "IMPORTED"
    )[2]

    heavy = {"torch", "rich", "pydantic", "numpy", "importlib_metadata", "shop_lamps"}
    assert not heavy & {*imported.split()}


# show


def test_show_tells_all_about_a_callback(lamps):
    text = run("plugins", "show", "mixer").stdout
    lines = [line.split(None, 1) for line in text.splitlines() if line.split()[1:]]
    facts = {line[0]: line[1] for line in lines}

    assert text.startswith("mixer: a callback of shop-lamps 2.1; available")
    assert facts["alpha"] == "float, required"
    assert facts["role"].startswith("modify")
    assert facts["events"] == "before_batch, do_predict (around)"
    assert facts["run_after"] == "lamp"
    assert facts["requires"] == "Lamp"
    assert facts["order"].startswith("3")
    assert facts["file"].endswith("shop_lamps.py")
    assert "callboard.callbacks: mixer = shop_lamps:Mixer" in text


def test_show_tells_what_a_plugin_does_and_its_options_with_types_and_defaults(lamps):
    text = run("plugins", "show", "lamp").stdout

    assert "Shine at every batch." in text
    assert "float, default 0.5" in text
    assert "list[str] | None, default None" in text
    assert "--without lamp" in text


def test_show_falls_back_on_what_the_module_says(lamps):
    assert "Lamps that watch." in run("plugins", "show", "mixer").stdout


def test_show_tells_how_a_method_is_called(lamps):
    text = run("plugins", "show", "fit_slowly").stdout

    assert "learner.fit_slowly(n_epoch, lr=None)" in text
    assert "Fit without haste." in text


def test_show_tells_what_a_command_does(lamps):
    text = run("plugins", "show", "lights").stdout

    assert "Count the lights." in text
    assert "callboard lights --help" in text


def test_show_of_a_wrong_name_suggests_the_right_one(lamps):
    assert 'Did you mean "mixer"?' in run("plugins", "show", "mixr", code=2).stderr


def test_show_of_a_broken_plugin_says_what_is_wrong(lamps):
    install_broken(lamps)

    result = run("plugins", "show", "raising", code=2)

    assert "shop-raising 1.0" in result.stderr
    assert "RuntimeError: not today" in result.stderr
    assert "Traceback" not in result.stderr


# check


@pytest.mark.parametrize("name", ["lamp", "mixer", "fit_slowly", "lights"])
def test_check_of_a_sound_plugin_is_content(lamps, name):
    text = run("plugins", "check", name).stdout

    assert text.startswith(f"ok  {name}")
    assert text.endswith("1 checked, nothing wrong\n")


def test_check_finds_every_broken_plugin_and_goes_on(lamps):
    reasons = install_broken(lamps)

    text = run("plugins", "check", code=1).stdout

    for name, reason in reasons.items():
        line = " ".join(line_of(text, name))
        assert line.startswith(f"wrong {name}")
        assert reason in line
    assert line_of(text, "lamp")[0] == "ok"


def check_source(shop, source, name="odd", group="callbacks", attribute="Odd", more=()):
    """What ``check`` says about one plugin of this source, which is wrong."""
    shop.install(
        f"shop-{name}",
        **{group: {name: f"shop_{name}:{attribute}"}},
        modules={f"shop_{name}": source},
    )
    return run("plugins", "check", name, *more, code=1).stdout


CALLBACK = "from callboard import Callback, hookimpl\nclass Odd(Callback):\n"


@pytest.mark.parametrize(
    ("source", "group", "told"),
    [
        (CALLBACK + "    name = 'even'", "callbacks", 'write name = "odd"'),
        (CALLBACK + "    run_after = 3", "callbacks", "run_after must name"),
        (CALLBACK + "    order = 'late'", "callbacks", "order must be a number"),
        (CALLBACK + "    stages = 'training'", "callbacks", "stages may name"),
        (CALLBACK + "    stages = ('fit', 'valid')", "callbacks", '"validate"?'),
        (
            CALLBACK + "    @property\n    def after_fit(self): ...",
            "callbacks",
            "Odd.after_fit is a property and no method",
        ),
        (CALLBACK + "    run_before = [3]", "callbacks", "run_before must name"),
        ("class Odd: ...", "callbacks", "is no plugin"),
        ("def Odd(learner): ...", "callbacks", "is no plugin"),
        (CALLBACK + "    pass", "plugins", "only observers may join"),
        (
            CALLBACK + "    role = 'observe'\n    def __init__(self, a): ...",
            "plugins",
            "cannot be made without a",
        ),
        (
            CALLBACK + "    role = 'observe'\n    def __init__(self): 1 / 0",
            "plugins",
            "making it raised ZeroDivisionError",
        ),
        (
            CALLBACK + "    @hookimpl(wrapper=True)\n    def do_step(self): return 1",
            "callbacks",
            "has no `yield`",
        ),
        ("Odd = 3", "methods", "is no function but int"),
        ("def Odd(): ...", "methods", "takes no argument"),
        ("def Odd(): ...", "commands", "is no click command but function"),
        ("import sys; sys.exit(3)", "commands", "SystemExit: 3"),
    ],
)
def test_check_finds_what_only_shows_in_use(shop, source, group, told):
    assert told in check_source(shop, source, group=group)


def test_check_doubts_a_target_that_is_nearly_a_name(lamps):
    lamps.install(
        "shop-odd",
        callbacks={"odd": "shop_odd:Odd"},
        modules={"shop_odd": CALLBACK + "    run_after = 'lammp'"},
    )

    text = run("plugins", "check", "odd").stdout

    assert 'doubt  odd: run_after names "lammp"' in text
    assert 'Did you mean "lamp"?' in text


def test_check_doubts_a_plugin_that_nothing_would_ever_call(lamps):
    lamps.install(
        "shop-odd",
        callbacks={"odd": "shop_odd:Odd"},
        modules={"shop_odd": CALLBACK + "    after_fit = None"},
    )

    text = run("plugins", "check", "odd", "--quick").stdout

    assert "doubt  odd: it listens to no event." in text


def test_a_plugin_that_breaks_a_rule_is_listed_as_wrong(shop):
    source = CALLBACK + "    def after_fit(self): raise ValueError('not today')"

    text = check_source(shop, source)

    assert text.startswith("wrong  odd  shop-odd 1.0  modify, 1 hookimpl\n")
    assert text.endswith("1 checked, 1 wrong\n")


def test_check_finds_a_plugin_that_cannot_be_made(shop):
    text = check_source(shop, CALLBACK + "    def __init__(self): 1 / 0")

    assert "wrong  odd: made" in text
    assert "making it raised ZeroDivisionError" in text


def test_check_says_the_same_as_json(lamps):
    sound = json.loads(run("plugins", "check", "lamp", "--json").stdout)
    odd = CALLBACK + "    name = 'odd'\n    def after_fit(self): 1 / 0"
    told = json.loads(check_source(lamps, odd, more=["--json"]))

    [lamp], [wrong] = sound["plugins"], told["plugins"]
    assert (lamp["name"], lamp["is_good"], sound["num_wrong"]) == ("lamp", True, 0)
    assert "repeatable" in lamp["trial"]["kept"]
    assert lamp["trial"]["cost"].keys() >= {"python_calls", "host_reads"}
    assert (wrong["is_good"], told["num_wrong"]) == (False, 1)
    assert "ZeroDivisionError" in wrong["trial"]["findings"][0]["happened"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no alarms")
def test_check_does_not_wait_for_an_import_that_never_ends(shop):
    text = check_source(shop, "import time\ntime.sleep(99)", more=["--timeout", "3"])

    assert "it had not come back after 3 seconds, in <module> (shop_odd.py:2)" in text


def test_check_doubts_a_plugin_that_nobody_says_how_to_make(shop):
    shop.install(
        "shop-odd",
        callbacks={"odd": "shop_odd:Odd"},
        modules={"shop_odd": CALLBACK + "    def __init__(self, n: int): ..."},
    )

    text = run("plugins", "check", "odd").stdout

    assert "doubt  odd: made" in text
    assert "cannot be made without n: int" in text


def test_check_finds_what_is_enabled_and_not_there(lamps):
    configure("enable = ['lammp']")

    text = run("plugins", "check", code=1).stdout

    assert "wrong  enable in callboard.toml names lammp: No installed" in text
    assert 'Did you mean "lamp"?' in text


def test_check_doubts_a_plugin_whose_client_is_not_installed(lamps):
    lamps.install(
        "shop-odd",
        callbacks={"odd": "shop_odd:Odd"},
        modules={"shop_odd": CALLBACK + "    pass"},
        requires=["no-such-client>=2", "click>=8", "other; sys_platform == 'none'"],
    )

    text = " ".join(run("plugins", "check", "odd", "--quick").stdout.split())

    told = "doubt odd: shop-odd needs no-such-client, which is not installed: python -m"
    assert told in text
    assert text.count("which is not installed") == 1
    assert text.endswith("nothing wrong")


def test_check_doubts_a_name_in_the_configuration_that_nobody_has(lamps):
    install_broken(lamps)
    configure("disable = ['lammp']\n[options.mixxer]\nalpha = 1")

    text = run("plugins", "check", code=1).stdout

    assert 'disable in callboard.toml names "lammp"' in text
    assert 'options in callboard.toml names "mixxer"' in text


def test_check_finds_a_ring_among_what_is_installed(lamps):
    for name, target in (("one", "two"), ("two", "one")):
        source = CALLBACK + f"    name = '{name}'\n    run_after = '{target}'"
        lamps.install(
            f"shop-{name}",
            callbacks={name: f"shop_{name}:Odd"},
            modules={f"shop_{name}": source},
        )

    everything = run("plugins", "check", code=1).stdout
    one = run("plugins", "check", "one", code=1).stdout
    mixer = run("plugins", "check", "mixer").stdout

    for text in (everything, one):
        assert "in a ring" in text
        assert "one before two: two declares run_after" in text
    assert "ring" not in mixer


def test_check_finds_a_conflict_among_what_would_be_active_together(lamps):
    source = CALLBACK + "    name = 'dark'\n    conflicts_with = 'lamp'"
    lamps.install(
        "shop-dark",
        callbacks={"dark": "shop_dark:Odd"},
        modules={"shop_dark": source},
    )

    assert "conflicts with lamp" in run("plugins", "check", "dark", code=1).stdout

    configure("allow = ['shop-lamps']\nenable = ['dark']")
    assert "conflicts with lamp" in run("plugins", "check", code=1).stdout


def test_check_brings_what_a_plugin_requires(lamps):
    lamps.install(
        "shop-shade",
        callbacks={"shade": "shop_shade:Shade", "stand": "shop_shade:Stand"},
        modules={
            "shop_shade": "from callboard import Callback\n"
            "class Stand(Callback):\n    name = 'stand'\n    requires = 'lamp'\n"
            "class Shade(Callback):\n    name = 'shade'\n    requires = ('stand',)\n"
        },
    )

    run("plugins", "check", "shade", "--quick")

    lamps.install(
        "shop-bulb",
        callbacks={"bulb": "shop_bulb:Bulb"},
        modules={
            "shop_bulb": "from callboard import Callback\n"
            "class Bulb(Callback):\n    name = 'bulb'\n    requires = 'socket'\n"
        },
    )
    checked = run("plugins", "check", "bulb", "--quick", code=1)
    assert "requires 'socket', which is not" in checked.stdout


def test_what_check_has_found_is_listed_as_broken_until_it_is_mended(lamps):
    check_source(lamps, "int('x')\nclass Odd: ...")
    assert "ValueError" in listed()["odd"]["reason"]

    (lamps.folder / "shop_odd.py").write_text(CALLBACK + "    pass\n")

    assert listed()["odd"]["status"] == "available"


@pytest.mark.filterwarnings("default")
def test_a_failure_in_a_run_is_listed_afterwards(shop):
    Path("train.py").write_text(TRAIN.replace(', "mixer"', ""))
    shop.install(
        "shop-lamps",
        plugins={"sly": "shop_sly:Sly"},
        modules={"shop_sly": "int('x')\nclass Sly: ..."},
    )
    assert listed()["sly"]["status"] == "active"

    result = run("plugins", "list", "train.py")

    assert (
        "Warning: sly (shop-lamps 1.0) is installed but takes no part" in result.stderr
    )
    assert "importing shop_sly raised ValueError" in listed()["sly"]["reason"]
