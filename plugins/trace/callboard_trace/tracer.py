"""The watcher: it looks at the Learner around every piece of work.

Whatever is not as it was at the last look was changed by the piece that has run in
between: by a hookimpl, or by the loop's own work around it. What ``do_predict`` and
``do_loss`` return counts as written by who returned it, though the loop assigns it
later. The tracer's own time is taken out of all times.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from callboard import Learner
from callboard.lock import environment
from callboard.watching import NEXT_BATCH, THE_LOOP
from callboard_trace.callback import Weights
from callboard_trace.file import Call, TraceFile, Write
from callboard_trace.snapshot import Snapshot, snapshot_of
from callboard_trace.values import parts_of, value_of

# What an action returns, and the loop assigns.
RESULTS: Mapping[str, str] = {"do_predict": "pred", "do_loss": "loss"}
ROWS_IN_MEMORY = 5000
SECONDS_BETWEEN = 1.0


@dataclass(slots=True)
class Piece:
    """A piece of work that has begun.

    Attributes:
        number: The id of its row.
        who: Key of the plugin, or ``"the loop"``.
        what: The event, action or span.
        call: Where in the run it began; None where the step is not recorded.
        before: What was seen when it began.
        begin_ns: On the tracer's clock.
        inner_ns: What the pieces inside of it took.
        handled: The error that was being handled when it began.
    """

    number: int
    who: str
    what: str
    call: tuple[int, int, int, int, str, str] | None
    before: Snapshot
    begin_ns: int
    inner_ns: int = 0
    handled: BaseException | None = None


class Tracer:
    """Records the fits of one Learner in one file.

    Args:
        learner: Whose fits.
        file: Where rows go.
        own_key: Key of the plugin that this belongs to, which is not watched.
        window: The first and the last step to record.
        num_kept: How many of the latest steps are kept; None for all.
        weights: How closely weights are told.
    """

    def __init__(
        self,
        learner: Learner,
        file: TraceFile,
        *,
        own_key: str,
        window: tuple[int, float],
        num_kept: int | None,
        weights: Weights,
    ) -> None:
        self.learner = learner
        self.place = file.place
        self._file = file
        self._own_key = own_key
        self._window = window
        self._num_kept = num_kept
        self._weights = weights
        self._failure: Exception | None = None
        self._has_failed = False
        self._pieces: list[Piece] = []
        self._num_pieces = 0
        self._calls: list[Call] = []
        self._writes: list[Write] = []
        self._written_at = 0.0
        self._seen: Snapshot = {}
        self._first_seen: dict[str, Any] = {}
        self._returned: Snapshot = {}
        self._returned_by = ""
        self._ended: tuple[str, int] | None = None
        self._own_time_ns = 0
        self._fit = self._step = self._moment = 0
        self._is_recording = False

    # ---- a fit ----------------------------------------------------------------

    def begin_fit(self) -> None:
        """A fit begins."""
        self._fit += 1
        self._pieces, self._returned, self._ended = [], {}, None
        self._failure, self._has_failed = None, False
        self._enter_step(self.learner.train_iter)
        self.begin(THE_LOOP, "do_fit")

    def end_fit(self) -> None:
        """A fit has ended, but for ``on_exception`` and ``teardown``."""
        self.end(THE_LOOP, "do_fit")

    def close(self) -> None:
        """Write down what there is, and hold nothing of the Learner.

        Raises:
            Exception: What the tracer has failed of, or the disk.
        """
        self._pieces, self._seen, self._returned, self._ended = [], {}, {}, None
        try:
            self.write_down(at_once=True)
        finally:
            del self.learner  # a cycle, by way of the plugin; the next fit brings one

    def write_down(self, *, at_once: bool = False) -> None:
        """Put rows on the disk where there are many, or where it is long since.

        Raises:
            Exception: What the tracer has failed of, or the disk.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        is_due = time.monotonic() - self._written_at > SECONDS_BETWEEN
        if at_once or is_due or len(self._writes) > ROWS_IN_MEMORY:
            self._write_rows()

    def _write_rows(self) -> None:
        calls, self._calls = self._calls, []
        writes, self._writes = self._writes, []
        first = 0 if self._num_kept is None else self._moment - self._num_kept + 1
        last_writes = {write.attribute: write for write in writes}
        self._file.add(
            [call for call in calls if call.moment >= first],
            [w for w in writes if w.moment >= first or w is last_writes[w.attribute]],
            self._facts(),
            first,
        )
        self._written_at = time.monotonic()

    def _facts(self) -> dict[str, Any]:
        members = self.learner.cbs.members
        return {
            "environment": environment(self.learner),
            "latest": {"fit": self._fit, "step": self._step},
            "first_seen": self._first_seen,
            "kept": self._num_kept,
            "window": [w if w < float("inf") else None for w in self._window],
            "plugins": {
                m.key: {"origin": " ".join(filter(None, m.origin)), "role": m.role}
                for m in members
            },
        }

    def _enter_step(self, step: int) -> None:
        first, last = self._window
        was_recording = self._is_recording
        self._step, self._moment = step, self._moment + 1
        self._is_recording = first <= step <= last
        if self._is_recording and not was_recording:
            self._ended, self._seen = None, self._look()
            self._first_seen = {**self._as_data(self._seen), **self._first_seen}

    # ---- a piece of work ------------------------------------------------------

    def begin(self, who: str, what: str) -> None:
        """A piece of work begins."""
        if who == self._own_key or self._has_failed:
            return
        try:
            self._begin(who, what)
        except Exception as failure:
            self._fail(failure)

    def made(self, who: str, what: str, result: object) -> None:
        """A piece of work gives a result."""
        if who == self._own_key or self._has_failed:
            return
        try:
            self._made(who, what, result)
        except Exception as failure:
            self._fail(failure)

    def end(self, who: str, what: str) -> None:
        """The piece of work that began last has ended."""
        if who == self._own_key or self._has_failed:
            return
        error = sys.exception()
        try:
            self._end(what, error)
        except Exception as failure:
            self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        # To be raised where it is the tracer's own, and no other plugin's.
        self._failure, self._has_failed = failure, True

    def _begin(self, who: str, what: str) -> None:
        self._num_pieces += 1
        piece = Piece(self._num_pieces, who, what, None, {}, 0)
        if self._is_recording:
            self._wait()
            started = time.perf_counter_ns()
            # Between two hookimpls of one event nothing runs that could change things.
            if self._ended != (what, len(self._pieces)):
                self._note(self._pieces[-1] if self._pieces else piece, what)
            learner = self.learner
            piece.call = (
                *(self._moment, self._fit, self._step, learner.epoch),
                *(learner.stage, "train" if learner.training else "valid"),
            )
            piece.before = self._seen
            piece.handled = sys.exception()
            piece.begin_ns = started - self._own_time_ns
            self._own_time_ns += time.perf_counter_ns() - started
        self._pieces.append(piece)
        self._ended = None

    def _made(self, who: str, what: str, result: object) -> None:
        is_batch = what == NEXT_BATCH and result is not None
        if is_batch and self.learner.training and self.learner.stage == "fit":
            self._enter_step(self.learner.train_iter + 1)
        name = RESULTS.get(what)
        if name is not None and self._is_recording:
            self._returned = {part: value_of(v) for part, v in parts_of(name, result)}
            self._returned_by = what

    def _end(self, what: str, error: BaseException | None) -> None:
        piece = self._pieces.pop()
        if piece.call is None:
            return
        self._wait()
        started = time.perf_counter_ns()
        duration_ns = started - self._own_time_ns - piece.begin_ns
        if self._is_recording:
            self._note(piece, what)
            self._ended = (what, len(self._pieces))
        if self._pieces:
            self._pieces[-1].inner_ns += duration_ns
        is_raised = error is not None and error is not piece.handled
        is_end = isinstance(error, StopIteration)
        self._calls.append(
            Call(
                piece.number,
                *piece.call,
                *(piece.who, piece.what, piece.begin_ns, duration_ns),
                *(duration_ns - piece.inner_ns, len(self._pieces)),
                type(error).__name__ if is_raised and not is_end else None,
            )
        )
        if len(self._writes) > 2 * ROWS_IN_MEMORY:  # in a long validation
            self._write_rows()
        self._own_time_ns += time.perf_counter_ns() - started

    def _wait(self) -> None:
        """Let work on a device be done, so that its time is that of who began it."""
        if self.learner.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize()

    def _as_data(self, seen: Snapshot) -> dict[str, Any]:
        return {name: value.as_data() for name, value in seen.items()}

    def _look(self) -> Snapshot:
        return snapshot_of(self.learner, self._weights, self._seen)

    def _note(self, piece: Piece, what: str) -> None:
        """Write down what has changed since the last look, as done by this piece."""
        seen = self._look()
        if self._returned and what == self._returned_by:
            # Returned, and not yet assigned.
            name = RESULTS[what]
            for part in [part for part in seen if _is_part(part, name)]:
                del seen[part]
            seen |= self._returned
        else:
            self._returned = {}
        before, self._seen = self._seen, seen
        for name in {**before, **seen}:
            old, new = before.get(name), seen.get(name)
            if old is new or (old and new and old.identity == new.identity):
                continue
            first = piece.before.get(name)
            is_back = bool(first and new and first.identity == new.identity)
            self._writes.append(
                Write(
                    piece.number,
                    *(self._moment, self._fit, self._step, self.learner.epoch),
                    *(self.learner.stage, piece.who, piece.what, name),
                    is_put_back=is_back,
                    before=None if old is None else json.dumps(old.as_data()),
                    after=None if new is None else json.dumps(new.as_data()),
                )
            )


def _is_part(attribute: str, name: str) -> bool:
    return attribute == name or attribute.startswith((f"{name}.", f"{name}["))
