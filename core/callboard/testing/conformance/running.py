"""Rules about runs in which nothing goes wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from callboard import Callback, Learner
from callboard.testing.conformance.furnishing import surroundings, what_was_left
from callboard.testing.conformance.report import CALLBACKS, RUNNABLE, rule
from callboard.testing.conformance.subject import Subject

REFUSE = (
    "work there too, or refuse before the first batch with an error of "
    "callboard.errors that says what is missing."
)


@rule(
    "ends",
    expected="a run with it ends without an error.",
    mend="correct the plugin; where it needs options, another Learner or another "
    "plugin beside it, say so in its module: write a function callboard_specimens.",
    kinds=RUNNABLE,
    is_basic=True,
)
def ends(subject: Subject) -> Iterator[str]:
    """Train with it; what that leaves is told by the rule ``removable``."""
    learner, before = subject.learner(), surroundings()
    problem = subject.problem_of(lambda: subject.run(learner))
    subject.left_at_first = list(
        what_was_left(before, surroundings(), subject.specimen.leaves)
    )
    if problem:
        yield problem
    else:
        subject.notes += _doubts_after(subject, learner)


def _doubts_after(subject: Subject, learner: Learner) -> Iterator[str]:
    """What a run has brought about that its author may not have meant."""
    for name, value in learner.results.items():
        if isinstance(value, Tensor):
            yield (
                f'It publishes a tensor as results["{name}"], where loggers and '
                "trackers expect a number: float(value), once an epoch."
            )
    for member in learner.cbs.members:
        if member.name == subject.name:
            for name, count in _kept_graphs(member.plugin):
                yield (
                    f"self.{name} keeps {count} tensors with all that their gradients "
                    "need, which fills the memory: keep them .detach()ed."
                )
    known = {learner.path.name}
    for file in sorted(subject.folder.iterdir()):
        if file.name not in known:
            yield (
                f"It writes {file.name} into the working folder; the files of a run "
                "belong into learner.path."
            )


def _kept_graphs(plugin: Any) -> Iterator[tuple[str, int]]:
    """Names of a plugin's collections, and how many tensors in them have a graph."""
    for name, value in list(getattr(plugin, "__dict__", {}).items()):
        if isinstance(value, Mapping | list | tuple | set | deque):
            parts = value.values() if isinstance(value, Mapping) else value
            graphs = [p for p in parts if isinstance(p, Tensor) and p.grad_fn]
            if len(graphs) > 1:
                yield name, len(graphs)


@rule(
    "repeatable",
    expected="two runs with one seed end the same, bit for bit; so does a second run "
    "of a Learner that is put back to where it started.",
    mend="draw random numbers from self.rng alone; keep nothing in the class or the "
    "module; set up anew in before_fit, and put what must last into state_dict. What "
    "a clock measures differs every time: name it in Specimen(ignore=...).",
    kinds=RUNNABLE,
)
def repeatable(subject: Subject) -> Iterator[str]:
    """Train twice, and train one Learner twice."""
    again = subject.run(subject.learner())
    difference = subject.difference(again, subject.outcome)
    if difference:
        yield f"in two runs of two Learners, {difference}"
    elif not subject.can_be_repeated:
        yield (
            "the second run of one Learner, put back to its start by load_state_dict, "
            "did not end as the first."
        )


@rule(
    "unlabelled",
    expected="it works without labels, or refuses in so many words.",
    mend=REFUSE,
    kinds=RUNNABLE,
)
def unlabelled(subject: Subject) -> Iterator[str]:
    """Train a model that works out its own loss; and one that has no loss at all."""
    yield from _tolerated(
        subject, "where the model works out its own loss", kind="unlabelled"
    )
    if isinstance(subject.specimen.learner, str):
        yield from _tolerated(
            subject, "where batches have no labels", is_labelled=False
        )


@rule(
    "mappings",
    expected="it works with batches that are mappings, or refuses in so many words.",
    mend=REFUSE,
    kinds=RUNNABLE,
)
def mappings(subject: Subject) -> Iterator[str]:
    """Train on batches that are dicts."""
    yield from _tolerated(subject, "where batches are mappings", kind="mapping")


