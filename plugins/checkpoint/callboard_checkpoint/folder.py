"""The folder of a run: its checkpoints in order, and which of them are kept."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from callboard.errors import OptionError, StateError
from callboard_checkpoint.files import (
    HEAD,
    UNFINISHED,
    Snapshot,
    read_summary,
    write,
    write_text,
)

if TYPE_CHECKING:
    from callboard_checkpoint.shards import Shards

MANIFEST = "manifest.json"
SECONDS_TO_SEE = 5.0
NAME = re.compile(r"(\d{6,})-epoch-\d+-step-\d+")


class RunFolder:
    """The checkpoints of one run.

    Args:
        path: The folder; it is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock", timeout=0)

    def checkpoints(self) -> list[Path]:
        """All that are there whole, oldest first, good or damaged."""
        if not self.path.is_dir():
            return []
        found = [p for p in self.path.iterdir() if NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: int(p.name.split("-")[0]))

    def open(self) -> None:
        """Keep the folder for this run alone, and clean up what a kill has left.

        The lock is the kernel's, so that it is free when the process is gone.

        Raises:
            OptionError: Another run is writing here, or nothing can be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise OptionError(
                f"checkpoint: another run is writing to {self.path}. Give this one a "
                "folder of its own, or wait until the other has ended."
            ) from None
        except OSError as error:
            raise OptionError(
                f"checkpoint: nothing can be written to {self.path}: {error}. Give "
                "another folder."
            ) from error
        for left in self.path.glob(f".*{UNFINISHED}"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others write here."""
        self._lock.release()

    @contextmanager
    def shown(self, run: str) -> Iterator[None]:
        """Let other processes see by a file whether the folder is theirs, too."""
        sign = _sign(self.path, run)
        sign.touch()
        try:
            yield
        finally:
            sign.unlink(missing_ok=True)

    def runs(self) -> set[str]:
        """Names of the runs that have left checkpoints here."""
        found = set()
        for checkpoint in self.checkpoints():
            with suppress(StateError):
                found.add(str(read_summary(checkpoint)["run"]))
        return found

    def add(self, snapshot: Snapshot, shards: Shards | None = None) -> Path:
        """Write a checkpoint behind those that are there, as ``files.write`` does.

        Raises:
            OSError: It cannot be written; those that are there are untouched.
        """
        summary = snapshot.summary

        def next_name() -> str:
            before = self.checkpoints()
            number = int(before[-1].name.split("-")[0]) + 1 if before else 1
            return f"{number:06d}-epoch-{summary['epoch']}-step-{summary['step']}"

        return write(self.path, next_name, snapshot, shards)

    def prune(self, keep: int, also: str | None) -> None:
        """Take away all but the latest ``keep`` and the one that is named."""
        checkpoints = self.checkpoints()
        for checkpoint in checkpoints[: max(len(checkpoints) - keep, 0)]:
            if checkpoint.name != also:
                remove(checkpoint)

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Say in ``manifest.json`` which checkpoint is the last good one."""
        text = json.dumps(dict(content), indent=2) + "\n"
        write_text(self.path / MANIFEST, text)


def sees(folder: Path, run: str) -> bool:
    """Whether this is the folder that is ``shown``; network disks take their time."""
    ends = time.monotonic() + SECONDS_TO_SEE
    while not _sign(folder, run).exists():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def _sign(folder: Path, run: str) -> Path:
    return folder / f".{run}{UNFINISHED}"


def remove(checkpoint: Path) -> None:
    """Take a checkpoint away; one that is half gone is not taken for one."""
    leaving = checkpoint.with_name(f".{checkpoint.name}{UNFINISHED}")
    with suppress(OSError):
        checkpoint.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def is_checkpoint(path: Path) -> bool:
    """Whether this is one checkpoint, good or damaged, and not a folder of them."""
    return (path / HEAD).exists() or bool(NAME.fullmatch(path.name))
