"""The order in which the pages stand in the menu, and the list of the guides.

A page that is named nowhere here stands in the menu all the same: a guide, or a page at
the top, among the other guides; a page in another folder, behind those named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pages.catalogue import ROOT

Menu = list[dict[str, object]]

START = ("index.md", "first-run.md", "first-plugin.md")
COMING_FROM = "coming-from-*.md"
GUIDES = {
    "Train": (
        "guides/batches-of-any-shape.md",
        "guides/find-a-learning-rate.md",
        "guides/schedule-the-rate.md",
        "guides/accumulate-and-clip.md",
        "guides/mixed-precision.md",
        "guides/fine-tune.md",
        "guides/train-a-gan.md",
    ),
    "Stop, keep and use": (
        "guides/stop-early.md",
        "guides/save-and-resume.md",
        "guides/predict.md",
    ),
    "Watch": (
        "guides/track-a-run.md",
        "guides/look-into-a-model.md",
        "guides/find-out-who-changed-a-value.md",
    ),
    "Speed and size": (
        "guides/make-it-faster.md",
        "guides/many-processes.md",
        "distributed.md",
    ),
    "Choose plugins": (
        "guides/choose-plugins.md",
        "guides/order-many-callbacks.md",
        "guides/lock-plugins.md",
    ),
    "Write plugins": (
        "guides/replace-a-piece.md",
        "guides/test-a-plugin.md",
        "guides/write-a-tracker.md",
        "guides/use-an-editor.md",
    ),
}
OTHER_GUIDES = "Other"
EXPLANATION = ("the-loop", "ordering", "dispatch", "state", "trust")
REFERENCE = ("events", "command-line", "callboard", "for-authors", "testing")
MEASURED = ("benchmarks.md", "faster-than-by-hand.md", "fastai-parity.md")


def menu(written: Iterable[str]) -> Menu:
    """The menu of all pages.

    Args:
        written: Addresses of the pages that programs write.
    """
    addresses = list(written)
    guides = [{group: pages} for group, pages in grouped_guides().items()]
    return [
        {"Start": [*START, {"Coming from": files(COMING_FROM)}]},
        {"Guides": ["guides/index.md", *guides]},
        {
            "Explanation": in_order(
                "explanation", EXPLANATION, files("explanation/*.md")
            )
        },
        {"Reference": in_order("reference", REFERENCE, addresses)},
        {
            "Plugins": [
                titled(page) for page in in_order("plugins", ["index"], addresses)
            ]
        },
        {"Measured": existing(MEASURED)},
        {"Decisions": ["decisions/index.md", *files("decisions/*.md")]},
    ]


def guide_list() -> str:
    """The page that lists the guides by what they are about."""
    groups = "\n\n".join(
        f"## {group}\n\n" + "\n".join(f"- {link_to(page)}" for page in pages)
        for group, pages in grouped_guides().items()
    )
    return f"""# Guides

One task each. `dls` (a pair of loaders), `model` and `loss_func` are yours; whatever
else is needed stands in the guide. `train.py` is a file with a function `learner()`, as
in [A first run](../first-run.md).

{groups}
"""


def grouped_guides() -> dict[str, list[str]]:
    """The guides that are there, by group."""
    groups = {group: existing(pages) for group, pages in GUIDES.items()}
    placed = {page for pages in groups.values() for page in pages}
    placed.update(START, MEASURED, files(COMING_FROM))
    others = {*files("guides/*.md"), *files("*.md")} - placed
    return {**groups, OTHER_GUIDES: sorted(others)} if others else groups


def existing(pages: Iterable[str]) -> list[str]:
    """Those of the pages that somebody wrote."""
    return [page for page in pages if (ROOT / "docs" / page).exists()]


def link_to(page: str) -> str:
    """A link from the list of guides, named as the page names itself."""
    first_line = (ROOT / "docs" / page).read_text("utf-8").splitlines()[0]
    is_beside = page.startswith("guides/")
    address = page.removeprefix("guides/") if is_beside else f"../{page}"
    return f"[{first_line.removeprefix('# ')}]({address})"


def files(pattern: str) -> list[str]:
    """Pages in docs/ that somebody wrote, by name."""
    docs = ROOT / "docs"
    return sorted(path.relative_to(docs).as_posix() for path in docs.glob(pattern))


def in_order(folder: str, first: Sequence[str], addresses: Iterable[str]) -> list[str]:
    """The pages of a folder: those that are named first, then the others by name."""
    leading = [f"{folder}/{name}.md" for name in first]
    found = {each for each in addresses if each.startswith(f"{folder}/")}
    return [page for page in leading if page in found] + sorted(found - {*leading})


def titled(page: str) -> str | dict[str, str]:
    """A page of a plugin under the name that runs know it by."""
    name = page.removeprefix("plugins/").removesuffix(".md")
    return page if name == "index" else {name: page}
