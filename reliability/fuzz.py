"""Damage checkpoints in thousands of ways: all is found, and the one before used."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from callboard.errors import CallboardWarning
from callboard_checkpoint.files import HEAD, TENSORS
from callboard_checkpoint.folder import RunFolder
from callboard_checkpoint.reading import Reader
from reliability import children, runs, tables


def flip_a_bit(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut_off(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def overwrite_a_block(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    start = chance.randrange(len(content))
    size = min(chance.choice((1, 16, 512)), len(content) - start)
    # At least its first byte is another one.
    block = bytes([content[start] ^ 0xFF]) + chance.randbytes(size - 1)
    content[start : start + size] = block
    file.write_bytes(content)


def append(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randint(1, 64)))


def take_away(file: Path, chance: random.Random) -> None:
    file.unlink()


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "a flipped bit": flip_a_bit,
    "cut off": cut_off,
    "a block of noise": overwrite_a_block,
    "bytes behind the end": append,
    "a file is gone": take_away,
}


def main(count: int, seed: int) -> int:
    """Damage a checkpoint ``count`` times; the exit status."""
    chance = random.Random(seed)
    tried: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        path.mkdir()
        saving = {"every": "1 epoch", "keep": 2, "async_": False}
        kind = runs.Kind(runs.a_loader, saving=saving)
        children.run(lambda: runs.fit(kind, path), path / "log.txt")
        files = RunFolder(path / "checkpoints")
        older, newer = files.checkpoints()
        spare = Path(folder) / "spare"
        shutil.copytree(newer, spare)
        good = Reader().newest_good(files.path)["loop"]["next"]
        for _ in range(count):
            name, file = chance.choice(list(DAMAGE)), chance.choice((HEAD, TENSORS))
            DAMAGE[name](newer / file, chance)
            tried[name] += 1
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", CallboardWarning)
                state = Reader().newest_good(files.path)
            is_said = any(newer.name in str(warning.message) for warning in said)
            is_older = state["loop"]["next"] == [good[0] - 1, 0]
            unseen[name] += not (is_said and is_older)
            shutil.copy(spare / file, newer / file)
        assert older.exists()
    seconds = time.monotonic() - started
    tables.show(
        f"Damaged checkpoints, seed {seed}, {seconds:.0f} s",
        ("damage", "tried", "not found"),
        [
            *((n, tried[n], unseen[n]) for n in sorted(tried)),
            ("all", tried.total(), unseen.total()),
        ],
    )
    return int(unseen.total() > 0)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", count=10_000, seed=1)
    sys.exit(main(given.count, given.seed))
