"""The page that lists the decisions."""

from __future__ import annotations

from pages.catalogue import ROOT


def decision_list() -> str:
    """List the decisions by number."""
    links = "\n".join(
        f"- [{path.read_text('utf-8').splitlines()[0].removeprefix('# ')}]({path.name})"
        for path in sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
    )
    return f"""# Decisions

Why Callboard is as it is: one page a decision, with what was rejected. A decision is
never edited once it is accepted; a later one supersedes it.

{links}
"""
