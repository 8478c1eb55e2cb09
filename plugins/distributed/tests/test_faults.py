"""A process dies, or hangs: the run goes on from its checkpoint, or says who hangs."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard_distributed import DistributedCallback
from callboard_distributed.hanging import in_words, where_it_is

TRAIN = Path(__file__).parent / "train.py"
SECONDS = 240
# `nox -s distributed` tries four.
NUM_PROCESSES = os.environ.get("CALLBOARD_PROCESSES", "2")


def fit_in_many(folder, *options, restarts=0):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start += ["--nproc-per-node", NUM_PROCESSES, "--max-restarts", str(restarts)]
    command = ["-m", "callboard", "fit", str(TRAIN), "--epochs", "2"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        [*start, *command, *options],
        env={**kept, "CALLBOARD_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def results_of(done):
    """The last line, without times."""
    assert done.returncode == 0, done.stderr
    return re.search(r"epoch 1: .*?(?=, time)", done.stdout)[0]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_process_is_started_again_and_the_run_ends_the_same(
    strategy, tmp_path
):
    together = ["--with", f"distributed:strategy={strategy}"]
    saving = ["--with", "checkpoint:every=3step", "--resume", "auto"]

    killed = fit_in_many(
        tmp_path, *together, *saving, "-o", "mishap=SIGKILL", restarts=3
    )

    assert "Going on in epoch" in killed.stdout
    assert results_of(killed) == results_of(fit_in_many(tmp_path, *together))


def test_a_process_that_hangs_is_named_with_its_plugin_and_stack(tmp_path):
    begin = time.monotonic()

    done = fit_in_many(
        tmp_path, "--with", "distributed:hang_seconds=2", "-o", "mishap=sleep"
    )

    assert done.returncode == 1
    assert done.stderr.count("the run has stood still for 2 s") == 1
    assert "Process 1 is in plugin mishap (train.py) during after_step" in done.stderr
    assert "time.sleep(1000)" in done.stderr
    assert "Process 0 waits for others" in done.stderr
    assert time.monotonic() - begin < 60


# ---- what is said --------------------------------------------------------------


class Looks(Callback):
    """Asks in the middle of an event where this process is."""

    def after_loss(self):
        self.found = where_it_is(self.learn, sys._getframe())


def found_in_a_fit():
    looks = Looks()
    batches = [(torch.ones(2, 1), torch.ones(2, 1))] * 2
    learner = Learner(batches, nn.Linear(1, 1), nn.MSELoss(), cbs=looks, device="cpu")
    learner.fit(1)
    return looks.found


def test_where_a_process_is_names_the_plugin_the_event_and_the_batch():
    found = found_in_a_fit()

    assert found["plugin"].startswith("looks")
    assert (found["event"], found["epoch"], found["batch"]) == ("after_loss", 0, 1)
    assert "where_it_is(self.learn" in found["stack"]


def entry(*, is_waiting, plugin=""):
    found = {"plugin": plugin, "event": "after_step" if plugin else ""}
    return {**found, "epoch": 0, "batch": 3, "is_waiting": is_waiting, "stack": "-> x"}


def test_nothing_is_said_where_all_are_at_work():
    assert in_words({0: entry(is_waiting=False)}, 1, 5) == ""


def test_a_process_that_says_nothing_is_named():
    said = in_words({0: entry(is_waiting=True)}, 2, 5)

    assert "Process 1 says nothing" in said
    assert "Process 0 waits for others, in the loop itself, epoch 0, batch 3." in said


def test_exchanges_that_do_not_match_are_shown_with_their_stacks():
    waiting = entry(is_waiting=True, plugin="mine")

    said = in_words({0: waiting, 1: waiting}, 2, 5)

    assert "exchanges that do not match" in said
    assert said.count("-> x") == 2


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_a_limit_that_is_none_is_refused(seconds):
    with pytest.raises(OptionError, match="hang_seconds must be above 0, or None"):
        DistributedCallback(hang_seconds=seconds)
