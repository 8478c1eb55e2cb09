"""Events in their order; cancels, stops and errors; nothing else about the loop."""

import copy
import gc
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from tests.runs import (
    ALL_NAMES,
    EVENT_NAMES,
    LOOP_EVENTS,
    Trace,
    TraceAll,
    a_learner,
    a_model,
    at,
    batches,
    callback_of,
    weights,
)
from torch import nn

from callboard import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Learner,
    hookimpl,
)
from callboard.errors import MisplacedCancelError, ObserverWarning, OptionError
from callboard.events import EVENTS

CANCELS = {
    "fit": CancelFitException,
    "epoch": CancelEpochException,
    "train": CancelTrainException,
    "validate": CancelValidException,
    "batch": CancelBatchException,
    "backward": CancelBackwardException,
    "step": CancelStepException,
}


def words(text):
    """The names in a text; a line of them reads better than a column."""
    return text.split()


TRAIN_BATCH = words("""
    before_batch after_pred after_loss before_backward after_backward before_step
    after_step after_batch checkpoint
""")
VALID_BATCH = words("before_batch after_pred after_loss after_batch")


# ---- the order of events ------------------------------------------------------


def test_a_training_batch_fires_its_events_in_order():
    trace = Trace()

    a_learner(1, 0, cbs=trace).fit(1)

    start = trace.seen.index("before_batch")
    assert trace.seen[start : start + len(TRAIN_BATCH)] == TRAIN_BATCH


def test_a_validation_batch_stops_after_its_loss():
    trace = Trace()

    a_learner(1, 1, cbs=trace).fit(1)

    start, end = trace.seen.index("before_validate"), trace.seen.index("after_validate")
    assert trace.seen[start + 1 : end] == VALID_BATCH


def test_an_epoch_trains_then_validates_then_reaches_a_checkpoint():
    trace = Trace()

    a_learner(2, 2, cbs=trace).fit(1)

    start, end = trace.seen.index("before_epoch"), trace.seen.index("after_fit")
    assert trace.seen[start:end] == [
        "before_epoch",
        "before_train",
        *TRAIN_BATCH,
        *TRAIN_BATCH,
        "after_train",
        "before_validate",
        *VALID_BATCH,
        *VALID_BATCH,
        "after_validate",
        "after_epoch",
        "checkpoint",
    ]


def test_a_fit_opens_and_closes_around_its_epochs_and_ends_with_teardown():
    trace = Trace()
    learner = a_learner(1, 0, cbs=trace)
    assert trace.seen == ["after_create"]

    learner.fit(2)

    epoch = ["before_epoch", "before_train", *TRAIN_BATCH]
    epoch += ["after_train", "after_epoch", "checkpoint"]
    expected = ["before_fit", *epoch, *epoch, "after_fit", "teardown"]
    assert trace.seen[1:] == expected


def test_actions_and_spans_happen_where_their_events_stand():
    trace = TraceAll()

    a_learner(1, 1, cbs=trace).fit(1)

    assert trace.seen == words("""
        after_create before_fit do_epoch before_epoch
        do_train before_train
        do_batch before_batch do_predict after_pred do_loss after_loss
        before_backward do_backward after_backward before_step do_step after_step
        do_zero_grad after_batch checkpoint after_train
        do_validate before_validate
        do_batch before_batch do_predict after_pred do_loss after_loss after_batch
        after_validate after_epoch checkpoint after_fit teardown
    """)


def test_no_epoch_still_opens_and_closes_the_fit():
    trace = Trace()

    a_learner(cbs=trace).fit(0)

    assert trace.seen[1:] == ["before_fit", "after_fit", "teardown"]


def test_validate_fires_the_events_of_one_validation_and_no_others():
    class TraceValidate(Trace):
        stages = ("validate",)

    trace = TraceValidate()
    learner = a_learner(1, 2, cbs=trace)
    trace.seen.clear()

    learner.validate()

    batch = VALID_BATCH
    assert trace.seen == ["before_validate", *batch, *batch, "after_validate"]


def test_an_unlabelled_training_batch_ends_after_its_loss():
    trace = Trace()
    inputs = torch.randn(2, 3)

    Learner([(inputs,)], a_model(), nn.MSELoss(), cbs=trace).fit(1)

    start, end = trace.seen.index("before_batch"), trace.seen.index("after_train")
    assert trace.seen[start:end] == [*VALID_BATCH, "checkpoint"]


# ---- what holds at each event -------------------------------------------------


def keeping(event):
    def keep(self):
        self.kept.append((event, *(getattr(self.learn, name) for name in self.names)))

    return keep


class Looks(callback_of("L", {event: keeping(event) for event in LOOP_EVENTS})):
    """Keeps what the learner holds at every event."""

    def __init__(self, *names):
        self.names = names
        self.kept = []


def test_progress_counts_from_0_and_after_batch_already_counts_the_batch():
    looks = Looks("train_iter", "pct_train")

    a_learner(2, 1, cbs=looks).fit(2)

    counts = [kept[1:] for kept in looks.kept if kept[0] == "after_batch"]
    # 2 training batches, 1 of validation, in each of 2 epochs: a quarter a batch.
    assert counts == [
        (1, 0.25),
        (2, 0.5),
        (2, 0.5),
        (3, 0.75),
        (4, 1.0),
        (4, 1.0),
    ]
    assert looks.kept[0] == ("before_fit", 0, 0.0)


