"""Bad input gets one clear message, and nothing that was written before is lost."""

import csv
import os
import sys
from pathlib import Path

import pytest
from tests.command_line import run, run_python

TRAIN = """\
import os
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from callboard import DataLoaders, Learner
from callboard_checkpoint import CheckpointCallback
from callboard_csv_logger import CSVLogger
from callboard_recorder import Recorder

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 3

class Data(Dataset):
    '''A sample that a worker dies of, once two epochs are done.'''

    num_passes = 0

    def __len__(self):
        return 32

    def __getitem__(self, index):
        if self.num_passes > 2 and index == 17:
            os._exit(3)
        return X[index], Y[index]

class Loader(DataLoader):
    def __iter__(self):
        self.dataset.num_passes += 1
        return super().__iter__()

class Batches:
    '''Batches of a shape that is wrong from the third epoch on.'''

    def __init__(self, fault):
        self.fault, self.num_passes = fault, 0

    def __len__(self):
        return 4

    def __iter__(self):
        self.num_passes += 1
        bad = self.num_passes > 2
        if bad and self.fault == "empty":
            return
        for part in range(4):
            x, y = X[part::4], Y[part::4]
            if bad and part == 2:
                if self.fault == "shape":
                    x = x[:, :3]
                elif self.fault == "nan":
                    x = x * float("nan")
                elif self.fault == "label":
                    y = y + 7
                elif self.fault == "type":
                    x = x.double()
                elif self.fault == "loader":
                    raise OSError("the disk of the data is gone")
            yield x, y

def loss_of(fault):
    if fault != "vector":
        return nn.CrossEntropyLoss()
    def loss(pred, target):
        reduction = "none" if loss.num_calls >= 14 else "mean"
        loss.num_calls += 1
        return nn.functional.cross_entropy(pred, target, reduction=reduction)
    loss.num_calls = 0
    return loss

def oops(pred, target):
    if oops.num_calls >= 4:
        raise RuntimeError("not this batch")
    oops.num_calls += 1
    return pred.argmax(1).eq(target).float().mean()
oops.num_calls = 0

def learner(fault: str = "none"):
    torch.manual_seed(0)
    valid = DataLoader(TensorDataset(X, Y), 16)
    train = Batches(fault)
    if fault == "worker":
        train = Loader(Data(), 8, num_workers=1)
    metrics = [oops] if fault == "metric" else []
    return Learner(
        DataLoaders(train, valid), nn.Linear(4, 3), loss_of(fault), seed=0,
        metrics=metrics,
        cbs=[Recorder(), CSVLogger("log.csv"),
             CheckpointCallback(folder="saves", async_=False)])

def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])
"""
# What happens in the third epoch -> the exit status and what is said of it.
FAULTS = {
    "shape": (1, "inputs float32 (8, 3); labels int64 (8,). The model: Linear."),
    "type": (1, "inputs float64 (8, 4); labels int64 (8,)."),
    "label": (1, "out of bounds"),
    "vector": (1, "The loss has shape (8,) and must be a scalar"),
    "empty": (2, "gave no batch in epoch 2"),
    "nan": (2, "The training loss became nan in epoch 2, training batch 2 (step 11)."),
    "worker": (1, "A worker process of the loader died"),
}


@pytest.fixture
def train(shop):
    Path("train.py").write_text(TRAIN)
    return "train.py"


def fit(*arguments, code=0):
    return run("fit", *arguments, "--epochs", "4", code=code)


