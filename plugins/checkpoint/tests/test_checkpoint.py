"""Saving the run, and going on from it: files, folders, signals, options."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard.errors import CallboardWarning, NonFiniteError, OptionError, StateError
from callboard_checkpoint import CheckpointCallback, Interrupted, read_checkpoint
from callboard_checkpoint.folder import MANIFEST, RunFolder
from callboard_recorder import Recorder


def data(num_samples=12, batch_size=4):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_samples, 3, generator=generator)
    dataset = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    return DataLoader(dataset, batch_size, shuffle=True)


def a_learner(path, *cbs, **options):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
    options = {"opt_func": torch.optim.Adam, "lr": 0.01, "seed": 5, **options}
    return Learner(
        (data(), data()), model, nn.MSELoss(), cbs=[*cbs], path=path, **options
    )


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def names(path):
    return [each.name for each in RunFolder(path / "checkpoints").checkpoints()]


class DiesAt(Callback):
    """Ends the fit as a kill would: nothing is saved behind it."""

    run_before = "checkpoint"

    def __init__(self, train_iter):
        self.last = train_iter

    def before_batch(self):
        if self.train_iter == self.last and self.training:
            raise ArithmeticError


def test_an_epoch_is_a_checkpoint_and_the_latest_are_kept(tmp_path):
    learner = a_learner(tmp_path, CheckpointCallback(keep=2, async_=False))

    learner.fit(4)

    assert names(tmp_path) == ["000003-epoch-3-step-9", "000004-epoch-4-step-12"]
    manifest = json.loads((tmp_path / "checkpoints" / MANIFEST).read_text())
    assert manifest["last_good"] == "000004-epoch-4-step-12"
    assert learner.checkpoint.last_saved.name == manifest["last_good"]


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("1 epoch", [3, 6, 9]),
        ("2 epochs", [6]),
        ("4 steps", [4, 8]),
        # Before and after the validation behind step 6 the state is not the same.
        ("2 epochs, 2 steps", [2, 4, 6, 6, 8]),
        (["1 epoch", "5 steps"], [3, 5, 6, 9]),
        ("0.000001 s", [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]),
        ("1 h", []),
    ],
)
def test_every_says_how_often(every, steps, tmp_path):
    callback = CheckpointCallback(every, keep=99, async_=False)

    a_learner(tmp_path, callback).fit(3)

    assert [int(name.split("-")[-1]) for name in names(tmp_path)] == steps


@pytest.mark.parametrize("every", ["1 epoc", "-1 step", "0 steps", "1.5 epochs", 3, ""])
def test_an_interval_that_is_none_is_refused_with_examples(every):
    with pytest.raises(OptionError, match=r'"1 epoch", "500 steps", "10 min"'):
        CheckpointCallback(every if every != 3 else ["three"])


@pytest.mark.parametrize(
    ("option", "value"), [("keep", 0), ("keep", True), ("comp", 3)]
)
def test_a_wrong_option_is_refused(option, value):
    with pytest.raises(OptionError, match=f"checkpoint: {option}"):
        CheckpointCallback(**{option: value})


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("dies_at", [1, 3, 4, 8])
def test_auto_goes_on_from_the_last_good_one(dies_at, is_async, tmp_path):
    whole = a_learner(tmp_path / "whole")
    whole.fit(3)
    options = {"every": "1 step", "async_": is_async}
    with pytest.raises(ArithmeticError):
        a_learner(tmp_path, CheckpointCallback(**options), DiesAt(dies_at)).fit(3)

    resumed = a_learner(tmp_path, CheckpointCallback(**options))
    resumed.fit(3, resume="auto", resume_policy="ignore")

    assert torch.equal(weights(resumed), weights(whole))


def test_auto_without_any_checkpoint_starts_from_the_beginning(tmp_path):
    whole = a_learner(tmp_path / "whole")
    whole.fit(2)

    resumed = a_learner(tmp_path, CheckpointCallback())
    resumed.fit(2, resume="auto")

    assert torch.equal(weights(resumed), weights(whole))


def test_a_callback_of_one_fit_is_found_by_auto_too(tmp_path):
    options = {"folder": tmp_path / "elsewhere", "async_": False}
    first = a_learner(tmp_path)
    first.fit(2, cbs=CheckpointCallback(**options))

    second = a_learner(tmp_path)
    second.fit(
        3, cbs=CheckpointCallback(**options), resume="auto", resume_policy="ignore"
    )

    assert second.train_iter == 9


def test_a_path_may_be_a_checkpoint_or_a_folder_of_them(tmp_path):
    learner = a_learner(tmp_path, CheckpointCallback())
    learner.fit(2)
    first = tmp_path / "checkpoints" / names(tmp_path)[0]

    assert read_checkpoint(learner, first)["loop"]["next"] == [1, 0]
    assert read_checkpoint(learner, str(first.parent))["loop"]["next"] == [2, 0]
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StateError, match="no checkpoint"):
            read_checkpoint(learner, wrong)


def test_the_best_is_kept_beside_the_latest(tmp_path):
    class Publish(Callback):
        role = "observe"

        def __init__(self):
            self.higher_is_better = {"score": True}

        def after_validate(self):
            self.learn.results["score"] = [0.1, 0.9, 0.2, 0.3, 0.4][self.epoch]

    callback = CheckpointCallback("9 epochs", keep=1, keep_best="score", async_=False)
    a_learner(tmp_path, Publish(), callback).fit(5)

    assert names(tmp_path) == ["000002-epoch-2-step-6"]

    again = CheckpointCallback(keep_best="scor", folder="other")
    with pytest.raises(OptionError, match=r"scor.*Did you mean \"score\""):
        a_learner(tmp_path, Publish(), again).fit(1)


def test_one_save_at_a_time_and_the_last_is_never_lost(tmp_path, monkeypatch):
    callback = CheckpointCallback("1 step", keep=99)
    go_on, add = threading.Event(), RunFolder.add

    def slow_add(self, snapshot, *others):
        go_on.wait(5)
        return add(self, snapshot, *others)

    class LetGo(Callback):
        def after_train(self):
            go_on.set()

    monkeypatch.setattr(RunFolder, "add", slow_add)
    learner = a_learner(tmp_path, callback, LetGo())
    learner.fit(1)

    saved = [int(name.split("-")[-1]) for name in names(tmp_path)]
    assert saved[0] == 1
    assert 2 not in saved
    cost = learner.checkpoint.costs[0]
    assert cost["standing_seconds"] < cost["writing_seconds"]
    assert cost["bytes"] > 0


def test_a_snapshot_is_not_changed_by_the_training_that_goes_on(tmp_path, monkeypatch):
    add = RunFolder.add

    def slow_add(self, snapshot, *others):
        time.sleep(0.2)
        return add(self, snapshot, *others)

    monkeypatch.setattr(RunFolder, "add", slow_add)
    early = a_learner(tmp_path, CheckpointCallback("2 steps", keep=99))
    early.fit(2)
    first = tmp_path / "checkpoints" / names(tmp_path)[0]

    plain = a_learner(tmp_path / "plain", DiesAt(2))
    with pytest.raises(ArithmeticError):
        plain.fit(2)

    for name, tensor in read_checkpoint(early, first)["model"].items():
        assert torch.equal(tensor, plain.model.state_dict()[name])


def test_two_runs_do_not_write_to_one_folder_at_once(tmp_path):
    class Second(Callback):
        def after_epoch(self):
            with pytest.raises(OptionError, match="another run is writing"):
                a_learner(tmp_path, CheckpointCallback()).fit(1)
            self.was_here = True

    learner = a_learner(tmp_path, CheckpointCallback(), Second())
    learner.fit(1)

    assert learner.second.was_here


def test_a_new_run_takes_nothing_of_an_earlier_one_away_unless_told_to(tmp_path):
    a_learner(tmp_path, CheckpointCallback()).fit(2)
    before = names(tmp_path)

    with pytest.raises(OptionError, match="earlier run"):
        a_learner(tmp_path, CheckpointCallback()).fit(1)
    assert names(tmp_path) == before

    a_learner(tmp_path, CheckpointCallback(overwrite=True)).fit(1)
    assert names(tmp_path) == ["000001-epoch-1-step-3"]


def test_a_second_fit_of_the_same_learner_goes_on_in_the_folder(tmp_path):
    learner = a_learner(tmp_path, CheckpointCallback(keep=9))

    learner.fit(1)
    learner.fit(1)

    assert len(names(tmp_path)) == 2


def test_what_a_kill_has_left_is_cleaned_up(tmp_path):
    folder = tmp_path / "checkpoints"
    left = folder / ".000001-epoch-1-step-3.unfinished"
    left.mkdir(parents=True)
    (left / "tensors.safetensors").write_bytes(b"half")

    a_learner(tmp_path, CheckpointCallback()).fit(1)

    assert not left.exists()


def test_a_folder_that_cannot_be_written_to_is_said_before_training(tmp_path):
    (tmp_path / "checkpoints").write_text("a file is in the way")

    with pytest.raises(OptionError, match="nothing can be written to"):
        a_learner(tmp_path, CheckpointCallback()).fit(1)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_save_that_fails_is_said_and_nothing_good_is_lost(
    is_async, tmp_path, monkeypatch
):
    learner = a_learner(tmp_path, CheckpointCallback(async_=is_async))
    learner.fit(1)
    before = names(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("callboard_checkpoint.files.save_file", full)
    with pytest.warns(CallboardWarning, match="No space left"):
        learner.fit(1)

    assert names(tmp_path) == before
    assert not list((tmp_path / "checkpoints").glob("*.unfinished"))
    read_checkpoint(learner, tmp_path / "checkpoints" / before[0])


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Ruin(Callback):
        def after_step(self):
            if self.train_iter == 4:
                with torch.no_grad():
                    self.model[0].weight[0, 0] = torch.nan

    saver = CheckpointCallback("1 step", async_=False)
    with pytest.raises(NonFiniteError, match="step 5"):
        a_learner(tmp_path, saver, Ruin()).fit(3)

    state = read_checkpoint(a_learner(tmp_path), "auto")
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_a_loss_that_becomes_nan_ends_the_fit_and_leaves_a_finite_checkpoint(tmp_path):
    class Poison(Callback):
        def after_loss(self):
            if self.train_iter == 4:
                self.learn.loss_grad = self.learn.loss_grad * torch.nan
                self.learn.loss = self.learn.loss * torch.nan

    learner = a_learner(tmp_path, Recorder(), CheckpointCallback(), Poison())
    with pytest.raises(
        NonFiniteError, match=r"nan in epoch 1, training batch 1 \(step 5\)"
    ):
        learner.fit(3)

    state = read_checkpoint(a_learner(tmp_path), "auto")
    assert state["loop"]["next"] == [1, 0]
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_a_plugin_whose_state_is_no_plain_data_is_named(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"when": Path("x")}

    with pytest.raises(
        StateError, match=r"\['plugins'\]\['odd'\]\['when'\].*PosixPath"
    ):
        a_learner(tmp_path, CheckpointCallback(), Odd()).fit(1)


def test_a_loader_that_keeps_no_place_is_said_before_training(tmp_path):
    learner = a_learner(tmp_path, CheckpointCallback())
    learner.dls = iter(list(data()))

    with pytest.warns(CallboardWarning, match="can be gone through once"):
        learner.fit(1)


def test_weights_are_those_of_a_run_without_it(tmp_path):
    plain = a_learner(tmp_path / "plain")
    plain.fit(2)
    saving = a_learner(tmp_path, CheckpointCallback("1 step"))
    saving.fit(2)

    assert torch.equal(weights(saving), weights(plain))


def test_nothing_stays_open_after_a_fit(tmp_path):
    before = signal.getsignal(signal.SIGINT), threading.active_count()
    learner = a_learner(tmp_path, CheckpointCallback())
    learner.fit(1)
    num_files = len(os.listdir("/proc/self/fd")) if Path("/proc").exists() else 0
    for _ in range(3):
        learner.fit(1)

    assert (signal.getsignal(signal.SIGINT), threading.active_count()) == before
    if num_files:
        assert len(os.listdir("/proc/self/fd")) == num_files


PROGRAM = """
import os, signal, sys, time, torch
sys.path.insert(0, {tests!r})
from test_checkpoint import a_learner
from callboard import Callback
from callboard_checkpoint import CheckpointCallback

