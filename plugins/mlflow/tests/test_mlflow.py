"""What MLflow's client reads back from a local store is what the run was."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import ObserverWarning, OptionError
from callboard_mlflow import MLFlowCallback

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
# MLflow itself, on new versions of what it uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
INPUTS = torch.linspace(-1, 1, 64).reshape(32, 2)
LABELS = (INPUTS.sum(1) > 0).long()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database of its own, since making its tables takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def local(monkeypatch, tmp_path, store):
    """MLflow writes to that database, and artifacts to the folder of the test."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(store):
    return mlflow.MlflowClient(tracking_uri=store)


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


def values(client, tracker, metric):
    """Step -> value, and that there is one value a step."""
    history = client.get_metric_history(tracker.run_id, metric)
    assert len({entry.step for entry in history}) == len(history)
    return {entry.step: entry.value for entry in history}


def test_importing_the_plugin_imports_no_client():
    code = "import sys, callboard_mlflow; print('mlflow' in sys.modules)"

    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "False"


def test_numbers_stand_under_their_steps(tmp_path, client):
    losses, tracker = {}, MLFlowCallback()

    class See(Callback):
        role = "observe"

        def after_batch(self):
            if self.learn.training:
                losses[self.learn.train_iter] = self.learn.loss.item()

    learner(tmp_path, See(), Measurements(), tracker).fit(2)

    assert values(client, tracker, "raw_loss") == pytest.approx(losses)
    assert set(values(client, tracker, "lr_0").values()) == {0.1}
    assert values(client, tracker, "accuracy") == {8: 0.0, 16: 0.25}
    assert values(client, tracker, "epoch_train_loss") == {8: 0.7, 16: 0.7}
    assert values(client, tracker, "epoch") == {8: 1, 16: 2}
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_more_numbers_than_a_request_takes_arrive_all(tmp_path, client):
    tracker = MLFlowCallback(hyper_names=["lr", "mom", "wd"])
    learn = learner(tmp_path, tracker)
    learn.splitter = lambda model: [[model.weight], [model.bias]]
    learn.dls = [(INPUTS[:4], LABELS[:4])] * 260

    learn.fit(1)

    assert len(values(client, tracker, "wd_1")) == 260


def test_settings_are_parameters(tmp_path, client):
    tracker = MLFlowCallback(n_preds=4)

    learner(tmp_path, tracker).fit(1)

    found = client.get_run(tracker.run_id).data.params
    assert found["model"] == "Linear"
    assert found["opt.lr_0"] == "0.1"
    assert found["mlflow.n_preds"] == "4"


def test_experiment_is_made_or_found_by_its_name(tmp_path, client):
    trackers = MLFlowCallback("digits", "first"), MLFlowCallback("digits", "second")

    for tracker in trackers:
        learner(tmp_path, tracker).fit(1)

    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"first", "second"}


def test_store_may_be_given(tmp_path):
    elsewhere = f"sqlite:///{tmp_path / 'other.db'}"
    tracker = MLFlowCallback(tracking_uri=elsewhere)

    learner(tmp_path, tracker).fit(1)

    client = mlflow.MlflowClient(tracking_uri=elsewhere)
    assert len(values(client, tracker, "raw_loss")) == 8


def test_active_run_of_the_user_is_used_and_left_open(tmp_path, client):
    tracker = MLFlowCallback()

    with mlflow.start_run() as run:
        mlflow.log_param("model", "mine")
        learner(tmp_path, tracker).fit(1)

        assert client.get_run(run.info.run_id).info.status == "RUNNING"

    assert tracker.run_id == run.info.run_id
    params = client.get_run(run.info.run_id).data.params
    assert (params["model"], params["opt"]) == ("mine", "SGD")


def test_run_named_by_the_environment_is_used(tmp_path, client, monkeypatch):
    run = client.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    tracker = MLFlowCallback()

    learner(tmp_path, tracker).fit(1)

    assert tracker.run_id == run.info.run_id
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_second_fit_goes_on_in_the_same_run(tmp_path, client):
    tracker = MLFlowCallback()
    learn = learner(tmp_path, tracker)

    learn.fit(1)
    learn.fit(2)

    assert list(values(client, tracker, "raw_loss")) == list(range(1, 25))


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


@pytest.mark.parametrize("step", [3, 8, 11])
def test_resumed_run_is_the_run_that_was_never_killed(tmp_path, client, step):
    keep, killed, through = (
        KeepState(step, death=19),
        MLFlowCallback(),
        MLFlowCallback(),
    )
    with pytest.raises(KilledError):
        learner(tmp_path, keep, Measurements(), killed).fit(3)
    assert client.get_run(killed.run_id).info.status == "FAILED"
    learner(tmp_path, KeepState(), Measurements(), through).fit(3)
    resumed = MLFlowCallback()

    learner(tmp_path, KeepState(), Measurements(), resumed).fit(3, resume=keep.state)

    assert resumed.run_id == killed.run_id
    for metric in ("raw_loss", "train_loss", "accuracy", "epoch"):
        assert values(client, resumed, metric) == values(client, through, metric)
    assert client.get_run(resumed.run_id).info.status == "FINISHED"


def test_server_that_is_dead_is_told_of_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = MLFlowCallback(tracking_uri="http://127.0.0.1:9")
    learn, plain = learner(tmp_path, nobody), learner(tmp_path)

    with pytest.warns(ObserverWarning):
        learn.fit(1)
    plain.fit(1)

    assert len(learn.record.failures) == 1
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_weights_and_samples_are_kept_where_asked_for(tmp_path, client):
    tracker = MLFlowCallback("files", log_model=True, log_preds=True, n_preds=3)
    learn = learner(tmp_path, tracker)

    learn.fit(1)

    model = client.download_artifacts(tracker.run_id, "model/model.pt", str(tmp_path))
    assert torch.equal(
        torch.load(model, weights_only=True)["weight"], learn.model.weight
    )
    table = client.download_artifacts(tracker.run_id, "samples", str(tmp_path))
    with open(f"{table}/step_0000008.json") as file:
        rows = json.load(file)
    assert rows["columns"] == ["input", "target", "prediction"]
    assert rows["data"][0][:2] == ["[-1.0, -0.9683]", "0"]


def test_logged_run_is_bit_for_bit_the_run_that_nobody_logs(tmp_path):
    learn, plain = learner(tmp_path, MLFlowCallback()), learner(tmp_path)

    learn.fit(2)
    plain.fit(2)

    assert torch.equal(learn.model.weight, plain.model.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment_name": " "}, "experiment_name must be a name, got ' '"),
        ({"run_name": ""}, "run_name must be a name, got ''"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        MLFlowCallback(**options)
