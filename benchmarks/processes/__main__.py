"""Measure, and print the tables or put them into the page.

python -m benchmarks.processes [write]
"""

from __future__ import annotations

import argparse

from benchmarks.processes import cost, losses, page, word

NUM_PROCESSES = (1, 2, 4)
NUM_PROCESSES_OF_WORD = (2, 4, 8, 16, 32)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes")
    parser.add_argument("write", nargs="?", choices=["write"])
    options = parser.parse_args()
    parts = page.parts(
        losses.compared(NUM_PROCESSES),
        [cost.measured(s, n) for s in losses.STRATEGIES for n in NUM_PROCESSES],
        [word.timed(number) for number in NUM_PROCESSES_OF_WORD],
    )
    if options.write:
        text = page.PAGE.read_text("utf-8")
        page.PAGE.write_text(page.with_parts(text, parts), encoding="utf-8")
    else:
        print("\n".join(parts.values()))


if __name__ == "__main__":
    main()
