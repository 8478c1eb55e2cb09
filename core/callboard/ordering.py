"""Constraints to order, and the reasons for it.

``run_before`` and ``run_after`` of the active plugins are the edges of a graph. Its
topological order, ties broken by ``order``, then by the sequence in which plugins were
given, then by name, is the running order. Nothing here knows pluggy or torch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from callboard.errors import OrderingError, UnknownPluginError, suggestion


@dataclass(frozen=True, slots=True)
class Constraint:
    """One declared edge: ``before`` runs before ``after``.

    Attributes:
        before: Key of the plugin that runs first.
        after: Key of the plugin that runs later.
        declared_by: Key of the one of the two that declared it.
        attribute: Where: ``run_before`` or ``run_after``.
    """

    before: str
    after: str
    declared_by: str
    attribute: str

    def __str__(self) -> str:
        other = self.after if self.declared_by == self.before else self.before
        return f'{self.declared_by} declares {self.attribute} = "{other}"'


@dataclass(frozen=True, slots=True)
class Node:
    """One plugin to be ordered: its key and what breaks ties."""

    key: str
    order: float = 0
    sequence: int = 0

    @property
    def rank(self) -> tuple[float, int, str]:
        """What decides between plugins that no constraint orders."""
        return self.order, self.sequence, self.key


@dataclass(frozen=True)
class Explanation:
    """Why one plugin runs before another.

    Attributes:
        first: Key of the one that runs first, whichever was asked for first.
        second: Key of the other.
        chain: The shortest chain of constraints from first to second; empty where none
            decides.
        reason: The same in words.
    """

    first: str
    second: str
    chain: tuple[Constraint, ...]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        chain = [
            {
                "before": link.before,
                "after": link.after,
                "declared_by": link.declared_by,
                "attribute": link.attribute,
            }
            for link in self.chain
        ]
        return {
            "first": self.first,
            "second": self.second,
            "chain": chain,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Order:
    """A solved order.

    Attributes:
        keys: The plugins in running order.
        nodes: What was ordered, by key.
        constraints: The edges between plugins that are there.
    """

    keys: tuple[str, ...]
    nodes: Mapping[str, Node]
    constraints: tuple[Constraint, ...]

    @cached_property
    def _successors(self) -> dict[str, list[Constraint]]:
        return _edges_by(self.nodes, self.constraints, "before")

    def explain(self, first: str, second: str) -> Explanation:
        """Why these two run in the order in which they do.

        Raises:
            UnknownPluginError: One of them is not among those ordered.
        """
        for key in (first, second):
            if key not in self.nodes:
                raise UnknownPluginError(
                    f"no active plugin has the key {key!r}; active: "
                    f"{', '.join(self.keys) or 'none'}.{suggestion(key, self.keys)}"
                )
        place = {key: number for number, key in enumerate(self.keys)}
        first, second = sorted((first, second), key=place.__getitem__)
        if first == second:
            return Explanation(
                first, second, (), f"{first} is one and the same plugin."
            )
        chain = _shortest_chain(self._successors, first, second)
        if chain:
            links = "\n".join(f"  {c.before} before {c.after}: {c}" for c in chain)
            reason = f"{first} runs before {second} because of\n{links}"
        else:
            reason = self._tie_in_words(first, second)
        return Explanation(first, second, chain, reason)

    def _tie_in_words(self, first: str, second: str) -> str:
        no_chain = f"{first} runs before {second}; no constraint orders the two"
        one, other = self.nodes[first], self.nodes[second]
        if one.rank < other.rank:
            return f"{no_chain}: {_tie_break(one, other)}."
        blocker = self._blocker(second, self.keys.index(first))
        chain = _shortest_chain(self._successors, blocker, second)
        links = "\n".join(f"  {c.before} before {c.after}: {c}" for c in chain)
        return (
            f"{no_chain}, but {second} has to wait for {blocker}, which {first} "
            f"comes before ({_tie_break(one, self.nodes[blocker])}):\n{links}"
        )

    def _blocker(self, key: str, place: int) -> str:
        """The first plugin from a place on that must run before ``key``."""
        for candidate in self.keys[place:]:
            if _shortest_chain(self._successors, candidate, key):
                return candidate
        return key


def _tie_break(one: Node, other: Node) -> str:
    if one.order != other.order:
        return f"`order` of {one.key} is {one.order:g}, of {other.key} {other.order:g}"
    if one.sequence != other.sequence:
        return f"{one.key} was given before {other.key}"
    return f"{one.key} comes before {other.key} by name"


def solve(nodes: Iterable[Node], constraints: Iterable[Constraint]) -> Order:
    """Put plugins in order.

    A constraint about a plugin that is not there is none, nor is one about itself.

    Raises:
        OrderingError: The constraints go round; ``ring`` holds the keys that do.
    """
    by_key = {node.key: node for node in nodes}
    edges = tuple(
        edge
        for edge in constraints
        if edge.before in by_key and edge.after in by_key and edge.before != edge.after
    )
    successors = _edges_by(by_key, edges, "before")
    num_waiting_for = dict.fromkeys(by_key, 0)
    for edge in edges:
        num_waiting_for[edge.after] += 1
    ready = [by_key[key].rank for key, count in num_waiting_for.items() if not count]
    heapq.heapify(ready)
    keys: list[str] = []
    while ready:
        *_, key = heapq.heappop(ready)
        keys.append(key)
        for edge in successors[key]:
            num_waiting_for[edge.after] -= 1
            if not num_waiting_for[edge.after]:
                heapq.heappush(ready, by_key[edge.after].rank)
    if len(keys) < len(by_key):
        raise _ring_error(set(by_key) - set(keys), edges)
    return Order(tuple(keys), by_key, edges)


def _edges_by(
    keys: Iterable[str], edges: Iterable[Constraint], end: str
) -> dict[str, list[Constraint]]:
    found: dict[str, list[Constraint]] = {key: [] for key in keys}
    for edge in edges:
        found[edge.before if end == "before" else edge.after].append(edge)
    return found


def _shortest_chain(
    successors: Mapping[str, list[Constraint]], start: str, end: str
) -> tuple[Constraint, ...]:
    """The fewest constraints that lead from one plugin to another, by breadth."""
    came_by: dict[str, Constraint] = {}
    queue = deque([start])
    while queue:
        key = queue.popleft()
        for edge in successors[key]:
            if edge.after in came_by:
                continue
            came_by[edge.after] = edge
            if edge.after == end:
                return _walk_back(came_by, start, end)
            queue.append(edge.after)
    return ()


def _walk_back(
    came_by: Mapping[str, Constraint], start: str, end: str
) -> tuple[Constraint, ...]:
    chain = [came_by[end]]
    while chain[-1].before != start:
        chain.append(came_by[chain[-1].before])
    return tuple(reversed(chain))


def _ring_error(left: set[str], edges: Iterable[Constraint]) -> OrderingError:
    inside = [edge for edge in edges if edge.before in left and edge.after in left]
    predecessors = _edges_by(left, inside, "after")
    # Every plugin left waits for another one left, so going back never ends: the first
    # one met twice is in a ring.
    key, seen = min(left), set()
    while key not in seen:
        seen.add(key)
        key = min(edge.before for edge in predecessors[key])
    ring = _shortest_chain(_edges_by(left, inside, "before"), key, key)
    start = min(range(len(ring)), key=lambda place: ring[place].before)
    ring = ring[start:] + ring[:start]
    lines = "\n".join(f"  {e.before} before {e.after}: {e}" for e in ring)
    return OrderingError(
        f"These plugins each wait for the next, in a ring:\n{lines}\n"
        "Remove one of these declarations, or leave one of the plugins out.",
        tuple(edge.before for edge in ring),
    )
