"""Faults of installed plugins are told from their source, and verdicts remembered."""

import json
import os
import sys

import pytest

from callboard import discovery
from callboard.discovery import InstalledPlugin
from callboard.errors import BrokenPluginError, CallboardError, OptionError
from callboard.inspection import inspect_plugin
from callboard.testing import Site
from callboard.verdicts import remember, remember_failure, verdicts

CALLBACK = "from callboard import Callback, hookimpl\n\nclass Violet(Callback):\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages, first on sys.path."""
    made = Site(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(made.folder)
    discovery.refresh()
    yield made
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[name]
    discovery.refresh()


def violet(kind="callback", entry_point="shop_violet:Violet"):
    return InstalledPlugin("violet", kind, entry_point, "shop-violet", "1.0")


def reason_of(site, source, kind="callback", entry_point="shop_violet:Violet"):
    """The verdict on a plugin of this source; nothing of it is imported."""
    (site.folder / "shop_violet.py").write_text(source, encoding="utf-8")
    finding = inspect_plugin(violet(kind, entry_point))
    assert "shop_violet" not in sys.modules
    return finding.reason


def real_reason(installed):
    """What goes wrong when the plugin is really imported, or None."""
    try:
        installed.load()
    except CallboardError as error:
        return str(error)
    return None


def test_a_sound_plugin_is_not_found_fault_with(site):
    source = CALLBACK + (
        "    run_after = 'recorder'\n"
        "    def __init__(self, amount: float = 0.1): self.amount = amount\n"
        "    def after_epoch(self): ...\n"
        "    def before_batch(self, learner): ...\n"
        "    def on_exception(self, learner, exception): ...\n"
        "    def _before_lunch(self): ...\n"
        "    @hookimpl(wrapper=True)\n"
        "    def do_predict(self): return (yield)\n"
        "    @hookimpl(specname='after_fit')\n"
        "    def finish(self, learner): ...\n"
        "    @hookimpl(optionalhook=True)\n"
        "    def after_party(self): ...\n"
    )

    assert reason_of(site, source) is None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import a_module_that_nobody_has", "No module named 'a_module_that_nobody"),
        ("from a_module_that_nobody_has.deep import x", "named 'a_module_that_nobody"),
        ("raise RuntimeError('not today')", "RuntimeError: not today (line 1)"),
        ("raise RuntimeError", "raises RuntimeError (line 1)"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("x = [1, 2 % 0]", "ZeroDivisionError"),
        ("assert False, 'no'", "AssertionError"),
        ("class Violet(Calback): ...", "name 'Calback' is not defined"),
        ("limit = 3\nprint(limt)", "'limt' is not defined. Did you mean \"limit\"?"),
        ("def f(:\n    pass", "SyntaxError"),
        ("x = '\0'", "importing shop_violet raises"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_from_its_source(site, source, told):
    reason = reason_of(site, source)

    assert told in reason
    assert real_reason(violet()) is not None


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import a_module_that_nobody_has\nexcept ImportError: ...",
        "if False:\n    import a_module_that_nobody_has",
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from a_module_that_nobody_has import x",
        "def later():\n    import a_module_that_nobody_has",
        "import os.path, sys, callboard.callback",
        "if False:\n    raise RuntimeError",
        "from __future__ import annotations\n"
        "def f(x: Unknown = 1): return undefined_yet / 0",
        "x = lambda: undefined_yet",
        "x = [y for y in ()]\nz = 6 / 2",
        "from os.path import *\nprint(join('a', 'b'))",
        "globals()['made'] = 1\nmade",
        "'%s' % 0",
        "def setup():\n    global late\n    late = 1\nsetup()\nprint(late)",
        "if (n := 3) and n:\n    print(n)",
        "with open(__file__) as me:\n    print(me)",
    ],
)
def test_what_may_go_well_is_given_the_benefit_of_the_doubt(site, source):
    assert reason_of(site, f"{source}\nclass Violet: ...") is None
    assert real_reason(violet()) is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "    def after_epock(self): ...",
            "no event 'after_epock'. Did you mean \"aft",
        ),
        ("    def on_everything(self): ...", "no event 'on_everything'"),
        (
            "    def after_epoch(self, epoch): ...",
            "asks for 'epoch', which after_epoch",
        ),
        ("    def after_epoch(self, learner=None): ...", "gives 'learner' a default"),
        ("    def after_epoch(self, *, batch): ...", "takes 'batch' by keyword"),
        ("    @hookimpl\n    def epoch_over(self): ...", "no event 'epoch_over'"),
        (
            "    @hookimpl(specname='after_epoh')\n    def over(self): ...",
            "no event 'after_epoh'",
        ),
    ],
)
def test_a_wrong_hookimpl_of_a_callback_is_told_in_the_words_of_its_error(
    site, body, told
):
    reason = reason_of(site, CALLBACK + body)

    assert told in reason
    exact = reason.partition("raises ")[2].partition(" (line")[0]
    assert exact in real_reason(violet())


