"""Run all cases, print what was found, and compare it with the page.

``python -m parity`` exits with 1 where a case disagrees, or where a verdict is not that
of docs/fastai-parity.md; ``python -m parity write`` writes the page anew.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from parity import page
from parity.cases import CASES, TOLERANCE, Case
from parity.installed import callback_classes
from parity.subjects import THEMES, list_mistakes

Found = list[tuple[Case, float]]


def run_all() -> Found:
    """Run every case; one that fails to run counts as infinitely different."""
    for theme in THEMES:
        importlib.import_module(f"parity.{theme}")
    return [(case, measured(case)) for case in CASES]


def measured(case: Case) -> float:
    """The largest difference that a case finds."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # fastai prints what it does.
            with contextlib.redirect_stdout(io.StringIO()):
                return case.measure(Path(folder))
        except Exception:
            print(f"{case.subject}: {case.compared}", file=sys.stderr)
            traceback.print_exc()
            return math.inf


def show(found: Found) -> None:
    """Print all cases."""
    table = Table(title="Parity with fastai", title_justify="left")
    for name in ("fastai", "compared", "largest relative difference"):
        table.add_column(name)
    for case, largest in found:
        mark = "" if largest <= TOLERANCE else "  DISAGREES"
        table.add_row(case.subject, case.compared, f"{largest:.0e}{mark}")
    Console(file=sys.stdout).print(table)


def main() -> int:
    """Compare, and write or check the page."""
    # What happens to be installed shall not take part.
    os.environ["CALLBOARD_AUTOLOAD"] = "0"
    found = run_all()
    show(found)
    made = page.render(found)
    wrong = [f"{case.subject}: {case.compared}" for case, d in found if d > TOLERANCE]
    wrong += list_mistakes(callback_classes())
    if sys.argv[1:] == ["write"]:
        page.FILE.write_text(made, "utf-8")
    else:
        wrong += page.contradictions(page.FILE.read_text("utf-8"), made)
    for line in wrong:
        print(f"not as it should be: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
