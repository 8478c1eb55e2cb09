"""What the loop may cost a step, and how little a newcomer has to read of it."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import callboard
from callboard import Callback, Learner
from callboard.testing import cost_per_step
from callboard_csv_logger import CSVLogger
from callboard_early_stopping import EarlyStoppingCallback
from callboard_progress import ProgressCallback
from callboard_recorder import Recorder
from callboard_save_model import SaveModelCallback
from callboard_schedule import fit_one_cycle

CORE = str(Path(callboard.__file__).parent)


def batches(num_batches):
    inputs = torch.randn(8, 4)
    return [(inputs, inputs.sum(1, keepdim=True))] * num_batches


def loader(num_batches):
    inputs = torch.randn(4 * num_batches, 4)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 4)


def bare_loop(num_batches, data=batches):
    model = nn.Linear(4, 1)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    for inputs, labels in data(num_batches):
        loss = nn.functional.mse_loss(model(inputs), labels)
        loss.backward()
        opt.step()
        opt.zero_grad()


def a_fit(num_batches, cbs=None, data=batches):
    learner = Learner(
        data(num_batches),
        nn.Linear(4, 1),
        nn.functional.mse_loss,
        torch.optim.SGD,
        0.01,
        cbs=cbs,
    )
    learner.fit(1)


class Watcher(Callback):
    role = "observe"

    def before_batch(self):
        pass

    def after_loss(self):
        pass

    def after_batch(self):
        pass


class Changer(Callback):
    def before_batch(self):
        pass

    def after_backward(self, learner):
        pass


@pytest.mark.parametrize("data", [batches, loader])
def test_the_core_alone_costs_at_most_eight_calls_a_step_and_touches_no_tensor(data):
    ours = cost_per_step(lambda num_steps: a_fit(num_steps, data=data))
    cost = ours - cost_per_step(lambda num_steps: bare_loop(num_steps, data))

    assert cost.python_calls <= 8
    assert cost.tensor_operations == 0
    assert cost.host_reads == 0


def test_a_plugin_costs_one_call_for_each_event_that_it_implements():
    plain = cost_per_step(a_fit)

    with_one = cost_per_step(lambda n: a_fit(n, Changer)) - plain

    assert with_one.python_calls == pytest.approx(2, abs=0.01)


def test_a_further_observer_costs_one_call_for_each_event_that_it_implements():
    one = cost_per_step(lambda n: a_fit(n, [Watcher()]))
    two = cost_per_step(lambda n: a_fit(n, [Watcher(), Watcher()]))

    assert (two - one).python_calls == pytest.approx(3, abs=0.01)


def an_everyday_fit(num_batches, folder):
    """A fit with the set that most runs have, each with its defaults."""
    cbs = [Recorder(), ProgressCallback(), CSVLogger()]
    cbs += [EarlyStoppingCallback("train_loss"), SaveModelCallback("train_loss")]
    learner = Learner(
        *(batches(num_batches), nn.Linear(4, 1), nn.functional.mse_loss),
        *(torch.optim.SGD, 0.01),
        cbs=cbs,
        path=folder,
    )
    fit_one_cycle(learner, 1)


def test_the_everyday_set_costs_at_most_25_calls_and_reads_once_in_64_steps(tmp_path):
    cost = cost_per_step(lambda num_steps: an_everyday_fit(num_steps, tmp_path))
    cost -= cost_per_step(bare_loop)

    assert cost.python_calls <= 25
    assert cost.tensor_operations <= 2
    assert cost.host_reads <= 0.05


def test_an_installed_plugin_that_is_not_active_costs_nothing(shop):
    plain = cost_per_step(a_fit)
    source = """
from callboard import Callback

class Lamp(Callback):
    role = "observe"

    def after_batch(self):
        pass
"""
    for number in range(20):
        shop.install(
            f"shop-lamp-{number}",
            callbacks={f"lamp-{number}": f"lamp_{number}:Lamp"},
            modules={f"lamp_{number}": source},
        )

    assert cost_per_step(a_fit) == plain


class NoOp(Callback):
    def after_batch(self):
        pass


class OneBatchPath(nn.Module):
    """Notes what ran of ours since the last forward, and the frames above it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 1)
        self.lines = set()
        self.paths = []
        self.frames = []

    def forward(self, inputs):
        frame, ours = sys._getframe(), []
        while frame is not None:
            if frame.f_code.co_filename.startswith(CORE):
                ours.append(frame.f_code.co_name)
            frame = frame.f_back
        self.frames.append(ours)
        self.paths.append(self.lines)
        self.lines = set()
        return self.inner(inputs)


@pytest.mark.parametrize("kind", ["a list", "a DataLoader"])
def test_one_batch_runs_at_most_40_lines_of_ours_in_at_most_4_frames(kind):
    model, data = OneBatchPath(), batches(6)
    if kind == "a DataLoader":
        inputs = torch.randn(24, 4)
        dataset = TensorDataset(inputs, inputs.sum(1, keepdim=True))
        data = DataLoader(dataset, 4, shuffle=True)

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line":
            model.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    learner = Learner(
        data, model, nn.functional.mse_loss, torch.optim.SGD, 0.01, cbs=[NoOp]
    )
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        learner.fit(1)
    finally:
        sys.settrace(before)

    assert model.frames[3] == ["batch", "train", "epoch", "fit"]
    assert len(model.paths[3]) <= 40
