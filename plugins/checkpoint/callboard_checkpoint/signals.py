"""SIGTERM and Ctrl-C: finish the step, save, and go.

The first signal is only noted, and answered at the next checkpoint. The second ends the
process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit, KeyboardInterrupt):
    """A signal has ended the run in order.

    Where nobody catches it the process exits with 128 + the number of the signal: 130
    for Ctrl-C, 143 for SIGTERM. ``except KeyboardInterrupt`` catches it too.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"{signal.Signals(self.number).name}: the run was saved and ended."


class Signals:
    """Notes the first signal of a fit, and leaves at the second.

    Args:
        at_once: Asked when a signal comes: whether to raise ``Interrupted`` there and
            then, since the fit is where nothing can be left half done.
        tell: Told of the number of the signal.
    """

    def __init__(
        self, at_once: Callable[[], bool], tell: Callable[[int], None]
    ) -> None:
        self.received: int | None = None
        self._at_once = at_once
        self._tell = tell
        self._before: dict[int, Any] = {}

    def catch(self) -> None:
        """Take the signals over; only the main thread of a process can."""
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in HANDLED:
            before = signal.getsignal(number)
            # None: set by something else than Python. SIG_IGN: as nohup wants it.
            if before is not None and before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)

    def give_back(self) -> None:
        """Let the signals do what they did before."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self._tell(number)
        name = signal.Signals(number).name
        # Nothing that takes a lock may be called here.
        message = f"\n{name}: finishing the step, saving. Once more leaves at once.\n"
        os.write(2, message.encode())
        if self._at_once():
            raise Interrupted(number)
