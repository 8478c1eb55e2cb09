"""The language model of the examples trains alike in one process and in two."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[1] / "examples" / "language_model.py"
SMALL = ("width=16", "num_blocks=1", "length=32", "max_letters=20000", "sample=12")
IN_TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
PATIENCE_SECONDS = 240


def fit(folder, start, *options):
    """What a fit prints and the results that it logs, as a user starts it."""
    folder.mkdir()
    small = [part for option in SMALL for part in ("-o", option)]
    usual = {k: v for k, v in os.environ.items() if k != "CALLBOARD_AUTOLOAD"}
    done = subprocess.run(
        [
            *(sys.executable, *start, "-m", "callboard", "fit", str(TARGET)),
            *("--epochs", "2", "--with", "csv-logger", *small, *options),
        ],
        cwd=folder,
        env={**usual, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    with (folder / "runs/language-model/history.csv").open() as log:
        rows = list(csv.DictReader(log))
    losses = [float(row[name]) for row in rows for name in ("train_loss", "valid_loss")]
    return done.stdout, losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process prints and logs."""
    return fit(tmp_path_factory.mktemp("alone") / "run", ())


def test_it_learns_to_write(alone):
    printed, (_, first, _, last) = alone

    assert last < first < 4.7  # the logarithm of about 100 letters: it knew nothing
    written = printed.partition("\n\nThe ")[2].rpartition("\n\nDone in")[0]
    assert len(written.rstrip("\n")) in range(6, 13)  # it may end in empty lines


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_have_the_losses_of_one(alone, strategy, tmp_path):
    together = f"distributed:strategy={strategy}"

    printed, losses = fit(tmp_path / "run", IN_TWO, "--with", together)

    assert losses == pytest.approx(alone[1], rel=1e-6)
    assert printed.count("\n\nThe ") == 1  # one process speaks