class Signal(Callback):
    run_before = "checkpoint"
    def before_batch(self):
        if (self.epoch, self.iter, self.training) == {when}:
            for _ in range({times}):
                os.kill(os.getpid(), signal.{name})
            time.sleep(0.05)

learner = a_learner({path!r}, CheckpointCallback("1 h"), Signal())
try:
    learner.fit(3)
finally:
    print("step", learner.train_iter)
print("went on")
"""


def run_program(tmp_path, name, when, times=1):
    tests = str(Path(__file__).parent)
    text = PROGRAM.format(
        tests=tests, name=name, when=when, times=times, path=str(tmp_path)
    )
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "when", "step", "code"),
    [
        ("SIGTERM", (1, 1, True), 5, 143),
        ("SIGINT", (0, 0, True), 1, 130),
        ("SIGTERM", (1, 1, False), 6, 143),
        ("SIGINT", (2, 2, False), 9, 130),
    ],
)
def test_a_signal_finishes_the_step_saves_and_leaves(name, when, step, code, tmp_path):
    done = run_program(tmp_path, name, when)

    assert done.returncode == code, done.stderr
    assert done.stdout.split() == ["step", str(step)]
    assert "finishing the step" in done.stderr
    assert [int(name.split("-")[-1]) for name in names(tmp_path)] == [step]
    whole = a_learner(tmp_path / "whole")
    whole.fit(3)
    resumed = a_learner(tmp_path, CheckpointCallback("1 h"))
    resumed.fit(3, resume="auto", resume_policy="ignore")
    assert torch.equal(weights(resumed), weights(whole))


def test_a_second_signal_leaves_at_once(tmp_path):
    done = run_program(tmp_path, "SIGTERM", (1, 1, True), times=2)

    assert done.returncode == 143
    assert "step" not in done.stdout
    assert names(tmp_path) == []


def test_a_signal_while_a_save_is_written_loses_neither(tmp_path, monkeypatch):
    add = RunFolder.add

    def slow_add(self, snapshot, *others):
        if snapshot.summary["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return add(self, snapshot, *others)

    monkeypatch.setattr(RunFolder, "add", slow_add)
    learner = a_learner(tmp_path, CheckpointCallback("2 steps", keep=9))

    with pytest.raises(Interrupted) as caught:
        learner.fit(3)

    assert caught.value.code == 143
    saved = [int(name.split("-")[-1]) for name in names(tmp_path)]
    assert saved[0] == 2
    assert saved[-1] == learner.train_iter


def test_ctrl_c_can_be_caught_as_ever(tmp_path):
    class Press(Callback):
        def before_batch(self):
            os.kill(os.getpid(), signal.SIGINT)

    learner = a_learner(tmp_path, CheckpointCallback(), Press())

    with pytest.raises(KeyboardInterrupt):
        learner.fit(1)

    learner.remove_cb("press")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.fit(1, resume="auto")
    assert learner.train_iter == 3
