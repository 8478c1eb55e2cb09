"""What the tests train from the command line, in several processes."""

import os
import signal

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner


class Break(Callback):
    def after_loss(self):
        if self.learn.rank == 1 and self.learn.train_iter == 3:
            raise ValueError("broken here")


class SignalsItself(Callback):
    ranks = "all"

    def __init__(self, step):
        self._at = step

    def after_step(self):
        if self.learn.rank == 1 and self.learn.train_iter == self._at:
            os.kill(os.getpid(), signal.SIGTERM)


def learner(is_broken: bool = False, signal_at: int = -1):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(45, 4, generator=draw)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    loaders = DataLoader(data, 8, shuffle=True), DataLoader(data, 8)
    cbs = ["recorder", SignalsItself(signal_at), *([Break()] if is_broken else [])]
    return Learner(loaders, model, nn.MSELoss(), seed=1, device="cpu", cbs=cbs)
