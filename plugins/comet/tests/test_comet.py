"""What stands in Comet's offline archive is what the run was."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import ObserverWarning, OptionError
from callboard_comet import CometCallback

# Comet itself, on new versions of what it uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
INPUTS = torch.linspace(-1, 1, 64).reshape(32, 2)
LABELS = (INPUTS.sum(1) > 0).long()


@pytest.fixture(scope="module")
def comet_ml():
    """The client; importing it warns of what it uses itself."""
    return pytest.importorskip("comet_ml", reason="comet_ml is not installed")


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path, comet_ml):
    """Comet finds no key and no network, and logs nothing about the machine."""
    for name in ("COMET_API_KEY", "COMET_EXPERIMENT_KEY", "COMET_PROJECT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "no.config"))
    for name in ("CODE", "ENV_DETAILS", "GIT_METADATA", "GIT_PATCH", "GRAPH"):
        monkeypatch.setenv(f"COMET_AUTO_LOG_{name}", "false")
    monkeypatch.setenv("COMET_AUTO_LOG_OUTPUT_LOGGER", "false")
    monkeypatch.chdir(tmp_path)


class Measurements(Callback):
    """Publishes results, as the recorder does."""

    name = "recorder"
    role = "observe"

    def after_validate(self):
        self.learn.results |= {"train_loss": 0.7, "accuracy": self.epoch / 4}


def learner(tmp_path, *cbs, **options):
    torch.manual_seed(0)
    train = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=4, shuffle=True)
    valid = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)
    return Learner(
        DataLoaders(train, valid),
        nn.Linear(2, 2),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        0.1,
        cbs=list(cbs),
        path=tmp_path,
        seed=3,
        **options,
    )


def messages(folder):
    """What was logged, by archive, oldest first."""
    files = sorted(folder.glob("*.zip"), key=lambda file: file.stat().st_mtime_ns)
    for file in files:
        with zipfile.ZipFile(file) as archive:
            lines = archive.read("messages.json").decode().splitlines()
        yield [json.loads(line) for line in lines]


def metrics(folder, name):
    """Step -> value."""
    found = {}
    for archive in messages(folder):
        for message in archive:
            metric = message["payload"].get("metric", {})
            if metric.get("metricName") == name:
                found[metric["step"]] = metric["metricValue"]
    return found


def parameters(folder):
    """Name -> value."""
    found = {}
    for archive in messages(folder):
        for message in archive:
            payload = message["payload"]
            for parameter in [payload.get("param"), *payload.get("items", [])]:
                if parameter and "paramName" in parameter:
                    found[parameter["paramName"]] = parameter["paramValue"]
    return found


def keys(folder):
    """Keys of the experiments in the archives."""
    found = set()
    for file in folder.glob("*.zip"):
        with zipfile.ZipFile(file) as archive:
            found.add(json.loads(archive.read("experiment.json"))["offline_id"])
    return found


def test_importing_the_plugin_imports_no_client():
    code = "import sys, callboard_comet; print('comet_ml' in sys.modules)"

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

    board = CometCallback("p", offline_directory="comet")
    learner(tmp_path, See(), Measurements(), board).fit(2)

    folder = tmp_path / "comet"
    assert metrics(folder, "batch__loss") == pytest.approx(losses)
    assert set(metrics(folder, "batch__opt.hypers.lr_0").values()) == {0.1}
    assert len(metrics(folder, "batch__smooth_loss")) == 16
    assert metrics(folder, "epoch__accuracy") == {8: 0.0, 16: 0.25}


def test_settings_are_parameters(tmp_path):
    learner(tmp_path, CometCallback(offline_directory="comet", log_every=3)).fit(1)

    found = parameters(tmp_path / "comet")
    assert found["model"] == "Linear"
    assert found["opt.lr_0"] == 0.1
    assert found["comet.log_every"] == 3


def test_weights_are_in_the_archive(tmp_path):
    learn = learner(tmp_path, CometCallback(offline_directory="comet"))

    learn.fit(1)

    (file,) = (tmp_path / "comet").glob("*.zip")
    (logged,) = messages(tmp_path / "comet")
    (upload,) = [
        m["payload"]
        for m in logged
        if m["payload"].get("additional_params", {}).get("fileName") == "model.pt"
    ]
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "out")
    weights = torch.load(tmp_path / "out" / upload["file_path"], weights_only=True)
    assert torch.equal(weights["weight"], learn.model.weight)


def test_without_log_model_weights_none_are(tmp_path):
    learner(
        tmp_path, CometCallback(log_model_weights=False, offline_directory="comet")
    ).fit(1)

    (file,) = (tmp_path / "comet").glob("*.zip")
    assert sorted(zipfile.ZipFile(file).namelist()) == [
        "experiment.json",
        "messages.json",
    ]


def test_second_fit_goes_on_in_the_same_experiment(tmp_path):
    board = CometCallback(offline_directory="comet")
    learn = learner(tmp_path, board)

    learn.fit(1)
    learn.fit(1)

    assert keys(tmp_path / "comet") == {board.run_id}
    assert list(metrics(tmp_path / "comet", "batch__loss")) == list(range(1, 17))


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


def test_resumed_run_goes_on_in_the_experiment_that_was_killed(tmp_path):
    folder, keep = tmp_path / "comet", KeepState(11, death=13)
    killed = CometCallback(offline_directory="comet")
    with pytest.raises(KilledError):
        learner(tmp_path, keep, killed).fit(2)
    through = CometCallback(offline_directory="through")
    learner(tmp_path, KeepState(), through).fit(2)
    resumed = CometCallback(offline_directory="comet")

    learner(tmp_path, KeepState(), resumed).fit(2, resume=keep.state)

    assert keys(folder) == {killed.run_id}
    assert metrics(folder, "batch__loss") == metrics(
        tmp_path / "through", "batch__loss"
    )


def test_experiment_of_the_user_is_used_and_left_open(tmp_path, comet_ml):
    folder = tmp_path / "mine"
    mine = comet_ml.OfflineExperiment(offline_directory=str(folder))
    board = CometCallback(experiment=mine)

    learner(tmp_path, board).fit(1)

    assert mine.alive
    assert board.run_id == mine.get_key()
    mine.end()
    assert len(metrics(folder, "batch__loss")) == 8


def test_missing_key_is_told_of_and_training_goes_on(tmp_path):
    learn, plain = learner(tmp_path, CometCallback()), learner(tmp_path)

    with pytest.warns(ObserverWarning):
        learn.fit(1)
    plain.fit(1)

    (failure,) = learn.record.failures
    assert "requires an API key" in failure.error
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_experiment_that_another_one_ends_is_told_of_once(tmp_path, comet_ml):
    class Other(Callback):
        role = "control"

        def before_train(self):
            folder = str(tmp_path / "other")
            comet_ml.OfflineExperiment(offline_directory=folder).end()

    learn = learner(tmp_path, Other(), CometCallback(offline_directory="comet"))

    with pytest.warns(ObserverWarning):
        learn.fit(1)

    (failure,) = learn.record.failures
    assert "has ended it" in failure.error


def test_experiment_that_is_none_is_refused():
    with pytest.raises(OptionError, match="experiment must be an experiment of comet"):
        CometCallback(experiment="digits")