def test_mode_and_training_flag_agree_in_every_event():
    seen = []

    class Modes(Callback):
        def before_batch(self):
            seen.append((self.training, self.model.training, torch.is_grad_enabled()))

    a_learner(1, 1, cbs=Modes()).fit(1)

    assert seen == [(True, True, True), (False, False, False)]


def test_gradients_are_complete_before_the_step_and_gone_after_it():
    steps = []

    class Watch(Callback):
        def before_step(self):
            steps.append([p.grad.clone() for p in self.model.parameters()])
            self.before = [p.detach().clone() for p in self.model.parameters()]

        def after_step(self):
            for weight, old, gradient in zip(
                self.model.parameters(), self.before, steps[-1], strict=True
            ):
                torch.testing.assert_close(weight.detach(), old - 0.1 * gradient)

        def after_batch(self):
            assert not self.training or all(
                p.grad is None for p in self.model.parameters()
            )

    a_learner(2, 1, cbs=Watch()).fit(1)

    assert len(steps) == 2


def test_what_a_plugin_assigns_is_what_the_loop_goes_on_with():
    class Assign(Callback):
        def before_batch(self):
            self.learn.xb = (torch.ones(2, 3),)
            self.learn.yb = (torch.full((2, 1), 5.0),)

        def after_pred(self):
            self.learn.pred = self.learn.pred * 0 + 2.0

    losses = []
    keep = at("after_loss", lambda learn: losses.append(learn.loss.item()))

    a_learner(1, 1, cbs=[Assign(), keep]).fit(1)

    assert losses == [9.0, 9.0]  # (5 - 2) ** 2


def test_loss_grad_is_what_backward_runs_on_and_loss_is_what_is_recorded():
    recorded, gradients = [], []

    class Double(Callback):
        def after_loss(self):
            self.learn.loss_grad = self.learn.loss_grad * 2

        def after_backward(self):
            gradients.append([p.grad.clone() for p in self.model.parameters()])
            recorded.append(self.learn.loss.item())

    for cbs in ([], [Double()]):
        keep = at(
            "after_backward",
            lambda learn: (
                gradients.append([p.grad.clone() for p in learn.model.parameters()]),
                recorded.append(learn.loss.item()),
            ),
        )
        a_learner(1, 0, cbs=cbs or [keep]).fit(1)

    plain, doubled = gradients
    assert recorded[0] == recorded[1]
    for one, two in zip(plain, doubled, strict=True):
        torch.testing.assert_close(two, 2 * one)


def test_a_cancelled_batch_shows_no_prediction_of_the_batch_before():
    seen = []

    class SkipSecond(Callback):
        def before_batch(self):
            if self.iter == 1:
                raise CancelBatchException

        def after_batch(self):
            seen.append((self.pred is None, self.loss is None))

    a_learner(2, 0, cbs=SkipSecond()).fit(1)

    assert seen == [(False, False), (True, True)]


def test_results_are_empty_when_an_epoch_begins_and_complete_after_it():
    seen = []

    class Publish(Callback):
        def before_epoch(self):
            seen.append(dict(self.results))

        def after_validate(self):
            self.learn.results["valid_loss"] = 1.0

        def after_epoch(self):
            seen.append(dict(self.results))

    a_learner(1, 1, cbs=Publish()).fit(2)

    assert seen == [{}, {"valid_loss": 1.0}, {}, {"valid_loss": 1.0}]


def test_start_epoch_goes_on_as_if_the_epochs_before_had_run():
    looks = Looks("epoch", "train_iter", "pct_train", "n_epoch")

    a_learner(2, 0, cbs=looks).fit(4, start_epoch=3)

    assert looks.kept[0] == ("before_fit", 3, 6, 0.75, 4)
    after_batches = [kept[1:] for kept in looks.kept if kept[0] == "after_batch"]
    assert after_batches == [(3, 7, 0.875, 4), (3, 8, 1.0, 4)]


def test_start_epoch_at_the_end_trains_nothing():
    learner = a_learner()
    before = weights(learner)

    learner.fit(3, start_epoch=3)

    assert torch.equal(weights(learner), before)


@pytest.mark.parametrize(
    ("n_epoch", "start_epoch"),
    [(-1, 0), (1.0, 0), (True, 0), ("1", 0), (2, -1), (2, 3)],
)
def test_a_wrong_number_of_epochs_is_refused_with_the_value(n_epoch, start_epoch):
    with pytest.raises(OptionError, match=r"fit: (n_epoch|start_epoch) must be"):
        a_learner().fit(n_epoch, start_epoch=start_epoch)


# ---- cancels ------------------------------------------------------------------


@dataclass
class Level:
    """A level of the loop as DESIGN draws it: what is in it, and how it closes.

    This tree is the oracle. It knows one rule: a cancel closes its own level with
    ``after_cancel_x``, then ``after_x``, and goes on outside.
    """

    name: str
    body: list = field(default_factory=list)
    closing: list = field(default_factory=list)


