"""The log of a run is complete, exact and safe on the disk."""

from __future__ import annotations

import copy
import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import callboard_csv_logger
from callboard import (
    Callback,
    CancelEpochException,
    CancelFitException,
    DataLoaders,
    Learner,
)
from callboard.errors import OptionError, StateError
from callboard_csv_logger import CSVLogger, as_cell, as_value, with_row

INPUTS = torch.linspace(-1, 1, 16).reshape(8, 2)
BATCHES = [(INPUTS[i : i + 2], INPUTS[i : i + 2].sum(1, True)) for i in (0, 2, 4, 6)]


@pytest.fixture(autouse=True)
def no_automatic_plugins(monkeypatch):
    """Only the plugins that a test gives take part, whatever is installed."""
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")
    monkeypatch.delenv("RANK", raising=False)


class Measurements(Callback):
    """Publishes a real loss, as the recorder does, and what a test asks for."""

    name = "recorder"
    role = "observe"

    def __init__(self, **more):
        self.more = more

    def after_train(self):
        self.learn.results["train_loss"] = self.learn.loss.item()

    def after_validate(self):
        self.learn.results["valid_loss"] = self.learn.loss.item()
        for name, by_epoch in self.more.items():
            if self.epoch in by_epoch:
                self.learn.results[name] = by_epoch[self.epoch]


class KilledError(Exception):
    """Stands for what ends a process."""


class Kill(Callback):
    """Ends the fit when an epoch has been trained, before its row is written."""

    run_before = "csv-logger"

    def __init__(self, epoch):
        self.epoch_of_death = epoch

    def after_epoch(self):
        if self.epoch == self.epoch_of_death:
            raise KilledError


class KeepState(Callback):
    """Keeps the state of the whole run at the end of an epoch."""

    def __init__(self, epoch):
        self.epoch_to_keep = epoch
        self.state = None

    def checkpoint(self):
        is_end = self.iter == len(BATCHES) - 1 and not self.learn.training
        if self.epoch == self.epoch_to_keep and is_end:
            plugins = {"csv-logger": self.learn.csv_logger.state_dict()}
            state = {**self.learn.state_dict(), "plugins": plugins}
            self.state = copy.deepcopy(state)


def make_learner(path, *cbs, valid=BATCHES):
    torch.manual_seed(0)
    return Learner(
        DataLoaders(BATCHES, valid),
        nn.Linear(2, 1),
        nn.functional.mse_loss,
        torch.optim.SGD,
        lr=0.1,
        cbs=cbs,
        path=path,
        device="cpu",
        seed=0,
    )


def lines_of(path) -> list[str]:
    return (path / "history.csv").read_text().splitlines()


# ---- what is written -------------------------------------------------------


def test_every_epoch_has_a_row_below_one_header(tmp_path):
    learner = make_learner(tmp_path, Measurements(), CSVLogger())

    learner.fit(3)

    header, *rows = lines_of(tmp_path)
    assert header == "epoch,train_loss,valid_loss"
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]


def test_values_read_back_as_the_very_numbers_that_were_measured(tmp_path):
    seen = []

    class Look(Callback):
        def after_epoch(self):
            seen.append({"epoch": self.epoch, **self.results})

    learner = make_learner(tmp_path, Measurements(), CSVLogger(), Look())

    learner.fit(3)

    assert learner.csv_logger.read_log() == seen


def test_row_is_on_the_disk_before_the_next_epoch_begins(tmp_path):
    sizes = []

    class Look(Callback):
        def before_epoch(self):
            sizes.append(len(lines_of(tmp_path)))

    make_learner(tmp_path, Measurements(), CSVLogger(), Look()).fit(3)

    assert sizes == [0, 2, 3]  # nothing, then the header and a row an epoch


