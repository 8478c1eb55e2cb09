"""No step waits for the GPU: torch raises an error wherever something would.

Where there is no GPU, ``test_budget.py`` counts what is read back to the host, which is
what would wait.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
# Fewer than the recorder gathers before it reads them, all in one.
NUM_STEPS, BATCH_SIZE = 40, 8
# In the first steps memory is taken, libraries are loaded, and graphs are captured.
NUM_WARM_UP = 4
# What does work of its own in every step, and is ready without options.
PLUGINS = (
    *("recorder", "csv-logger", "gradient-accumulation", "gradient-clip", "mixup"),
    *("cutmix", "channels-last", "cast-to-tensor", "prefetch", "fused-optimizer"),
    *("progressive-resizing", "cuda-graphs", "throughput"),
)


class ErrorsWhereItWaits(Callback):
    """Lets torch raise an error where a training step waits for the GPU."""

    run_valid = False

    def __init__(self):
        self.num_watched = 0

    def before_batch(self):
        if self.learn.train_iter >= NUM_WARM_UP:
            torch.cuda.set_sync_debug_mode("error")
            self.num_watched += 1

    def after_batch(self):
        torch.cuda.set_sync_debug_mode("default")

    teardown = after_batch


class Waits(Callback):
    def after_loss(self):
        self.learn.loss.item()


def train(path, *cbs, device="cuda"):
    inputs = torch.randn(NUM_STEPS * BATCH_SIZE, 3, 16, 16)
    data = TensorDataset(inputs, torch.arange(len(inputs)) % 3)
    is_gpu = device == "cuda"
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, pin_memory=is_gpu)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    watch = ErrorsWhereItWaits()
    parts = (loader, model, nn.CrossEntropyLoss(), torch.optim.AdamW)
    learner = Learner(*parts, cbs=[watch, *cbs], path=path, device=device)
    learner.fit(2)
    return watch.num_watched


@needs_gpu
def test_a_step_of_the_loop_does_not_wait(tmp_path):
    assert train(tmp_path) == 2 * NUM_STEPS - NUM_WARM_UP


@needs_gpu
@pytest.mark.parametrize("name", PLUGINS)
def test_a_step_with_a_plugin_does_not_wait(tmp_path, name):
    train(tmp_path, name)


@needs_gpu
def test_it_is_noticed_when_a_step_waits(tmp_path):
    with pytest.raises(RuntimeError, match="synchroniz"):
        train(tmp_path, Waits())


@pytest.mark.parametrize(
    "name", [name for name in PLUGINS if name not in ("cuda-graphs", "channels-last")]
)
def test_what_is_tried_on_a_gpu_trains_on_a_cpu_too(tmp_path, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)

    assert train(tmp_path, name, device="cpu") == 2 * NUM_STEPS - NUM_WARM_UP
