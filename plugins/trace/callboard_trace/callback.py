"""The plugin: it lets a tracer watch the fit, and writes down what that has seen."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from callboard import Callback, hookimpl
from callboard.errors import OptionError
from callboard_trace.file import Trace, TraceError, TraceFile, check_place, opened

if TYPE_CHECKING:
    from callboard_trace.answers import Answer, Summary
    from callboard_trace.tracer import Tracer

DEFAULT_FILE = "callboard-trace.sqlite"
DEFAULT_LAST = 1000
Weights = Literal["none", "model", "each"]


class TraceCallback(Callback):
    """Records who ran at every event, how long, and what each plugin changed.

    Of every attribute that changes, the trace holds what it was before and after:
    shape, dtype, mean and a digest of its bits. `callboard trace why loss --step 120`
    answers from it, `callboard trace summary` says who took how long, and
    `callboard trace export FILE --chrome` makes a file that Perfetto opens.

    Args:
        file: Where to write, in ``learner.path`` unless it is absolute. An older trace
            of this name is replaced. A second plugin of this kind in one Learner adds
            its key to the name.
        steps: The training steps to record, as ``"100:200"``: counted from 1, both
            included; ``"100:"`` and ``":200"`` are open at one end. Default: all, of
            which the last are kept.
        last: How many of the latest steps are kept, where ``steps`` names none;
            1000 if nothing is said.
        weights: ``"model"`` tells whether any weight changed, ``"each"`` tells of every
            parameter, ``"none"`` leaves weights, gradients and the optimizer's state
            out. They are read whole before and behind every hookimpl.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "trace"
    role = "observe"

    def __init__(
        self,
        file: str | Path = DEFAULT_FILE,
        *,
        steps: str | None = None,
        last: int | None = None,
        weights: Weights = "model",
    ) -> None:
        self.file = _checked_file(file)
        self.steps = steps
        self.last = last
        self.weights = weights
        self._window = read_steps(steps)
        self._num_kept = _checked_last(last, steps)
        if weights not in get_args(Weights):
            raise OptionError(
                f'trace: weights must be "none", "model" or "each", got {weights!r}.'
            )
        self._tracer: Tracer | None = None
        self._open: ExitStack | None = None

    # Outside of all other wrappers, so that they are watched too.
    @hookimpl(wrapper=True, tryfirst=True)
    def do_fit(self) -> Generator[None, object, object]:
        tracer = self._begin()
        tracer.begin_fit()
        try:
            return (yield)
        finally:
            tracer.end_fit()

    def why(
        self,
        attribute: str,
        *,
        step: int | None = None,
        fit: int | None = None,
        limit: int = 10,
    ) -> Answer:
        """Who wrote an attribute last: what `callboard trace why` prints.

        Args:
            attribute: Its name: ``loss``, ``xb``, ``lr``, ``weights``.
            step: The training step, from 1. Default: the last one.
            fit: The fit, from 1. Default: the last one.
            limit: How many writes at most.

        Raises:
            TraceError: Nothing is recorded, or there is no such attribute or step.
        """
        from callboard_trace.answers import who_wrote

        with self._read() as trace:
            return who_wrote(trace, attribute, step=step, fit=fit, limit=limit)

    def summary(self, *, by_event: bool = False) -> Summary:
        """Who took how long: what `callboard trace summary` prints.

        Raises:
            TraceError: Nothing is recorded.
        """
        from callboard_trace.answers import summary_of

        with self._read() as trace:
            return summary_of(trace, by_event=by_event)

    @contextmanager
    def _read(self) -> Iterator[Trace]:
        if self._tracer is None:
            raise TraceError("trace: nothing is recorded yet; a fit records it.")
        if self._open is not None:  # asked in the middle of a fit
            self._tracer.write_down(at_once=True)
        with opened(self._tracer.place) as trace:
            yield trace

    def checkpoint(self) -> None:
        if self._tracer is not None:
            self._tracer.write_down()

    # Plugins are torn down in reverse: the first is the last.
    @hookimpl(tryfirst=True)
    def teardown(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            if self._tracer is not None:
                self._tracer.close()

    def _begin(self) -> Tracer:
        # Here, since torch is not needed to read a trace.
        from callboard_trace.tracer import Tracer

        learner, place = self.learn, self._place()
        own_key = next(m.key for m in learner.cbs.members if m.plugin is self)
        others = [other for other in learner.cbs[TraceCallback] if other is not self]
        if any(other._tracer and other._tracer.place == place for other in others):
            place = place.with_stem(f"{place.stem}-{own_key}")
        if self._tracer is None or self._tracer.place != place:
            self._tracer = Tracer(
                learner,
                TraceFile.made_anew(place),
                own_key=own_key,
                window=self._window,
                num_kept=self._num_kept,
                weights=self.weights,
            )
        self._tracer.learner = learner
        self._open = ExitStack()
        self._open.enter_context(learner.watched_by(self._tracer))
        return self._tracer

    def _place(self) -> Path:
        # Resolved, so that a change of folder moves nothing.
        return Path(self.learn.path, self.file).resolve()

    def __getstate__(self) -> dict[str, Any]:
        # A copy has a trace of its own.
        return {**super().__getstate__(), "_tracer": None, "_open": None}


def read_steps(text: str | None) -> tuple[int, float]:
    """The first and the last step of ``"100:200"``; the last may be infinite.

    >>> read_steps("100:200"), read_steps("7:"), read_steps(None)
    ((100, 200), (7, inf), (0, inf))

    Raises:
        OptionError: It is no such range.
    """
    if text is None:
        return 0, float("inf")
    match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", text)
    first, last = (match[1], match[2]) if match else ("", "")
    if not (first or last) or (first and last and int(first) > int(last)):
        raise OptionError(
            f'trace: steps must be a range such as "100:200", "100:" or ":200", got '
            f"{text!r}. Steps are counted from 1; both ends are included."
        )
    return int(first or 0), int(last) if last else float("inf")


def _checked_file(file: object) -> Path:
    if not isinstance(file, str | Path) or Path(file).name == "":
        raise OptionError(
            f"trace: file must be the name of a file, got {file!r}. "
            f'Use "{DEFAULT_FILE}".'
        )
    if Path(file).is_absolute():  # any other hangs on the Learner's path
        check_place(Path(file))
    return Path(file)


def _checked_last(last: object, steps: str | None) -> int | None:
    if last is None:
        return DEFAULT_LAST if steps is None else None
    if steps is not None:
        raise OptionError(
            f"trace: steps={steps!r} and last={last!r} exclude each other: give the "
            "steps to record, or how many of the latest to keep."
        )
    if not isinstance(last, int) or isinstance(last, bool) or last < 1:
        raise OptionError(
            f"trace: last must be a number of steps from 1 on, got {last!r}. Use 1000."
        )
    return last
