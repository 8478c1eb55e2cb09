"""Keep dropout on in evaluations (Monte Carlo dropout), to see how sure a model is.

Listens to  do_validate (around it), before_validate, before_batch; in the stages
            "validate" and "predict"
Changes     the mode of dropout modules; the global random streams, which the loop puts
            back
Source      Gal & Ghahramani 2016, arXiv:1506.02142; fastai's ``MCDropoutCallback``
            (Apache-2.0), written anew

    mc_dropout = MCDropoutCallback()
    samples = torch.stack([learn.get_preds(cbs=mc_dropout)[0] for _ in range(20)])
    mean, spread = samples.mean(0), samples.std(0)
"""

from __future__ import annotations

import warnings
from collections.abc import Generator

import torch
from torch import nn
from torch.backends import mha

from callboard import Callback, hookimpl
from callboard.errors import CallboardWarning
from callboard.state import derive_seed


def dropout_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that drop out, by the names of their classes."""
    modules = model.modules()
    return [m for m in modules if "dropout" in type(m).__name__.lower()]


class MCDropoutCallback(Callback):
    """Drops out in ``validate`` and ``get_preds`` as in training, anew every time.

    Two evaluations with one instance, or with two, have different masks. They hang on
    torch's global stream, from which an instance draws a number when it is made, and on
    how many evaluations the instance saw before.
    """

    name = "mc-dropout"
    role = "modify"
    stages = ("validate", "predict")

    def __init__(self) -> None:
        # The loop keys evaluations by their position and puts all streams back, so that
        # without a number from outside all would have the same masks.
        self._base = int(torch.randint(2**62, ()))
        self._num_evaluations = 0

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, object, object]:
        """Do without torch's fast path for attention, which leaves dropout out."""
        was_enabled = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)
        try:
            return (yield)
        finally:
            mha.set_fastpath_enabled(was_enabled)

    def before_validate(self) -> None:
        """Put dropout modules, and nothing inside of them, into training mode."""
        self._num_evaluations += 1
        found = dropout_modules(self.learn.model)
        for module in found:
            module.training = True
        if not found:
            warnings.warn(
                f"{self.name}: {type(self.learn.model).__name__} has no dropout "
                "module, so all evaluations are alike. Dropout that is no module of "
                "its own (nn.LSTM(dropout=...), functional.dropout) stays off.",
                CallboardWarning,
                stacklevel=2,
            )

    def before_batch(self) -> None:
        """Draw the masks of this batch from a stream of their own."""
        learner = self.learn
        torch.manual_seed(derive_seed(self._base, self._num_evaluations, learner.iter))
