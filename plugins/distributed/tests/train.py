"""What the tests train from the command line, in several processes."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner


class Break(Callback):
    def after_loss(self):
        if self.learn.rank == 1 and self.learn.train_iter == 3:
            raise ValueError("broken here")


class Mishap(Callback):
    """Befalls process 1 in one step, and once only."""

    ranks = "all"

    def __init__(self, what, step):
        self._what = what
        self._at = step

    def after_step(self):
        mark = Path("it-has-happened")
        is_now = self.learn.rank == 1 and self.learn.train_iter == self._at
        if not is_now or not self._what or mark.exists():
            return
        mark.touch()
        if self._what == "sleep":
            time.sleep(1000)
        os.kill(os.getpid(), getattr(signal, self._what))


def learner(is_broken: bool = False, mishap: str = "", mishap_at: int = 8):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(45, 4, generator=draw)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    loaders = DataLoader(data, 8, shuffle=True), DataLoader(data, 8)
    cbs = ["recorder", Mishap(mishap, mishap_at), *([Break()] if is_broken else [])]
    return Learner(loaders, model, nn.MSELoss(), seed=1, device="cpu", cbs=cbs)
