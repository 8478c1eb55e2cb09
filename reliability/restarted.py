"""What ``restarts`` trains: dropout, a shuffled loader, Adam."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner


class TellWeights(Callback):
    """Prints a digest of the weights; every process has its part in it."""

    ranks = "all"

    def after_fit(self) -> None:
        state = self.learn.processes.model_state(self.learn)
        if self.is_main:
            digest = hashlib.sha256()
            for tensor in state.values():
                digest.update(tensor.cpu().numpy().tobytes())
            print(f"weights {digest.hexdigest()[:16]}", flush=True)


def learner() -> Learner:
    """A small model that is trained in some seconds."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=draw)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1)
    )
    return Learner(
        (DataLoader(data, 8, shuffle=True), DataLoader(data, 50)),
        model,
        nn.MSELoss(),
        seed=1,
        device="cpu",
        cbs=["recorder", TellWeights()],
    )
