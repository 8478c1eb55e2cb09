"""Opening TensorBoard's event files."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def new_log_dir() -> Path:
    """A folder for a new run, named as torch names it: ``runs/Nov23_09-20-59_host``."""
    stamp = time.strftime("%b%d_%H-%M-%S")
    return Path("runs", f"{stamp}_{socket.gethostname()}")


def summary_writer(folder: Path, first_step: int | None = None) -> Any:
    """What writes into a folder.

    Args:
        folder: The folder; it is made.
        first_step: What was written there for this step and later ones is left out by
            TensorBoard.
    """
    # Imported late, since it takes a second.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)


@contextmanager
def open_writer(folder: Path) -> Iterator[Any]:
    """A writer that is closed when the block ends."""
    writer = summary_writer(folder)
    try:
        yield writer
    finally:
        writer.close()
