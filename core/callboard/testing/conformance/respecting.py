"""Rules about what a plugin may do to a Learner, by its role, and what it leaves."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from callboard import Callback, Learner
from callboard.testing.conformance.furnishing import (
    Furnishing,
    furnishing_of,
    what_was_left,
)
from callboard.testing.conformance.report import RUNNABLE, rule
from callboard.testing.conformance.subject import Subject
from callboard.testing.conformance.watching import (
    GLOBAL_STREAM,
    HYPER,
    OWN_STREAM,
    Change,
    Watcher,
)

STREAMS = (GLOBAL_STREAM, OWN_STREAM)
# What a plugin of the role "control" may write besides results.
CONTROLLED = (
    *(HYPER, "learner.stop_reason", "learner.on_non_finite", "learner.lr"),
    *(OWN_STREAM, GLOBAL_STREAM),
)
MANY = 3


@rule(
    "writes",
    expected="it writes what its role allows: an observer nothing but results of its "
    "own in learner.results, a controller hyper-parameters, stops and cancels besides.",
    mend='declare role = "modify" where it is meant to change training, and offer it '
    "in the group callboard.callbacks; else work on copies: loss.detach().clone().",
)
def writes(subject: Subject) -> Iterator[str]:
    """Look at the Learner before and after each hookimpl."""
    if subject.role == "modify":
        return
    wrong = [c for c in _changes(subject) if not _may_write(subject.role, c)]
    for change in _one_an_attribute(wrong):
        yield f'its role is "{subject.role}", and {change}'


@rule(
    "draws",
    expected="an observer draws no random number, and any other plugin draws them from "
    "self.rng.",
    mend="draw from self.rng, which is the plugin's own stream: torch.rand(3, "
    'generator=self.rng); in an observer not at all, or declare role = "modify".',
)
def draws(subject: Subject) -> Iterator[str]:
    """Look at the random streams before and after each hookimpl."""
    drawn = [c for c in _changes(subject) if c.attribute.startswith(STREAMS)]
    for change in _one_an_attribute(drawn):
        what = f"{change.event} drew from the {change.attribute}."
        if subject.role == "observe":
            yield f'its role is "observe", and {what}'
        elif change.attribute.startswith(GLOBAL_STREAM):
            subject.notes.append(
                f"{what} That moves what others draw in the same batch; self.rng is "
                "its own."
            )


class Publisher(Callback):
    """Publishes a result at the start of every epoch, which others must leave alone."""

    name = "publisher"
    role = "observe"

    def before_epoch(self) -> None:
        self.learn.results["published"] = 0.25


def _changes(subject: Subject) -> list[Change]:
    learner = subject.learner(Publisher(), with_it=False)
    watcher = Watcher(learner)
    learner.add_cb(subject.instance())
    subject.run(learner)
    return watcher.changes


def _may_write(role: str, change: Change) -> bool:
    allowed = CONTROLLED if role == "control" else STREAMS  # which have their own rule
    return change.attribute.startswith(allowed)


def _one_an_attribute(changes: list[Change]) -> list[Change]:
    first: dict[str, Change] = {}
    for change in changes:
        first.setdefault(change.attribute, change)
    return list(first.values())[:MANY]


@rule(
    "harmless",
    expected="an observer changes no bit of what is learned.",
    mend="find what it changes: `expected` of the rules writes and draws names what it "
    'may not; or declare role = "modify".',
)
def harmless(subject: Subject) -> Iterator[str]:
    """Train with it and without it."""
    if subject.role == "observe":
        difference = subject.difference(
            subject.outcome, subject.plain_outcome, plugins=False
        )
        if difference:
            yield f"with and without it, {difference}"


@rule(
    "removable",
    expected="once it is removed or its fit is over, the Learner is as it was before "
    "but for what it has learned, and trains as it always did.",
    mend="undo in teardown, or behind the `yield` of a wrapper, what before_fit or "
    "after_create has done: hooks on the model, a replaced loss, a switch of torch.",
    kinds=RUNNABLE,
)
def removable(subject: Subject) -> Iterator[str]:
    """Add and remove it; then train with it, remove it and train without it."""
    learner = subject.learner(with_it=False)
    start, before = copy.deepcopy(learner.state_dict()), furnishing_of(learner)
    if subject.is_method:
        subject.run(learner)
        yield from _left_by(subject, before, learner)
        return
    if not subject.is_module:
        plugin = subject.instance()
        learner.add_cb(plugin).remove_cb(plugin)
        subject.run(learner)
        difference = subject.difference(learner, subject.plain_outcome)
        if difference:
            yield f"added and removed before the fit: {difference}"
        learner.load_state_dict(start)
    with learner.added_cbs(subject.instance()):
        subject.run(learner)
    left = _left_by(subject, before, learner)
    yield from (f"after its fit, {what}" for what in left)
    learner.load_state_dict(start)
    subject.run(learner)
    difference = subject.difference(learner, subject.plain_outcome, plugins=False)
    if difference:
        yield f"a run after it was removed is not the plain one: {difference}"


def _left_by(subject: Subject, before: Furnishing, learner: Learner) -> list[str]:
    """What this run left; and what the first one did, which later ones found so."""
    may_change = subject.specimen.leaves
    left = what_was_left(before, furnishing_of(learner), may_change)
    return list(dict.fromkeys([*left, *subject.left_at_first]))[:MANY]


RULES = (writes, draws, harmless, removable)
