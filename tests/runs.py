"""Tiny Learners, and a callback that writes down all that fires.

trace = Trace()
a_learner(cbs=trace).fit(1)
assert trace.seen[0] == "before_fit"
"""

from __future__ import annotations

import torch
from torch import nn

from callboard import Callback, DataLoaders, Learner
from callboard.events import EVENTS

EVENT_NAMES = tuple(name for name, event in EVENTS.items() if event.kind == "event")
# do_fit takes wrappers only.
ALL_NAMES = tuple(name for name in EVENTS if name != "do_fit")
LOOP_EVENTS = tuple(name for name in EVENT_NAMES if name != "after_create")


def batches(count, size=2, num_features=3):
    """Batches of a fixed linear problem, the same in every call."""
    generator = torch.Generator().manual_seed(count)
    made = []
    for _ in range(count):
        inputs = torch.randn(size, num_features, generator=generator)
        made.append((inputs, inputs.sum(1, keepdim=True)))
    return made


def a_model(num_features=3, *, dropout=0.0):
    """A small model, with weights that are the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = [nn.Linear(num_features, 4), nn.BatchNorm1d(4)]
        layers += [nn.Dropout(dropout), nn.Linear(4, 1)]
        return nn.Sequential(*layers)


def a_learner(num_train=2, num_valid=1, **options):
    """A Learner on ``num_train`` and ``num_valid`` batches of the linear problem."""
    valid = batches(num_valid) if num_valid else None
    options = {"loss_func": nn.MSELoss(), "opt_func": torch.optim.SGD, **options}
    options = {"model": a_model(), "lr": 0.1, "seed": 0, **options}
    return Learner(DataLoaders(batches(num_train), valid), **options)


def weights(learner):
    """All that the model learned and its buffers, flat, to be compared bit by bit."""
    tensors = learner.model.state_dict().values()
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def callback_of(class_name, functions, /, **attributes):
    """A callback class made of functions by event name."""
    return type(class_name, (Callback,), {**functions, **attributes})


def at(event, action, **attributes):
    """A callback that calls ``action(learner)`` at one event."""

    def act(self):
        action(self.learn)

    name = attributes.pop("name", "at-" + event.replace("_", "-"))
    return callback_of("At", {event: act}, name=name, **attributes)()


def _noting(event):
    def note(self):
        self.seen.append(event)
        if len(self.seen) == self.strike_at:
            self.strike(self)

    return note


class _Tracing(Callback):
    """Writes down what fires; may act at the n-th thing that does."""

    def __init__(self, strike_at=0, strike=None):
        self.seen = []
        self.strike_at = strike_at
        self.strike = strike


class Trace(callback_of("T", {n: _noting(n) for n in EVENT_NAMES}), _Tracing):
    """Writes down every event."""

    name = "trace"

    __init__ = _Tracing.__init__


class TraceAll(callback_of("T", {n: _noting(n) for n in ALL_NAMES}), _Tracing):
    """Writes down every event, action and span; passes the work on."""

    name = "trace"

    __init__ = _Tracing.__init__
