"""Callbacks that show or write the rows of the recorder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastcore.basics import noop

from callboard_fastai.callback.core import Callback
from callboard_fastai.predefined import Predefined


class ProgressCallback(Callback, metaclass=Predefined, plugin="ProgressCallback"):
    """Writes the rows of the recorder as lines of text, one an epoch.

    Bars are the matter of Callboard's ``progress``; a class derived from this one
    finds the methods of fastai's, and none of its bars.
    """

    order = 60
    _stateattrs = ("mbar", "pbar")
    mbar: Any = None
    pbar: Any = None

    def before_fit(self) -> None:
        """Take the place of the logger."""
        assert hasattr(self.learn, "recorder")
        self.old_logger = self.learn.logger
        if self.learn.logger is not noop:
            self.learn.logger = self._write_stats
            self._write_stats(self.recorder.metric_names)

    def before_epoch(self) -> None:
        """An epoch begins."""

    def before_train(self) -> None:
        """A training phase begins."""
        self._launch_pbar()

    def before_validate(self) -> None:
        """A validation begins."""
        self._launch_pbar()

    def after_train(self) -> None:
        """A training phase is over."""

    def after_validate(self) -> None:
        """A validation is over."""

    def after_batch(self) -> None:
        """A batch is over."""

    def after_fit(self) -> None:
        """Put the logger back."""
        if "old_logger" in vars(self):
            self.learn.logger = self.old_logger

    def _launch_pbar(self) -> None:
        """Called at the beginning of every phase."""

    def _write_stats(self, log: Any) -> None:
        cells = [f"{c:.6f}" if isinstance(c, float) else str(c) for c in log]
        print("  ".join(cell.ljust(10) for cell in cells).rstrip())


class CSVLogger(Callback, metaclass=Predefined, plugin="CSVLogger"):
    """Writes the rows of the recorder to a file.

    Args:
        fname: The file, in the Learner's ``path``.
        append: Keep what is in it.
    """

    order = 60

    def __init__(self, fname: str | Path = "history.csv", append: bool = False) -> None:
        self.fname, self.append = Path(fname), append

    def read_log(self) -> Any:
        """The file as a table of pandas."""
        import pandas as pd

        return pd.read_csv(Path(self.path) / self.fname)

    def before_fit(self) -> None:
        """Open the file."""
        if hasattr(self, "gather_preds"):
            return
        place = Path(self.path) / self.fname
        place.parent.mkdir(parents=True, exist_ok=True)
        self.file = place.open("a" if self.append else "w")
        self.file.write(",".join(self.recorder.metric_names) + "\n")
        self.old_logger, self.learn.logger = self.learn.logger, self._write_line

    def _write_line(self, log: Any) -> None:
        self.file.write(",".join(str(cell) for cell in log) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.old_logger(log)

    def after_fit(self) -> None:
        """Close the file."""
        if hasattr(self, "gather_preds"):
            return
        self.file.close()
        self.learn.logger = self.old_logger
