"""A limit of time for what may never come back: a plugin that waits forever."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

#: Seconds that one rule may take.
TIMEOUT = 300.0
# Who is cut short may wait again while it puts things back.
AGAIN = 5.0


class TimeoutReachedError(BaseException):
    """Something took too long; no ``except Exception`` of a plugin holds it up.

    Attributes:
        place: Where it was, in words.
    """

    def __init__(self, seconds: float, place: str) -> None:
        super().__init__(f"it had not come back after {seconds:g} seconds{place}.")
        self.place = place


@contextmanager
def limited(seconds: float, folder: str | None = None) -> Iterator[None]:
    """Raise in what takes longer than that.

    Only the main thread of a POSIX system can be cut short so; elsewhere, and where
    somebody else has set an alarm, as pytest-timeout does, nothing is limited.

    Args:
        seconds: What it may take.
        folder: Whose code is to be named as the place, where it is among what runs.

    Raises:
        TimeoutReachedError: It took longer.
    """
    if not _is_possible():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutReachedError(seconds, _place(frame, folder))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _is_possible() -> bool:
    if not hasattr(signal, "setitimer"):
        return False
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and not signal.getitimer(signal.ITIMER_REAL)[0]


def _place(frame: FrameType | None, folder: str | None) -> str:
    """Where a thread is: in the code of a folder, or else where it is innermost."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    inside = [f for f in frames if folder and f.f_code.co_filename.startswith(folder)]
    for found in (inside or frames)[:1]:
        name = Path(found.f_code.co_filename).name
        return f", in {found.f_code.co_name} ({name}:{found.f_lineno})"
    return ""


def folder_of(loaded: Any) -> str | None:
    """The file or folder that holds the code of a plugin, where that is known."""
    try:
        file = inspect.getfile(loaded)
    except (TypeError, OSError):
        return None
    is_package = os.path.basename(file) == "__init__.py"
    return os.path.dirname(file) if is_package else file
