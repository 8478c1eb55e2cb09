"""Constraints become an order, with reasons; rings are named exactly."""

import graphlib
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.errors import OrderingError, UnknownPluginError
from callboard.ordering import Constraint, Node, solve


def before(first, second):
    return Constraint(first, second, first, "run_before")


def after(second, first):
    return Constraint(first, second, second, "run_after")


def nodes(*keys):
    return [Node(key, sequence=number) for number, key in enumerate(keys)]


def smallest_ready_first(given_nodes, constraints):
    """The oracle: take, again and again, the first by rank that waits for nobody."""
    left = {node.key: node for node in given_nodes}
    edges = {(c.before, c.after) for c in constraints if c.before != c.after}
    order = []
    while left:
        ready = [
            node
            for node in left.values()
            if not any(a == node.key and b in left for b, a in edges)
        ]
        if not ready:
            return None
        chosen = min(ready, key=lambda node: (node.order, node.sequence, node.key))
        order.append(chosen.key)
        del left[chosen.key]
    return tuple(order)


graphs = st.integers(1, 7).flatmap(
    lambda count: st.tuples(
        st.lists(
            st.tuples(st.integers(-1, 1), st.integers(0, 2)),
            min_size=count,
            max_size=count,
        ),
        st.lists(
            st.tuples(
                st.integers(0, count - 1), st.integers(0, count - 1), st.booleans()
            ),
            max_size=10,
        ),
    )
)


def made_of(graph):
    ranks, edges = graph
    made = [Node(f"p{n}", order, seq) for n, (order, seq) in enumerate(ranks)]
    kinds = {True: before, False: lambda a, b: after(b, a)}
    return made, [kinds[kind](f"p{a}", f"p{b}") for a, b, kind in edges]


@settings(max_examples=400)
@given(graphs)
def test_the_order_is_what_picking_the_smallest_ready_one_gives(graph):
    given_nodes, constraints = made_of(graph)
    expected = smallest_ready_first(given_nodes, constraints)

    if expected is None:
        with pytest.raises(OrderingError):
            solve(given_nodes, constraints)
    else:
        assert solve(given_nodes, constraints).keys == expected


@settings(max_examples=400)
@given(graphs)
def test_a_ring_is_reported_where_there_is_one_and_every_edge_of_it_was_declared(graph):
    given_nodes, constraints = made_of(graph)
    declared = {(c.before, c.after) for c in constraints if c.before != c.after}
    sorter = graphlib.TopologicalSorter()
    for first, second in declared:
        sorter.add(second, first)
    try:
        sorter.prepare()
    except graphlib.CycleError:
        with pytest.raises(OrderingError) as caught:
            solve(given_nodes, constraints)
        ring = caught.value.ring
        assert len(set(ring)) == len(ring) >= 2
        assert {*zip(ring, ring[1:] + ring[:1], strict=True)} <= declared
        assert all(f"  {a} before {b}: " in str(caught.value) for a, b in _pairs(ring))
    else:
        solve(given_nodes, constraints)


def _pairs(ring):
    return zip(ring, ring[1:] + ring[:1], strict=True)


def keys_or_ring(given_nodes, constraints):
    try:
        return solve(given_nodes, constraints).keys
    except OrderingError:
        return "a ring"


@given(graphs, st.randoms(use_true_random=False))
def test_the_order_does_not_hang_on_the_order_of_the_input(graph, shuffler):
    given_nodes, constraints = made_of(graph)
    expected = keys_or_ring(given_nodes, constraints)

    shuffler.shuffle(given_nodes)
    shuffler.shuffle(constraints)

    assert keys_or_ring(given_nodes, constraints) == expected