def training_batch():
    backward = Level("backward", ["before_backward", "do_backward"], ["after_backward"])
    step = Level("step", ["before_step", "do_step"], ["after_step"])
    forward = ["before_batch", "do_predict", "after_pred", "do_loss", "after_loss"]
    body = [*forward, backward, step, "do_zero_grad"]
    return ["do_batch", Level("batch", body, ["after_batch"]), "checkpoint"]


def validation_batch():
    body = ["before_batch", "do_predict", "after_pred", "do_loss", "after_loss"]
    return ["do_batch", Level("batch", body, ["after_batch"])]


def a_fit():
    """One epoch of two training batches and one of validation."""
    train = Level("train", ["before_train"], ["after_train"])
    train.body += [*training_batch(), *training_batch()]
    validate = Level("validate", ["before_validate"], ["after_validate"])
    validate.body += validation_batch()
    epoch = Level("epoch", ["before_epoch"], ["after_epoch"])
    epoch.body += ["do_train", train, "do_validate", validate]
    return Level("fit", ["before_fit", "do_epoch", epoch, "checkpoint"], ["after_fit"])


def expected_trace(strike_at, cancelled):
    """What fires when a cancel of a level is raised at the n-th thing that fires.

    Returns:
        The names, and whether the cancel found its level open.
    """
    seen = ["after_create"]

    def fire(item):
        if isinstance(item, Level):
            try:
                for part in item.body:
                    fire(part)
            except CANCELS[item.name]:
                fire(f"after_cancel_{item.name}")
            for part in item.closing:
                fire(part)
            return
        seen.append(item)
        if len(seen) == strike_at:
            raise CANCELS[cancelled]

    try:
        fire(a_fit())
    except tuple(CANCELS.values()):
        return [*seen, "on_exception", "teardown"], False
    return [*seen, "teardown"], True


NUM_FIRED = len(expected_trace(0, "fit")[0]) - 1  # a cancel in teardown is an error


@pytest.mark.parametrize("cancelled", CANCELS)
def test_a_cancel_at_any_moment_closes_its_own_level_and_no_other(cancelled):
    def strike(trace):
        raise CANCELS[cancelled]("enough")

    for strike_at in range(2, NUM_FIRED + 1):
        trace = TraceAll(strike_at, strike)
        learner = a_learner(2, 1, cbs=trace)
        expected, is_open = expected_trace(strike_at, cancelled)

        if is_open:
            learner.fit(1)
            assert [r.what for r in learner.record.reasons] == [cancelled]
        else:
            with pytest.raises(MisplacedCancelError):
                learner.fit(1)

        assert trace.seen == expected


def test_the_oracle_has_open_and_closed_moments_for_every_cancel():
    open_moments = {
        name: sum(expected_trace(at, name)[1] for at in range(2, NUM_FIRED + 1))
        for name in CANCELS
    }

    # Counted by hand in the tree: 10 moments of a training batch are inside "batch"
    # (12 with after_backward and after_step), 5 of a validation batch.
    assert open_moments["batch"] == 2 * 12 + 5
    assert open_moments["backward"] == open_moments["step"] == 2 * 2
    assert open_moments["train"] == 1 + 2 * (1 + 12 + 1 + 1)
    assert open_moments["validate"] == 1 + 1 + 5 + 1
    assert open_moments["fit"] == NUM_FIRED - 2  # not in after_create, nor after_fit


@pytest.mark.parametrize(
    ("event", "phase", "cancelled"),
    [
        ("after_batch", "training", "batch"),
        ("before_batch", "training", "step"),
        ("before_batch", "validation", "train"),
        ("after_train", "training", "train"),
        ("after_epoch", "validation", "epoch"),
        ("after_fit", "validation", "fit"),
        ("before_fit", "validation", "epoch"),
    ],
)
def test_a_cancel_at_a_wrong_level_says_where_it_can_be_raised(event, phase, cancelled):
    def strike(learn):
        if learn.training == (phase == "training"):
            raise CANCELS[cancelled]

    learner = a_learner(cbs=at(event, strike, name="impatient"))

    with pytest.raises(MisplacedCancelError) as caught:
        learner.fit(1)

    message = str(caught.value)
    assert CANCELS[cancelled].__name__ in message
    assert CANCELS[cancelled].opens in message
    assert isinstance(caught.value.__cause__, CANCELS[cancelled])
    assert f"plugin impatient (test_loop.py) during {event}" in notes(caught.value) or (
        f"plugin impatient (runs.py) during {event}" in notes(caught.value)
    )


def notes(error):
    return "\n".join(getattr(error, "__notes__", []))


def test_a_cancel_hides_the_event_from_the_plugins_after_it_only():
    seen = []

    def skip(learn):
        seen.append("cancels")
        raise CancelBatchException

    early = at("before_batch", lambda learn: seen.append("early"), name="early")
    cancels = at("before_batch", skip, name="cancels", run_after="early")
    late = at("before_batch", lambda learn: seen.append("late"), name="late", order=9)

    a_learner(1, 0, cbs=[early, cancels, late]).fit(1)

    assert seen == ["early", "cancels"]


