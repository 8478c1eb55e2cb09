"""The plan does what pluggy's own call does, on plugins, orders and wrappers at random.

The oracle is pluggy itself: a manager of its own with the same hookspecs, the same
functions registered in reverse running order, and its own hook call.
"""

from types import ModuleType, SimpleNamespace

import pluggy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard import Callback, events, hookimpl
from callboard.activation import ActivePlugin
from callboard.dispatch import Board
from callboard.errors import HookSignatureError, OrderingError, UnknownEventError

EVENTS = ["before_batch", "after_loss", "after_step"]
ACTIONS = ["do_predict", "do_step"]


class Boom(Exception):
    pass


class Functions:
    """A plugin made of functions; unlike a SimpleNamespace it equals only itself."""

    def __init__(self, **functions):
        self.__dict__.update(functions)


def hookimpl_of(trace, key, event, kind, asks_for_learner, outcome, markers):
    """A function that notes its calls and does what the outcome says."""

    def act(learner=None):
        trace.append((key, event, "call", learner))
        if outcome == "raise":
            raise Boom(key)
        return None if outcome == "nothing" else (key, outcome)

    def around(learner=None):
        trace.append((key, event, "enter", learner))
        if outcome == "raise":
            raise Boom(key)
        try:
            result = yield
        except Boom as error:
            trace.append((key, event, "saw", str(error)))
            if outcome == "swallow":
                return (key, "swallowed")
            raise
        trace.append((key, event, "leave", result))
        return (key, result) if outcome == "replace" else result

    body = around if kind == "wrapper" else act
    if kind == "wrapper":
        if asks_for_learner:

            def function(learner):
                return (yield from body(learner))
        else:

            def function():
                return (yield from body())
    elif asks_for_learner:

        def function(learner):
            return body(learner)
    else:

        def function():
            return body()

    return hookimpl(wrapper=kind == "wrapper", **markers)(function)


hookimpls = st.fixed_dictionaries(
    {
        "event": st.sampled_from(EVENTS + ACTIONS),
        "kind": st.sampled_from(["plain", "plain", "wrapper"]),
        "asks_for_learner": st.booleans(),
        "outcome": st.sampled_from(
            ["nothing", "nothing", "value", "replace", "raise", "swallow"]
        ),
        "markers": st.sampled_from([{}, {}, {}, {"tryfirst": True}, {"trylast": True}]),
    }
)
plugins = st.lists(st.lists(hookimpls, max_size=4), max_size=6)


def make_plugin(trace, key, impls):
    functions = {
        impl["event"]: hookimpl_of(trace, key, **impl) for impl in reversed(impls)
    }
    return Functions(**functions)


def member(plugin, key, sequence=0):
    return ActivePlugin(plugin, key, key, "test", None, sequence)


def outcome_of(call):
    try:
        return "returned", call()
    except Boom as error:
        return "raised", str(error)


OWN_RESULTS = {"do_predict": "the loop's own", "do_step": None}


def a_learner():
    """As much of a Learner as the loop's own predicting and stepping need."""
    return SimpleNamespace(
        stage="fit",
        xb=(),
        model=lambda: OWN_RESULTS["do_predict"],
        opt=SimpleNamespace(step=lambda: OWN_RESULTS["do_step"]),
    )


def run_plan(plan, event):
    calls = getattr(plan, event)
    if event in ACTIONS:
        return OWN_RESULTS[event] if calls is None else calls()
    for call in calls:
        call()
    return None


def no_report(member, event, error):
    raise AssertionError(f"{member.key} is no observer, yet {error!r} was reported")


@settings(max_examples=300, deadline=None)
@given(plugins=plugins, orders=st.lists(st.integers(-2, 2), min_size=6, max_size=6))
def test_a_plan_calls_what_pluggy_calls_in_the_same_order_with_the_same_end(
    plugins, orders
):
    learner, ours, theirs = a_learner(), [], []
    keys = [f"p{number}" for number in range(len(plugins))]
    members = []
    for sequence, (key, impls) in enumerate(zip(keys, plugins, strict=True)):
        plugin = make_plugin(ours, key, impls)
        plugin.order = orders[sequence]
        members.append(member(plugin, key, sequence))
    board = Board(no_report)
    board.set_members(members)
    plan = board.plan(learner, "fit", training=True)

    oracle = pluggy.PluginManager("callboard")
    oracle.add_hookspecs(events)
    for key in reversed(board.running_order.keys):
        oracle.register(make_plugin(theirs, key, plugins[keys.index(key)]), key)
    oracle.register(the_loops_own_work())

    for event in EVENTS + ACTIONS:
        ours.clear()
        theirs.clear()
        got = outcome_of(lambda event=event: run_plan(plan, event))
        call = getattr(oracle.hook, event)
        expected = outcome_of(lambda call=call: call(learner=learner))

        assert ours == theirs
        assert got[0] == expected[0]
        if event in ACTIONS or got[0] == "raised":
            assert got[1] == expected[1]


@settings(max_examples=200, deadline=None)
@given(
    plugins=plugins,
    orders=st.lists(st.integers(-2, 2), min_size=6, max_size=6),
    presences=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=5),
)
def test_who_joins_and_leaves_stands_where_he_would_if_all_had_joined_at_once(
    plugins, orders, presences
):
    members = []
    for sequence, impls in enumerate(plugins):
        plugin = make_plugin([], f"p{sequence}", impls)
        plugin.order = orders[sequence]
        members.append(member(plugin, f"p{sequence}", sequence))
    board, learner = Board(no_report), a_learner()

    for present in presences:
        together = [members[n] for n in sorted(present) if n < len(members)]
        board.set_members(together)
        board.plan(learner, "fit", training=True)
        at_once = Board(no_report)
        at_once.set_members(together)

        for event in EVENTS + ACTIONS:
            assert standing(board, event) == standing(at_once, event)


