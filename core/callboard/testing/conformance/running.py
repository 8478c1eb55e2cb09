"""Rules about runs in which nothing goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from callboard import Callback, Learner
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
    """Train with it."""
    problem = subject.problem_of(lambda: subject.run(subject.learner()))
    if problem:
        yield problem


@rule(
    "repeatable",
    expected="two runs with one seed end the same, bit for bit; so does a second run "
    "of a Learner that is put back to where it started.",
    mend="draw random numbers from self.rng alone; keep nothing in the class or the "
    "module; set up anew in before_fit, and put what must last into state_dict.",
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
    problem = subject.refusal_of(lambda: _both(subject))
    if problem:
        yield f"two in one Learner: {problem}"
    elif subject.role == "observe":
        pair = _both(subject)
        difference = subject.difference(pair, subject.plain_outcome, plugins=False)
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


def _both(subject: Subject) -> Learner:
    return subject.run(subject.learner(subject.instance()))


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
