"""The file with the weights of a run, to hand to a tracker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from callboard import Learner


@contextmanager
def model_file(learner: Learner) -> Iterator[Path]:
    """A file with the weights: what ``save-model`` saved last, else one made for now.

    One made for now is gone when the block ends; it is read with
    ``torch.load(file, weights_only=True)``.
    """
    for plugin in learner.cbs:
        saved = getattr(plugin, "last_saved_path", None)
        if isinstance(saved, Path) and saved.exists():
            yield saved
            return
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.pt")
        torch.save(learner.model.state_dict(), file)
        yield file
