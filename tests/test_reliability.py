"""A sample of the proofs that runs survive; ``nox -s reliability`` does all of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from reliability import nodes

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are forked, and read from /proc"
)


@pytest.mark.parametrize(
    ("proof", "arguments", "heading"),
    [
        ("kill", ("--count", "30"), "SIGKILL at random instants"),
        ("every_event", ("--step", "5"), "An error and a kill at every event"),
        ("crash_points", ("--step", "9"), "A crash before each"),
        ("fuzz", ("--count", "300"), "Damaged checkpoints"),
        ("full_disk", (), "Saves on a disk that is full"),
        ("long_run", ("--count", "30000", "--limit", "32768"), "30,000 steps"),
    ],
)
def test_a_proof_holds(proof, arguments, heading):
    done = subprocess.run(
        [sys.executable, "-m", f"reliability.{proof}", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert heading in done.stdout


def test_a_run_of_two_nodes_survives_the_loss_of_one():
    training = nodes.Training("fsdp2", num_epochs=10)

    undisturbed = nodes.train(training, None)
    lost_and_regained = nodes.train(training, (1, 0.3))

    assert len(undisturbed) == 16
    assert lost_and_regained == undisturbed
