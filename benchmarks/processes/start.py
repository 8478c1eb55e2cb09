"""Start a module in processes by torchrun, and read what the first of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 900


def results_of(command: list[str], num_processes: int) -> Any:
    """What a program writes as JSON to the file that it is told.

    Args:
        command: The module and its arguments; ``RESULT`` in them stands for the file.
        num_processes: How many of it are started; 0 for one without torchrun.
    """
    together = [
        *("-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(num_processes)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        words = [word.replace("RESULT", str(result)) for word in command]
        start = together if num_processes else []
        done = subprocess.run(
            [sys.executable, *start, "-m", *words],
            env={**os.environ, "CALLBOARD_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        if done.returncode:
            raise SystemExit(f"{command}, {num_processes}: {done.stderr[-2000:]}")
        print(f"{num_processes} processes: {' '.join(command)}", file=sys.stderr)
        return json.loads(result.read_text())
