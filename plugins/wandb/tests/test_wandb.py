"""What stands in wandb's offline files is what the run was."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import ObserverWarning, OptionError
from callboard_wandb import WandbCallback

wandb = pytest.importorskip("wandb", reason="wandb is not installed")
# wandb itself: it leaves temporary folders to the end of the process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
INPUTS = torch.linspace(-1, 1, 64).reshape(32, 2)
LABELS = (INPUTS.sum(1) > 0).long()


@pytest.fixture(autouse=True, scope="module")
def own_client():
    """The client reads its settings once a process: not those of a test before."""
    wandb.teardown()


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """wandb writes to the disk, says nothing, and finds no run of another test."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    yield
    if wandb.run is not None:
        wandb.finish()


class Measurements(Callback):
    """Publishes results, as the recorder does."""

    name = "recorder"
    role = "observe"

    def after_validate(self):
        self.learn.results |= {"train_loss": 0.7, "accuracy": self.epoch / 4}


def learner(tmp_path, *cbs, model=None, inputs=INPUTS, **options):
    torch.manual_seed(0)
    train = DataLoader(TensorDataset(inputs, LABELS), batch_size=4, shuffle=True)
    valid = DataLoader(TensorDataset(inputs, LABELS), batch_size=8)
    return Learner(
        DataLoaders(train, valid),
        model or nn.Linear(2, 2),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        0.1,
        cbs=list(cbs),
        path=tmp_path,
        seed=3,
        **options,
    )


def records(folder, kind):
    """The records of one kind in wandb's files, oldest first."""
    files = folder.glob("wandb/offline-run-*/*.wandb")
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
        for record in complete_records(file):
            if record.WhichOneof("record_type") == kind:
                yield getattr(record, kind)


def complete_records(file):
    """The records of one file, once the process that writes it has closed it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(records_in(file.read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{file} has no end")


def records_in(data):
    """Records of seven bytes of wandb's own and then the blocks of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, parts = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no header fits at the end of a block
            place += 32768 - place % 32768
            continue
        _, length, part = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4) and place <= len(data):  # whole, or the last of several
            yield Record.FromString(parts)
            parts = b""


def history(folder):
    """Step -> what was logged there."""
    rows = {}
    for record in records(folder, "history"):
        row = {i.nested_key[-1]: json.loads(i.value_json) for i in record.item}
        rows.setdefault(record.step.num, {}).update(row)
    return rows


def config(folder):
    """The configuration, by name."""
    found = {}
    for kind in ("run", "config"):
        for record in records(folder, kind):
            updates = record.config.update if kind == "run" else record.update
            for item in updates:
                found[item.key or item.nested_key[0]] = json.loads(item.value_json)
    return found


def tables(folder):
    files = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    return [json.loads(file.read_text()) for file in sorted(files)]


def test_importing_the_plugin_imports_no_client():
    code = "import sys, callboard_wandb; print('wandb' in sys.modules)"

    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "False"


def test_numbers_stand_under_their_steps(tmp_path):
    losses = {}

    class See(Callback):
        role = "observe"

        def after_batch(self):
            if self.learn.training:
                losses[self.learn.train_iter] = self.learn.loss.item()

    learner(tmp_path, See(), Measurements(), WandbCallback()).fit(2)

    rows = history(tmp_path)
    assert {step: row["raw_loss"] for step, row in rows.items()} == pytest.approx(
        losses
    )
    assert {row["lr_0"] for row in rows.values()} == {0.1}
    assert rows[4]["epoch"] == 0.5
    assert [rows[step].get("accuracy") for step in (7, 8, 16)] == [None, 0.0, 0.25]
    assert rows[8]["epoch_train_loss"] == 0.7


def test_settings_are_the_configuration_of_the_run(tmp_path):
    learner(tmp_path, WandbCallback(n_preds=4)).fit(1)

    found = config(tmp_path)
    assert found["model"] == "Linear"
    assert found["opt.lr_0"] == 0.1
    assert found["wandb.n_preds"] == 4


def test_run_of_the_user_is_used_and_left_open(tmp_path):
    run = wandb.init(project="theirs", dir=tmp_path)
    run.log({"before": 1}, step=5)
    board = WandbCallback()

    learner(tmp_path, board).fit(1)

    assert board.run_id == run.id
    assert wandb.run is run
    run.finish()
    rows = history(tmp_path)
    assert [step for step, row in rows.items() if "raw_loss" in row] == [*range(6, 14)]
    assert config(tmp_path)["model"] == "Linear"


def test_learners_side_by_side_have_runs_of_their_own(tmp_path):
    class Other(Callback):
        def before_train(self):
            other.fit(1)

    boards = WandbCallback(), WandbCallback()
    other = learner(tmp_path / "b", boards[1])
    (tmp_path / "b").mkdir()

    learner(tmp_path, Other(), boards[0]).fit(1)

    assert boards[0].run_id != boards[1].run_id
    assert list(history(tmp_path)) == list(history(tmp_path / "b")) == [*range(1, 9)]


def test_second_fit_goes_on_in_the_same_run(tmp_path):
    board = WandbCallback()
    learn = learner(tmp_path, board)

    learn.fit(1)
    learn.fit(1)

    assert {record.run_id for record in records(tmp_path, "run")} == {board.run_id}
    assert list(history(tmp_path)) == list(range(1, 17))


