"""From pluggy's hookimpls to the plan that the loop runs.

pluggy is the registry and the validator. ``Board`` is the plugin manager of one
Learner: it puts the active plugins in order and compiles a ``Plan``: for every event a
list of calls without arguments. An event with wrappers, and every event while pluggy
traces, goes through pluggy's own call, so that its semantics are pluggy's exactly.

What pluggy holds of a plugin is a ``StandIn`` with nothing but its hookimpls: pluggy
neither evaluates properties nor compares plugins then, and an observer's hookimpls are
guarded wherever they are called from.
"""

from __future__ import annotations

import inspect
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import pluggy

from callboard import events
from callboard.activation import ActivePlugin, order_of
from callboard.errors import HookSignatureError, OrderingError
from callboard.events import EVENTS, PROJECT
from callboard.hookimpls import OPTIONS, Call, Hookimpl
from callboard.ordering import Order, solve
from callboard.plan import (
    Calls,
    Participants,
    Plan,
    Report,
    first_result_of,
    run_observers_of,
    skip,
    takes_part,
)
from callboard.standins import (
    SPAN_DEFAULTS,
    LoopsOwn,
    StandIn,
    Watch,
    by_name,
    guard,
    owner_of,
)
from callboard.watching import (
    THE_LOOP,
    Watcher,
    watched_batches,
)

if TYPE_CHECKING:
    from callboard.learner import Learner

Item = TypeVar("Item")