def test_the_record_keeps_reason_plugin_epoch_and_batch_of_a_cancel():
    def skip(learn):
        if learn.epoch == 1 and learn.iter == 1 and learn.training:
            raise CancelBatchException("bad batch")

    learner = a_learner(2, 1, cbs=at("after_loss", skip, name="picky"))

    learner.fit(2)

    [reason] = learner.record.reasons
    assert (reason.what, reason.reason, reason.plugin) == (
        "batch",
        "bad batch",
        "picky",
    )
    assert (reason.epoch, reason.batch) == (1, 1)


def test_a_cancel_class_without_a_reason_is_as_good_as_an_instance():
    def skip(learn):
        raise CancelEpochException

    learner = a_learner(cbs=at("before_epoch", skip))

    learner.fit(2)

    assert [r.reason for r in learner.record.reasons] == ["", ""]


def test_cancelling_the_batch_before_the_step_keeps_the_gradients():
    class Accumulate(Callback):
        def before_step(self):
            if self.iter == 0:
                raise CancelBatchException("gather more")
            self.gathered = [p.grad.clone() for p in self.model.parameters()]

    accumulate = Accumulate()
    model = nn.Linear(3, 1)
    start = copy.deepcopy(model)
    learner = a_learner(2, 0, model=model, cbs=accumulate)

    learner.fit(1)

    for inputs, labels in batches(2):
        nn.functional.mse_loss(start(inputs), labels).backward()
    expected = [p.grad for p in start.parameters()]
    assert all(map(torch.equal, accumulate.gathered, expected))


def test_cancelling_the_step_leaves_the_weights_and_clears_the_gradients():
    def skip(learn):
        raise CancelStepException

    learner = a_learner(2, 0, model=nn.Linear(3, 1), cbs=at("before_step", skip))
    before = weights(learner)

    learner.fit(1)

    assert torch.equal(weights(learner), before)
    assert all(p.grad is None for p in learner.model.parameters())


def test_cancelling_backward_still_lets_the_optimizer_step():
    def skip(learn):
        raise CancelBackwardException

    steps = []
    learner = a_learner(
        1,
        0,
        cbs=[
            at("before_backward", skip, name="skips"),
            at("after_step", lambda learn: steps.append(learn.iter), name="sees"),
        ],
    )

    learner.fit(1)

    assert steps == [0]


def test_a_cancel_in_an_after_cancel_event_reaches_the_level_outside():
    def skip_batch(learn):
        raise CancelBatchException

    def skip_training(learn):
        raise CancelTrainException

    trace = Trace()
    learner = a_learner(
        2,
        0,
        cbs=[
            trace,
            at("before_batch", skip_batch, name="one"),
            at("after_cancel_batch", skip_training, name="two"),
        ],
    )

    learner.fit(1)

    start = trace.seen.index("before_batch")
    assert trace.seen[start : start + 4] == [
        "before_batch",
        "after_cancel_batch",
        "after_cancel_train",
        "after_train",
    ]


def test_a_wrapper_may_cancel_before_and_after_the_work_that_it_wraps():
    class Wraps(Callback):
        def __init__(self, *, is_early):
            self.is_early = is_early

        @hookimpl(wrapper=True)
        def do_predict(self):
            if self.is_early:
                raise CancelBatchException("early")
            result = yield
            if result is not None:
                raise CancelBatchException("late")
            return result

    for is_early in (True, False):
        trace = Trace()
        learner = a_learner(1, 0, cbs=[trace, Wraps(is_early=is_early)])

        learner.fit(1)

        [reason] = learner.record.reasons
        assert reason.reason == ("early" if is_early else "late")
        assert reason.plugin == "wraps"
        assert "after_pred" not in trace.seen
        assert "after_batch" in trace.seen


def test_a_wrapper_undoes_what_it_did_when_the_loop_is_cancelled_inside():
    undone = []

    class Around(Callback):
        @hookimpl(wrapper=True)
        def do_batch(self):
            try:
                return (yield)
            finally:
                undone.append("batch")

        @hookimpl(wrapper=True)
        def do_epoch(self):
            try:
                return (yield)
            finally:
                undone.append("epoch")

    def leave(learn):
        raise CancelFitException

    a_learner(2, 1, cbs=[Around(), at("after_loss", leave)]).fit(1)

    assert undone == ["batch", "epoch"]


def test_the_record_of_a_long_fit_with_many_cancels_stays_small():
    def skip(learn):
        raise CancelBatchException(f"batch {learn.iter}")

    batch = batches(1) * 3000
    learner = Learner(batch, nn.Linear(3, 1), nn.MSELoss(), cbs=at("before_step", skip))

    learner.fit(1)

    reasons = learner.record.reasons
    assert len(reasons) <= 1000
    assert reasons[-1].batch == 2999


# ---- stop ---------------------------------------------------------------------


def stop(trace):
    trace.learn.stop("enough")


EPOCH_OF_TWO = (
    "before_epoch before_train {0} {0} after_train before_validate {1} "
    "after_validate after_epoch checkpoint"
).format(" ".join(TRAIN_BATCH), " ".join(VALID_BATCH))
TWO_EPOCHS = words(f"after_create before_fit {EPOCH_OF_TWO} {EPOCH_OF_TWO} after_fit")
CLOSED_FIT = ["after_fit", "teardown"]
CLOSED_EPOCH = ["after_epoch", "checkpoint", *CLOSED_FIT]


