"""The pages that the documentation reads from the code say what the code says."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import pytest

import callboard
from callboard import events, testing
from callboard.cli import main
from callboard.events import EVENTS

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))


@pytest.fixture(scope="module")
def pages():
    """What docs/generate.py writes, by address."""
    before = sys.path.copy()
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        yield importlib.import_module("generate").pages()
    finally:
        sys.path[:] = before


def navigation():
    """The module that orders the menu; it is there while ``pages`` is."""
    return importlib.import_module("pages.navigation")


def section_of(page, heading):
    """What stands below a heading, down to the next one."""
    return re.split(r"^## .*\n", page.partition(f"\n{heading}\n")[2], flags=re.M)[0]


def test_event_reference_describes_every_event_in_firing_order(pages):
    page = pages["reference/events.md"]

    assert re.findall(r"^## `(\w+)`", page, re.MULTILINE) == list(EVENTS)
    assert all(event.documentation in page for event in EVENTS.values())


@pytest.mark.parametrize("name", EVENTS)
def test_event_reference_has_the_signature_of_the_hookspec(pages, name):
    hookspec = getattr(events, name)
    section = section_of(pages["reference/events.md"], f"## `{name}` {{#{name}}}")

    written = re.search(r"```pyi\ndef (\w+)\((.*)\) -> (.+)\n```", section)
    parameters = [each.partition(":")[0] for each in written[2].split(", ")]
    assert written[1] == name
    assert parameters == list(inspect.signature(hookspec).parameters)
    assert written[3] == hookspec.__annotations__["return"]


def test_event_reference_names_those_who_listen(pages):
    after_epoch = section_of(
        pages["reference/events.md"], "## `after_epoch` {#after_epoch}"
    )

    assert "[`csv-logger`](../plugins/csv-logger.md)" in after_epoch
    assert "mixup" not in after_epoch


def test_picture_of_the_loop_shows_every_event_and_links_to_it(pages):
    page = pages["reference/events.md"]
    drawing = ET.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])

    links = [link.get("href") for link in drawing.iter("a")]
    shown = {text.text for text in drawing.iter("text")}
    assert {link.removeprefix("#") for link in links} == set(EVENTS)
    assert set(EVENTS) <= shown


def test_picture_of_the_loop_keeps_within_its_frame(pages):
    svg = re.search(r"<svg.*</svg>", pages["reference/events.md"], re.DOTALL)[0]
    _, _, width, height = map(float, re.search(r'viewBox="([^"]+)"', svg)[1].split())

    for box in ET.fromstring(svg).iter("rect"):
        left, top, wide, high = (
            float(box.get(side)) for side in ("x", "y", "width", "height")
        )
        assert left >= 0
        assert left + wide <= width
        assert top + high <= height


def test_plugin_catalogue_has_a_row_for_every_plugin(pages):
    page = pages["plugins/index.md"]

    assert re.findall(r"^\| \[`callboard-([\w-]+)`\]", page, re.MULTILINE) == PLUGINS


def test_plugin_catalogue_tells_role_events_order_and_options(pages):
    page = pages["plugins/index.md"]
    row = re.search(r"^\| \[`gradient-clip`\].*before_step.*$", page, re.MULTILINE)[0]

    assert "| modify |" in row
    assert "`gradient-accumulation`" in row
    assert "`MixUp(alpha: float = 0.4)`" in page
    assert "`learn.fit_one_cycle(n_epoch: int" in page


def test_no_page_shows_the_address_of_an_object(pages):
    assert not [name for name, text in pages.items() if re.search(r"at 0x\w+", text)]


@pytest.mark.parametrize("name", PLUGINS)
def test_every_plugin_has_a_page_with_its_readme_and_what_it_declares(pages, name):
    readme = (ROOT / "plugins" / name / "README.md").read_text("utf-8")
    page = pages[f"plugins/{name}.md"]

    without_facts = re.sub(
        r"## On the board\n.*?(?=\n## Install)", "", page, flags=re.S
    )
    assert without_facts.split() == readme.split()


def test_page_of_a_plugin_says_why_it_does_not_go_with_another(pages):
    facts = section_of(pages["plugins/gan.md"], "## On the board")

    assert re.search(r"\| not with \| .*`mixup`: \w+", facts)


def test_command_reference_has_the_help_of_every_command(pages):
    page = pages["reference/command-line.md"]

    found = re.findall(r"^## `callboard ?([\w -]*)`", page, re.MULTILINE)
    context = click.Context(main)
    for name in main.homes:
        assert name in found
        command = main.get_command(context, name)
        assert command.get_short_help_str(30).split("...")[0] in " ".join(page.split())


def test_reference_names_all_that_is_public(pages):
    addresses = re.findall(r"^::: ([\w.]+)", "\n".join(pages.values()), re.MULTILINE)
    named = {address.rpartition(".")[2] for address in addresses}

    functions = {name for name in testing.__all__ if callable(getattr(testing, name))}
    assert set(callboard.__all__) | functions <= named
    assert {"item_losses", "OptionError", "Adapter"} <= named


def test_decision_list_links_to_every_decision(pages):
    links = re.findall(r"\((.+\.md)\)", pages["decisions/index.md"])

    assert links == sorted(path.name for path in ROOT.glob("docs/decisions/[0-9]*.md"))


def test_guides_are_listed_and_each_stands_in_the_menu_once(pages):
    guides = [path.name for path in (ROOT / "docs/guides").glob("*.md")]
    listed = re.findall(r"\(([\w-]+\.md)\)", pages["guides/index.md"])
    in_menu = re.findall(r"'(?:guides/)([\w-]+\.md)'", str(navigation().menu(pages)))

    assert sorted(listed) == sorted(guides)
    assert sorted(in_menu) == sorted(["index.md", *guides])


def test_a_page_that_no_list_names_stands_in_the_menu(pages, tmp_path, monkeypatch):
    (tmp_path / "docs/guides").mkdir(parents=True)
    (tmp_path / "docs/guides/unheard-of.md").write_text("# Unheard of\n")
    monkeypatch.setattr(navigation(), "ROOT", tmp_path)

    assert navigation().grouped_guides()["Other"] == ["guides/unheard-of.md"]
    assert "[Unheard of](unheard-of.md)" in navigation().guide_list()


@pytest.mark.slow
def test_site_is_built_without_a_warning_and_with_every_page(pages, tmp_path):
    pytest.importorskip("mkdocs", reason="the site is built where it is installed")

    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )

    assert (built.returncode, built.stderr) == (0, "")
    for address in pages:
        folder = address.removesuffix(".md").removesuffix("index")
        assert (tmp_path / folder / "index.html").exists(), address
    assert not list(tmp_path.rglob("*.py*"))