@pytest.mark.parametrize(
    ("source", "is_ours"),
    [
        ("import callboard\nclass Violet(callboard.Callback):", True),
        ("import callboard as cb\nclass Violet(cb.Callback):", True),
        ("from callboard import Callback as Base\nclass Violet(Base):", True),
        ("from callboard.callback import Callback\nclass Violet(Callback):", True),
        (
            "from callboard import Callback\nclass Base(Callback): ...\n"
            "class Violet(Base):",
            True,
        ),
        ("from unittest import TestCase as Callback\nclass Violet(Callback):", False),
        ("class Callback: ...\nclass Violet(Callback):", False),
    ],
)
def test_only_callbacks_of_callboard_are_held_to_its_events(site, source, is_ours):
    reason = reason_of(site, f"{source}\n    def after_epock(self): ...")

    assert (reason is not None) == is_ours
    assert (real_reason(violet()) is not None) == is_ours


def test_a_method_under_another_decorator_is_left_to_python(site):
    body = "    @property\n    def after_epock(self): ...\n"

    assert reason_of(site, CALLBACK + body) is None
    assert real_reason(violet()) is None


def test_a_module_plugin_is_held_to_the_events_by_its_marked_functions(site):
    source = (
        "from callboard import hookimpl\nrole = 'observe'\n"
        "def after_party(): ...\n"
        "@hookimpl\ndef {name}(learner): ...\n"
    )

    sound = reason_of(site, source.format(name="after_epoch"), "plugin", "shop_violet")
    wrong = reason_of(site, source.format(name="after_epock"), "plugin", "shop_violet")

    assert sound is None
    assert wrong.startswith("violet.after_epock: there is no event 'after_epock'.")


@pytest.mark.parametrize(
    ("source", "entry_point"),
    [
        (CALLBACK + "    pass", "shop_violet:Violet"),
        (CALLBACK + "    role = 'control'", "shop_violet:Violet"),
        ("x = 1", "shop_violet"),
        ("role = 'modify'", "shop_violet"),
    ],
)
def test_an_automatic_plugin_that_is_no_observer_is_told(site, source, entry_point):
    assert "only observers may join" in reason_of(site, source, "plugin", entry_point)


@pytest.mark.parametrize(
    ("source", "entry_point"),
    [
        (CALLBACK + "    role = 'observe'", "shop_violet:Violet"),
        (CALLBACK + "    role = ''.join(['obs', 'erve'])", "shop_violet:Violet"),
        ("import json\nclass Violet(json.JSONDecoder): ...", "shop_violet:Violet"),
        ("role = 'observe'", "shop_violet"),
        ("from os import *", "shop_violet"),
    ],
)
def test_a_role_that_may_be_right_is_left_alone(site, source, entry_point):
    assert reason_of(site, source, "plugin", entry_point) is None


def test_an_attribute_that_is_not_there_is_told_with_the_nearest(site):
    assert reason_of(site, "class Voilet: ...") == (
        'shop_violet has no "Violet". Did you mean "Voilet"?'
    )


@pytest.mark.parametrize(
    "source",
    [
        "from collections import OrderedDict as Violet",
        "import collections as Violet",
        "Violet = int",
        "Violet: type = int",
        "a, (b, Violet) = 1, (2, 3)",
        "if True:\n    class Violet: ...\nelse:\n    Violet = None",
        "try:\n    from os import Violet\nexcept ImportError:\n    Violet = None",
        "for Violet in range(3): ...",
        "from os import *\nfrom shop_other import *",
        "def __getattr__(name): return name",
        "import sys\nsetattr(sys.modules[__name__], 'Violet', 1)",
        "def make():\n    global Violet\n    Violet = 1\nmake()",
    ],
)
def test_an_attribute_may_come_about_in_any_way(site, source):
    (site.folder / "shop_other.py").write_text("Violet = 1")

    assert reason_of(site, source) is None
    assert real_reason(violet()) is None


def test_a_module_in_a_package_is_found_without_importing_the_package(site):
    package = site.folder / "shop_package"
    (package / "deep").mkdir(parents=True)
    for folder in (package, package / "deep"):
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "deep" / "violet.py").write_text("from .red import Red\nViolet = 1\n")

    reason = inspect_plugin(
        violet(entry_point="shop_package.deep.violet:Violet")
    ).reason
    assert "No module named 'shop_package.deep.red'" in reason

    (package / "deep" / "red.py").write_text("Red = 1")
    finding = inspect_plugin(violet(entry_point="shop_package.deep.violet:Violet"))
    assert finding == (package / "deep" / "violet.py", None)