def what_follows_a_stop(strike_at):
    """The loop answers a stop at the next boundary: written down place by place."""
    name = TWO_EPOCHS[strike_at - 1]
    rest = TWO_EPOCHS[strike_at:]
    trained = TWO_EPOCHS[:strike_at]
    is_training = trained.count("before_train") > trained.count("after_train")
    is_in_epoch = trained.count("before_epoch") > trained.count("after_epoch")
    if name == "after_create":
        return [*rest, "teardown"]  # a fit starts anew
    if name in ("before_fit", "after_fit"):
        return ["after_fit", "teardown"][name == "after_fit" :]
    if name == "before_epoch":
        return ["before_train", "after_train", *CLOSED_EPOCH]
    if name == "before_train":
        return ["after_train", *CLOSED_EPOCH]
    if is_training:
        to_boundary = rest[: rest.index("checkpoint") + 1]
        if name == "checkpoint":
            to_boundary = []
        return [*to_boundary, "after_train", *CLOSED_EPOCH]
    if name == "after_train":
        return CLOSED_EPOCH
    if is_in_epoch:
        return [*rest[: rest.index("after_epoch")], *CLOSED_EPOCH]
    return ["checkpoint", *CLOSED_FIT] if name == "after_epoch" else CLOSED_FIT


@pytest.mark.parametrize("strike_at", range(1, len(TWO_EPOCHS) + 1))
def test_a_stop_at_any_event_is_answered_at_the_next_boundary(strike_at):
    trace = Trace(strike_at, stop)
    learner = a_learner(2, 1, cbs=trace)

    learner.fit(2)

    assert trace.seen == [
        *TWO_EPOCHS[:strike_at],
        *what_follows_a_stop(strike_at),
    ]
    if strike_at > 1:
        assert learner.stop_reason == "enough"
        [reason] = learner.record.reasons
        assert (reason.what, reason.reason, reason.plugin) == (
            "stop",
            "enough",
            "trace",
        )


def test_every_plugin_sees_the_event_in_which_one_asks_to_stop():
    seen = []
    first = at("after_batch", lambda learn: learn.stop("now"), name="first")
    second = at("after_batch", lambda learn: seen.append(learn.iter), name="second")

    a_learner(3, 0, cbs=[first, second]).fit(2)

    assert seen == [0]


def test_the_first_reason_to_stop_counts_and_all_are_recorded():
    one = at("after_epoch", lambda learn: learn.stop("one"), name="one")
    two = at("after_epoch", lambda learn: learn.stop("two"), name="two")
    learner = a_learner(cbs=[one, two])

    learner.fit(5)

    assert learner.stop_reason == "one"
    assert [(r.reason, r.plugin) for r in learner.record.reasons] == [
        ("one", "one"),
        ("two", "two"),
    ]


def test_a_stopped_learner_can_fit_again():
    stopper = at("after_epoch", lambda learn: learn.stop("enough"))
    learner = a_learner(cbs=stopper)
    learner.fit(2)
    learner.remove_cb(stopper)
    trace = Trace()

    learner.fit(2, cbs=trace)

    assert trace.seen.count("after_epoch") == 2
    assert learner.stop_reason is None


# ---- errors -------------------------------------------------------------------


class Odd(Exception):
    """An error that takes two arguments and prints neither."""

    def __init__(self, one, two):
        self.one, self.two = one, two


@pytest.mark.parametrize("event", [*LOOP_EVENTS, "do_predict", "do_step", "do_batch"])
def test_an_error_keeps_its_type_and_says_which_plugin_event_epoch_and_batch(event):
    prerequisite = {
        "after_cancel_fit": ("before_epoch", CancelFitException),
        "after_cancel_epoch": ("before_epoch", CancelEpochException),
        "after_cancel_train": ("before_batch", CancelTrainException),
        "after_cancel_validate": ("before_validate", CancelValidException),
        "after_cancel_batch": ("before_batch", CancelBatchException),
        "after_cancel_backward": ("before_backward", CancelBackwardException),
        "after_cancel_step": ("before_step", CancelStepException),
        "on_exception": ("before_epoch", KeyError),
    }
    cbs = []
    if event in prerequisite:
        place, cancel = prerequisite[event]

        def raise_it(learn):
            raise cancel

        cbs.append(at(place, raise_it, name="prepares"))

    def fail(learn):
        raise Odd(1, 2)

    cbs.append(at(event, fail, name="fragile"))
    learner = a_learner(2, 1, cbs=cbs)

    with pytest.raises(KeyError if event == "on_exception" else Odd) as caught:
        learner.fit(1)

    text = notes(caught.value)
    assert "fragile (runs.py)" in text
    assert event in text
    if event not in ("on_exception", "before_fit", "after_fit", "teardown"):
        assert "epoch 0" in text
    if EVENTS[event].is_per_batch and event != "do_batch":
        assert "batch 0" in text


