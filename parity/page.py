"""docs/fastai-parity.md, which is made from the verdicts and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from parity.cases import TOLERANCE, Case
from parity.subjects import CALLBACKS, METHODS, SUBJECTS, Subject

FILE = Path(__file__).parents[1] / "docs/fastai-parity.md"
AGREES, DISAGREES = "agrees", "disagrees"
DIFFERS, NOT_OFFERED = "differs on purpose", "not offered"
Found = Sequence[tuple[Case, float]]

HEAD = """# Parity with fastai

Each of the {count} callback classes of fastai 2.8.12, and what there is here in its
place. Both frameworks trained the same models on the same data with the same options in
one process, and what they left was compared. Two runs agree where no number differs by
more than 1e-5 of the largest that it stands with. This page is made by
`nox -s parity -- write`; `nox -s parity` runs the comparison anew and fails where a
verdict is another one.

- **agrees**: all that was compared does. The difference is the largest of all runs;
  where it is 0, every bit is the same.
- **differs on purpose**: nothing could be compared, for the reason that is given.
- **not offered**: there is nothing of that name, for the reason that is given.

What is different on purpose beside that stands in the last column, with the test that
shows our behaviour."""


def render(found: Found) -> str:
    """The whole page."""
    tables = table("fastai's class", CALLBACKS, found), table("fastai", METHODS, found)
    head = HEAD.format(count=len(CALLBACKS))
    return f"{head}\n\n## Callbacks\n\n{tables[0]}\n\n## Methods\n\n{tables[1]}\n"


def table(heading: str, subjects: Mapping[str, Subject], found: Found) -> str:
    """A table with a row for each subject."""
    rows = [
        f"| {heading} | here | verdict | compared | otherwise |",
        "|---|---|---|---|---|",
    ]
    rows += [row(name, [f for f in found if f[0].subject == name]) for name in subjects]
    return "\n".join(['<div class="stacked" markdown>\n', *rows, "\n</div>"])


def row(name: str, found: Found) -> str:
    """What is known of one subject."""
    subject = SUBJECTS[name]
    compared = [f"{case.compared}: {in_words(largest)}" for case, largest in found]
    cells = (
        f"`{name}`",
        plugin_of(subject),
        verdict_of(subject, found),
        "; ".join(compared),
        differences_of(subject),
    )
    return "| " + " | ".join(cells) + " |"


def verdict_of(subject: Subject, found: Found) -> str:
    """One of four verdicts."""
    if any(not largest <= TOLERANCE for _, largest in found):
        return DISAGREES
    if subject.not_offered:
        return NOT_OFFERED
    return AGREES if found else DIFFERS


def plugin_of(subject: Subject) -> str:
    """A link to the page of the plugin."""
    if subject.not_offered:
        return ""
    if not subject.plugin:
        return "the loop"
    return f"[`{subject.plugin}`](plugins/{subject.plugin}.md)"


def differences_of(subject: Subject) -> str:
    """The reason, and the test that shows it."""
    reason = subject.not_offered or subject.otherwise
    return f"{reason} `{subject.shown}`" if subject.shown else reason


def in_words(largest: float) -> str:
    """A difference, to the power of ten."""
    return "0" if largest == 0 else f"{largest:.0e}".replace("e-0", "e-")


def verdicts(page: str) -> dict[str, tuple[str, str]]:
    """What a page says: name -> (what there is here, verdict)."""
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]*) \| ([^|]*) \|", page, re.MULTILINE)
    return {name: (here.strip(), verdict.strip()) for name, here, verdict in rows}


def contradictions(page: str, made: str) -> list[str]:
    """In which verdicts a page is not as it would be made now."""
    said, found = verdicts(page), verdicts(made)
    return [
        f"{name}: docs/fastai-parity.md says {said.get(name)}, now {found.get(name)}"
        for name in sorted(said.keys() | found.keys())
        if said.get(name) != found.get(name)
    ]
