"""Recurrent models: hidden state, outputs, and what is added to the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fastai.callback import rnn as fastai_rnn
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from callboard_rnn import ModelResetter, RNNCallback, RNNRegularizer
from parity.cases import case, difference
from parity.problems import Problem, state_of


class Tagger(nn.Module):
    """A number for every step of a sequence; goes on where the batch before ended."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 6, batch_first=True)
        self.head = nn.Linear(6, 1)
        self.num_resets = 0
        self.hidden: Tensor | None = None

    def reset(self) -> None:
        self.num_resets += 1
        self.hidden = None

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        raw, hidden = self.rnn(inputs, self.hidden)
        self.hidden = hidden.detach()
        # Stands for dropout, of which both would have to draw the same.
        out = raw * 0.9
        return self.head(out), [raw], [out]


def sequences(num_items: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_items, 5, 3, generator=generator)
    return TensorDataset(inputs, inputs.sum(-1, keepdim=True).cumsum(1).tanh())


PROBLEM = Problem(
    model=Tagger, train=sequences(16, 0), valid=sequences(8, 1), metrics=()
)


def fits(ours: list[Any], theirs: list[Any]) -> tuple[float, Any, Any]:
    learner, learn = PROBLEM.ours(*ours), PROBLEM.theirs(*theirs)
    learner.fit(3)
    learn.fit(3)
    largest = max(
        difference(learner.recorder.smooth_losses, learn.recorder.losses),
        difference(
            [row["valid_loss"] for row in learner.recorder.values],
            [row[1] for row in learn.recorder.values],
        ),
        difference(state_of(learner), state_of(learn)),
    )
    return largest, learner, learn


@case("ModelResetter", "losses and weights of a model that remembers")
def reset(folder: Path) -> float:
    ours = [ModelResetter(), RNNCallback()]
    return fits(ours, [fastai_rnn.ModelResetter(), fastai_rnn.RNNCallback()])[0]


@case("RNNCallback", "losses and weights of a model that returns three things")
def unpacked(folder: Path) -> float:
    # fastai resets once when a fit begins, whoever takes part.
    return fits(
        [ModelResetter(), RNNCallback()],
        [fastai_rnn.ModelResetter(), fastai_rnn.RNNCallback()],
    )[0]


@case("RNNRegularizer", "losses and weights with AR, with TAR and with both")
def regularised(folder: Path) -> float:
    def of(alpha: float, beta: float) -> float:
        ours = [ModelResetter(), RNNCallback(), RNNRegularizer(alpha, beta)]
        theirs = fastai_rnn.rnn_cbs(alpha, beta)
        return fits(ours, theirs)[0]

    return max(of(2.0, 0.0), of(0.0, 1.0), of(2.0, 1.0))
