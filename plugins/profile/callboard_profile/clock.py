"""Time, memory growth and host reads of every piece of work in a fit.

A piece's own time is what passes between its beginning and its end, without the pieces
within it and without what the clock itself takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any

import torch

from callboard.watching import NEXT_BATCH, THE_LOOP

# Memory and a GPU's own time are looked at in one batch of so many, since it takes
# longer than to read a clock; outside of batches always.
BATCHES_PER_LOOK = 16
# Tensor methods that wait for the device and hand values to Python.
HOST_READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__")

Piece = tuple[str, str]
GetMemory = Callable[[], int]


@dataclass
class Tally:
    """What all pieces of one plugin at one event came to.

    Attributes:
        num_calls: How often it ran.
        nanoseconds: Its own time, within epochs.
        nanoseconds_outside: Its own time before and after the epochs.
        longest: The longest own time of one call.
        host_reads: How often a tensor's value was read.
        num_looks: In how many calls its memory was looked at.
        bytes_kept: By how much memory grew in those.
        device_milliseconds: What the GPU took, in the batches that were looked at.
    """

    num_calls: int = 0
    nanoseconds: int = 0
    nanoseconds_outside: int = 0
    longest: int = 0
    host_reads: int = 0
    num_looks: int = 0
    bytes_kept: int = 0
    device_milliseconds: float = 0.0


class _Open:
    """A piece that has begun."""

    __slots__ = ("child_bytes", "device_start", "memory", "not_own", "piece", "start")

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.start = 0
        self.not_own = 0  # nanoseconds of the pieces within, and of the clock
        self.memory: int | None = None
        self.child_bytes = 0
        self.device_start: Any = None


class Clock:
    """A watcher that tallies every piece of work.

    Args:
        get_memory: Tells how many bytes are in use; None where nobody can tell.
        make_event: Makes an event of the GPU that keeps time; None on a CPU.
        trace_limit: How many pieces are kept one by one, for a trace.

    Attributes:
        tallies: What the pieces came to, by who and what.
        epoch_nanoseconds: How long all epochs took together, without the clock's part.
        trace: Who, what, start and length of the first pieces, in nanoseconds.
    """

    def __init__(
        self,
        get_memory: GetMemory | None = None,
        make_event: Callable[[], Any] | None = None,
        *,
        trace_limit: int = 0,
    ) -> None:
        self.get_memory = get_memory
        self.make_event = make_event
        self.trace_limit = trace_limit
        self.tallies: dict[Piece, Tally] = {}
        self.epoch_nanoseconds = 0
        self.trace: list[tuple[str, str, int, int]] = []
        self.num_batches = 0
        self._open: list[_Open] = []
        self._num_open_batches = 0
        self._num_open_epochs = 0
        self._waiting_events: list[tuple[Piece, Any, Any]] = []
        self._is_timing_device = False
        self._thread = threading.get_ident()

    def begin(self, who: str, what: str) -> None:
        """A piece of work begins."""
        entered = perf_counter_ns()
        piece = who, what
        if who == THE_LOOP:
            self._begin_of_loops(what)
        opened = _Open(piece)
        if self._is_looked_at(what) and self.get_memory is not None:
            opened.memory = self.get_memory()
        if self._is_timing_device:
            opened.device_start = self._recorded_event()
        if self._open:
            outer = self._open[-1]
            outer.not_own -= entered  # the rest of this sum is added in `end`
        self._open.append(opened)
        opened.start = perf_counter_ns()

    def end(self, who: str, what: str) -> None:
        """The piece of work that began last has ended."""
        stopped = perf_counter_ns()
        opened = self._open.pop()
        own = stopped - opened.start - opened.not_own
        tally = self.tallies.get(opened.piece)
        if tally is None:
            tally = self.tallies[opened.piece] = Tally()
        tally.num_calls += 1
        if self._num_open_epochs:
            tally.nanoseconds += own
        else:
            tally.nanoseconds_outside += own
        tally.longest = max(tally.longest, own)
        if opened.memory is not None:
            self._tally_memory(tally, opened)
        if opened.device_start is not None:
            stop = self._recorded_event()
            self._waiting_events.append((opened.piece, opened.device_start, stop))
        if len(self.trace) < self.trace_limit:
            length = stopped - opened.start
            self.trace.append((who, what, opened.start, length))
        if who == THE_LOOP:
            self._end_of_loops(what)
        if self._open:
            self._open[-1].not_own += perf_counter_ns()

    def _begin_of_loops(self, what: str) -> None:
        if what == "do_batch":
            self._num_open_batches += 1
            self.num_batches += 1
            is_due = self.num_batches % BATCHES_PER_LOOK == 0
            self._is_timing_device = self.make_event is not None and is_due
        elif what == "do_epoch":
            self._num_open_epochs += 1

    def _end_of_loops(self, what: str) -> None:
        if what == "do_batch":
            self._num_open_batches -= 1
            self._is_timing_device = False
        elif what == "do_epoch":
            self._num_open_epochs -= 1
            self.read_device_times(is_last=False)
            if not self._num_open_epochs:
                self.epoch_nanoseconds = sum(
                    tally.nanoseconds for tally in self.tallies.values()
                )

    def _is_looked_at(self, what: str) -> bool:
        if self._num_open_batches:
            return self.num_batches % BATCHES_PER_LOOK == 0
        return what not in (NEXT_BATCH, "do_batch", "checkpoint")

    def _tally_memory(self, tally: Tally, opened: _Open) -> None:
        assert self.get_memory is not None
        assert opened.memory is not None
        grown = self.get_memory() - opened.memory
        tally.num_looks += 1
        tally.bytes_kept += grown - opened.child_bytes
        if self._open:
            self._open[-1].child_bytes += grown

    def _recorded_event(self) -> Any:
        assert self.make_event is not None
        event = self.make_event()
        event.record()
        return event

    def read_device_times(self, *, is_last: bool) -> None:
        """Tally what the GPU has done by now; only the last time it is waited for."""
        waiting = []
        for piece, start, stop in self._waiting_events:
            if is_last:
                stop.synchronize()
            if stop.query():
                self.tallies[piece].device_milliseconds += start.elapsed_time(stop)
            else:
                waiting.append((piece, start, stop))
        self._waiting_events = waiting

    def note_read(self) -> None:
        """A tensor's value was read; by the thread that trains, or it is no one's."""
        if self._open and threading.get_ident() == self._thread:
            piece = self._open[-1].piece
            self.tallies.setdefault(piece, Tally()).host_reads += 1


@contextmanager
def counted_reads(note: Callable[[], object], device: torch.device) -> Iterator[None]:
    """Note every read by Python, inside the block, of a value that lies on a device."""

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.device.type == device.type:
                note()
            return original(tensor, *args, **kwargs)

        return read

    own = {name: vars(torch.Tensor).get(name) for name in HOST_READS}
    for name in HOST_READS:
        setattr(torch.Tensor, name, noting(getattr(torch.Tensor, name)))
    try:
        yield
    finally:
        for name, original in own.items():
            if original is None:
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, original)


def memory_getter(device: torch.device) -> GetMemory | None:
    """What tells the bytes in use: on a GPU its tensors', else the process's own."""
    if device.type == "cuda":
        return partial(torch.cuda.memory_allocated, device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory
    with suppress(OSError, AttributeError):
        return ResidentMemory()
    return None


class ResidentMemory:
    """Bytes of main memory that this process holds, as Linux tells them."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._file = os.open("/proc/self/statm", os.O_RDONLY)

    def __call__(self) -> int:
        # The second number counts the resident pages: proc(5).
        return int(os.pread(self._file, 128, 0).split()[1]) * self._page

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)
