"""The rule about plugins that run in one process of many: they exchange nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import FrameType, ModuleType
from typing import Any

import torch.distributed as dist

from callboard import Learner
from callboard.events import EVENTS
from callboard.processes import Processes
from callboard.testing.conformance.report import rule
from callboard.testing.conformance.subject import Subject

# What every process of a group must call.
COLLECTIVES = (
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce"),
    *("all_to_all", "all_to_all_single", "barrier", "broadcast"),
    *("broadcast_object_list", "gather", "gather_object", "monitored_barrier"),
    *("new_group", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter"),
    *("scatter_object_list", "destroy_process_group"),
)
Note = Callable[[str], None]


@rule(
    "exchanges",
    expected="where it runs in the main process alone, it exchanges nothing with the "
    "others: they would never answer.",
    mend='declare ranks = "all" on the class, so that every process takes part, and '
    "ask self.is_main where only one may write; or exchange nothing.",
)
def exchanges(subject: Subject) -> Iterator[str]:
    """Train as the main one of two processes, and note who calls what all must call."""
    if subject.member.ranks == "all":
        return
    learner = subject.learner()
    plugins = {m.key: m.plugin for m in learner.cbs.members if m.name == subject.name}
    seen: dict[str, str] = {}

    def note(what: str) -> None:
        event = _event_of(sys._getframe(2), list(plugins.values()))
        if event:
            seen.setdefault(what, event)

    learner.processes = MainOfTwo(note)
    with watched_collectives(note):
        try:
            subject.run(learner)
        except Exception:
            if not seen:
                return  # whether it ends at all has a rule of its own
    for what, event in seen.items():
        declared = getattr(subject.member.plugin, "ranks", None)
        why = f'ranks is "{declared}"' if declared else "an observer is there by itself"
        yield (
            f"{event} called {what}, in the main process alone ({why}): with two "
            "processes it would wait for ever."
        )


class MainOfTwo(Processes):
    """The first of two processes, the other of which has the same to give."""

    def __init__(self, note: Note) -> None:
        super().__init__(0, 2)
        self._note = note

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """These numbers, as they are."""
        self._note("learner.processes.sum")
        return super().sum(numbers)

    def gather(self, value: Any) -> list[Any]:
        """This value, twice."""
        self._note("learner.processes.gather")
        return [value, value]

    def from_main(self, value: Any) -> Any:
        """This value."""
        self._note("learner.processes.from_main")
        return value

    def model_state(self, learner: Learner, *, whole: bool = True) -> dict[str, Any]:
        """The model's state, which all processes must ask for."""
        self._note("learner.processes.model_state")
        return super().model_state(learner, whole=whole)

    def optimizer_state(
        self, learner: Learner, *, whole: bool = True
    ) -> dict[str, Any]:
        """The optimizer's state, which all processes must ask for."""
        self._note("learner.processes.optimizer_state")
        return super().optimizer_state(learner, whole=whole)


def _event_of(frame: FrameType | None, plugins: list[Any]) -> str:
    """The event at which one of these plugins is at work, by the calls up to here."""
    while frame is not None:
        name = frame.f_code.co_name
        if name in EVENTS and any(_is_of(plugin, frame) for plugin in plugins):
            return name
        frame = frame.f_back
    return ""


def _is_of(plugin: object, frame: FrameType) -> bool:
    if isinstance(plugin, ModuleType):
        return vars(plugin) is frame.f_globals
    return frame.f_locals.get("self") is plugin


@contextmanager
def watched_collectives(note: Note) -> Iterator[None]:
    """Note calls of torch's collectives, in a group of this process alone."""
    is_own = dist.is_available() and not dist.is_initialized()
    if is_own:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    before = {n: getattr(dist, n) for n in COLLECTIVES if hasattr(dist, n)}
    for name, function in before.items():
        setattr(dist, name, _noted(function, f"torch.distributed.{name}", note))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(dist, name, function)
        if is_own:
            dist.destroy_process_group()


def _noted(function: Callable[..., Any], name: str, note: Note) -> Callable[..., Any]:
    @wraps(function)
    def noted(*given: Any, **options: Any) -> Any:
        note(name)
        return function(*given, **options)

    return noted


RULES = (exchanges,)