def test_an_error_of_the_model_says_where_in_the_loop_it_was():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = nn.Linear(3, 1), 0

        def forward(self, inputs):
            self.calls += 1
            if self.calls == 3:
                raise ZeroDivisionError
            return self.inner(inputs)

    learner = a_learner(4, 0, model=Fails())

    with pytest.raises(ZeroDivisionError) as caught:
        learner.fit(1)

    assert "in the loop, epoch 0, training batch 2" in notes(caught.value)


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)]
)
def test_an_error_fires_on_exception_then_teardown_and_goes_on(error):
    told = []

    class Told(Callback):
        def on_exception(self, exception):
            told.append(exception)

    def fail(learn):
        raise error

    trace = Trace()
    learner = a_learner(2, 1, cbs=[trace, Told(), at("after_loss", fail)])

    with pytest.raises(type(error)) as caught:
        learner.fit(1)

    assert caught.value is error
    assert told == [error]
    assert trace.seen[-3:] == ["after_loss", "on_exception", "teardown"]


@pytest.mark.parametrize("ending", ["end", "cancel", "error", "Ctrl-C"])
def test_teardown_runs_in_reverse_order_however_a_fit_ends(ending):
    torn = []
    cbs = [
        at("teardown", lambda learn, name=name: torn.append(name), name=name)
        for name in ("one", "two", "three")
    ]
    errors = {
        "cancel": CancelFitException,
        "error": ValueError,
        "Ctrl-C": KeyboardInterrupt,
    }

    def finish(learn):
        if ending in errors:
            raise errors[ending]

    learner = a_learner(cbs=[*cbs, at("after_pred", finish)])

    if ending in ("error", "Ctrl-C"):
        with pytest.raises(errors[ending]):
            learner.fit(1)
    else:
        learner.fit(1)

    assert torn == ["three", "two", "one"]


@pytest.mark.parametrize("error", [ValueError("torn"), KeyboardInterrupt()])
def test_an_error_in_teardown_keeps_nobody_else_from_being_torn_down(error):
    torn = []

    def fail(learn):
        raise error

    first = at("teardown", lambda learn: torn.append("first"), name="first")
    last = at("teardown", lambda learn: torn.append("last"), name="last")
    fragile = at("teardown", fail, name="fragile")
    learner = a_learner(cbs=[first, fragile, last])

    with pytest.raises(type(error)):
        learner.fit(1)

    assert torn == ["last", "first"]
    assert "fragile" in notes(error)


def test_an_error_in_teardown_does_not_hide_the_error_that_ended_the_fit():
    def fail(learn):
        raise ValueError("first")

    def fail_again(learn):
        raise KeyError("second")

    learner = a_learner(
        cbs=[at("after_loss", fail, name="a"), at("teardown", fail_again, name="b")]
    )

    with pytest.raises(ValueError, match="first") as caught:
        learner.fit(1)

    assert "b (runs.py) failed in teardown too: KeyError: 'second'" in notes(
        caught.value
    )


def test_an_error_in_on_exception_does_not_hide_the_error_that_ended_the_fit():
    told = []

    def fail(learn):
        raise ValueError("first")

    def fail_again(learn):
        raise KeyError("second")

    learner = a_learner(
        cbs=[
            at("after_loss", fail, name="a"),
            at("on_exception", fail_again, name="b"),
            at("on_exception", lambda learn: told.append(1), name="c"),
        ]
    )

    with pytest.raises(ValueError, match="first") as caught:
        learner.fit(1)

    assert "b (runs.py) failed in on_exception too" in notes(caught.value)
    assert told == [1]


def test_a_stop_iteration_of_a_plugin_is_an_error_as_any_other():
    def exhausted(learn):
        next(iter(()))

    learner = a_learner(cbs=at("after_loss", exhausted, name="eager"))

    with pytest.raises(StopIteration) as caught:
        learner.fit(1)

    assert "eager" in notes(caught.value)


def test_a_learner_can_be_used_again_after_an_error():
    should_fail = True

    def fail(learn):
        if should_fail:
            raise ArithmeticError

    plain, learner = a_learner(), a_learner(cbs=at("before_step", fail))
    with pytest.raises(ArithmeticError):
        learner.fit(1)
    should_fail = False
    assert learner.stage == "fit"
    assert learner.dl is None

    for each in (plain, learner):
        each.model.load_state_dict(a_model().state_dict())
        each.load_state_dict({**each.state_dict(), "loop": plain.state_dict()["loop"]})
        each.fit(1)

    # No gradient of the batch that failed is left over.
    assert torch.equal(weights(plain), weights(learner))


def test_an_error_is_told_in_the_plugin_that_raised_it_not_in_the_wrapper_around():
    class Around(Callback):
        @hookimpl(wrapper=True)
        def do_predict(self):
            return (yield)

    def fail(learn):
        raise ArithmeticError

    inner = at("do_predict", fail, name="inner")
    learner = a_learner(cbs=[Around(), inner])

    with pytest.raises(ArithmeticError) as caught:
        learner.fit(1)

    assert "in plugin inner (runs.py) during do_predict" in notes(caught.value)


