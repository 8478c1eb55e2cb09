"""How long a run takes, and what it came down to; told to the process that asked."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Where a run writes what it measured.
RESULT = "BY_HAND_RESULT"


def processor_seconds() -> float:
    """Time that this process, and those it has waited for, were computing.

    A compiler is one of these. Unlike the time on the wall it does not grow when others
    use the machine as well.
    """
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass
class Clock:
    """Measures from when it is made.

    Attributes:
        wall: Seconds until the loss was down.
        processor: Seconds of computing until then.
        epochs: Seconds of computing in each epoch.
        valid_losses: One an epoch.
    """

    wall: float = 0.0
    processor: float = 0.0
    epochs: list[float] = field(default_factory=list)
    valid_losses: list[float] = field(default_factory=list)
    _began: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), processor_seconds())
    )

    def note(self, valid_loss: float) -> None:
        """An epoch is over."""
        self.valid_losses.append(valid_loss)
        wall, processor = self._began
        self.wall = time.perf_counter() - wall
        self.processor = processor_seconds() - processor
        self.epochs.append(self.processor - sum(self.epochs))

    def tell(self) -> None:
        """Write what was measured to where it is waited for."""
        told = {k: v for k, v in asdict(self).items() if not k.startswith("_")}
        Path(os.environ[RESULT]).write_text(json.dumps(told))
