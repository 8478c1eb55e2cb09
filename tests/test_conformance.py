"""Every plugin of this repository keeps the rules that any plugin is tried by."""

import os
from pathlib import Path

import pytest

from callboard import discovery
from callboard.testing.conformance import check_plugin
from callboard.testing.conformance.imports import imports_of

# Tries every way to be cut short, in place of one in five.
THOROUGH = "CALLBOARD_THOROUGH" in os.environ
PLUGINS = Path(__file__).parents[1] / "plugins"
OURS = {f"callboard-{path.parent.name}" for path in PLUGINS.glob("*/pyproject.toml")}
CHECKED = [p for p in discovery.installed() if p.distribution in OURS]


@pytest.fixture(scope="module", autouse=True)
def imported_by_one_process():
    imports_of(sorted({plugin.module for plugin in CHECKED}))


@pytest.mark.parametrize("plugin", CHECKED, ids=lambda p: f"{p.kind} {p.name}")
def test_a_plugin_of_ours_keeps_every_rule(plugin):
    one_in = 1 if THOROUGH else 5
    report = check_plugin(plugin, one_in=one_in, counts_cost=THOROUGH)

    assert not report.findings, "\n\n".join(map(str, report.findings))
    if report.untried:
        pytest.skip("; ".join(report.notes))


def test_every_plugin_of_ours_is_checked():
    assert {plugin.distribution for plugin in CHECKED} == OURS
