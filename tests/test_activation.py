"""From names, classes, instances and configuration to the plugins of one Learner."""

import json
import sys
from collections.abc import Mapping
from types import ModuleType

import pytest
import torch
from torch import nn

from callboard import Callback, DataLoaders, Learner, hookimpl
from callboard.configuration import CommandLine, command_line
from callboard.errors import (
    ActivationError,
    CallboardWarning,
    ConfigurationError,
    DoubledPluginError,
    OptionError,
    UnknownPluginError,
)
from callboard.testing import Site

MODULE = """
from callboard import Callback, hookimpl

class Lamp(Callback):
    role = "observe"

    def __init__(self, *, brightness: float = 0.5, colours: list[str] | None = None):
        self.brightness, self.colours = brightness, colours

    def after_batch(self):
        pass

class Mixer(Callback):
    name = "mixer"
    def __init__(self, alpha: float):
        self.alpha = alpha
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions, before all others on the path."""
    import callboard.discovery

    folder = tmp_path / "site"
    made = Site(folder)
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    before = set(sys.modules)
    callboard.discovery.refresh()
    yield made
    for name in set(sys.modules) - before:
        if name.startswith("shop_"):
            del sys.modules[name]
    callboard.discovery.refresh()


@pytest.fixture
def lamps(site, monkeypatch):
    """One distribution with an automatic observer and one to be named."""
    allow_only(monkeypatch, site, "shop-lamps")
    site.install(
        "shop-lamps",
        "2.1",
        plugins={"lamp": "shop_lamps:Lamp"},
        callbacks={"mixer": "shop_lamps:Mixer"},
        modules={"shop_lamps": MODULE},
    )
    return site


def allow_only(monkeypatch, site, *distributions):
    names = json.dumps(list(distributions))
    (site.folder.parent / "callboard.toml").write_text(f"allow = {names}\n")


def configure(site, text):
    (site.folder.parent / "callboard.toml").write_text(text)


def a_learner(cbs=None):
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    return Learner(
        DataLoaders(batches, batches), nn.Linear(1, 1), nn.MSELoss(), cbs=cbs
    )


def test_an_automatic_plugin_takes_part_as_soon_as_it_is_installed(lamps):
    learner = a_learner()

    assert learner.cbs.keys() == ("lamp",)
    member = learner.cbs.members[0]
    assert (member.origin, member.reason) == (("shop-lamps", "2.1"), "installed")


def test_a_callback_takes_part_when_it_is_named(lamps):
    configure(lamps, 'allow = ["shop-lamps"]\n[options.mixer]\nalpha = 0.25\n')

    learner = a_learner("mixer")

    assert learner.cbs["mixer"].alpha == 0.25
    assert learner.mixer is learner.cbs["mixer"]


def test_the_users_instance_replaces_the_automatic_one(lamps):
    from shop_lamps import Lamp

    mine = Lamp(brightness=0.9)
    learner = a_learner(mine)

    assert list(learner.cbs) == [mine]


def test_an_instance_of_a_subclass_replaces_the_automatic_one_too(lamps):
    from shop_lamps import Lamp

    class Lantern(Lamp):
        pass

    assert a_learner(Lantern).cbs.keys() == ("lantern",)


def test_a_replacement_for_one_fit_gives_way_to_the_automatic_one_afterwards(lamps):
    from shop_lamps import Lamp

    learner = a_learner()
    automatic = learner.lamp
    seen = []

    class Look(Callback):
        def before_fit(self):
            seen.append(self.learn.lamp.brightness)

    learner.fit(1, cbs=[Lamp(brightness=0.9), Look])

    assert seen == [0.9]
    assert learner.lamp is automatic


@pytest.mark.parametrize("value", ["lamp", "x,lamp", " lamp , y"])
def test_the_environment_disables_by_name(lamps, monkeypatch, value):
    monkeypatch.setenv("CALLBOARD_DISABLE", value)

    assert a_learner().cbs.keys() == ()


def test_what_is_disabled_stays_out_by_whatever_way_it_was_asked_for(
    lamps, monkeypatch
):
    from shop_lamps import Lamp

    monkeypatch.setenv("CALLBOARD_DISABLE", "lamp")

    learner = a_learner([Lamp()])
    learner.add_cb(Lamp())
    learner.add_cb("lamp")
    learner.add_cb(Lamp)

    assert learner.cbs.keys() == ()


