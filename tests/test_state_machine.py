"""Any sequence of fits, cancels, stops, errors, nested evaluations and plugin changes.

A state machine of hypothesis drives a Learner. What every plugin then saw is compared
with `Score`, which derives it from a table of the loop; what was trained is compared
bit for bit with a twin to which only the cancels, stops and errors happen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from tests.runs import LOOP_EVENTS, a_learner, a_model, callback_of, weights

from callboard import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)

CANCELS = {
    "fit": CancelFitException,
    "epoch": CancelEpochException,
    "train": CancelTrainException,
    "validate": CancelValidException,
    "batch": CancelBatchException,
    "backward": CancelBackwardException,
    "step": CancelStepException,
}
ENDS = ("stop", "raise", *(f"cancel {level}" for level in CANCELS))
CHANGES = ("join", "leave", "sleep", "wake", "validate", "save")
STRUCK = [name for name in LOOP_EVENTS if name not in ("on_exception", "teardown")]
MAX_GUESTS = 3


class StruckError(Exception):
    """What a deed raises."""


# ---- what happens: deeds at moments of a fit -----------------------------------

Moment = tuple[str, int]
Script = dict[Moment, list[str]]

# The ones that fire without a cancel thrice, so that most deeds are done.
PLAIN = [name for name in STRUCK if "cancel" not in name]
moments = st.tuples(
    st.sampled_from([*PLAIN, *PLAIN, *STRUCK]), st.sampled_from([0, 0, 1, 2, 3, 5])
)
deeds = st.sampled_from([*CHANGES, *ENDS, "stop", "stop"])
scripts = st.dictionaries(
    moments, st.lists(deeds, min_size=1, max_size=3), min_size=1, max_size=8
)


def only_ends(script: Script) -> Script:
    """The deeds that change what is trained."""
    return {
        moment: [deed for deed in deeds if deed in ENDS]
        for moment, deeds in script.items()
    }


# ---- what must be seen, from a table of the loop --------------------------------


class Cancelled(Exception):
    """A level was left."""


UPDATE = [
    ("backward", ["before_backward"]),
    ("step", ["before_step"]),
]
TRAIN_BATCH = ["before_batch", "after_pred", "after_loss", *UPDATE]
VALID_BATCH = ["before_batch", "after_pred", "after_loss"]


@dataclass
class Guest:
    """A plugin that came later, as the score knows it."""

    name: str
    is_on: bool = True
    was_on: bool = False


@dataclass
class Score:
    """Derives what every plugin sees in a fit."""

    num_train: int
    num_valid: int
    guests: list[Guest]
    num_guests_ever: int
    script: Script
    seen: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_stopped: bool = False
    failed: bool = False

    def fit(self, n_epoch: int) -> None:
        """A whole fit, whatever ends it."""
        for guest in self.guests:
            guest.was_on = guest.is_on
        before = {guest.name: guest.is_on for guest in self.guests}
        try:
            self.level("fit", ["before_fit", *[self.epoch] * n_epoch])
        except (Cancelled, StruckError):
            self.failed = True
            self.seen.append(("director", "on_exception"))
            on = [guest.name for guest in self.guests if guest.is_on]
            self.seen += [(name, "on_exception") for name in on]
        taking_part = [guest.name for guest in self.guests if guest.was_on]
        self.seen += [(name, "teardown") for name in reversed(taking_part)]
        self.seen.append(("director", "teardown"))
        for guest in self.guests:
            guest.is_on = before.get(guest.name, True)

    def epoch(self) -> None:
        if not self.is_stopped:
            phases = [self.train, self.validate]
            self.level("epoch", ["before_epoch", *phases])
            self.fire("checkpoint")

    def train(self) -> None:
        self.level("train", ["before_train", *[self.train_batch] * self.num_train])

    def train_batch(self) -> None:
        if not self.is_stopped:
            self.level("batch", TRAIN_BATCH)
            self.fire("checkpoint")

    def validate(self) -> None:
        if self.num_valid and not self.is_stopped:
            batches = [lambda: self.level("batch", VALID_BATCH)] * self.num_valid
            self.level("validate", ["before_validate", *batches])

    def level(self, name: str, parts: list) -> None:
        """One level of the loop: its parts, a cancel of it, its end."""
        try:
            for part in parts:
                if isinstance(part, str):
                    self.fire(part)
                elif isinstance(part, tuple):
                    self.level(*part)
                else:
                    part()
        except Cancelled as cancel:
            if cancel.args[0] != name:
                raise
            self.fire(f"after_cancel_{name}")
        self.fire(f"after_{name}")

    def fire(self, event: str) -> None:
        self.seen.append(("director", event))
        moment = event, self.counts.get(event, 0)
        self.counts[event] = moment[1] + 1
        # Who leaves or sleeps while it fires misses it, unless back before its turn.
        due = [guest for guest in self.guests if guest.is_on]
        for deed in self.script.get(moment, ()):
            self.do(deed)
        still_in = [guest for guest in due if guest in self.guests and guest.is_on]
        self.seen += [(guest.name, event) for guest in still_in]

    def do(self, deed: str) -> None:
        if deed == "stop":
            self.is_stopped = True
        elif deed == "raise":
            raise StruckError
        elif deed.startswith("cancel"):
            raise Cancelled(deed.split()[1])
        elif deed == "join" and len(self.guests) < MAX_GUESTS:
            self.num_guests_ever += 1
            name = f"guest-{self.num_guests_ever}"
            self.guests.append(Guest(name, was_on=True))
            self.seen.append((name, "after_create"))
        elif deed == "leave" and self.guests:
            self.guests.pop()
        elif deed == "sleep" and self.guests:
            self.guests[-1].is_on = False
        elif deed == "wake" and self.guests:
            self.guests[-1].is_on = self.guests[-1].was_on = True
        elif deed == "validate" and self.num_valid:
            self.validation()

    def validation(self) -> None:
        """What guests see of an evaluation, in which nothing happens."""
        batch = ["before_batch", "after_pred", "after_loss", "after_batch"]
        events = ["before_validate", *batch * self.num_valid, "after_validate"]
        for event in events:
            on = [guest.name for guest in self.guests if guest.is_on]
            self.seen += [(name, f"validate: {event}") for name in on]


# ---- what is seen --------------------------------------------------------------


def _seeing(event):
    def see(self):
        where = "" if self.learn.stage == "fit" else f"{self.learn.stage}: "
        if event == "after_create":
            where = ""
        self.log.append((self.name, where + event))

    return see


Sees = callback_of(
    "Sees", {name: _seeing(name) for name in ("after_create", *LOOP_EVENTS)}
)


class Visitor(Sees):
    """Sees fits and validations."""

    role = "observe"
    stages = ("fit", "validate")

    def __init__(self, name, log):
        self.name, self.log = name, log


def _directing(event):
    def act(self):
        self.driver.log.append((self.name, event))
        moment = event, self.driver.counts.get(event, 0)
        self.driver.counts[event] = moment[1] + 1
        for deed in self.driver.script.get(moment, ()):
            self.driver.do(deed)

    return act


class Director(callback_of("D", {name: _directing(name) for name in LOOP_EVENTS})):
    """Does what the script says, and sees fits."""

    name = "director"

    def __init__(self, driver):
        self.driver = driver


class Driver:
    """A Learner with its director, its guests and what they saw."""

    def __init__(self, num_train: int, num_valid: int) -> None:
        self.log: list[tuple[str, str]] = []
        self.script: Script = {}
        self.counts: dict[str, int] = {}
        self.guests: list[Visitor] = []
        self.num_guests_ever = 0
        self.learner = a_learner(
            num_train,
            num_valid,
            cbs=Director(self),
            model=a_model(dropout=0.3),
            opt_func=torch.optim.Adam,
            lr=0.01,
        )

    def fit(self, n_epoch: int, script: Script) -> Exception | None:
        self.script, self.counts = script, {}
        self.log.clear()
        try:
            self.learner.fit(n_epoch)
        except Exception as error:
            return error
        finally:
            self.script = {}
        return None

    def do(self, deed: str) -> None:
        learner = self.learner
        if deed == "stop":
            learner.stop("the script")
        elif deed == "raise":
            raise StruckError
        elif deed.startswith("cancel"):
            raise CANCELS[deed.split()[1]]("the script")
        elif deed == "join" and len(self.guests) < MAX_GUESTS:
            self.num_guests_ever += 1
            visitor = Visitor(f"guest-{self.num_guests_ever}", self.log)
            self.guests.append(visitor)
            learner.add_cb(visitor)
        elif deed == "leave" and self.guests:
            learner.remove_cb(self.guests.pop())
        elif deed == "sleep" and self.guests:
            self.guests[-1].run = False
        elif deed == "wake" and self.guests:
            self.guests[-1].run = True
        elif deed == "validate" and learner.dls.valid is not None:
            before = self.place()
            assert set(learner.validate()) == {"valid_loss"}
            assert self.place() == before
        elif deed == "save":
            learner.state_dict()

    def place(self) -> tuple:
        """Where the loop is, by value or identity."""
        learner = self.learner
        by_value = (learner.stage, learner.training, learner.model.training)
        position = (learner.epoch, learner.iter, learner.train_iter, learner.n_iter)
        held = (learner.xb, learner.yb, learner.pred, learner.loss, learner.dl)
        random = torch.get_rng_state().numpy().tobytes()
        last = (learner.pct_train, learner.stop_reason, dict(learner.results), random)
        return by_value, position, [id(each) for each in held], last


class Machine(RuleBasedStateMachine):
    """One Learner to which everything happens, and its twin."""

    @initialize(num_train=st.sampled_from([2, 3, 1]), num_valid=st.integers(0, 2))
    def make(self, num_train: int, num_valid: int) -> None:
        self.num_valid, self.num_train = num_valid, num_train
        self.one, self.twin = (Driver(num_train, num_valid) for _ in range(2))
        self.guests: list[Guest] = []
        self.saved: tuple | None = None

    @rule(n_epoch=st.sampled_from([1, 2, 0]), script=scripts)
    def fit(self, n_epoch: int, script: Script) -> None:
        score = Score(
            self.num_train,
            self.num_valid,
            self.guests,
            self.one.num_guests_ever,
            script,
        )
        score.fit(n_epoch)

        error = self.one.fit(n_epoch, script)
        twins = self.twin.fit(n_epoch, only_ends(script))

        assert self.one.log == score.seen
        assert (error is not None) == score.failed
        assert type(error) is type(twins)

    @rule(first=scripts, second=scripts, change=st.sampled_from(CHANGES))
    def fit_twice(self, first: Script, second: Script, change: str) -> None:
        self.fit(1, first)
        self.change(change)
        self.fit(2, second)

    @rule(change=st.sampled_from(CHANGES))
    def change(self, change: str) -> None:
        score = Score(
            self.num_train, self.num_valid, self.guests, self.one.num_guests_ever, {}
        )
        score.do(change)
        self.one.log.clear()

        self.one.do(change)

        assert self.one.log == score.seen

    @rule()
    def save(self) -> None:
        self.saved = tuple(each.learner.state_dict() for each in (self.one, self.twin))

    @rule()
    def load(self) -> None:
        if self.saved is None:
            return
        for driver, state in zip((self.one, self.twin), self.saved, strict=True):
            driver.learner.load_state_dict(state)

    @invariant()
    def both_trained_the_same(self) -> None:
        one, twin = self.one.learner, self.twin.learner
        assert torch.equal(weights(one), weights(twin))
        assert (one.epoch, one.train_iter) == (twin.epoch, twin.train_iter)

    @invariant()
    def it_is_at_rest(self) -> None:
        learner = self.one.learner
        assert (learner.stage, learner.dl, learner.pred) == ("fit", None, None)
        assert len(learner.xb) == len(learner.yb) == 0
        assert [cb.name for cb in learner.cbs] == [
            "director",
            *(guest.name for guest in self.guests),
        ]
        assert [guest.run for guest in self.one.guests] == [
            guest.is_on for guest in self.guests
        ]


Machine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAnySequence = Machine.TestCase
