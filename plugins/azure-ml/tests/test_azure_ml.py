"""What a run of Azure Machine Learning is told is what the run was.

There is no service to ask. The client's own offline run is driven, which prints what
it is told, and a run that keeps it and takes only calls that ``azureml.core.Run``
takes.
"""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import ObserverWarning, OptionError
from callboard_azure_ml import AzureMLCallback

# The client itself, on new versions of what it uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
INPUTS = torch.linspace(-1, 1, 64).reshape(32, 2)
LABELS = (INPUTS.sum(1) > 0).long()


@pytest.fixture(scope="module")
def client():
    """The class of runs; importing it warns of what it uses itself."""
    azureml = pytest.importorskip(
        "azureml.core", reason="azureml-core is not installed"
    )
    return azureml.Run


@pytest.fixture(autouse=True)
def in_the_folder_of_the_test(monkeypatch, tmp_path, client):
    monkeypatch.chdir(tmp_path)


class KeepingRun:
    """Keeps what it is told; refuses calls that the client's class would refuse."""

    def __init__(self, run_class, parent=None):
        self.run_class = run_class
        self.id, self.parent = "run-1", parent
        self.logged, self.tags, self.files = defaultdict(list), {}, {}
        self.num_flushes = 0

    def _bound(self, method, *given, **named):
        signature = inspect.signature(getattr(self.run_class, method))
        return signature.bind(self, *given, **named).arguments

    def log(self, name, value, description="", step=None):
        call = self._bound("log", name, value, step=step)
        self.logged[call["name"]].append((call["step"], call["value"]))

    def set_tags(self, tags):
        self.tags |= self._bound("set_tags", tags)["tags"]

    def upload_file(self, name, path_or_stream):
        path = self._bound("upload_file", name, path_or_stream)["path_or_stream"]
        self.files[name] = Path(path).read_bytes()

    def flush(self):
        self._bound("flush")
        self.num_flushes += 1


class Measurements(Callback):
    """Publishes results, as the recorder does; an epoch takes more than an hour."""

    name = "recorder"
    role = "observe"

    def after_validate(self):
        self.learn.results |= {"accuracy": self.epoch / 4, "time": 3723.0}


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


def test_importing_the_plugin_imports_no_client():
    code = "import sys, callboard_azure_ml; print('azureml' in sys.modules)"

    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "False"


def test_offline_run_of_the_client_is_told_losses_results_and_settings(
    tmp_path, client, capsys
):
    losses = []

    class See(Callback):
        role = "observe"

        def after_batch(self):
            if self.learn.training:
                losses.append(self.learn.loss.item())

    offline = client.get_context()

    learner(tmp_path, See(), Measurements(), AzureMLCallback(offline)).fit(1)

    lines = capsys.readouterr().out.splitlines()
    header = "Attempted to log scalar metric batch__loss:"
    told = [float(lines[n + 1]) for n, line in enumerate(lines) if line == header]
    assert told == pytest.approx(losses)
    place = lines.index("Attempted to log scalar metric epoch__accuracy:")
    assert lines[place + 1] == "0.0"
    assert any("'model': 'Linear'" in line for line in lines)


def test_numbers_stand_under_their_steps(tmp_path, client):
    run = KeepingRun(client)

    learner(tmp_path, Measurements(), AzureMLCallback(run)).fit(2)

    assert [step for step, _ in run.logged["batch__loss"]] == list(range(1, 17))
    assert run.logged["batch__opt.hypers.lr_0"][0] == (1, 0.1)
    assert run.logged["epoch__accuracy"] == [(8, 0.0), (16, 0.25)]
    assert run.logged["epoch__time"] == [(8, 3723.0), (16, 3723.0)]
    assert run.tags["opt"] == "SGD"
    assert run.num_flushes == 1


def test_parent_is_told_too_unless_it_should_not(tmp_path, client):
    parents = KeepingRun(client), KeepingRun(client)
    run, other = (KeepingRun(client, parent) for parent in parents)

    learner(tmp_path, AzureMLCallback(run)).fit(1)
    learner(tmp_path, AzureMLCallback(other, log_to_parent=False)).fit(1)

    assert parents[0].logged == run.logged
    assert not parents[1].logged


def test_weights_are_uploaded_where_asked_for(tmp_path, client):
    run = KeepingRun(client)
    learn = learner(tmp_path, AzureMLCallback(run, log_model=True))

    learn.fit(1)

    (tmp_path / "got.pt").write_bytes(run.files["outputs/model.pt"])
    weights = torch.load(tmp_path / "got.pt", weights_only=True)
    assert torch.equal(weights["weight"], learn.model.weight)


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


def test_job_that_is_started_again_goes_on_counting(tmp_path, client):
    keep, run, through = KeepState(11, death=13), KeepingRun(client), KeepingRun(client)
    with pytest.raises(KilledError):
        learner(tmp_path, keep, AzureMLCallback(run)).fit(2)
    learner(tmp_path, KeepState(), AzureMLCallback(through)).fit(2)

    learner(tmp_path, KeepState(), AzureMLCallback(run)).fit(2, resume=keep.state)

    expected = dict(through.logged["batch__loss"])
    assert dict(run.logged["batch__loss"]) == expected


def test_process_that_is_no_job_is_told_so_and_training_goes_on(tmp_path):
    learn, plain = learner(tmp_path, AzureMLCallback()), learner(tmp_path)

    with pytest.warns(ObserverWarning):
        learn.fit(1)
    plain.fit(1)

    (failure,) = learn.record.failures
    assert "no job of Azure Machine Learning" in failure.error
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_service_that_is_gone_is_told_of_once_and_not_asked_again(tmp_path, client):
    class Gone(KeepingRun):
        def log(self, name, value, description="", step=None):
            raise ConnectionError("the service is gone")

    run = Gone(client)
    learn = learner(tmp_path, AzureMLCallback(run))

    with pytest.warns(ObserverWarning):
        learn.fit(2)

    assert len(learn.record.failures) == 1
    assert run.num_flushes == 0


def test_run_that_is_none_is_refused():
    with pytest.raises(OptionError, match="azurerun must be a run"):
        AzureMLCallback("digits")
