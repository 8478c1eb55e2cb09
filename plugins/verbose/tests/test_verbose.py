"""Every event is printed, in the sequence in which it fires."""

import pytest
import torch
from torch import nn

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.events import EVENTS
from callboard_verbose import VerboseCallback

BATCH = ["before_batch", "after_pred", "after_loss"]
UPDATE = ["before_backward", "after_backward", "before_step", "after_step"]


def a_learner(*cbs):
    batch = (torch.ones(2, 3), torch.ones(2, 1))
    data = DataLoaders([batch], [batch])
    return Learner(data, nn.Linear(3, 1), nn.MSELoss(), cbs=[*cbs])


def printed(capsys):
    return capsys.readouterr().out.splitlines()


def test_every_event_is_printed_when_it_fires(capsys):
    learner = a_learner(VerboseCallback())

    learner.fit(1)

    train = ["before_train", *BATCH, *UPDATE, "after_batch", "checkpoint"]
    validate = ["before_validate", *BATCH, "after_batch", "after_validate"]
    assert printed(capsys) == [
        "after_create",
        "before_fit",
        "before_epoch",
        *train,
        "after_train",
        *validate,
        "after_epoch",
        "checkpoint",
        "after_fit",
        "teardown",
    ]


def test_a_validation_has_events_too(capsys):
    learner = a_learner()

    learner.validate(cbs=VerboseCallback())

    events = ["before_validate", *BATCH, "after_batch", "after_validate"]
    assert printed(capsys) == ["after_create", *events]


def test_a_cancel_shows_where_it_leads(capsys):
    class Cancel(Callback):
        run_valid = False

        def after_pred(self):
            raise CancelBatchException

    a_learner(VerboseCallback(), Cancel()).fit(1)

    lines = printed(capsys)
    assert lines[5:8] == ["after_pred", "after_cancel_batch", "after_batch"]


def test_an_error_is_an_event(capsys):
    class Fail(Callback):
        def after_pred(self):
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        a_learner(VerboseCallback(), Fail()).fit(1)

    assert printed(capsys)[-2:] == ["on_exception", "teardown"]


def test_no_event_is_left_out():
    events = {name for name, event in EVENTS.items() if event.kind == "event"}

    assert events <= vars(VerboseCallback).keys()


def test_each_method_prints_the_name_that_it_has(capsys):
    verbose = VerboseCallback()
    events = [name for name, event in EVENTS.items() if event.kind == "event"]

    for event in events:
        getattr(verbose, event)()

    assert printed(capsys) == events