def logged():
    with open("log.csv", newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_a_run_is_one_message_and_the_run_goes_on_once_mended(train, fault):
    code, told = FAULTS[fault]

    error = fit(train, "-o", f"fault={fault}", code=code).stderr

    assert told in error
    assert "Traceback" not in error
    assert sum(line.startswith("Error: ") for line in error.splitlines()) == 1
    assert logged()[:2] == ["0", "1"]
    if fault != "worker":  # the data of a run that goes on must be what it was
        assert "Going on in epoch 2" in fit(train, "--resume", "auto").stdout
        assert logged() == ["0", "1", "2", "3"]


def test_an_error_in_the_users_own_code_keeps_its_traceback(train, shop):
    ran = run_python(
        *("-m", "callboard", "fit", train, "--epochs", "4", "-o", "fault=loader"),
        paths=[shop.folder],
        code=1,
    )

    assert "Traceback" in ran.stderr
    assert "OSError: the disk of the data is gone" in ran.stderr
    assert "callboard: in the loop, epoch 2, training batch" in ran.stderr
    assert "The batch:" not in ran.stderr


def test_the_traceback_of_every_error_can_be_asked_for(train, shop):
    ran = run_python(
        *("-m", "callboard", "--traceback", "fit", train, "--epochs", "4"),
        *("-o", "fault=shape"),
        paths=[shop.folder],
        code=1,
    )

    assert "Traceback" in ran.stderr
    assert "The batch: inputs float32 (8, 3)" in ran.stderr


@pytest.mark.filterwarnings("default")
def test_a_metric_that_raises_is_told_once_and_training_goes_on(train):
    told = fit(train, "-o", "fault=metric")

    assert told.stderr.count("the metric 'oops' failed in epoch 2") == 1
    assert logged() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def learner(:\n    pass\n", 'broken.py", line 1'),
        ("x = 'never ended\n", "unterminated string literal"),
    ],
)
def test_a_syntax_error_in_the_target_is_shown_without_our_frames(train, source, told):
    Path("broken.py").write_text(source)

    error = fit("broken.py", code=2).stderr

    assert "A syntax error keeps the target from being read." in error
    assert told in error
    assert "callboard" not in error.replace("callboard fit", "")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("device='cuda:99'", "device: 'cuda:99' was asked for"),
        ("device='tpu9'", "is no device of torch; give"),
        ("seed='x'", "seed must be a whole number, got 'x'."),
        ("seed=1.5", "seed must be a whole number, got 1.5."),
    ],
)
def test_a_wrong_argument_of_the_learner_is_named(train, what, told):
    Path("wrong.py").write_text(
        "from torch import nn\n"
        "from callboard import Learner\n"
        "def learner():\n"
        f"    return Learner([], nn.Linear(1, 1), {what})\n"
    )

    assert told in fit("wrong.py", code=2).stderr


def test_weights_on_the_meta_device_are_named_before_training(train):
    Path("meta.py").write_text(
        "import torch\n"
        "from train import learner as real\n"
        "def learner():\n"
        "    made = real()\n"
        "    made.model = torch.nn.Linear(4, 3, device='meta')\n"
        "    return made\n"
    )

    error = fit("meta.py", code=2).stderr

    assert "model: weight is on the meta device" in error
    assert "to_empty" in error


@pytest.mark.parametrize("option", ["every=soon", "keep=many", "keep=-1", "kep=3"])
def test_a_wrong_option_is_refused_before_training_and_nothing_is_written(
    train, option
):
    error = fit(train, "--with", f"checkpoint:{option}", code=2).stderr

    assert option.partition("=")[0] in error
    assert not Path("saves").exists()


def test_two_runs_in_one_folder_are_told_apart_by_a_lock_that_the_kernel_frees(train):
    holder = (
        "import sys; sys.path.insert(0, '.')\n"
        "from train import learner\n"
        "from tests.test_bad_input import Hold\n"
        "made = learner()\n"
        "made.add_cb(Hold())\n"
        "made.fit(1)\n"
    )
    root = Path(__file__).parents[1]
    ran = run_python("-c", holder, paths=[root], code=Hold.code)

    assert "another run" in ran.stdout
    assert fit(train).exit_code == 0


class Hold:
    """Starts a second run in the folder from inside a first, and is killed then."""

    code = -9

    def __new__(cls):
        from callboard import Callback

        class Holding(Callback):
            def after_epoch(self):
                import subprocess

                line = ("-m", "callboard", "fit", "train.py", "--epochs", "1")
                ran = subprocess.run(
                    [sys.executable, *line], capture_output=True, text=True, check=False
                )
                print(ran.returncode, ran.stderr, flush=True)
                os.kill(os.getpid(), 9)

        return Holding()


@pytest.mark.skipif(os.name == "nt", reason="folders have no such modes there")
@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_cannot_be_written_to_is_told_before_training(train):
    Path("saves").mkdir(mode=0o500)

    error = fit(train, code=2).stderr

    assert "saves" in error
    assert "Traceback" not in error


def test_a_file_where_a_folder_is_to_be_is_told_before_training(train):
    Path("saves").write_text("a file")

    error = fit(train, code=2).stderr

    assert "saves" in error
    assert "Traceback" not in error
    assert Path("saves").read_text() == "a file"
