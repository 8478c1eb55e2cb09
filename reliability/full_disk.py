"""Save on a disk that is full: nothing that was good is lost, training goes on.

The disk is a small tmpfs where this process may mount one, and else a limit on the size
of files, which fails in the same place with another number.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from callboard import Callback
from callboard_checkpoint.folder import RunFolder
from callboard_checkpoint.reading import Reader
from reliability import children, runs, tables

SIZE = 2 * 1024 * 1024


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of two megabytes, where one can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    with suppress(OSError):
        is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


class Fill(Callback):
    """Fills the disk behind the first epoch, and makes room behind the third."""

    run_before = "checkpoint"

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self.ballast, self.is_mounted = folder / "ballast", is_mounted

    def after_epoch(self) -> None:
        if self.epoch == 1:
            self.fill()
        if self.epoch == 3:
            self.make_room()

    def fill(self) -> None:
        """Leave no byte free."""
        if not self.is_mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
            return
        with suppress(OSError), self.ballast.open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass

    def make_room(self) -> None:
        """Undo ``fill``."""
        self.ballast.unlink(missing_ok=True)
        limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def train(folder: Path, is_mounted: bool) -> str:
    """Train on the small disk; returns what was said and what is there in the end."""
    saving = {"every": "1 epoch", "keep": 9, "async_": False, "folder": folder}
    kind = runs.Kind(runs.a_loader, saving=saving)
    with tempfile.TemporaryDirectory() as elsewhere:
        learner = runs.make(kind, Path(elsewhere))
        learner.add_cb(Fill(folder, is_mounted))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            learner.fit(runs.NUM_EPOCHS)
    files = RunFolder(folder)
    for checkpoint in files.checkpoints():
        Reader().read(checkpoint)
    failures = sum("could not be saved" in str(w.message) for w in said)
    epochs = [path.name.split("-")[2] for path in files.checkpoints()]
    left = len(list(folder.glob("*.unfinished")))
    return f"{failures} {','.join(epochs)} {left}"


def main() -> int:
    """Train while the disk fills up; prints a table and returns the exit status."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "disk"
        folder.mkdir()
        with small_disk(folder) as is_mounted:
            log = Path(base) / "log.txt"
            told = children.run(lambda: train(folder, is_mounted), log)
    failures, epochs, left = told.split()
    tables.show(
        "Saves on a disk that is full in epochs 1 and 2",
        ("disk", "saves that failed", "good checkpoints, by epoch", "left over"),
        [("2 MB tmpfs" if is_mounted else "file size limit", failures, epochs, left)],
    )
    # Those of epochs 1 and 4 are whole; what failed was said, and nothing is left over.
    return int((int(failures) < 1, epochs, left) != (False, "1,4", "0"))


if __name__ == "__main__":
    sys.exit(main())