@given(graphs)
def test_every_pair_can_be_explained_and_a_chain_is_one_of_declared_edges(graph):
    given_nodes, constraints = made_of(graph)
    try:
        order = solve(given_nodes, constraints)
    except OrderingError:
        return
    for one in order.keys:
        for other in order.keys:
            explanation = order.explain(one, other)
            place = order.keys.index
            assert place(explanation.first) <= place(explanation.second)
            assert explanation == order.explain(other, one)
            if explanation.chain:
                assert explanation.chain[0].before == explanation.first
                assert explanation.chain[-1].after == explanation.second
            assert set(explanation.chain) <= set(constraints)
            json.dumps(explanation.as_dict())


def test_a_target_that_is_not_there_is_no_constraint():
    assert solve(nodes("a"), [before("a", "nobody"), after("a", "nobody")]).keys == (
        "a",
    )


def test_a_plugin_that_names_itself_is_no_ring():
    assert solve(nodes("a"), [before("a", "a")]).keys == ("a",)


def test_ties_are_broken_by_order_then_sequence_then_name():
    tied = [Node("d", 0, 1), Node("c", 0, 1), Node("b", 0, 0), Node("a", 1, 0)]

    assert solve(tied, []).keys == ("b", "c", "d", "a")


def test_a_chain_is_explained_with_who_declared_each_link():
    order = solve(nodes("c", "b", "a"), [before("a", "b"), after("c", "b")])

    reason = order.explain("c", "a").reason

    assert reason.splitlines() == [
        "a runs before c because of",
        '  a before b: a declares run_before = "b"',
        '  b before c: c declares run_after = "b"',
    ]


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (Node("a", 1), Node("b", 2), "`order` of a is 1, of b 2"),
        (Node("a", 0, 0), Node("b", 0, 1), "a was given before b"),
        (Node("a"), Node("b"), "a comes before b by name"),
    ],
)
def test_a_tie_is_explained_by_what_broke_it(one, other, reason):
    explanation = solve([one, other], []).explain("b", "a")

    assert explanation.chain == ()
    assert explanation.reason.endswith(f"no constraint orders the two: {reason}.")


def test_a_plugin_that_waits_for_another_is_explained_by_whom_it_waits_for():
    # "late" ranks first but has to wait for "slow", which ranks last.
    ranked = [Node("late", 0), Node("middle", 1), Node("slow", 2)]
    order = solve(ranked, [before("slow", "late")])

    reason = order.explain("late", "middle").reason

    assert order.keys == ("middle", "slow", "late")
    assert "late has to wait for slow, which middle comes before" in reason
    assert 'slow declares run_before = "late"' in reason


def test_an_unknown_key_gets_a_suggestion():
    with pytest.raises(UnknownPluginError, match=r'recorder\.?.*mean "recorder"'):
        solve(nodes("recorder", "progress"), []).explain("recoder", "progress")


def a_thousand():
    shuffler = random.Random(0)
    keys = [f"p{number}" for number in range(1000)]
    made = [Node(key, shuffler.choice([0, 0, 1]), n) for n, key in enumerate(keys)]
    shuffler.shuffle(keys)
    edges = [sorted(shuffler.sample(range(1000), 2)) for _ in range(5000)]
    return made, [before(keys[first], keys[second]) for first, second in edges]


def test_a_thousand_plugins_are_ordered_in_under_100_ms():
    given_nodes, constraints = a_thousand()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        solve(given_nodes, constraints)
        times.append(time.perf_counter() - start)

    assert min(times) < 0.1


def test_a_ring_of_three_among_a_thousand_is_named_exactly():
    given_nodes, constraints = a_thousand()
    ring = [before("x", "y"), after("z", "y"), before("z", "x")]
    others = [before("z", "p1"), before("p2", "x"), before("y", "p3")]

    with pytest.raises(OrderingError) as caught:
        solve([*given_nodes, *nodes("x", "y", "z")], [*constraints, *others, *ring])

    assert caught.value.ring == ("x", "y", "z")
    assert str(caught.value).splitlines()[1:4] == [
        '  x before y: x declares run_before = "y"',
        '  y before z: z declares run_after = "y"',
        '  z before x: z declares run_before = "x"',
    ]
