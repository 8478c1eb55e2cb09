"""What pluggy sees of a plugin, and of the loop: hookimpls and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from callboard import loop
from callboard.activation import ActivePlugin
from callboard.hookimpls import Hookimpl, hookimpls_of
from callboard.plan import Report
from callboard.watching import THE_LOOP, Watcher, watched_function, watched_wrapper

if TYPE_CHECKING:
    from callboard.learner import Learner

IsOn = Callable[[ActivePlugin], bool]
# Gives what is called in place of a hookimpl, with the same arguments.
Watch = Callable[[ActivePlugin, Hookimpl], Callable[..., Any] | None]
SPAN_DEFAULTS: Mapping[str, Callable[[Learner], None]] = {
    "do_epoch": loop.epoch,
    "do_train": loop.train,
    "do_validate": loop.validate,
    "do_batch": loop.batch,
}
ACTION_DEFAULTS: Mapping[str, Callable[[Learner], Any]] = {
    "do_predict": loop.predict,
    "do_loss": loop.compute_loss,
    "do_backward": loop.backward,
    "do_step": loop.step,
    "do_zero_grad": loop.zero_grad,
}


class StandIn:
    """What pluggy sees of one active plugin: its hookimpls and nothing else."""

    def __init__(
        self,
        member: ActivePlugin,
        report: Report,
        is_on: IsOn,
        watch: Watch | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.member = member
        self.is_observer = member.role == "observe"
        self.hookimpls = {
            f"{impl.event}__{number}": impl
            for number, impl in enumerate(hookimpls_of(member.plugin, member.key))
        }
        self.by_function: dict[int, Hookimpl] = {}
        #: Where it is to run first or last, whatever is declared.
        self.forced_events = {
            impl.event
            for impl in self.hookimpls.values()
            if impl.options["tryfirst"] or impl.options["trylast"]
        }
        for name, impl in self.hookimpls.items():
            impl.watched = None if watch is None else watch(member, impl)
            if watchers:
                tell = watched_wrapper if impl.is_wrapper else watched_function
                impl.watched = tell(watchers, member.key, impl.event, impl.called)
            function = impl.called
            if not impl.is_wrapper:
                function = _unless_off(impl, member, is_on)
            if self.is_observer:
                function = guard(impl, function, member, report)
            self.__dict__[name] = function
            self.by_function[id(function)] = impl

    def __dir__(self) -> list[str]:
        return list(self.hookimpls)

    def __repr__(self) -> str:
        return f"<hookimpls of {self.member.label}>"


class LoopsOwn:
    """The loop's own work, as the last hookimpl of every action and span."""

    def __init__(self, watchers: Sequence[Watcher] = ()) -> None:
        for name, own in {**SPAN_DEFAULTS, **ACTION_DEFAULTS}.items():
            self.__dict__[name] = watched_function(watchers, THE_LOOP, name, own)

    def __dir__(self) -> list[str]:
        return [*SPAN_DEFAULTS, *ACTION_DEFAULTS]

    def of(self, name: str) -> Callable[..., Any]:
        """The loop's own work at an action or span."""
        own: Callable[..., Any] = self.__dict__[name]
        return own


def _unless_off(
    impl: Hookimpl, member: ActivePlugin, is_on: IsOn
) -> Callable[..., Any]:
    """A hookimpl that pluggy calls in vain once its plugin has left in mid-event."""

    def unless_off(*given: Any) -> Any:
        return impl.called(*given) if is_on(member) else None

    return _wrapping(unless_off, impl)


def _wrapping(function: Any, impl: Hookimpl) -> Callable[..., Any]:
    # To know what to pass, pluggy 1.6 reads the signature and 1.7 the code; both follow
    # __wrapped__ to the hookimpl's own.
    function.__wrapped__ = impl.function
    typed: Callable[..., Any] = function
    return typed


def guard(
    impl: Hookimpl, function: Callable[..., Any], member: ActivePlugin, report: Report
) -> Callable[..., Any]:
    """A hookimpl of an observer: an error is reported, what it returns is dropped."""

    def guarded(*given: Any) -> None:
        try:
            function(*given)
        except MemoryError:
            raise
        except Exception as error:
            report(member, impl.event, error)

    def guarded_wrapper(*given: Any) -> Generator[None, Any, Any]:
        generator = function(*given)
        try:
            next(generator)
        except MemoryError:
            raise
        except Exception as error:
            report(member, impl.event, error)
            return (yield)
        try:
            result = yield
        except BaseException as leaving:
            _end_observation(generator.throw, leaving, impl, member, report)
            raise
        _end_observation(generator.send, result, impl, member, report)
        return result

    return _wrapping(guarded_wrapper if impl.is_wrapper else guarded, impl)


def _end_observation(
    resume: Callable[[Any], Any],
    value: Any,
    impl: Hookimpl,
    member: ActivePlugin,
    report: Report,
) -> None:
    try:
        resume(value)
    except (StopIteration, MemoryError):
        return
    except BaseException as error:
        if error is value:
            return
        if not isinstance(error, Exception):
            raise
        report(member, impl.event, error)
    else:
        report(member, impl.event, RuntimeError("the wrapper has a second `yield`"))
    finally:
        del value  # it may be an error, whose traceback holds this frame: a cycle


def owner_of(
    frame: FrameType, codes: Mapping[CodeType, list[tuple[StandIn, Hookimpl]]]
) -> tuple[ActivePlugin, str] | None:
    """Whose code a frame runs, and at which event; None where it is nobody's."""
    for stand_in, impl in codes.get(frame.f_code, ()):
        owner = getattr(impl.function, "__self__", None)
        names = frame.f_code.co_varnames
        if owner is None or not names or frame.f_locals.get(names[0]) is owner:
            return stand_in.member, impl.event
    return None


def by_name(impl: Hookimpl) -> Callable[..., Any]:
    """A hookimpl that is given all that its event offers, and takes what it wants."""

    def call(**offered: Any) -> Any:
        return impl.called(*(offered[name] for name in impl.arguments))

    return call
