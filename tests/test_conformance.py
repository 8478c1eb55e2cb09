"""Every plugin of this repository keeps the rules that any plugin is tried by."""

from pathlib import Path

import pytest

from callboard import discovery
from callboard.testing.conformance import check_plugin

# Who cannot be tried by itself, and why; each has its own tests.
LEFT_OUT = {
    "adaptive-gan-switcher": "it switches a GAN",
    "azure-ml": "its client need not be installed",
    "comet": "its client need not be installed",
    "fixed-gan-switcher": "it switches a GAN",
    "gan-discriminative-lr": "it needs a GAN",
    "gan-trainer": "it needs a GAN",
    "hooks": "it does what the function that it is given does",
    "lr-finder": "it ends the fit and puts all back, so nothing goes on from inside it",
    "mlflow": "its client need not be installed",
    "normalize": "it needs images of three channels",
    "predict": "it needs an item",
    "tensorboard": "the name of its run is the time",
    "to_channelslast": "it adds a plugin, which is what it is for",
    "tta": "it needs a function that augments",
    "wandb": "its client need not be installed",
}
PLUGINS = Path(__file__).parents[1] / "plugins"
OURS = {f"callboard-{path.parent.name}" for path in PLUGINS.glob("*/pyproject.toml")}
CHECKED = [
    plugin
    for plugin in discovery.installed()
    if plugin.distribution in OURS
    and plugin.kind in ("plugin", "callback", "method")
    and plugin.name not in LEFT_OUT
]


@pytest.mark.parametrize("plugin", CHECKED, ids=lambda plugin: plugin.name)
def test_a_plugin_keeps_every_rule(plugin):
    report = check_plugin(plugin)

    assert not report.findings, "\n".join(map(str, report.findings))
    assert report.kept
