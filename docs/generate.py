"""Add the pages that are written by programs, and put all pages in order.

MkDocs loads this file as a hook (see mkdocs.yml). The pages are written by the modules
in docs/pages, from the core and the plugins themselves, so these must be there:

- ``reference/events.md`` from the hookspecs in ``callboard.events``;
- ``reference/command-line.md`` from the help texts;
- ``reference/callboard.md`` and two more from the docstrings;
- ``plugins/index.md`` from the pyproject.toml, README.md and classes of each folder in
  plugins/, and a page for each plugin;
- ``guides/index.md`` and ``decisions/index.md`` from the headings of the pages.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pages.catalogue import all_plugins, listeners, plugin_catalogue, plugin_page
from pages.command_line import command_reference
from pages.decisions import decision_list
from pages.events import event_reference
from pages.names import authors_reference, callboard_reference, testing_reference
from pages.navigation import guide_list, menu

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

# Pages whose code or tables need the room of the table of contents.
WIDE = ("coming-from-", "fastai-parity", "faster-than-by-hand")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages in order."""
    config.nav = menu(pages())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the written pages to the documentation."""
    # MkDocs is only there where the documentation is built.
    from mkdocs.structure.files import File

    for address, content in pages().items():
        files.append(File.generated(config, address, content=content))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Give wide pages their room."""
    if page.file.src_uri.startswith(WIDE):
        page.meta["hide"] = ["toc"]
    return markdown


@cache
def pages() -> dict[str, str]:
    """All pages that are written by programs, by their address."""
    return {
        "decisions/index.md": decision_list(),
        "guides/index.md": guide_list(),
        "plugins/index.md": plugin_catalogue(),
        **{f"plugins/{p.folder.name}.md": plugin_page(p) for p in all_plugins()},
        "reference/callboard.md": callboard_reference(),
        "reference/command-line.md": command_reference(),
        "reference/events.md": event_reference(listeners()),
        "reference/for-authors.md": authors_reference(),
        "reference/testing.md": testing_reference(),
    }