def test_the_command_line_overrides_the_environment(lamps, monkeypatch):
    monkeypatch.setenv("CALLBOARD_DISABLE", "lamp,mixer")

    with command_line(CommandLine(with_plugins=(("mixer", {"alpha": "0.5"}),))):
        learner = a_learner()

    assert learner.cbs["mixer"].alpha == 0.5
    assert learner.cbs.keys() == ("mixer",)


def test_with_on_the_command_line_replaces_the_instance_in_the_program(lamps):
    from shop_lamps import Mixer

    with command_line(CommandLine(with_plugins=(("mixer", {"alpha": "0.5"}),))):
        learner = a_learner([Mixer(0.1)])

    assert learner.cbs["mixer"].alpha == 0.5
    assert len(learner.cbs[Callback]) == 2


def test_without_on_the_command_line_takes_out_what_the_program_named(lamps):
    from shop_lamps import Mixer

    with command_line(CommandLine(without=("mixer", "lamp"))):
        assert a_learner([Mixer(0.1)]).cbs.keys() == ()


def test_autoload_can_be_switched_off_and_a_name_still_works(lamps, monkeypatch):
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")

    assert a_learner().cbs.keys() == ()
    assert a_learner("lamp").cbs.keys() == ("lamp",)


def test_allow_keeps_other_distributions_from_joining_by_themselves(lamps):
    configure(lamps, 'allow = ["somebody-else"]\n')

    assert a_learner().cbs.keys() == ()


def test_enable_in_the_configuration_makes_a_callback_take_part(lamps):
    configure(
        lamps,
        'allow = ["shop-lamps"]\nenable = ["mixer"]\n[options.mixer]\nalpha = 1\n',
    )

    learner = a_learner()

    assert learner.cbs.keys() == ("lamp", "mixer")
    assert learner.cbs.members[1].reason == "enable in callboard.toml"


def test_what_is_enabled_and_not_there_is_told_with_who_enables_it(lamps):
    configure(lamps, 'enable = ["mixr"]\n')

    with pytest.raises(UnknownPluginError, match='Did you mean "mixer"') as caught:
        a_learner()

    assert caught.value.__notes__ == ["callboard: enable in callboard.toml names mixr"]


def test_configuration_stands_in_pyproject_too_and_the_nearest_file_counts(
    lamps, monkeypatch
):
    folder = lamps.folder.parent
    (folder / "callboard.toml").unlink()
    (folder / "pyproject.toml").write_text(
        '[tool.callboard]\nallow = ["shop-lamps"]\ndisable = ["lamp"]\n'
    )
    inner = folder / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)

    assert a_learner().cbs.keys() == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disabled = ['x']", "unknown key 'disabled'.*Did you mean \"disable\""),
        ("disable = 'lamp'", "disable must be a list of names"),
        ("autoload = 'no'", "autoload must be true or false"),
        ("[options]\nlamp = 3", "options must be one table a plugin"),
        ("disable = [", "cannot be read as TOML"),
    ],
)
def test_a_wrong_configuration_file_is_named_with_what_is_wrong(lamps, text, message):
    configure(lamps, text)

    with pytest.raises(ConfigurationError, match=rf"callboard\.toml.*{message}"):
        a_learner()


def test_a_wrong_switch_in_the_environment_is_refused(lamps, monkeypatch):
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "maybe")

    with pytest.raises(ConfigurationError, match="must be 0 or 1, got 'maybe'"):
        a_learner()


def test_a_broken_automatic_plugin_is_warned_about_and_stops_nobody(lamps):
    allow = '["shop-lamps", "shop-broken"]'
    configure(lamps, f"allow = {allow}\n")
    lamps.install(
        "shop-broken",
        plugins={"wreck": "shop_broken:Wreck"},
        modules={"shop_broken": "import a_module_that_nobody_has"},
    )

    with pytest.warns(CallboardWarning, match=r"wreck \(shop-broken 1\.0\).*a_module"):
        learner = a_learner()

    assert learner.cbs.keys() == ("lamp",)


def test_a_module_that_raises_at_import_is_reported_when_it_is_named(lamps):
    lamps.install(
        "shop-broken",
        callbacks={"wreck": "shop_broken:Wreck"},
        modules={"shop_broken": "1 / 0"},
    )

    with pytest.raises(Exception, match=r"shop-broken 1\.0.*ZeroDivisionError"):
        a_learner("wreck")


