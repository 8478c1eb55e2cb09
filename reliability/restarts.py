"""SIGKILL one of two processes at a random instant; torchrun starts them again.

The run must go on from its last checkpoint, and end with the weights of a run that
nothing befell. `--max-restarts` of torchrun and `--resume auto` are all that it takes.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from reliability import tables

ROOT = Path(__file__).parents[1]
STRATEGIES = ("ddp", "fsdp2")
NUM_EPOCHS = 40
PATIENCE_SECONDS = 180


def start(strategy: str, folder: Path) -> subprocess.Popen[str]:
    """Let torchrun start a run in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "3"]
    command += ["-m", "callboard", "fit", "reliability.restarted:learner"]
    command += ["--epochs", str(NUM_EPOCHS), "--resume", "auto"]
    command += ["--with", f"distributed:strategy={strategy}"]
    command += ["--with", "checkpoint:every=7step"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_of(process: int) -> list[int]:
    """The processes that torchrun has started."""
    with suppress(OSError):
        return [
            int(child)
            for child in Path(f"/proc/{process}/task/{process}/children")
            .read_text()
            .split()
        ]
    return []


def train(strategy: str, kill_after: float | None, chance: random.Random) -> str:
    """Train, kill one process after so many seconds; what came of it, in a word."""
    with tempfile.TemporaryDirectory() as folder:
        running = start(strategy, Path(folder))
        if kill_after is not None:
            time.sleep(kill_after)
            workers = workers_of(running.pid)
            if not workers:
                running.communicate()
                return "over"
            os.kill(chance.choice(workers), signal.SIGKILL)
        try:
            printed, errors = running.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            return "hangs"
        found = re.search(r"weights (\w+)", printed)
        if found is None:
            print(errors[-3000:], file=sys.stderr)
        return found[1] if found else "failed"


def main(num_kills: int, seed: int) -> int:
    """Kill runs and print what became of them; the exit status."""
    chance, rows, num_wrong = random.Random(seed), [], 0
    started = time.monotonic()
    for strategy in STRATEGIES:
        begin = time.monotonic()
        straight = train(strategy, None, chance)
        lasts = time.monotonic() - begin
        ends = [
            train(strategy, chance.uniform(0.3, 0.9) * lasts, chance)
            for _ in range(num_kills)
        ]
        killed = [end for end in ends if end != "over"]  # it ended before the kill
        wrong = [end for end in killed if end != straight]
        num_wrong += len(wrong) + (not killed)
        rows.append((strategy, len(killed), len(killed) - len(wrong), ", ".join(wrong)))
        print(f"{strategy}: {len(killed)} kills", flush=True)
    tables.show(
        f"One of two processes killed at a random instant, seed {seed}, "
        f"{time.monotonic() - started:.0f} s",
        ("strategy", "kills", "same weights", "others"),
        rows,
    )
    return int(num_wrong > 0)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", count=10, seed=1)
    sys.exit(main(given.count, given.seed))
