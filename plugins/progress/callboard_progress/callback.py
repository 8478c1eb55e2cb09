"""The callback that measures how far training is."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from callboard import Callback
from callboard.errors import OptionError, suggestion
from callboard_progress.bars import Bar, seconds_left
from callboard_progress.displays import MODES, Display, Mode, choose_display
from callboard_progress.texts import as_float, joined_columns, one_line

if TYPE_CHECKING:
    from rich.console import Console

# Drawing takes at most this share of the time, however slow the terminal is.
MAX_DRAWING_SHARE = 0.02
# Reading a loss waits for the device: once in so many batches, or so many seconds.
BATCHES_PER_LOSS = 32
SECONDS_PER_LOSS = 2.0


class ProgressCallback(Callback):
    """Shows how far training is: bars while it runs, and a table of the epochs.

    Args:
        refresh_per_second: How often the bars are drawn anew at most, above 0.
        console: Where to write. Default: rich's own console, on stdout.
        mode: ``"terminal"``, ``"plain"`` or ``"notebook"``; ``"auto"`` looks where the
            output goes.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "progress"
    role = "observe"
    run_after = "recorder"

    def __init__(
        self,
        *,
        refresh_per_second: float = 10,
        console: Console | None = None,
        mode: Mode = "auto",
    ) -> None:
        _check_options(refresh_per_second, console, mode)
        self.refresh_per_second = refresh_per_second
        self.console = console
        self.mode = mode
        self._display: Display | None = None
        self._next_drawing = math.inf

    def before_fit(self) -> None:
        is_first_process = os.environ.get("RANK", "0") == "0"
        display = choose_display(self.mode, self.console) if is_first_process else None
        if display is None:
            self.run = False
            return
        self._display = display
        self._columns: tuple[str, ...] = ()
        self._train_loss: float | None = None
        self._num_epochs_done = self.learn.epoch
        self._fit_started = monotonic()
        self._first_share = self.learn.pct_train
        self._enter_phase("")
        if display.has_bars:
            display.open()
            self._draw(num_batches_done=0)
        else:
            self.run_train = self.run_valid = False

    def before_epoch(self) -> None:
        self._epoch_started = monotonic()

    def before_train(self) -> None:
        self._enter_phase("train")

    def before_validate(self) -> None:
        self._enter_phase("valid")

    def after_batch(self) -> None:
        # This runs for every batch: one look at the clock, and nothing else.
        if monotonic() >= self._next_drawing:
            self._draw(num_batches_done=self.learn.iter + 1)

    def after_train(self) -> None:
        if "train_loss" not in self.learn.results:
            self._train_loss = as_float(self.learn.loss)

    def after_epoch(self) -> None:
        if self._display is None:
            return
        self._num_epochs_done = self.learn.epoch + 1
        row = self._row()
        self._columns = joined_columns(self._columns, row)
        self._display.show_bars(self._bars(self.learn.iter + 1), draw=False)
        self._display.add_row(self._columns, row)

    def teardown(self) -> None:
        self._next_drawing = math.inf
        display, self._display = self._display, None
        if display is None:
            return
        display.close()
        if not self._has_failed():
            for note in self._notes():
                display.add_note(one_line(note))

    def _enter_phase(self, phase: str) -> None:
        self._phase = phase
        self._phase_started = monotonic()
        self._loss: float | None = None
        self._loss_read_at = -math.inf
        self._loss_read_after = 0
        if self._phase_started >= self._next_drawing:
            self._draw(num_batches_done=0)

    def _draw(self, num_batches_done: int) -> None:
        self._read_loss(num_batches_done)
        started = monotonic()
        if self._display is not None:
            self._display.show_bars(self._bars(num_batches_done), draw=True)
        ended = monotonic()
        pause = (ended - started) / MAX_DRAWING_SHARE
        self._next_drawing = ended + max(1 / self.refresh_per_second, pause)

    def _read_loss(self, num_batches_done: int) -> None:
        now = monotonic()
        num_batches = num_batches_done - self._loss_read_after
        is_due = num_batches >= BATCHES_PER_LOSS
        is_due |= now - self._loss_read_at >= SECONDS_PER_LOSS
        if num_batches and is_due:
            loss = self._running_loss()
            self._loss = self._loss if loss is None else loss
            self._loss_read_at, self._loss_read_after = now, num_batches_done

    def _running_loss(self) -> float | None:
        """The recorder's running mean in training, else the loss of the last batch."""
        learner = self.learn
        if learner.training and "recorder" in learner.cbs:
            smooth_loss = getattr(learner.cbs["recorder"], "smooth_loss", None)
            if smooth_loss is not None:
                return as_float(smooth_loss)
        return as_float(learner.loss)

    def _bars(self, num_batches_done: int) -> list[Bar]:
        now = monotonic()
        share = self.learn.pct_train
        elapsed = now - self._fit_started
        left = seconds_left(elapsed, share - self._first_share, 1 - share)
        epochs = (self._num_epochs_done, self.learn.n_epoch)
        bars = [Bar("epoch", *epochs, share=share, elapsed=elapsed, left=left)]
        if self._phase:
            bars.append(self._phase_bar(num_batches_done, now - self._phase_started))
        return bars

    def _phase_bar(self, num_batches_done: int, elapsed: float) -> Bar:
        batches = (num_batches_done, self.learn.n_iter)
        if not self.learn.n_iter:  # a loader without a length, before its first end
            return Bar(self._phase, *batches, None, elapsed, None, self._loss)
        share = min(1.0, num_batches_done / self.learn.n_iter)
        left = seconds_left(elapsed, share, 1 - share)
        return Bar(self._phase, *batches, share, elapsed, left, self._loss)

    def _row(self) -> dict[str, Any]:
        row = {"epoch": self.learn.epoch, **self.learn.results}
        is_measured = "train_loss" in row or "valid_loss" in row
        if "loss" in self._columns or not (self._columns or is_measured):
            # Nobody measures the epoch: the loss of its last training batch must do.
            row["loss"] = self._train_loss
            row["time"] = monotonic() - self._epoch_started
        return row

    def _has_failed(self) -> bool:
        cbs = self.learn.cbs
        keys = [failure.plugin for failure in self.learn.record.failures]
        return any(key in cbs and cbs[key] is self for key in keys)

    def _notes(self) -> Iterator[str]:
        for reason in self.learn.record.reasons:
            if reason.what in ("stop", "fit"):
                who = f" by {reason.plugin}" if reason.plugin else ""
                why = f": {reason.reason}" if reason.reason else ""
                yield f"Stopped in epoch {reason.epoch}{who}{why}"
        for failure in self.learn.record.failures:
            yield (
                f"Switched off in epoch {failure.epoch}: {failure.plugin} failed in "
                f"{failure.event}: {failure.error}"
            )


def _check_options(refresh_per_second: object, console: object, mode: object) -> None:
    is_number = isinstance(refresh_per_second, int | float)
    if not (is_number and 0 < refresh_per_second < math.inf):  # type: ignore[operator]
        raise OptionError(
            "progress: refresh_per_second must be a number above 0, got "
            f"{refresh_per_second!r}. Use 10 to draw the bars ten times a second."
        )
    if console is not None and not hasattr(console, "print"):
        raise OptionError(
            "progress: console must be a rich.console.Console, got "
            f"{type(console).__name__}. Leave it out to write to stdout."
        )
    if mode not in MODES:
        known = ", ".join(f'"{known}"' for known in MODES)
        message = f"progress: mode must be one of {known}, got {mode!r}."
        raise OptionError(message + suggestion(str(mode), MODES))
    if mode == "notebook" and importlib.util.find_spec("IPython") is None:
        raise OptionError(
            'progress: mode "notebook" needs IPython, which is not installed. Leave '
            'mode at "auto", or `pip install ipython`.'
        )
