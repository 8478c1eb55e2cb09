"""Where the configuration is found, and how it meets what a program asks for."""

from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import torch
from torch import nn

from callboard import DataLoaders, Learner, discovery
from callboard.configuration import find_file, load_configuration
from callboard.errors import CallboardWarning, ConfigurationError, OptionError
from callboard.options import Option, check_options, options_of

MODULE = """
from callboard import Callback

class Mixer(Callback):
    name = "mixer"

    def __init__(self, alpha: float = 0.5):
        self.alpha = alpha

class Lamp(Callback):
    name = "lamp"
    role = "observe"
    {declaration}
"""


def install(shop, distribution="shop-lamps", declaration="", **groups):
    module = distribution.replace("-", "_")
    shop.install(
        distribution,
        **groups,
        modules={module: MODULE.format(declaration=declaration)},
    )
    discovery.refresh()


def a_learner(cbs=None):
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    return Learner(DataLoaders(batches), nn.Linear(1, 1), nn.MSELoss(), cbs=cbs)


def test_a_project_that_does_not_name_us_may_be_as_broken_as_it_likes(shop):
    Path("callboard.toml").unlink()
    Path("pyproject.toml").write_text("[tool\nthis is no TOML")

    assert find_file(Path.cwd()) is None
    assert load_configuration().autoload_off is None


def test_a_project_that_names_us_must_be_readable(shop):
    Path("callboard.toml").unlink()
    Path("pyproject.toml").write_text("[tool.callboard]\nthis is no TOML")

    with pytest.raises(ConfigurationError, match=r"pyproject\.toml: cannot be read"):
        load_configuration()


def test_callboard_toml_comes_before_pyproject_and_a_near_one_before_a_far_one(shop):
    Path("pyproject.toml").write_text("[tool.callboard]\ndisable = ['x']")
    inner = Path("inner")
    inner.mkdir()

    assert find_file(inner) == Path("callboard.toml").absolute()
    (inner / "pyproject.toml").write_text("[tool.other]\nabout = 'callboard'")
    assert find_file(inner) == Path("callboard.toml").absolute()
    (inner / "pyproject.toml").write_text("[tool.callboard]")
    assert find_file(inner) == (inner / "pyproject.toml").absolute()


def test_what_a_program_gives_replaces_what_the_configuration_enables(shop):
    install(shop, callbacks={"mixer": "shop_lamps:Mixer"})
    Path("callboard.toml").write_text("enable = ['mixer']\nallow = []")
    from shop_lamps import Mixer

    mine = Mixer(alpha=0.9)

    assert a_learner().cbs.members[0].reason == "enable in callboard.toml"
    assert list(a_learner(mine).cbs) == [mine]
    assert [member.reason for member in a_learner("mixer").cbs.members] == ["cbs"]


@pytest.mark.parametrize("declaration", ["run_after = 3", "order = 'last'"])
def test_an_automatic_plugin_that_declares_nonsense_stops_nobody(shop, declaration):
    install(shop, declaration=declaration, plugins={"lamp": "shop_lamps:Lamp"})

    with pytest.warns(CallboardWarning, match=r"lamp \(shop-lamps 1\.0\).*must "):
        assert a_learner().cbs.keys() == ()


def test_automatic_plugins_of_one_name_take_no_part_and_both_are_named(shop):
    Path("callboard.toml").write_text("")
    install(shop, plugins={"lamp": "shop_lamps:Lamp"})
    install(shop, "shop-rival", plugins={"lamp": "shop_rival:Lamp"})

    with pytest.warns(CallboardWarning, match=r"shop-lamps 1\.0 and shop-rival 1\.0"):
        assert "lamp" not in a_learner().cbs


def test_a_required_option_may_come_from_another_source():
    class Needy:
        def __init__(self, size: int, name: str):
            self.size, self.name = size, name

    options = options_of(Needy)

    given = check_options("needy", options, {"size": "3"}, "a", is_complete=False)
    assert given == {"size": 3}
    with pytest.raises(OptionError, match="a: needy needs name: str"):
        check_options("needy", options, {"size": "3"}, "a")
    with pytest.raises(OptionError, match="size must be int, got 'x'"):
        check_options("needy", options, {"size": "x"}, "a", is_complete=False)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (float, "float"),
        (list[str] | None, "list[str] | None"),
        (Optional[int], "int | None"),  # noqa: UP045 - the old way
        (Literal["min", "max"] | None, "'min' | 'max' | None"),
        (Callable[[Any], float], "Callable[[Any], float]"),
        ("Somewhere", "Somewhere"),
        (Parameter.empty, "any"),
    ],
)
def test_a_type_is_told_as_people_write_it(annotation, words):
    assert Option("x", annotation, None).type_in_words == words