def test_a_fit_wrapper_sees_the_error_and_comes_before_on_exception():
    seen = []

    class Around(Callback):
        @hookimpl(wrapper=True)
        def do_fit(self):
            seen.append("enter")
            try:
                return (yield)
            except ArithmeticError:
                seen.append("error")
                raise

        def on_exception(self, exception):
            seen.append("on_exception")

    def fail(learn):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        a_learner(cbs=[Around(), at("after_loss", fail)]).fit(1)

    assert seen == ["enter", "error", "on_exception"]


# ---- observers ----------------------------------------------------------------


@pytest.fixture
def reports():
    """The texts of all reports of observers, and nothing else is warned about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts = Reports(caught)
        yield texts
    assert all(issubclass(warning.category, ObserverWarning) for warning in caught)


class Reports:
    def __init__(self, caught):
        self.caught = caught

    def about(self, name):
        """The reports that an observer has failed, without the summary of the fit."""
        texts = [str(warning.message) for warning in self.caught]
        return [text for text in texts if f"{name} (" in text]


PREREQUISITE = {
    "after_cancel_fit": CancelFitException,
    "after_cancel_epoch": CancelEpochException,
    "after_cancel_train": CancelTrainException,
    "after_cancel_validate": CancelValidException,
    "after_cancel_batch": CancelBatchException,
    "after_cancel_backward": CancelBackwardException,
    "after_cancel_step": CancelStepException,
}
RAISED_IN = {
    "after_cancel_fit": "after_epoch",
    "after_cancel_epoch": "after_validate",
    "after_cancel_train": "after_batch",
    "after_cancel_validate": "before_validate",
    "after_cancel_batch": "after_loss",
    "after_cancel_backward": "before_backward",
    "after_cancel_step": "before_step",
}


def canceller(event):
    def raise_it(learn):
        is_train = event != "after_cancel_train" or learn.training
        if learn.epoch == 0 and is_train:
            raise PREREQUISITE[event]

    return at(RAISED_IN[event], raise_it, name="canceller", order=-1)


@pytest.mark.parametrize(
    "event", [name for name in ALL_NAMES if name != "on_exception"]
)
def test_a_failing_observer_is_reported_once_and_disturbs_nobody(event, reports):
    calls = []

    def fail(learn):
        calls.append("failing")
        raise ValueError("fragile indeed")

    def cbs(*watched):
        extra = [canceller(event)] if event in PREREQUISITE else []
        return [*extra, *watched]

    witness = at(event, lambda learn: calls.append("witness"), name="witness", order=5)
    failing = at(event, fail, name="failing", role="observe")
    plain = a_learner(3, 2, cbs=cbs())
    plain.fit(2)

    learner = a_learner(3, 2, cbs=cbs(failing, witness))
    learner.fit(2)

    assert torch.equal(weights(plain), weights(learner))
    assert calls.count("failing") == 1
    assert calls.count("witness") >= 1
    [report] = reports.about("failing")
    assert event in report
    assert "ValueError: fragile indeed" in report
    if event != "after_create":
        [failure] = learner.record.failures
        assert (failure.plugin, failure.event) == ("failing", event)


def test_an_observer_that_fails_in_on_exception_does_not_replace_the_error(reports):
    def fail(learn):
        raise ValueError("observer")

    def end(learn):
        raise KeyError("the error")

    watches = at("on_exception", fail, name="watches", role="observe")
    learner = a_learner(cbs=[watches, at("after_loss", end)])

    with pytest.raises(KeyError):
        learner.fit(1)

    assert len(reports.about("watches")) == 1


def test_two_observers_that_fail_in_one_batch_are_reported_once_each(reports):
    def fail(learn):
        raise ValueError

    def failing(name):
        functions = {event: lambda self: fail(self) for event in TRAIN_BATCH}
        return type("F", (Callback,), {**functions, "name": name, "role": "observe"})()

    witness = Trace()
    learner = a_learner(2, 1, cbs=[failing("one"), failing("two"), witness])

    learner.fit(1)

    assert len(reports.about("one")) == len(reports.about("two")) == 1
    assert [f.plugin for f in learner.record.failures] == ["one", "two"]
    assert [f.event for f in learner.record.failures] == ["before_batch"] * 2
    assert witness.seen.count("after_batch") == 3


@pytest.mark.parametrize("moment", ["enter", "leave", "never yields", "yields twice"])
@pytest.mark.parametrize("span", ["do_fit", "do_epoch", "do_batch", "do_predict"])
def test_an_observer_that_wraps_and_fails_disturbs_nobody(moment, span, reports):
    class Wraps(Callback):
        role = "observe"

        def _wrap(self):
            if moment == "enter":
                raise ValueError("fragile")
            if moment == "never yields":
                return None
            result = yield
            if moment == "leave":
                raise ValueError("fragile")
            if moment == "yields twice":
                yield
            return result

    def wrap(self):
        return (yield from self._wrap())

    wraps = type("W", (Wraps,), {span: hookimpl(wrapper=True)(wrap)})()
    plain = a_learner(2, 1)
    plain.fit(1)
    learner = a_learner(2, 1, cbs=wraps)

    learner.fit(1)

    [report] = reports.about("w")
    assert span in report
    assert torch.equal(weights(plain), weights(learner))
    assert len(learner.record.failures) == 1


def test_an_observing_wrapper_can_neither_swallow_nor_replace():
    class Swallows(Callback):
        role = "observe"

        @hookimpl(wrapper=True)
        def do_predict(self):
            try:
                yield
            except ValueError:
                return torch.zeros(2, 1)
            return torch.zeros(2, 1)

    plain, learner = a_learner(), a_learner(cbs=Swallows())
    plain.fit(1)
    learner.fit(1)
    assert torch.equal(weights(plain), weights(learner))

    def fail(learn):
        raise ValueError("the error")

    with pytest.raises(ValueError, match="the error"):
        a_learner(cbs=[Swallows(), at("do_predict", fail)]).fit(1)


@pytest.mark.parametrize("action", ["do_predict", "do_loss", "do_backward", "do_step"])
def test_what_an_observer_returns_replaces_no_work(action):
    def answer(self):
        return torch.zeros(2, 1)

    cls = type("Answers", (Callback,), {action: answer, "role": "observe"})
    plain, learner = a_learner(), a_learner(cbs=cls)

    plain.fit(1)
    learner.fit(1)

    assert torch.equal(weights(plain), weights(learner))


def test_an_observer_may_not_cancel(reports):
    def leave(learn):
        raise CancelFitException("me too")

    learner = a_learner(cbs=at("before_batch", leave, name="bold", role="observe"))

    learner.fit(1)

    assert len(reports.about("bold")) == 1
    assert learner.record.reasons == []


def test_ctrl_c_in_an_observer_ends_the_fit():
    def interrupt(learn):
        raise KeyboardInterrupt

    learner = a_learner(cbs=at("before_batch", interrupt, role="observe"))

    with pytest.raises(KeyboardInterrupt):
        learner.fit(1)


def test_a_failed_observer_takes_part_again_in_the_next_fit(reports):
    calls = []

    class Once(Callback):
        role = "observe"

        def before_epoch(self):
            calls.append(self.learn.epoch)
            if len(calls) == 1:
                raise ValueError

    learner = a_learner(cbs=Once())

    learner.fit(2)
    learner.fit(2)

    assert calls == [0, 0, 1]
    assert len(reports.about("once")) == 1


def test_a_failed_observer_is_torn_down_and_not_reported_a_second_time(reports):
    torn = []

    class Fails(Callback):
        role = "observe"

        def before_batch(self):
            raise ValueError("one")

        def on_exception(self, exception):
            raise ValueError("two")

        def teardown(self):
            torn.append("torn")
            raise ValueError("three")

    learner = a_learner(cbs=Fails())

    learner.fit(1)

    assert torn == ["torn"]
    assert len(reports.about("fails")) == 1
    assert [failure.event for failure in learner.record.failures] == ["before_batch"]


def test_a_warning_that_is_an_error_does_not_let_an_observer_stop_training(caplog):
    def fail(learn):
        raise ValueError("fragile")

    learner = a_learner(cbs=at("before_batch", fail, name="watches", role="observe"))

    learner.fit(1)  # pytest's configuration makes every warning an error

    assert "watches" in caplog.text
    assert len(learner.record.failures) == 1


# ---- wrappers -----------------------------------------------------------------


def test_wrappers_of_a_span_run_around_all_that_happens_in_it():
    seen = []

    class Around(Callback):
        @hookimpl(wrapper=True)
        def do_train(self):
            seen.append("open")
            result = yield
            seen.append("close")
            return result

        def before_train(self):
            seen.append("before")

        def after_train(self):
            seen.append("after")

    a_learner(1, 1, cbs=Around()).fit(1)

    assert seen == ["open", "before", "after", "close"]


def test_an_action_can_be_replaced_and_the_first_that_answers_has_done_it():
    calls = []

    class First(Callback):
        def do_predict(self):
            calls.append("first")

    class Second(Callback):
        def do_predict(self):
            calls.append("second")
            return self.model(*self.xb) * 0

    class Third(Callback):
        def do_predict(self):
            calls.append("third")

    learner = a_learner(1, 0, cbs=[First, Second, Third])
    kept = []

    learner.fit(1, cbs=at("after_pred", lambda learn: kept.append(learn.pred)))

    assert calls == ["first", "second"]
    assert torch.equal(kept[0], torch.zeros(2, 1))


@pytest.mark.parametrize("event", ["after_create", "on_exception", "teardown"])
def test_an_event_that_is_fired_plugin_by_plugin_takes_no_wrapper(event):
    def around(self):
        yield

    cls = type("Around", (Callback,), {event: hookimpl(wrapper=True)(around)})

    with pytest.raises(TypeError, match=f"{event}.*wrap"):
        a_learner(cbs=cls)


def test_fits_do_not_nest():
    learner = a_learner(cbs=at("after_batch", lambda learn: learn.fit(1), name="eager"))

    with pytest.raises(Exception, match="fit was called inside a fit") as caught:
        learner.fit(1)

    assert "eager" in notes(caught.value)


def test_the_events_of_the_tests_are_all_there_are():
    assert set(EVENT_NAMES) < set(EVENTS)
    assert gc.isenabled()