@rule(
    "no-validation",
    expected="it works without validation data, or refuses in so many words.",
    mend=REFUSE,
    kinds=RUNNABLE,
)
def no_validation(subject: Subject) -> Iterator[str]:
    """Train without validation data."""
    yield from _tolerated(subject, "without validation data", valid=False)


def _tolerated(subject: Subject, where: str, **learner: Any) -> Iterator[str]:
    """What goes wrong in a Learner of another make, but for a refusal."""
    is_custom = not isinstance(subject.specimen.learner, str)
    if is_custom and "kind" in learner:
        return  # the plugin needs the Learner that it asks for
    made = partial(subject.learner, **learner)
    problem = subject.refusal_of(lambda: subject.run(made()))
    if problem:
        yield f"{where}, {problem}"


@rule(
    "nested",
    expected="evaluations inside a fit, by validate() and by get_preds(), change "
    "nothing of it; and validate() works outside of one.",
    mend="act on self.learn.stage: take part in the stages that are meant (`stages`), "
    "and keep what belongs to the fit apart from what belongs to an evaluation.",
)
def nested(subject: Subject) -> Iterator[str]:
    """Evaluate at many moments of a fit."""
    problem = subject.refusal_of(lambda: _validated(subject.learner()))
    if problem:
        yield f"validate() outside a fit: {problem}"
    evaluated = subject.learner(Evaluations())
    problem = subject.problem_of(lambda: subject.run(evaluated))
    if problem:
        yield f"evaluating inside a fit: {problem}"
        return
    difference = subject.difference(evaluated, subject.outcome)
    if difference:
        yield f"the fit did not end as without evaluations: {difference}"


def _validated(learner: Learner) -> Learner:
    learner.validate(learner.dls.train)
    return learner


class Evaluations(Callback):
    """Evaluates the model in the middle of a fit, once an epoch at many events."""

    name = "evaluations"

    def _evaluate(self) -> None:
        learner = self.learn
        learner.validate(learner.dls.train)
        with learner.evaluating("predict"):
            learner.run_validation(learner.dls.train)

    def before_epoch(self) -> None:
        self._evaluate()

    def after_loss(self) -> None:
        if self.learn.iter == 1:
            self._evaluate()

    def after_batch(self) -> None:
        if self.learn.iter == 0:
            self._evaluate()

    def after_train(self) -> None:
        self._evaluate()

    def after_validate(self) -> None:
        self._evaluate()

    def after_epoch(self) -> None:
        self._evaluate()


@rule(
    "side-by-side",
    expected="two instances do not disturb each other: in one Learner, where they may "
    "refuse in so many words, and in two Learners that train by turns.",
    mend="keep state in the instance (self.x, set in __init__ or before_fit), never in "
    "the class or the module.",
    kinds=CALLBACKS,
)
def side_by_side(subject: Subject) -> Iterator[str]:
    """Put two into one Learner, and train a second Learner inside the first."""
    if subject.is_module:
        return  # there is only one
    pairs: list[Learner] = []
    problem = subject.refusal_of(lambda: _both(subject, pairs))
    if problem:
        yield f"two in one Learner: {problem}"
    elif pairs and subject.role == "observe":
        difference = subject.difference(pairs[0], subject.plain_outcome, plugins=False)
        if difference:
            yield f"two in one Learner: {difference}"

    def train_another() -> None:
        subject.run(subject.learner(folder="other"))

    learner = subject.learner(AtEpochs(train_another))
    problem = subject.problem_of(lambda: subject.run(learner))
    if problem:
        yield f"with another Learner trained in the middle: {problem}"
        return
    difference = subject.difference(learner, subject.outcome)
    if difference:
        yield f"with another Learner trained in the middle: {difference}"


def _both(subject: Subject, pairs: list[Learner]) -> Learner:
    """Train with two, and keep the Learner if that was not refused."""
    pairs.append(subject.run(subject.learner(subject.instance())))
    return pairs[0]


class AtEpochs(Callback):
    """Does something in the middle and at the end of every epoch."""

    name = "at-epochs"

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do

    def after_train(self) -> None:
        self.do()

    def after_epoch(self) -> None:
        self.do()


CONDITIONS = (unlabelled, mappings, no_validation)
RULES = (ends, repeatable, *CONDITIONS, nested, side_by_side)
