"""The pages that the documentation reads from the code say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from callboard.events import EVENTS

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_event_reference_describes_every_event_in_firing_order(generate):
    page = generate.event_reference()

    assert re.findall(r"^## `(\w+)`", page, re.MULTILINE) == list(EVENTS)
    assert all(event.documentation in page for event in EVENTS.values())


def test_plugin_catalogue_has_a_row_for_every_plugin(generate):
    page = generate.plugin_catalogue()

    assert re.findall(r"^\| \[`callboard-([\w-]+)`\]", page, re.MULTILINE) == PLUGINS


def test_every_plugin_has_a_page_which_is_its_readme(generate):
    pages = generate.pages()

    for name in PLUGINS:
        readme = (ROOT / "plugins" / name / "README.md").read_text("utf-8")
        assert pages[f"plugins/{name}.md"] == readme


def test_first_sentence_passes_over_headings_and_joins_lines(generate):
    text = "# callboard-x\n\n## What it does\nStops the fit\nat 0.5. And then rests."

    assert generate.first_sentence(text) == "Stops the fit at 0.5."


def test_decision_list_links_to_every_decision(generate):
    page = generate.decision_list()

    links = re.findall(r"\((.+\.md)\)", page)
    assert links == sorted(path.name for path in ROOT.glob("docs/decisions/[0-9]*.md"))
