"""The examples do what they and README say, run as a user runs them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, *command):
    """What a command prints, run in a folder of its own as on a fresh machine."""
    environment = {k: v for k, v in os.environ.items() if k != "CALLBOARD_AUTOLOAD"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("example", "results", "own"),
    [
        ("digits", "accuracy of the best model: 9", "mixup"),
        ("tabular", "area under the ROC curve: 0.9", "plain-words"),
    ],
)
def test_an_example_reaches_its_goal_and_says_where_its_results_are(
    example, results, own, tmp_path
):
    printed = run(tmp_path, sys.executable, str(EXAMPLES / f"{example}.py"))

    assert own in printed
    assert results in printed
    with (tmp_path / "runs" / example / "history.csv").open() as log:
        rows = list(csv.DictReader(log))
    assert [int(row["epoch"]) for row in rows] == list(range(len(rows)))
    assert any(path.suffix == ".safetensors" for path in tmp_path.rglob("*"))


def test_an_example_is_a_target_of_the_command_line(tmp_path):
    target = str(EXAMPLES / "digits.py")
    callboard = (sys.executable, "-m", "callboard")

    listed = json.loads(run(tmp_path, *callboard, "plugins", "list", target, "--json"))
    trained = run(
        *(tmp_path, *callboard, "fit", target, "--epochs", "1", "-o", "width=4"),
        *("--schedule", "one-cycle", "--lr", "0.01", "--without", "csv-logger"),
    )

    active = [plugin["name"] for plugin in listed if plugin["status"] == "active"]
    assert active == [
        *("recorder", "progress", "mixup", "early-stopping", "save-model"),
        "csv-logger",
    ]
    assert "accuracy" in trained
    assert not list(tmp_path.rglob("history.csv"))