def test_rows_outlive_a_process_that_is_killed(tmp_path):
    script = """
import os, sys, torch
from callboard import Callback, Learner
from callboard_csv_logger import CSVLogger

class Kill(Callback):
    def before_epoch(self):
        if self.epoch == 2:
            os.kill(os.getpid(), 9)

batches = [(torch.ones(1, 1), torch.ones(1, 1))]
cbs = [CSVLogger(), Kill()]
loss = torch.nn.functional.mse_loss
Learner(batches, torch.nn.Linear(1, 1), loss, cbs=cbs, path=sys.argv[1]).fit(5)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment)

    assert run.returncode == -9
    assert lines_of(tmp_path) == ["epoch", "0", "1"]


def test_value_that_is_missing_leaves_its_cell_empty(tmp_path):
    measured = Measurements(f1={0: 0.5, 2: 0.75}, note={0: None, 1: "up, down", 2: 3})
    learner = make_learner(tmp_path, measured, CSVLogger(exclude=["train_loss"]))

    learner.fit(3)

    rows = [(row["f1"], row["note"]) for row in learner.csv_logger.read_log()]
    assert rows == [(0.5, None), (None, "up, down"), (0.75, 3)]


def test_column_that_comes_later_is_there_for_every_row(tmp_path):
    measured = Measurements(f1={1: 0.5})
    learner = make_learner(tmp_path, measured, CSVLogger(exclude="train_loss"))

    learner.fit(3)

    header, *rows = lines_of(tmp_path)
    assert header == "epoch,valid_loss,f1"
    assert [row.split(",")[-1] for row in rows] == ["", "0.5", ""]
    assert list(tmp_path.iterdir()) == [tmp_path / "history.csv"]


def test_excluded_names_have_no_column(tmp_path):
    measured = Measurements(time=dict.fromkeys(range(2), 1.5))

    make_learner(tmp_path, measured, CSVLogger(exclude=("time",))).fit(2)

    assert lines_of(tmp_path)[0] == "epoch,train_loss,valid_loss"


def test_cancelled_epoch_has_a_row_of_what_there_is(tmp_path):
    class Skip(Callback):
        def before_validate(self):
            if self.epoch == 1:
                raise CancelEpochException("enough")

    learner = make_learner(tmp_path, Measurements(), CSVLogger(), Skip())

    learner.fit(3)

    losses = [row["valid_loss"] is None for row in learner.csv_logger.read_log()]
    assert losses == [False, True, False]


def test_cancelled_fit_keeps_its_rows(tmp_path):
    class Cancel(Callback):
        def before_epoch(self):
            if self.epoch == 2:
                raise CancelFitException("enough")

    make_learner(tmp_path, Measurements(), CSVLogger(), Cancel()).fit(5)

    assert len(lines_of(tmp_path)) == 3


def test_numbers_of_any_kind_are_written_in_full():
    numbers = [0.1 + 0.2, torch.tensor(0.5), 3, 1e-300, math.inf, None, True, "a"]

    cells = [as_cell(number) for number in numbers]

    assert cells == [
        *("0.30000000000000004", "0.5", "3", "1e-300", "inf", "", "True", "a")
    ]


def test_numpy_numbers_are_written_as_plain_ones():
    numpy = pytest.importorskip("numpy")

    assert as_cell(numpy.float64(0.1)) == "0.1"
    assert as_cell(numpy.float32(0.5)) == "0.5"
    assert as_cell(numpy.int64(7)) == "7"


def test_cells_read_as_numbers_where_they_are_numbers():
    cells = ["1", "-2.5", "1e-05", "inf", "", "up", "1_000"]

    values = [as_value(cell) for cell in cells]

    assert values == [1, -2.5, 1e-05, math.inf, None, "up", "1_000"]
    assert isinstance(values[0], int)
    assert math.isnan(as_value("nan"))


def test_row_without_new_columns_is_only_added():
    text = "epoch,f1\r\n0,0.50\r\n"

    assert with_row(text, {"f1": "0.5", "epoch": "1"}) == text + "1,0.5\n"


# ---- where it is written ---------------------------------------------------


def test_folders_are_made(tmp_path):
    learner = make_learner(tmp_path / "a", CSVLogger("b/c/log.csv"))

    learner.fit(1)

    assert (tmp_path / "a/b/c/log.csv").read_text() == "epoch\n0\n"


@pytest.mark.parametrize("is_absolute", [True, False])
def test_file_may_be_anywhere(tmp_path, is_absolute):
    fname = tmp_path / "log.csv" if is_absolute else "../log.csv"

    make_learner(tmp_path / "run", CSVLogger(fname)).fit(1)

    assert (tmp_path / "log.csv").exists()


def test_change_of_folder_during_a_fit_moves_no_rows(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    class Move(Callback):
        def before_train(self):
            os.chdir(tmp_path / "elsewhere")

    make_learner(".", CSVLogger(), Move()).fit(2)

    assert len(lines_of(tmp_path)) == 3


def test_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "history.csv").symlink_to(tmp_path / "real.csv")

    make_learner(tmp_path, CSVLogger()).fit(1)

    assert (tmp_path / "history.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "epoch\n0\n"


def test_device_is_left_alone(tmp_path):
    fifo = tmp_path / "history.csv"
    os.mkfifo(fifo)
    learner = make_learner(tmp_path, CSVLogger())

    learner.fit(1)

    assert fifo.is_fifo()
    assert "no regular file" in learner.record.failures[0].error
    assert learner.train_iter == len(BATCHES)


def test_log_can_be_read_after_a_fit_that_it_was_given_to(tmp_path):
    logger = CSVLogger()
    learner = make_learner(tmp_path)

    learner.fit(2, cbs=logger)

    assert [row["epoch"] for row in logger.read_log()] == [0, 1]


def test_log_that_was_never_written_has_no_rows(tmp_path):
    assert make_learner(tmp_path, CSVLogger()).csv_logger.read_log() == []


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")

    make_learner(tmp_path, CSVLogger()).fit(1)

    assert list(tmp_path.iterdir()) == []


# ---- who must not touch it -------------------------------------------------


def test_validation_after_a_fit_leaves_the_file_alone(tmp_path):
    learner = make_learner(tmp_path, Measurements(), CSVLogger())
    learner.fit(2)
    before = lines_of(tmp_path)

    learner.validate()

    assert lines_of(tmp_path) == before


@pytest.mark.parametrize("stage", ["validate", "predict", "lr-find"])
def test_stage_inside_a_fit_leaves_the_file_alone(tmp_path, stage):
    class Nested(Callback):
        def before_validate(self):
            if self.stage == "fit":
                with self.learn.evaluating(stage):
                    self.learn.plan.do_validate()

    make_learner(tmp_path / "plain", Measurements(), CSVLogger()).fit(2)
    make_learner(tmp_path / "nested", Measurements(), CSVLogger(), Nested()).fit(2)

    assert lines_of(tmp_path / "nested") == lines_of(tmp_path / "plain")


def test_fit_inside_an_evaluation_leaves_the_file_alone(tmp_path):
    learner = make_learner(tmp_path, Measurements(), CSVLogger())
    learner.fit(2)
    before = lines_of(tmp_path)

    with learner.evaluating("lr-find"):
        learner.fit(1)

    assert lines_of(tmp_path) == before


def test_new_fit_starts_a_new_file(tmp_path):
    learner = make_learner(tmp_path, Measurements(), CSVLogger())

    learner.fit(3)
    learner.fit(1)

    assert len(lines_of(tmp_path)) == 2


# ---- going on with a file --------------------------------------------------


def test_append_keeps_the_rows_of_before_and_writes_no_second_header(tmp_path):
    make_learner(tmp_path, Measurements(), CSVLogger()).fit(2)
    before = lines_of(tmp_path)

    make_learner(tmp_path, Measurements(), CSVLogger(append=True)).fit(2)

    assert lines_of(tmp_path) == [*before, *before[1:]]


def test_append_goes_by_the_names_of_the_columns(tmp_path):
    (tmp_path / "history.csv").write_text("valid_loss,recall,epoch\n0.5,0.25,0\n")

    make_learner(tmp_path, Measurements(), CSVLogger(append=True)).fit(1)

    header, first, second = lines_of(tmp_path)
    assert header == "valid_loss,recall,epoch,train_loss"
    assert first == "0.5,0.25,0,"
    assert second.split(",")[1:3] == ["", "0"]


def test_append_refuses_a_file_that_is_no_log_and_leaves_it_as_it_is(tmp_path):
    (tmp_path / "history.csv").write_text("dear diary\n")
    learner = make_learner(tmp_path, CSVLogger(append=True))

    learner.fit(1)

    assert lines_of(tmp_path) == ["dear diary"]
    assert "no column 'epoch'" in learner.record.failures[0].error


def test_append_ends_a_row_that_was_cut_off(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,train_loss\n0,0.5\n1,0.2")

    make_learner(tmp_path, CSVLogger(append=True)).fit(1)

    assert lines_of(tmp_path)[2:] == ["1,0.2", "0,"]


def test_fit_that_starts_later_keeps_earlier_rows_and_doubles_none(tmp_path):
    learner = make_learner(tmp_path, Measurements(), CSVLogger())
    learner.fit(4)
    before = lines_of(tmp_path)

    learner.fit(6, start_epoch=2)

    assert [row.split(",")[0] for row in lines_of(tmp_path)[1:]] == list("012345")
    assert lines_of(tmp_path)[:3] == before[:3]


def test_fit_that_starts_later_without_a_file_writes_its_own_rows(tmp_path):
    make_learner(tmp_path, Measurements(), CSVLogger()).fit(4, start_epoch=2)

    assert [row.split(",")[0] for row in lines_of(tmp_path)] == ["epoch", "2", "3"]


@pytest.fixture
def uninterrupted(tmp_path) -> bytes:
    """The file of a run that nobody killed."""
    learner = make_learner(tmp_path / "whole", Measurements(), CSVLogger())
    learner.fit(6)
    return (tmp_path / "whole/history.csv").read_bytes()


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("epoch_of_death", [2, 3, 5])
def test_resumed_run_ends_with_the_file_of_the_run_that_was_never_killed(
    tmp_path, uninterrupted, append, epoch_of_death
):
    keeper = KeepState(epoch=1)
    logger = CSVLogger(append=append)
    killed = make_learner(tmp_path, Measurements(), logger, keeper)
    with pytest.raises(KilledError):
        killed.fit(6, cbs=Kill(epoch_of_death))
    resumed = make_learner(tmp_path, Measurements(), CSVLogger(append=append))

    resumed.load_state_dict(keeper.state)
    resumed.fit(6, start_epoch=2)

    assert (tmp_path / "history.csv").read_bytes() == uninterrupted


def test_later_rows_are_gone_when_the_resumed_fit_begins(tmp_path):
    keeper = KeepState(epoch=1)
    make_learner(tmp_path, Measurements(), CSVLogger(), keeper).fit(5)
    resumed = make_learner(tmp_path, Measurements(), CSVLogger())
    lengths = []

    class Look(Callback):
        run_after = "csv-logger"

        def before_fit(self):
            lengths.append(len(lines_of(tmp_path)))

    resumed.load_state_dict(keeper.state)
    resumed.fit(6, start_epoch=2, cbs=Look())

    assert lengths == [3]


def test_run_that_is_resumed_on_another_machine_has_all_its_rows(
    tmp_path, uninterrupted
):
    keeper = KeepState(epoch=3)
    make_learner(tmp_path / "old", Measurements(), CSVLogger(), keeper).fit(4)
    resumed = make_learner(tmp_path / "new", Measurements(), CSVLogger())

    resumed.load_state_dict(keeper.state)
    resumed.fit(6, start_epoch=4)

    assert (tmp_path / "new/history.csv").read_bytes() == uninterrupted


def test_half_a_row_of_a_killed_run_is_cut_off_on_resume(tmp_path, uninterrupted):
    keeper = KeepState(epoch=3)
    make_learner(tmp_path, Measurements(), CSVLogger(), keeper).fit(4)
    with (tmp_path / "history.csv").open("a") as file:
        file.write("4,0.12")
    resumed = make_learner(tmp_path, Measurements(), CSVLogger())

    resumed.load_state_dict(keeper.state)
    resumed.fit(6, start_epoch=4)

    assert (tmp_path / "history.csv").read_bytes() == uninterrupted


def test_resumed_run_loses_no_rows_of_the_runs_that_it_was_appended_to(tmp_path):
    make_learner(tmp_path, Measurements(), CSVLogger()).fit(6)
    keeper = KeepState(epoch=1)
    logger = CSVLogger(append=True)
    make_learner(tmp_path, Measurements(), logger, keeper).fit(4)
    resumed = make_learner(tmp_path, Measurements(), CSVLogger(append=True))

    resumed.load_state_dict(keeper.state)
    resumed.fit(3, start_epoch=2)

    epochs = [row.split(",")[0] for row in lines_of(tmp_path)[1:]]
    assert epochs == [*"012345", *"012"]


def test_new_fit_of_a_learner_that_was_resumed_starts_a_new_file(tmp_path):
    keeper = KeepState(epoch=1)
    make_learner(tmp_path, Measurements(), CSVLogger(), keeper).fit(2)
    resumed = make_learner(tmp_path, Measurements(), CSVLogger())
    resumed.load_state_dict(keeper.state)
    resumed.fit(3, start_epoch=2)

    resumed.fit(1)

    assert len(lines_of(tmp_path)) == 2


def test_state_is_plain_data(tmp_path):
    learner = make_learner(tmp_path, CSVLogger())
    learner.fit(2)

    assert learner.csv_logger.state_dict() == {"written": "epoch\n0\n1\n"}


def test_state_of_something_else_is_refused():
    with pytest.raises(StateError, match="must hold the text 'written'"):
        CSVLogger().load_state_dict({"best": 0.5})


# ---- a disk that fails -----------------------------------------------------


def test_full_disk_leaves_whole_rows_and_training_goes_on(
    tmp_path, monkeypatch, caplog
):
    working_fsync = os.fsync

    def fsync(descriptor):
        if os.fstat(descriptor).st_size > len("epoch\n0\n1\n"):
            raise OSError(errno.ENOSPC, "No space left on device")
        working_fsync(descriptor)

    monkeypatch.setattr(callboard_csv_logger.os, "fsync", fsync)
    learner = make_learner(tmp_path, CSVLogger())

    learner.fit(5)

    assert lines_of(tmp_path) == ["epoch", "0", "1"]
    assert [failure.plugin for failure in learner.record.failures] == ["csv-logger"]
    assert "No space left" in learner.record.failures[0].error
    assert learner.train_iter == 5 * len(BATCHES)


def test_file_that_is_deleted_during_a_fit_comes_back_whole(tmp_path):
    class Delete(Callback):
        def before_validate(self):
            if self.epoch == 1:
                (tmp_path / "history.csv").unlink()

    make_learner(tmp_path, CSVLogger(), Delete()).fit(3)

    assert lines_of(tmp_path) == ["epoch", "0", "1", "2"]


def test_column_that_cannot_be_added_leaves_the_old_file(tmp_path, monkeypatch, caplog):
    def replace(source, target):
        raise PermissionError("somebody has it open")

    class Forbid(Callback):
        def before_train(self):
            monkeypatch.setattr(callboard_csv_logger.os, "replace", replace)

    measured = Measurements(f1={1: 0.5})
    monkeypatch.setattr(Measurements, "after_train", lambda self: None)
    logger = CSVLogger(exclude=("valid_loss",))
    (tmp_path / "history.csv").write_text("epoch\n")

    make_learner(tmp_path, measured, logger).fit(1)
    make_learner(tmp_path, measured, CSVLogger(append=True), Forbid()).fit(2)

    assert lines_of(tmp_path) == ["epoch", "0"]
    assert list(tmp_path.iterdir()) == [tmp_path / "history.csv"]


# ---- options and cost ------------------------------------------------------


@pytest.mark.parametrize("fname", ["", ".", "/", None, 3])
def test_file_must_have_a_name(fname):
    with pytest.raises(OptionError, match="csv-logger: fname must be"):
        CSVLogger(fname)


@pytest.mark.parametrize("exclude", [3, None, ["time", 3]])
def test_excluded_names_must_be_names(exclude):
    with pytest.raises(OptionError, match="csv-logger: exclude must be names"):
        CSVLogger(exclude=exclude)


def test_number_of_the_epoch_cannot_be_left_out():
    with pytest.raises(OptionError, match='exclude must not name "epoch"'):
        CSVLogger(exclude=["epoch"])


def test_batch_costs_nothing(tmp_path):
    calls = []

    def note(frame, event, argument):
        if frame.f_globals.get("__name__") == "callboard_csv_logger":
            calls.append(event)

    class Watch(Callback):
        run_after = "csv-logger"

        def before_train(self):
            sys.setprofile(note)

        def after_train(self):
            sys.setprofile(None)

    make_learner(tmp_path, CSVLogger(), Watch()).fit(1)

    assert calls == []


def test_fname_may_be_a_path():
    assert CSVLogger(Path("a") / "b.csv").fname == Path("a/b.csv")