class KilledError(Exception):
    """Stands for what ends a process."""


class KeepState(Callback):
    """Keeps the state at one step and ends the fit at a later one."""

    def __init__(self, step=0, death=0):
        self._step, self._death, self.state = step, death, None

    def checkpoint(self):
        if self.learn.train_iter == self._step and self.state is None:
            self.state = copy.deepcopy(self.learn.state_dict())
        if self.learn.train_iter == self._death:
            raise KilledError


def test_resumed_run_goes_on_in_the_run_that_was_killed(tmp_path):
    keep, board = KeepState(11, death=13), WandbCallback()
    with pytest.raises(KilledError):
        learner(tmp_path, keep, board).fit(2)
    learner(tmp_path / "through", KeepState(), WandbCallback()).fit(2)
    resumed = WandbCallback()

    learner(tmp_path, KeepState(), resumed).fit(2, resume=keep.state)

    assert resumed.run_id == board.run_id
    rows, through = history(tmp_path), history(tmp_path / "through")
    assert {step: row["raw_loss"] for step, row in rows.items()} == {
        step: row["raw_loss"] for step, row in through.items()
    }


def test_run_ends_as_failed_where_an_error_ends_it(tmp_path):
    with pytest.raises(KilledError):
        learner(tmp_path, KeepState(death=3), WandbCallback()).fit(1)
    learner(tmp_path / "good", WandbCallback()).fit(1)

    (failed,), (good,) = (
        list(records(folder, "exit")) for folder in (tmp_path, tmp_path / "good")
    )
    assert (failed.exit_code, good.exit_code) == (1, 0)
    assert list(history(tmp_path)) == [1, 2, 3]


def test_server_that_is_dead_is_told_of_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    wandb.teardown()  # it has read the environment of another test
    learn, plain = learner(tmp_path, WandbCallback()), learner(tmp_path)

    with pytest.warns(ObserverWarning):
        learn.fit(1)
    wandb.teardown()
    plain.fit(1)

    assert len(learn.record.failures) == 1
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_samples_stand_in_one_table_at_the_end(tmp_path):
    learn = learner(tmp_path, WandbCallback(n_preds=5))
    learn.dls.valid.dataset.classes = ["low", "high"]

    learn.fit(2, lr=0.0)

    (table,) = tables(tmp_path)
    assert table["columns"] == ["input", "target", "prediction"]
    assert len(table["data"]) == 5
    decided = learn.model(INPUTS).argmax(1)
    names = {"low", "high"}
    assert {row[1] for row in table["data"]} == names
    assert {row[2] for row in table["data"]} <= {["low", "high"][i] for i in decided}


def test_samples_are_shown_every_epoch_where_asked_for(tmp_path):
    board = WandbCallback(n_preds=2, log_preds_every_epoch=True)

    learner(tmp_path, board).fit(3)

    assert len(tables(tmp_path)) == 3


def test_samples_may_come_from_other_batches(tmp_path):
    others = [(torch.full((3, 2), 7.0), torch.tensor([0, 1, 0]))]
    board = WandbCallback(n_preds=2, valid_dl=others, seed=None)

    learner(tmp_path, board).fit(2)

    (table,) = tables(tmp_path)
    assert [row[:2] for row in table["data"]] == [["[7.0, 7.0]", 0], ["[7.0, 7.0]", 1]]


def test_pictures_of_samples_are_pictures(tmp_path):
    pictures = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    learner(tmp_path, WandbCallback(n_preds=2), model=model, inputs=pictures).fit(1)

    manifest = artifacts(tmp_path)["run_table"].manifest
    assert len([c for c in manifest.contents if c.path.endswith(".png")]) == 2


def artifacts(folder):
    return {record.type: record for record in records(folder, "artifact")}


def test_weights_and_data_are_kept_where_asked_for(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "0.txt").write_text("a digit")
    board = WandbCallback(
        log_model=True, model_name="my net", log_dataset=tmp_path / "digits"
    )

    learner(tmp_path, Measurements(), board).fit(1)

    found = artifacts(tmp_path)
    assert found["model"].name == "my-net"
    assert [c.path for c in found["model"].manifest.contents] == ["model.pt"]
    assert json.loads(found["model"].metadata)["accuracy"] == 0.0
    assert found["dataset"].name == "digits"
    assert [c.path for c in found["dataset"].manifest.contents] == ["0.txt"]


def test_gradients_are_watched_and_hooks_are_gone_afterwards(tmp_path):
    learn = learner(tmp_path, WandbCallback("gradients"))

    learn.fit(1)

    assert not learn.model._forward_hooks
    assert not learn.model.weight._backward_hooks


def test_logged_run_is_bit_for_bit_the_run_that_nobody_logs(tmp_path):
    learn, plain = learner(tmp_path, WandbCallback()), learner(tmp_path)

    learn.fit(2)
    plain.fit(2)

    assert torch.equal(learn.model.weight, plain.model.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log": "weights"}, "log must be None or one of gradients, parameters, all"),
        ({"log_dataset": "no/such/folder"}, "must be an existing file or folder"),
        ({"mode": "dry"}, 'mode must be None, "online" or "offline", got .dry'),
        ({"n_preds": -1}, "n_preds must be a whole number from 0 on, got -1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        WandbCallback(**options)
