"""Which process hangs, and where: told before the others give up waiting for it.

Each process has a thread that looks whether the loop gets on; the loop itself does
nothing for it. Who stands still says so, with its stack, in the store that torchrun
keeps. When some wait for others, one of them tells, and all of them end.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from callboard.events import EVENTS

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

    from callboard import Learner

LOOKS_PER_LIMIT = 5
LONGEST_BETWEEN_LOOKS = 5.0
# The innermost calls of the stack that are shown.
MOST_SHOWN = 8
TOLD = "callboard/hang/told"
# Code in which a process waits for others: exchanges, and a backward pass, whose hooks
# exchange gradients out of Python's sight.
WAITING_FILES = ("torch/distributed/", "callboard_distributed/")
WAITING_CALLS = ("_engine_run_backward",)

Found = Mapping[str, Any]


class Watchdog(threading.Thread):
    """Looks every few seconds whether this process's loop gets on.

    Args:
        learner: Whose loop.
        store: What the processes leave word in; used by this thread alone.
        rank: Number of this process.
        world_size: How many there are.
        seconds: How long it may stand still.
    """

    def __init__(
        self,
        learner: Learner,
        store: Store,
        *,
        rank: int,
        world_size: int,
        seconds: float,
    ) -> None:
        super().__init__(name="callboard-watchdog", daemon=True)
        self.learner = learner
        self.store = store
        self.rank = rank
        self.world_size = world_size
        self.seconds = seconds
        self._is_over = threading.Event()
        self._stood_since: float | None = None

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()

    def run(self) -> None:
        """Look until the fit is over, or the run has stood still for too long."""
        interval = min(self.seconds / LOOKS_PER_LIMIT, LONGEST_BETWEEN_LOOKS)
        place, since = self._place(), time.monotonic()
        while not self._is_over.wait(interval):
            now = self._place()
            if now != place:
                place, since = now, time.monotonic()
                self._take_back()
            elif time.monotonic() - since > self.seconds:
                try:
                    self._look_at_others()
                except (OSError, RuntimeError):
                    return  # nobody keeps the store any more: torchrun is ending

    def _place(self) -> tuple[object, ...]:
        learner = self.learner
        place = learner.stage, learner.training, learner.epoch, learner.iter
        return (*place, learner.train_iter)

    def _take_back(self) -> None:
        if self._stood_since is not None:
            self._stood_since = None
            self.store.delete_key(_key(self.rank))

    def _look_at_others(self) -> None:
        if self._stood_since is None:
            self._stood_since = time.monotonic()
            found = where_it_is(self.learner, _stack_of_main())
            self.store.set(_key(self.rank), json.dumps(found))
        if self.store.check([TOLD]):
            self._end()
        there = [r for r in range(self.world_size) if self.store.check([_key(r)])]
        has_waited = time.monotonic() - self._stood_since > self.seconds
        is_complete = len(there) == self.world_size or has_waited
        if not is_complete or self.rank != there[0]:
            return
        found_by_rank = {r: json.loads(self.store.get(_key(r))) for r in there}
        report = in_words(found_by_rank, self.world_size, self.seconds)
        if report:
            self.store.set(TOLD, "")
            print(f"\n{report}", file=sys.stderr, flush=True)
            time.sleep(self.seconds / LOOKS_PER_LIMIT)  # for the others to see it
            self._end()

    def _end(self) -> None:
        # The main thread may be in a call that nothing interrupts.
        sys.stderr.flush()
        os._exit(1)


def _key(rank: int) -> str:
    return f"callboard/hang/{rank}"


def _stack_of_main() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def where_it_is(learner: Learner, frame: FrameType | None) -> Found:
    """What a process is doing: plugin, event, place in the run, stack; plain data.

    Args:
        learner: Whose loop it is in.
        frame: The innermost call.
    """
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    owners = (_owner_of(each, learner) for each in frames)
    plugin, event = next(filter(None, owners), ("", ""))
    shown = traceback.extract_stack(frames[0])[-MOST_SHOWN:] if frames else []
    return {
        "plugin": plugin,
        "event": event,
        "epoch": learner.epoch,
        "batch": learner.iter,
        "is_waiting": any(map(_is_waiting, frames)),
        "stack": "".join(traceback.format_list(shown)),
    }


def _owner_of(frame: FrameType, learner: Learner) -> tuple[str, str] | None:
    """The plugin and the event, if a call is a hookimpl's."""
    name = frame.f_code.co_name
    if name not in EVENTS:
        return None
    holder = frame.f_locals.get("self")
    for member in learner.cbs.members:
        plugin = member.plugin
        is_module = isinstance(plugin, ModuleType)
        if plugin is holder or (is_module and frame.f_globals is vars(plugin)):
            return member.label, name
    return None


def _is_waiting(frame: FrameType) -> bool:
    path = frame.f_code.co_filename.replace(os.sep, "/")
    is_there = any(f"/{part}" in path for part in WAITING_FILES)
    return is_there or frame.f_code.co_name in WAITING_CALLS


def in_words(found: Mapping[int, Found], world_size: int, seconds: float) -> str:
    """Who hangs and who waits; empty where nobody waits for anybody.

    Args:
        found: By rank, what those that stand still have said.
        world_size: How many processes there are.
        seconds: How long they have stood still.
    """
    waiting = [rank for rank, each in found.items() if each["is_waiting"]]
    silent = [rank for rank in range(world_size) if rank not in found]
    if not waiting:
        return ""
    lines = [f"distributed: the run has stood still for {seconds:g} s."]
    for rank, each in found.items():
        if rank not in waiting:
            lines.append(f"Process {rank} is {_doing(each)}:\n{each['stack']}")
    lines += [
        f"Process {rank} says nothing: it has left the fit, or is stopped."
        for rank in silent
    ]
    if len(waiting) == world_size:
        lines.append("Each of them waits for others, in exchanges that do not match:")
    for rank in waiting:
        each = found[rank]
        stack = f":\n{each['stack']}" if len(waiting) == world_size else "."
        lines.append(f"Process {rank} waits for others, {_doing(each)}{stack}")
    lines.append("All of them end now.")
    return "\n".join(lines)


def _doing(found: Found) -> str:
    owner = f"in plugin {found['plugin']} during {found['event']}"
    who = owner if found["plugin"] else "in the loop itself"
    return f"{who}, epoch {found['epoch']}, batch {found['batch']}"
