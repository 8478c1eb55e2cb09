"""Record some training steps with PyTorch's own profiler: every operation and kernel.

Listens to  do_fit (around it), before_train, after_batch, after_train
Changes     nothing; writes traces below ``learner.path``
Source      ``torch.profiler``
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from callboard import Callback, hookimpl
from callboard.callback import Role
from callboard.errors import OptionError
from callboard.watching import THE_LOOP

if TYPE_CHECKING:
    from torch.profiler import profile

log = logging.getLogger("callboard")
# PyTorch has one profiler in a process; to start a second breaks the first.
_the_only_one = threading.Lock()
# These hold whole epochs or batches and would cover all else in the picture.
UNNAMED = ("do_epoch", "do_train", "do_validate", "do_batch")


class TorchProfiler(Callback):
    """Records training steps by a schedule and writes a Chrome trace of each cycle.

    A cycle waits ``wait`` steps, warms the profiler up in ``warmup``, and records
    ``active`` ones. After ``repeat`` cycles, or at the end of the first epoch, the
    profiler is off, and costs a step one call. A cycle that the epoch breaks off is
    written as far as it came.

    Args:
        wait: Steps to leave out first, when compilers and caches start.
        warmup: Steps in which the profiler runs and what it sees is dropped, from 1
            on: without one the first numbers are wrong.
        active: Steps to record, from 1 on.
        repeat: How many cycles to record, from 1 on.
        folder: Where to write ``trace-1.json`` and so on, below the Learner's ``path``.
        annotate: Name in the trace what the loop and each plugin does, as
            ``mixup: before_batch``.
        memory: Record what takes and gives back memory.
        shapes: Record the shapes of what operations take.
        stacks: Record the lines of Python that called; this is slow.
        rows: How many operations to list in the end, those that took longest first; 0
            to print nothing.

    Attributes:
        traces: The files that were written in the latest fit.
        table: The list of operations of the last cycle; empty before it.

    Raises:
        OptionError: A number is too small.
    """

    name = "torch-profiler"
    role: Role = "observe"
    run_valid = False

    def __init__(
        self,
        *,
        wait: int = 1,
        warmup: int = 1,
        active: int = 3,
        repeat: int = 1,
        folder: str = "torch-profile",
        annotate: bool = True,
        memory: bool = False,
        shapes: bool = False,
        stacks: bool = False,
        rows: int = 10,
    ) -> None:
        _check_at_least(0, wait=wait, rows=rows)
        _check_at_least(1, warmup=warmup, active=active, repeat=repeat)
        self.wait = wait
        self.warmup = warmup
        self.active = active
        self.repeat = repeat
        self.folder = folder
        self.annotate = annotate
        self.memory = memory
        self.shapes = shapes
        self.stacks = stacks
        self.rows = rows
        self.traces: list[Path] = []
        self.table = ""
        self._profile: profile | None = None
        self._is_done = False
        self._has_lock = False

    @hookimpl(wrapper=True)
    def do_fit(self) -> Generator[None, Any, Any]:
        """Name what is done, and end the profiler whatever happens."""
        self.traces, self.table, self._is_done = [], "", False
        try:
            if not self.annotate:
                return (yield)
            with self.learn.watched_by(_Names(self, self._key())):
                return (yield)
        finally:
            self._stop()
            if self.rows and self.traces:
                print(self.table)
                files = ", ".join(map(str, self.traces))
                print(f"Trace, for https://ui.perfetto.dev: {files}")

    def _key(self) -> str:
        cbs = self.learn.cbs
        keys: list[str] = list(cbs.keys())
        return next(key for key in keys if cbs[key] is self)

    def before_train(self) -> None:
        """Start the profiler, in the first epoch."""
        if self._is_done or self.is_on:
            return
        self._is_done = True
        self._has_lock = not is_profiling() and _the_only_one.acquire(blocking=False)
        if self._has_lock:
            self._start()
        else:
            log.warning(
                "torch-profiler: another profiler of PyTorch is at work in this "
                "process, so this fit is not recorded."
            )

    def after_batch(self) -> None:
        """Tell the profiler that a step is over."""
        running, num_before = self._profile, len(self.traces)
        if running is None:
            return
        try:
            running.step()
        except BaseException:
            # To stop a profiler that failed to step crashes the process (torch 2.13).
            self._let_go()
            raise
        if len(self.traces) > num_before:
            self._end()
            if len(self.traces) < self.repeat:
                self._start()

    def after_train(self) -> None:
        """End with the first epoch: validation is no step."""
        self._stop()

    @property
    def is_on(self) -> bool:
        """Whether what happens now may be recorded."""
        return self._profile is not None

    def _start(self) -> None:
        """Begin a cycle, with a profiler of its own: one for all mixes them up."""
        from torch import profiler

        self._profile = profiler.profile(
            schedule=profiler.schedule(
                wait=self.wait, warmup=self.warmup, active=self.active, repeat=1
            ),
            on_trace_ready=self._write,
            record_shapes=self.shapes,
            profile_memory=self.memory,
            with_stack=self.stacks,
        )
        self._profile.start()

    def _write(self, recorded: profile) -> None:
        folder = self.learn.path / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"trace-{len(self.traces) + 1}.json"
        recorded.export_chrome_trace(str(file))
        self.traces.append(file)
        is_on_gpu = self.learn.device.type == "cuda"
        self.table = recorded.key_averages().table(
            sort_by="self_cuda_time_total" if is_on_gpu else "self_cpu_time_total",
            row_limit=self.rows,
            max_name_column_width=40,
        )

    def _end(self) -> None:
        running, self._profile = self._profile, None
        if running is not None:
            running.stop()

    def _stop(self) -> None:
        try:
            self._end()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._profile = None
        if self._has_lock:
            self._has_lock = False
            _the_only_one.release()


def is_profiling() -> bool:
    """Whether a profiler of PyTorch records at this moment."""
    enabled: Any = torch.autograd._profiler_enabled  # type: ignore[attr-defined]
    return bool(enabled())


def _check_at_least(smallest: int, **options: int) -> None:
    for name, number in options.items():
        if number < smallest:
            raise OptionError(
                f"torch-profiler: {name} must be at least {smallest}, got {number!r}. "
                "wait=1, warmup=1, active=3, repeat=1 records the third, fourth and "
                "fifth step."
            )


class _Names:
    """A watcher that gives pieces of work names in the trace."""

    def __init__(self, profiler: TorchProfiler, key: str) -> None:
        self._profiler = profiler
        self._key = key
        self._open: list[Any] = []

    def begin(self, who: str, what: str) -> None:
        """Begin a range in the trace, where there is one being recorded."""
        named: Any = None
        is_own = who == self._key  # in it the profiler starts and stops
        if self._profiler.is_on and not is_own and what not in UNNAMED:
            from torch.profiler import record_function

            named = record_function(what if who == THE_LOOP else f"{who}: {what}")
            named.__enter__()
        self._open.append(named)

    def end(self, who: str, what: str) -> None:
        """End the range that began last."""
        named = self._open.pop()
        if named is not None:
            named.__exit__(None, None, None)
