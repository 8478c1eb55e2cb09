"""Watchers: told of every piece of work in the loop, as it begins and as it ends.

Profilers and tracers are written with it, from outside:

    with learner.watched_by(watcher):
        learner.fit(1)

A piece of work is one hookimpl of one plugin, the loop's own work at an action or span,
or the waiting for a batch. Pieces lie within one another: what ends first is the one
that began last. Where nobody watches nothing of it is in the plan, and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar

#: Who does the loop's own work, and what it waits for between two batches.
THE_LOOP = "the loop"
NEXT_BATCH = "next batch"

Item = TypeVar("Item")


class Watcher(Protocol):
    """Is told when a piece of work begins and when it ends, also by an error.

    ``who`` is the key of a plugin or ``"the loop"``; ``what`` is an event, action or
    span, or ``"next batch"``. A wrapper is two pieces: before its ``yield`` and behind.
    """

    def begin(self, who: str, what: str) -> None:
        """A piece of work begins."""

    def end(self, who: str, what: str) -> None:
        """The piece of work that began last has ended."""


class ResultWatcher(Watcher, Protocol):
    """A watcher that is told of results too, as those of ``do_predict``."""

    def made(self, who: str, what: str, result: object) -> None:
        """The piece of work that began last gives a result; its end follows.

        None passes the work on and is not told of, but where a wrapper returns it.
        """


def watched_function(
    watchers: Sequence[Watcher], who: str, what: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """A function, told of to all watchers; the first of them sees the longest time."""
    for watcher in reversed(watchers):
        function = _watched_by_one(watcher, who, what, function)
    return function


def _watched_by_one(
    watcher: Watcher, who: str, what: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    begin, end = watcher.begin, watcher.end
    made: Any = getattr(watcher, "made", None)

    def watched(*given: Any) -> Any:
        begin(who, what)
        try:
            return function(*given)
        finally:
            end(who, what)

    def watched_with_result(*given: Any) -> Any:
        begin(who, what)
        try:
            result = function(*given)
            if result is not None:
                made(who, what, result)
            return result
        except StopIteration as stop:  # a wrapper returns, be it None
            made(who, what, stop.value)
            raise
        finally:
            end(who, what)

    return _following(watched if made is None else watched_with_result, function)


def watched_wrapper(
    watchers: Sequence[Watcher],
    who: str,
    what: str,
    function: Callable[..., Generator[Any, Any, Any]],
) -> Callable[..., Generator[Any, Any, Any]]:
    """A pluggy wrapper, of which what lies within its ``yield`` is not told."""

    def watched(*given: Any) -> Generator[Any, Any, Any]:
        generator = function(*given)
        try:
            first = watched_function(watchers, who, what, generator.__next__)()
        except StopIteration:
            return None  # without a `yield`, which pluggy complains of
        try:
            result = yield first
        except BaseException as error:
            resume = watched_function(watchers, who, what, generator.throw)
            return (yield from _ended(resume, error))
        resume = watched_function(watchers, who, what, generator.send)
        return (yield from _ended(resume, result))

    return _following(watched, function)


def _ended(resume: Callable[[Any], Any], value: Any) -> Generator[Any, Any, Any]:
    try:
        second = resume(value)
    except StopIteration as end:
        return end.value
    finally:
        del value  # it may be an error, whose traceback holds this frame: a cycle
    return (yield second)  # which pluggy complains of


def watched_batches(
    watchers: Sequence[Watcher], batches: Iterator[Item]
) -> Iterator[Item]:
    """Batches, the waiting for each of which is told of."""
    take = watched_function(watchers, THE_LOOP, NEXT_BATCH, batches.__next__)
    while True:
        try:
            batch = take()
        except StopIteration:
            return
        yield batch


def _following(
    watched: Callable[..., Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    # pluggy follows __wrapped__ to learn what to pass.
    watched.__wrapped__ = function  # type: ignore[attr-defined]
    return watched