class Board(pluggy.PluginManager):
    """The plugin manager of one Learner: active plugins, their order and the plans."""

    def __init__(self, report: Report) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(events)
        self.members: dict[str, ActivePlugin] = {}
        self.running_order: Order = solve((), ())
        #: Looks on at every hookimpl of the plugins that join from now on.
        self.watch: Watch | None = None
        self.watchers: tuple[Watcher, ...] = ()
        self._stand_ins: dict[str, StandIn] = {}
        self._registered: list[StandIn] = []
        self._is_joining_last = False
        self._call_orders: dict[str, list[tuple[StandIn, Hookimpl]]] = {}
        self._loops_own = LoopsOwn()
        self._plans: dict[tuple[str, bool], Plan] = {}
        self._live_calls: WeakSet[Calls] = WeakSet()
        self._code_owners: dict[CodeType, list[tuple[StandIn, Hookimpl]]] | None = None
        self._report = report
        self._num_monitors = 0
        self.register(self._loops_own, THE_LOOP)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Tell pluggy which attributes of a stand-in are hookimpls, and how."""
        if isinstance(plugin, StandIn):
            impl = plugin.hookimpls[name]
            options = {**impl.options, "specname": impl.event}
            return options | {"trylast": True} if self._is_joining_last else options
        if isinstance(plugin, LoopsOwn):
            return dict.fromkeys(OPTIONS, False) | {"specname": None, "trylast": True}
        return super().parse_hookimpl_opts(plugin, name)

    def get_hookcallers(self, plugin: Any) -> list[pluggy.HookCaller] | None:
        """As pluggy's, which asks every hookimpl whose it is when a plugin leaves."""
        if not isinstance(plugin, StandIn):
            return super().get_hookcallers(plugin)
        is_here = self.get_plugin(plugin.member.key) is plugin
        if not is_here:
            return None
        names = {impl.event: None for impl in plugin.hookimpls.values()}
        return [getattr(self.hook, name) for name in names]

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Callable[[], None]:
        """As pluggy's; while it is on, every event goes through pluggy's own call."""
        undo = super().add_hookcall_monitoring(before, after)
        self._num_monitors += 1
        self.forget_plans()

        def undo_and_replan() -> None:
            undo()
            self._num_monitors -= 1
            self.forget_plans()

        return undo_and_replan

    def set_members(self, members: Iterable[ActivePlugin]) -> None:
        """Make these the active plugins, put in order; nothing changes on an error.

        Raises:
            OrderingError: Their constraints cannot all be met.
            UnknownEventError, HookSignatureError: A hookimpl is wrong.
        """
        wanted = {member.key: member for member in members}
        order = order_of(wanted.values())
        stand_ins = {
            key: self._stand_ins.get(key) or self._stand_in_for(member)
            for key, member in wanted.items()
            if self.members.get(key) in (None, member)
        }
        for key, member in wanted.items():
            if key not in stand_ins:
                stand_ins[key] = self._stand_in_for(member)
        before = self._stand_ins, self.running_order
        self._impose(order, stand_ins)
        try:
            self._check_against_pluggy(order, stand_ins)
        except OrderingError:
            self._impose(before[1], before[0])
            raise
        self.members = {key: wanted[key] for key in order.keys}
        self.running_order = order
        self.forget_plans()

    def _stand_in_for(self, member: ActivePlugin) -> StandIn:
        return StandIn(member, self._report, self._is_on, self.watch, self.watchers)

    def set_watchers(self, watchers: Iterable[Watcher]) -> None:
        """Tell these of every piece of work from now on, and no others."""
        for stand_in in self._registered:
            self.unregister(stand_in)
        self.unregister(self._loops_own)
        self.watchers = tuple(watchers)
        self._registered, self._stand_ins = [], {}
        self._loops_own = LoopsOwn(self.watchers)
        self.register(self._loops_own, THE_LOOP)
        self.set_members(self.members.values())

    def watched_batches(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Batches, the waiting for which is told to who watches."""
        return watched_batches(self.watchers, batches) if self.watchers else batches

    def _is_on(self, member: ActivePlugin) -> bool:
        is_member = self.members.get(member.key) is member
        return is_member and member.switch("run") and not member.has_failed

    def _impose(self, order: Order, stand_ins: dict[str, StandIn]) -> None:
        """Register in reverse: pluggy calls what was registered last first.

        What stands as it should already is left there. Who runs last of all joins as
        pluggy's trylast, which puts him there too, unless hookimpls that are themselves
        marked could get between.
        """
        wanted = [stand_ins[key] for key in reversed(order.keys)]
        start, end = self._place_of_registered(wanted)
        kept = set(wanted[start:end])
        for stand_in in self._registered:
            if stand_in not in kept:
                self.unregister(stand_in, stand_in.member.key)
        if len(kept) < len(wanted):
            self.unregister(self._loops_own)
            for stand_in in wanted[end:]:
                self.register(stand_in, stand_in.member.key)
            self._register_last(wanted[:start])
            self.register(self._loops_own, THE_LOOP)
        self._registered = wanted
        self._stand_ins = stand_ins
        self._code_owners = None
        self._call_orders.clear()

    def _register_last(self, stand_ins: list[StandIn]) -> None:
        self._is_joining_last = True
        try:
            for stand_in in reversed(stand_ins):
                self.register(stand_in, stand_in.member.key)
        finally:
            self._is_joining_last = False

    def _place_of_registered(self, wanted: list[StandIn]) -> tuple[int, int]:
        """From where to where most of those who are registered stand as wanted."""
        places = {stand_in: place for place, stand_in in enumerate(self._registered)}
        all_join_first = any(stand_in.forced_events for stand_in in wanted)
        longest, start, latest = (0, 0), 0, -1
        for number, stand_in in enumerate(wanted):
            place = places.get(stand_in, -1)
            if place <= latest:  # not registered, or before the one before him
                if all_join_first:
                    break
                start = number if place >= 0 else number + 1
            latest = place
            if number + 1 - start > longest[1] - longest[0]:
                longest = start, number + 1
        return longest

    def _check_against_pluggy(
        self, order: Order, stand_ins: Mapping[str, StandIn]
    ) -> None:
        forced = {event for s in stand_ins.values() for event in s.forced_events}
        for event in sorted(forced, key=list(EVENTS).index):
            place: dict[tuple[str, bool], int] = {}
            for number, (stand_in, impl) in enumerate(self._in_call_order(event)):
                place[stand_in.member.key, impl.is_wrapper] = number
            for constraint in order.constraints:
                for is_wrapper in (False, True):
                    first = place.get((constraint.before, is_wrapper))
                    second = place.get((constraint.after, is_wrapper))
                    if first is not None and second is not None and first > second:
                        raise OrderingError(
                            f"{event}: tryfirst or trylast puts {constraint.after!r} "
                            f"before {constraint.before!r}, but {constraint}. Drop the "
                            "marker or the constraint.",
                            (constraint.before, constraint.after),
                        )

    def _in_call_order(self, event: str) -> list[tuple[StandIn, Hookimpl]]:
        """pluggy's own call order of one event, wrappers first."""
        if event not in self._call_orders:
            self._call_orders[event] = [
                (found.plugin, found.plugin.by_function[id(found.function)])
                for found in reversed(getattr(self.hook, event).get_hookimpls())
                if isinstance(found.plugin, StandIn)
            ]
        return self._call_orders[event]

    def implementers(self, event: str) -> list[tuple[ActivePlugin, bool]]:
        """Who runs at an event, in call order, and whether as a wrapper."""
        return [(s.member, impl.is_wrapper) for s, impl in self._in_call_order(event)]

    def forget_plans(self) -> None:
        """Let the next plan be compiled anew: who takes part has changed.

        Who no longer does is taken out of the events that are firing at this moment.
        """
        self._plans.clear()
        still_in: dict[tuple[str, bool], Participants] = {}
        for calls in list(self._live_calls):
            phase = calls.stage, calls.training
            if phase not in still_in:
                still_in[phase] = self._participants(*phase)
            calls.leave_to(still_in[phase].at(calls.event))

    def _participants(self, stage: str, training: bool) -> Participants:
        return Participants(self.members.values(), stage, training=training)

    def _new_calls(self, event: str, stage: str, training: bool) -> Calls:
        calls = Calls(event, stage, training=training)
        self._live_calls.add(calls)
        return calls

    def plan(self, learner: Learner, stage: str, *, training: bool) -> Plan:
        """The plan of a stage and phase, compiled when it is first asked for."""
        if (stage, training) not in self._plans:
            self._plans[stage, training] = self._compile(learner, stage, training)
        return self._plans[stage, training]

    def _compile(self, learner: Learner, stage: str, training: bool) -> Plan:
        plan = Plan()
        for member in self.members.values():
            if stage in member.stages and member.switch("run"):
                member.has_taken_part = True
        participants = self._participants(stage, training)
        for name, event in EVENTS.items():
            impls = self._in_call_order(name)
            is_in = participants.at(name)
            chosen = [(s, impl) for s, impl in impls if s.member in is_in]
            left_out = {s for s, _ in impls if s.member not in is_in}
            is_plain = not self._num_monitors and not any(
                impl.is_wrapper for _, impl in chosen
            )
            call = partial(self._caller(name, left_out), learner=learner)
            if name == "do_fit":
                continue
            if event.kind == "event":
                if name in ("on_exception", "teardown", "after_create"):
                    continue
                if is_plain:
                    calls = self._new_calls(name, stage, training)
                    setattr(plan, name, self._filled(calls, learner, chosen))
                elif chosen:
                    setattr(plan, name, [call])
            elif chosen or self._num_monitors or self.watchers:
                setattr(plan, name, call)
                if is_plain:
                    own = self._loops_own.of(name)
                    calls = self._new_calls(name, stage, training)
                    for stand_in, impl in chosen:
                        calls.add(impl.bind(learner), stand_in.member)
                    calls.add(partial(own, learner), None)
                    if not any(s.is_observer for s, _ in chosen):
                        setattr(plan, name, first_result_of(calls))
            elif event.kind == "span":
                setattr(plan, name, partial(SPAN_DEFAULTS[name], learner))
        return plan

    def _caller(self, event: str, left_out: set[StandIn]) -> Callable[..., Any]:
        if left_out:
            return self.subset_hook_caller(event, remove_plugins=list(left_out))
        caller: Callable[..., Any] = getattr(self.hook, event)
        return caller

    def _filled(
        self, calls: Calls, learner: Learner, chosen: list[tuple[StandIn, Hookimpl]]
    ) -> Calls:
        """Calls in order; neighbouring observers share one guarded runner."""
        for are_observers, together in groupby(chosen, lambda one: one[0].is_observer):
            if are_observers:
                calls.add(self._observing(calls, learner, list(together)), None)
            else:
                for stand_in, impl in together:
                    calls.add(impl.bind(learner), stand_in.member)
        return calls

    def _observing(
        self, calls: Calls, learner: Learner, observers: list[tuple[StandIn, Hookimpl]]
    ) -> Call:
        group = self._new_calls(calls.event, calls.stage, calls.training)
        # Given by the runner, the learner costs nothing; bound to a method, as much as
        # the call itself.
        all_want_it = all(impl.arguments for _, impl in observers)
        for stand_in, impl in observers:
            call = impl.called if all_want_it else impl.bind(learner)
            group.add(call, stand_in.member)
        return run_observers_of(group, self._report, learner if all_want_it else None)

    @contextmanager
    def around_fit(self, learner: Learner) -> Iterator[None]:
        """Run the wrappers of ``do_fit`` around a block, as pluggy runs wrappers."""
        wrappers = []
        for stand_in, impl in self._in_call_order("do_fit"):
            if takes_part("do_fit", stand_in.member, learner.stage, training=True):
                wrappers.append((stand_in, impl))
        running: list[Generator[None, Any, Any]] = []
        try:
            for stand_in, found in wrappers:
                impl = self._as_watched_now(stand_in, found)
                function = impl.called
                if stand_in.is_observer:
                    function = guard(impl, function, stand_in.member, self._report)
                generator = function(*([learner] if impl.arguments else []))
                if next(generator, skip) is skip:
                    message = f"{stand_in.member.label}: do_fit did not yield"
                    raise HookSignatureError(message)
                running.append(generator)
            yield
        except BaseException as leaving:
            error: BaseException | None = leaving
        else:
            error = None
        for generator in reversed(running):
            error = _leave(generator, error)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: a cycle for the collector

    def _as_watched_now(self, stand_in: StandIn, impl: Hookimpl) -> Hookimpl:
        """The same hookimpl; a wrapper around it may have let somebody look on."""
        present = self._stand_ins.get(stand_in.member.key, stand_in)
        same = (i for i in present.hookimpls.values() if i.function == impl.function)
        return next(same, impl)

    def blame(self, traceback: TracebackType | None) -> tuple[ActivePlugin, str] | None:
        """The plugin and event whose hookimpl an error came out of, if any.

        The innermost one: an error passes through the wrappers around it too.
        """
        codes, blamed = self._codes(), None
        while traceback is not None:
            blamed = owner_of(traceback.tb_frame, codes) or blamed
            traceback = traceback.tb_next
        return blamed

    def running_member(self) -> ActivePlugin | None:
        """The plugin whose hookimpl is running at this moment, innermost first."""
        codes = self._codes()
        frame: FrameType | None = inspect.currentframe()
        while frame is not None:
            found = owner_of(frame, codes)
            if found is not None:
                return found[0]
            frame = frame.f_back
        return None

    def _codes(self) -> dict[CodeType, list[tuple[StandIn, Hookimpl]]]:
        if self._code_owners is not None:
            return self._code_owners
        codes: dict[CodeType, list[tuple[StandIn, Hookimpl]]] = {}
        self._code_owners = codes
        for stand_in in self._stand_ins.values():
            for impl in stand_in.hookimpls.values():
                plain = getattr(impl.function, "__func__", impl.function)
                codes.setdefault(plain.__code__, []).append((stand_in, impl))
        return codes

    def each(self, event: str) -> Iterator[tuple[ActivePlugin, Callable[..., Any]]]:
        """Every hookimpl of an event outside the loop, to be called one by one."""
        for stand_in, impl in self._in_call_order(event):
            yield stand_in.member, by_name(impl)

    def clear(self) -> None:
        """Let go of every plugin: a manager keeps itself alive in a cycle."""
        for stand_in in self._registered:
            self.unregister(stand_in)
        self._registered, self._stand_ins, self.members = [], {}, {}
        self._code_owners = None
        self.forget_plans()


def _leave(
    generator: Generator[None, Any, Any], error: BaseException | None
) -> BaseException | None:
    """End one wrapper; returns the error that goes on outwards, or None."""
    try:
        if error is None:
            generator.send(None)
        else:
            generator.throw(error)
    except StopIteration:
        return None
    except BaseException as leaving:
        return leaving
    generator.close()
    return RuntimeError("a wrapper of do_fit has a second `yield`")
