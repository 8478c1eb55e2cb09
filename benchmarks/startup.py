"""How long the command line takes to start, beside what nobody can do without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from callboard.testing import Site

NUM_PLUGINS = 300
COMMANDS = {
    'python -c ""': ("-c", ""),
    'python -c "import click, importlib_metadata"': (
        *("-c", "import click, importlib_metadata"),
    ),
    'python -c "import torch"': ("-c", "import torch"),
    "callboard --help": ("-m", "callboard", "--help"),
    "callboard events": ("-m", "callboard", "events"),
    f"callboard plugins list, {NUM_PLUGINS} plugins": (
        *("-m", "callboard", "plugins", "list"),
    ),
}
SOURCE = """from callboard import Callback


class Made(Callback):
    def after_epoch(self):
        print(self.epoch)
"""


def starts(rounds: int) -> dict[str, list[float]]:
    """Seconds of each command; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        for n in range(NUM_PLUGINS):
            site.install(
                f"made-{n}",
                callbacks={f"made-{n}": f"made_{n}:Made"},
                modules={f"made_{n}": SOURCE},
            )
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            # As pip leaves it: compiled.
            "PYTHONDONTWRITEBYTECODE": "",
            "XDG_CACHE_HOME": str(Path(folder, "cache")),
        }
        for number in range(rounds + 1):
            for name, arguments in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, *arguments],
                    env=environment,
                    capture_output=True,
                    check=True,
                )
                if number:  # the first run compiles and fills caches
                    found[name].append(time.perf_counter() - start)
    return found
