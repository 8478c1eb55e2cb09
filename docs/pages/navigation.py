"""The order in which the pages stand in the menu.

Folders are listed by their files, so a new page appears by itself. A page at the top
that is named nowhere here stands among the guides.
"""

from __future__ import annotations

from collections.abc import Iterable

from pages.catalogue import ROOT

Menu = list[dict[str, object]]

START = ("index.md", "first-run.md", "first-plugin.md")
COMING_FROM = "coming-from-*.md"
MEASURED = ("benchmarks.md", "faster-than-by-hand.md", "fastai-parity.md")


def menu(written: Iterable[str]) -> Menu:
    """The menu of all pages.

    Args:
        written: Addresses of the pages that programs write.
    """
    addresses = sorted(written)
    coming_from = files(COMING_FROM)
    placed = {*START, *coming_from, *MEASURED}
    others = [page for page in files("*.md") if page not in placed]
    return [
        {"Start": [*START, {"Coming from": coming_from}]},
        {"Guides": [*files("guides/*.md"), *others]},
        {"Explanation": files("explanation/*.md")},
        {"Reference": within("reference", addresses)},
        {"Plugins": [titled(page) for page in within("plugins", addresses)]},
        {"Measured": [page for page in MEASURED if (ROOT / "docs" / page).exists()]},
        {"Decisions": ["decisions/index.md", *files("decisions/*.md")]},
    ]


def files(pattern: str) -> list[str]:
    """Pages in docs/ that somebody wrote; index.md of a folder first."""
    docs = ROOT / "docs"
    found = [path.relative_to(docs).as_posix() for path in docs.glob(pattern)]
    return index_first(found)


def within(folder: str, addresses: Iterable[str]) -> list[str]:
    """Pages of a folder that programs write."""
    return index_first(each for each in addresses if each.startswith(f"{folder}/"))


def titled(page: str) -> str | dict[str, str]:
    """A page of a plugin under the name that runs know it by."""
    name = page.removeprefix("plugins/").removesuffix(".md")
    return page if name == "index" else {name: page}


def index_first(pages: Iterable[str]) -> list[str]:
    """By name, but for the page that stands for the folder."""
    return sorted(pages, key=lambda page: (not page.endswith("index.md"), page))
