"""Die before every file-system event of the saves in turn, go on, compare every bit.

The method is SQLite's: let the first operation fail, then the second, until none does
(sqlite.org/testing.html). An audit hook counts what Python does in the folder of the
checkpoints, and a wrapper counts ``fsync``, which has no audit event.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from reliability import children, runs, tables

WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
KIND = runs.Kind(runs.a_loader, saving={"every": "1 epoch", "keep": 1, "async_": False})


class Fuse:
    """Kills this process before the ``last``-th event in a folder."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.last, self.count = str(folder), last, 0
        self.note = folder.parent / "died-before.txt"
        self.is_dying = False
        fsync = os.fsync

        def watched_fsync(descriptor: int) -> None:
            self.burn("os.fsync")
            fsync(descriptor)

        os.fsync = watched_fsync
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an event that Python is about to do."""
        if event not in WATCHED or self.is_dying:
            return
        if any(str(each).startswith(self.folder) for each in arguments[:2]):
            self.burn(event)

    def burn(self, event: str) -> None:
        """Count one event; the last one is never done."""
        self.count += 1
        if self.count == self.last:
            self.is_dying = True
            self.note.write_text(event)
            os.kill(os.getpid(), signal.SIGKILL)


def die_before(number: int, path: Path) -> str:
    """Train, and die before the numbered event."""
    Fuse(path / "checkpoints", number)
    return runs.fit(KIND, path)


def main(step: int) -> int:
    """Try every ``step``-th crash point; prints a table and returns the exit status."""
    died: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        expected = children.run(lambda: runs.fit(KIND, whole), whole / "log.txt")
        number, is_over = 1, False
        while not is_over:
            path = Path(folder) / "run"
            path.mkdir()
            log = path / "log.txt"
            code = children.wait(children.start(partial(die_before, number, path), log))
            is_over = code == 0
            if code not in (0, -signal.SIGKILL):
                raise RuntimeError(f"crash point {number}: {log.read_text()[-3000:]}")
            if not is_over:
                event = (path / "died-before.txt").read_text()
                died[event] += 1
                got = children.run(partial(runs.fit, KIND, path), log)
                wrong[event] += got != expected
            shutil.rmtree(path)
            number += step
    seconds = time.monotonic() - started
    tables.show(
        f"A crash before each file-system event of a save, {seconds:.0f} s",
        ("event", "crashes", "different"),
        [
            *((e, n, wrong[e]) for e, n in sorted(died.items())),
            ("all", died.total(), wrong.total()),
        ],
    )
    return int(wrong.total() > 0 or died.total() == 0)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", step=1)
    sys.exit(main(given.step))
