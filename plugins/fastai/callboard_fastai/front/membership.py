"""Callbacks that join and leave, and the events that they are called at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

from fastcore.basics import defaults as fastcores_defaults
from fastcore.foundation import L

from callboard_fastai.callback.core import TrainEvalCallback, event
from callboard_fastai.derivable.loop import CastToTensor
from callboard_fastai.front.attributes import Attributes
from callboard_fastai.recording import LoopRecorder, Recorder

#: fastai's settings; a file may put callbacks into ``callbacks`` for every Learner.
defaults = SimpleNamespace(
    **{
        **vars(fastcores_defaults),
        "lr": 1e-3,
        "use_cuda": None,
        "callbacks": [TrainEvalCallback, Recorder, CastToTensor],
    }
)


class Membership(Attributes):
    """fastai's methods about callbacks."""

    @property
    def cbs(self) -> Any:
        """The active callbacks and plugins, in running order."""
        return L(self.callboard.cbs)

    def add_cb(self, cb: Any) -> Self:
        """Let a callback take part."""
        self.callboard.add_cb(cb)
        return self

    def add_cbs(self, cbs: Any) -> Self:
        """Let callbacks take part."""
        self.callboard.add_cbs(L(cbs))
        return self

    def remove_cb(self, cb: Any) -> Self:
        """Let a callback, or all of a class, take part no more."""
        active = self.callboard.cbs
        gone = self._grab_cbs(cb) if isinstance(cb, type) else [cb]
        self.callboard.remove_cbs([c for c in gone if any(c is a for a in active)])
        return self

    def remove_cbs(self, cbs: Any) -> Self:
        """Let callbacks take part no more."""
        for cb in L(cbs):
            self.remove_cb(cb)
        return self

    @contextmanager
    def added_cbs(self, cbs: Any) -> Iterator[Self]:
        """Callbacks that take part inside the ``with`` block only."""
        with self.callboard.added_cbs(L(cbs)):
            yield self

    @contextmanager
    def removed_cbs(self, cbs: Any) -> Iterator[Self]:
        """Callbacks that do not take part inside the ``with`` block."""
        gone = [c for cb in L(cbs) for c in self._meant_by(cb)]
        with self.callboard.removed_cbs(gone):
            yield self

    def _meant_by(self, cb: Any) -> Any:
        if isinstance(cb, type):
            return self._grab_cbs(cb)
        return [c for c in self.callboard.cbs if c is cb]

    def _grab_cbs(self, cb_cls: type) -> Any:
        return L(cb for cb in self.callboard.cbs if isinstance(cb, cb_cls))

    def ordered_cbs(self, event: str) -> list[Any]:
        """The callbacks that implement an event, in the order in which they run."""
        return [cb for cb in self.callboard.cbs if hasattr(cb, event)]

    def __call__(self, event_name: Any) -> None:
        """Fire events at all plugins, or outside a fit at fastai's callbacks."""
        for name in L(event_name):
            if not hasattr(event, name):
                raise Exception(f"missing {name}")
            calls = list(getattr(self.callboard.plan, name))
            if not calls:
                self._fire(name)
            for call in calls:
                call()

    def _fire(self, name: str) -> None:
        for adapter in self._ordered_adapters():
            adapter.deliver(name)

    def _ordered_adapters(self) -> list[Any]:
        keys = {id(m.plugin): n for n, m in enumerate(self.callboard.cbs.members)}
        known = [a for a in self._adapters if id(a) in keys]
        return sorted(known, key=lambda adapter: keys[id(adapter)])

    def _call_companions(self) -> None:
        """Let those take part that callbacks of fastai expect in every Learner."""
        if self._companions:
            return
        made = [cb() if isinstance(cb, type) else cb for cb in _added_defaults()]
        self._companions = [LoopRecorder(), *made]
        self.callboard.add_cbs(self._companions)

    def _dismiss_companions(self) -> None:
        """Let them go with the last callback that they were there for."""
        companions = self._companions
        present = [a.subject for a in self._adapters]
        is_alone = all(any(p is c for c in companions) for p in present)
        if present and is_alone and not self._is_in_fit and self._kept is None:
            self._companions = []
            active = self.callboard.cbs
            gone = [p for p in present if any(p is cb for cb in active)]
            self.callboard.remove_cbs(gone)


def _added_defaults() -> list[Any]:
    """What files have put into ``defaults.callbacks``, here or in an installed fastai.

    What fastai itself has put there is done by Callboard's loop and plugins.
    """
    ours = defaults.callbacks
    known = [*ours, *getattr(fastcores_defaults, "callbacks", ())]
    roots = {id(cb): str(cb.__module__).partition(".")[0] for cb in known}
    return [cb for cb in known if roots[id(cb)] not in ("fastai", "callboard_fastai")]