def test_an_automatic_plugin_that_would_change_training_takes_no_part(lamps):
    configure(lamps, 'allow = ["shop-pushy"]\n')
    lamps.install(
        "shop-pushy",
        plugins={"pushy": "shop_pushy:Pushy"},
        modules={
            "shop_pushy": "from callboard import Callback\nclass Pushy(Callback): pass"
        },
    )

    with pytest.warns(CallboardWarning, match="only observers may join"):
        assert a_learner().cbs.keys() == ()


def test_a_name_that_two_distributions_claim_is_an_error_that_names_both(lamps):
    lamps.install(
        "shop-rival",
        callbacks={"mixer": "shop_rival:Mixer"},
        modules={"shop_rival": MODULE},
    )

    with pytest.raises(DoubledPluginError, match=r"shop-lamps 2\.1.*shop-rival 1\.0"):
        a_learner("mixer")


def test_a_wrong_name_gets_a_suggestion(lamps):
    with pytest.raises(UnknownPluginError, match='Did you mean "mixer"'):
        a_learner("mixr")


def test_a_wrong_option_names_the_plugins_own(lamps):
    line = CommandLine(with_plugins=(("lamp", {"brightnes": "1"}),))

    with (
        command_line(line),
        pytest.raises(OptionError, match=r'brightness, colours.*mean "brightness"'),
    ):
        a_learner()


@pytest.mark.parametrize(
    ("text", "value"), [("0.25", 0.25), ("1", 1.0), ("1e-3", 0.001)]
)
def test_text_becomes_what_the_annotation_asks_for(lamps, text, value):
    with command_line(CommandLine(with_plugins=(("lamp", {"brightness": text}),))):
        assert a_learner().lamp.brightness == value


def test_a_list_is_read_from_text(lamps):
    line = CommandLine(with_plugins=(("lamp", {"colours": "['red', 'blue']"}),))
    with command_line(line):
        assert a_learner().lamp.colours == ["red", "blue"]


def test_a_value_of_the_wrong_type_names_plugin_option_and_value(lamps):
    line = CommandLine(with_plugins=(("lamp", {"brightness": "dim"}),))

    with (
        command_line(line),
        pytest.raises(
            OptionError, match=r"--with lamp: lamp: option brightness.*'dim'"
        ),
    ):
        a_learner()


def test_an_option_that_must_be_given_is_asked_for(lamps):
    with pytest.raises(OptionError, match=r"mixer cannot be made without alpha: float"):
        a_learner("mixer")


def test_what_a_plugin_requires_must_be_active(lamps, monkeypatch):
    class Reader(Callback):
        requires = "lamp"

    assert set(a_learner(Reader).cbs.keys()) == {"lamp", "reader"}

    monkeypatch.setenv("CALLBOARD_DISABLE", "lamp")
    with pytest.raises(ActivationError, match="disabled by CALLBOARD_DISABLE"):
        a_learner(Reader)


def test_a_requirement_that_is_not_installed_says_who_offers_it(lamps):
    class Reader(Callback):
        requires = "no-such-plugin"

    with pytest.raises(ActivationError, match=r"'no-such-plugin'.*not installed"):
        a_learner(Reader)


def test_plugins_that_conflict_are_refused_together(lamps):
    class Dark(Callback):
        conflicts_with = "lamp"

    with pytest.raises(ActivationError, match=r"dark.*conflicts with.*lamp"):
        a_learner(Dark)


def test_a_conflict_is_refused_with_the_reason_that_was_declared(lamps):
    class Dark(Callback):
        conflicts_with: Mapping[str, str] = {"lamp": "it is not dark"}

    with pytest.raises(ActivationError, match=r"lamp.*, since it is not dark"):
        a_learner(Dark)


def test_one_object_cannot_take_part_twice(lamps):
    class Once(Callback):
        pass

    once = Once()
    with pytest.raises(ActivationError, match="added twice"):
        a_learner([once, once])

    learner = a_learner(once)
    with pytest.raises(ActivationError, match="added twice"):
        learner.fit(1, cbs=once)
    assert learner.once is once


def test_a_module_with_hookimpls_is_a_plugin(lamps):
    module = ModuleType("night_watch")
    seen = []

    @hookimpl
    def after_epoch(learner):
        seen.append(learner.epoch)

    module.after_epoch = after_epoch
    learner = a_learner(module)
    learner.fit(2)

    assert seen == [0, 1]
    assert "night-watch" in learner.cbs


@pytest.mark.parametrize("thing", [3, object(), ModuleType("empty"), nn.Linear(1, 1)])
def test_a_thing_that_is_no_plugin_is_refused_in_words(lamps, thing):
    with pytest.raises(ActivationError, match="is no plugin"):
        a_learner([thing])