@pytest.mark.parametrize(
    "entry_point", ["shop_nowhere:X", "json.nowhere:X", "os.nowhere.deep:X"]
)
def test_a_module_that_is_not_there_is_told(site, entry_point):
    name = entry_point.partition(":")[0]

    reason = inspect_plugin(violet(entry_point=entry_point)).reason

    assert f"No module named {name!r}" in reason


@pytest.mark.parametrize(
    "entry_point", ["sys:path", "_socket:socket", "", ":", "a..b:c"]
)
def test_what_has_no_source_is_left_to_python(site, entry_point):
    (site.folder / "shop_a" / "b" / "c").mkdir(parents=True)  # a namespace package

    assert inspect_plugin(violet(entry_point=entry_point)).file is None


# Remembering


@pytest.fixture
def wreck(site):
    source = "import a_module_that_nobody_has\n"
    site.install(
        "shop-wreck",
        callbacks={"wreck": "shop_wreck:Wreck"},
        modules={"shop_wreck": source},
    )
    discovery.refresh()
    return discovery.find("wreck")


def written(cache_folder):
    [file] = (cache_folder / "callboard").iterdir()
    return file


def pretend(cache_folder, reason):
    """Put a verdict in the cache that nobody would come to, to see it used."""
    file = written(cache_folder)
    kept = json.loads(file.read_text())
    for record in kept["records"].values():
        record[-1] = reason
    file.write_text(json.dumps(kept))


def test_a_verdict_is_remembered_for_the_next_listing(wreck, cache_folder):
    verdicts([wreck])
    pretend(cache_folder, "as remembered")

    assert verdicts([wreck]) == {wreck: "as remembered"}


def test_a_change_of_the_file_brings_a_new_verdict(wreck, site, cache_folder):
    verdicts([wreck])
    pretend(cache_folder, "as remembered")

    (site.folder / "shop_wreck.py").write_text("class Wreck: ...\n")

    assert verdicts([wreck]) == {}


def test_a_new_install_brings_a_new_verdict(wreck, site):
    assert wreck in verdicts([wreck])

    (site.folder / "a_module_that_nobody_has.py").write_text("")
    os.utime(site.folder, ns=(1, 1))  # clocks of file systems can be coarse

    (site.folder / "shop_wreck.py").write_text(
        "import a_module_that_nobody_has\nWreck = 1\n"
    )
    assert verdicts([wreck]) == {}


def test_a_module_that_appears_in_the_working_folder_is_seen(
    site, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    plugin = violet()
    assert plugin in verdicts([plugin])

    (tmp_path / "shop_violet.py").write_text("class Violet: ...")
    os.utime(tmp_path, ns=(1, 1))

    assert verdicts([plugin]) == {}


def test_a_failure_that_the_source_does_not_show_is_remembered(site):
    site.install(
        "shop-sly",
        callbacks={"sly": "shop_sly:Sly"},
        modules={"shop_sly": "int('x')\nclass Sly: ..."},
    )
    discovery.refresh()
    sly = discovery.find("sly")
    assert verdicts([sly]) == {}

    with pytest.raises(BrokenPluginError) as caught:
        sly.load()
    remember_failure(sly, caught.value)

    assert "importing shop_sly raised ValueError" in verdicts([sly])[sly]
    remember(sly, None)
    assert verdicts([sly]) == {}


def test_a_mistake_of_the_user_is_not_held_against_the_plugin(site):
    site.install(
        "shop-fine", callbacks={"fine": "shop_fine"}, modules={"shop_fine": ""}
    )
    discovery.refresh()
    fine = discovery.find("fine")

    remember_failure(fine, OptionError("fine has no option 'x'"))

    assert verdicts([fine]) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"surroundings": 1}', "\0", '{"records": []}']
)
def test_a_damaged_cache_is_done_without(wreck, cache_folder, text):
    verdicts([wreck])
    written(cache_folder).write_text(text)

    assert wreck in verdicts([wreck])


@pytest.mark.parametrize("record", [None, [], ["x"], [1, 2, 3], "abc", {"a": 1}])
def test_a_damaged_record_is_done_without(wreck, cache_folder, record):
    verdicts([wreck])
    file = written(cache_folder)
    kept = json.loads(file.read_text())
    kept["records"] = dict.fromkeys(kept["records"], record)
    file.write_text(json.dumps(kept))

    assert "No module named" in verdicts([wreck])[wreck]


def test_a_cache_that_cannot_be_written_is_done_without(wreck, cache_folder):
    (cache_folder / "callboard").write_text("a file where the folder should be")

    assert wreck in verdicts([wreck])
