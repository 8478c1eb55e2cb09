"""Keep the statistics of frozen batch normalisation as they are.

Listens to  before_train
Changes     the mode of batch normalisation whose weights are frozen
Source      fastai's ``BnFreeze`` (Apache-2.0), written anew
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from callboard import Callback


def frozen_batchnorms(model: nn.Module) -> list[nn.Module]:
    """The batch normalisation modules that have weights, none of them trainable."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            weights = list(module.parameters(recurse=False))
            if weights and not any(weight.requires_grad for weight in weights):
                found.append(module)
    return found


class BnFreeze(Callback):
    """Lets frozen batch normalisation use its statistics, and not learn new ones.

    Frozen weights alone do not stop a layer in training mode from moving its running
    mean and variance with every batch.
    """

    name = "bn-freeze"
    role = "modify"
    stages = ("fit", "lr-find")

    def before_train(self) -> None:
        """Put them into evaluation mode; the loop puts all back before it validates."""
        for module in frozen_batchnorms(self.learn.model):
            module.eval()