def standing(board, event):
    """Who pluggy has at an event, and who the plan would call."""
    registered = [
        impl.plugin_name for impl in getattr(board.hook, event).get_hookimpls()
    ]
    return registered, [(m.key, around) for m, around in board.implementers(event)]


def the_loops_own_work():
    def do_predict():
        return OWN_RESULTS["do_predict"]

    def do_step():
        return OWN_RESULTS["do_step"]

    last = hookimpl(trylast=True)
    return Functions(do_predict=last(do_predict), do_step=last(do_step))


@settings(max_examples=60, deadline=None)
@given(plugins=plugins)
def test_while_pluggy_traces_the_plan_goes_through_pluggy_with_the_same_end(plugins):
    learner, seen, outcomes = a_learner(), [], []
    for is_traced in (False, True):
        trace, traced_events = [], []
        members = [
            member(make_plugin(trace, f"p{n}", impls), f"p{n}", n)
            for n, impls in enumerate(plugins)
        ]
        board = Board(no_report)
        board.set_members(members)
        if is_traced:
            board.add_hookcall_monitoring(
                lambda name, impls, kwargs, events=traced_events: events.append(name),
                lambda outcome, name, impls, kwargs: None,
            )
        plan = board.plan(learner, "fit", training=True)
        ends = [
            outcome_of(lambda e=e, plan=plan: run_plan(plan, e))
            for e in EVENTS + ACTIONS
        ]
        outcomes.append(ends)
        seen.append(list(trace))
        assert not is_traced or set(ACTIONS) <= set(traced_events)

    assert seen[0] == seen[1]
    assert outcomes[0] == outcomes[1]


def test_an_event_without_hookimpls_is_an_empty_list_and_an_action_is_the_loops_own():
    board = Board(no_report)
    board.set_members([])

    plan = board.plan(a_learner(), "fit", training=True)

    assert plan.before_batch == []
    assert plan.do_predict is None


def test_a_hookimpl_that_wants_the_learner_is_bound_without_a_frame_of_its_own():
    frames = []

    class Looks(Callback):
        def before_batch(self, learner):
            import sys

            frames.append(sys._getframe(1).f_code.co_name)

    board = Board(no_report)
    board.set_members([member(Looks(), "looks")])

    for call in board.plan(a_learner(), "fit", training=True).before_batch:
        call()

    name = "test_a_hookimpl_that_wants_the_learner_is_bound_without_a_frame_of_its_own"
    assert frames == [name]


@pytest.mark.parametrize("first_wants_learner", [False, True], ids=["mixed", "alike"])
def test_of_many_observers_the_one_that_fails_is_reported_and_the_others_go_on(
    first_wants_learner,
):
    seen, reported = [], []

    class Alone(Callback):
        role = "observe"

        def before_batch(self):
            seen.append(self)

    class Watches(Callback):
        role = "observe"

        def before_batch(self, learner):
            seen.append(self)
            if self is fails:
                raise Boom

    first = Watches() if first_wants_learner else Alone()
    fails, last = Watches(), Watches()
    observers = [first, fails, last]
    board = Board(lambda member, event, error: reported.append((member.plugin, event)))
    board.set_members(
        [member(plugin, f"plugin-{n}", n) for n, plugin in enumerate(observers)]
    )

    for call in board.plan(a_learner(), "fit", training=True).before_batch:
        call()

    assert seen == observers
    assert reported == [(fails, "before_batch")]


def test_a_plugin_that_pluggy_knows_by_its_key_stands_in_running_order():
    class First(Callback):
        run_before = "second"

        def after_step(self):
            pass

    class Second(Callback):
        def after_step(self):
            pass

    board = Board(no_report)

    board.set_members([member(Second(), "second", 0), member(First(), "first", 1)])

    registered = [i.plugin_name for i in board.hook.after_step.get_hookimpls()]
    assert registered == ["second", "first"]
    assert [m.key for m, _ in board.implementers("after_step")] == ["first", "second"]


def test_trylast_against_a_declared_constraint_is_an_error_and_changes_nothing():
    class Early(Callback):
        run_before = "late"

        @hookimpl(trylast=True)
        def after_step(self):
            pass

    class Late(Callback):
        def after_step(self):
            pass

    board = Board(no_report)
    late = member(Late(), "late")
    board.set_members([late])

    with pytest.raises(OrderingError, match="trylast puts 'late' before 'early'"):
        board.set_members([late, member(Early(), "early", 1)])

    assert list(board.members) == ["late"]
    assert [m.key for m, _ in board.implementers("after_step")] == ["late"]


def test_a_module_with_an_unknown_event_is_refused_with_the_nearest_name():
    module = ModuleType("typo")
    module.after_bach = hookimpl(lambda learner: None)

    with pytest.raises(UnknownEventError, match='Did you mean "after_batch"'):
        Board(no_report).set_members([member(module, "typo")])


def test_a_hookimpl_that_asks_for_too_much_is_refused_by_name():
    module = ModuleType("greedy")

    @hookimpl
    def after_batch(learner, batch):
        pass

    module.after_batch = after_batch

    with pytest.raises(
        HookSignatureError, match=r"greedy\.after_batch asks for 'batch'"
    ):
        Board(no_report).set_members([member(module, "greedy")])


def test_a_wrapper_without_a_yield_is_refused():
    class NoYield(Callback):
        @hookimpl(wrapper=True)
        def do_step(self):
            return None

    with pytest.raises(HookSignatureError, match="has no `yield`"):
        Board(no_report).set_members([member(NoYield(), "no-yield")])
