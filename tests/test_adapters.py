"""Objects of other frameworks take part through what a distribution adapts them by."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from callboard import Learner, discovery
from callboard.adapters import Adapter, adapter_for
from callboard.errors import ActivationError, DoubledPluginError
from callboard.testing import Site

FOREIGN = """
class Hook:
    def __init__(self):
        self.calls, self.owner = [], None

    def notify(self, what):
        self.calls.append(what)

class LoudHook(Hook):
    pass
"""
ADAPTING = """
from callboard.adapters import Adapter

class HookAdapter(Adapter):
    name = "hook"

    def joined(self, learner):
        self.subject.owner = learner

    def left(self, learner):
        self.subject.owner = None

    def before_epoch(self):
        self.subject.notify(f"epoch {self.learn.epoch}")

def adapted(hook):
    return HookAdapter(hook)

def wrong(hook):
    return hook
"""
ADAPTED = {"other_loop.Hook": "callboard_other_loop:adapted"}
MODULES = {"other_loop": FOREIGN, "callboard_other_loop": ADAPTING}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions, before all others on the path."""
    made = Site(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    discovery.refresh()
    yield made
    for name in ("other_loop", "callboard_other_loop"):
        sys.modules.pop(name, None)
    discovery.refresh()


@pytest.fixture
def other_loop(site):
    """The foreign framework, its hooks adapted by an installed distribution."""
    site.install("callboard-other-loop", adapters=ADAPTED, modules=MODULES)
    discovery.refresh()
    import other_loop

    return other_loop


def make_learner(*cbs):
    batches = [(torch.zeros(2, 2), torch.zeros(2, 1))]
    return Learner(batches, nn.Linear(2, 1), nn.MSELoss(), cbs=[*cbs])


def test_an_instance_of_an_adapted_class_takes_part(other_loop):
    hook = other_loop.Hook()

    make_learner(hook).fit(2)

    assert hook.calls == ["epoch 0", "epoch 1"]


def test_a_class_derived_from_an_adapted_one_is_adapted(other_loop):
    hook = other_loop.LoudHook()

    make_learner(hook).fit(1)

    assert hook.calls == ["epoch 0"]


def test_an_adapted_class_itself_can_be_given(other_loop):
    learner = make_learner(other_loop.Hook)

    learner.fit(1)

    assert learner.hook.calls == ["epoch 0"]


def test_users_see_the_object_that_they_gave(other_loop):
    hook = other_loop.Hook()

    learner = make_learner(hook)

    assert list(learner.cbs) == [hook]
    assert learner.cbs["hook"] is hook
    assert learner.cbs[other_loop.Hook] == [hook]
    assert learner.hook is hook


@pytest.mark.parametrize("by", ["instance", "class", "key"])
def test_an_adapted_object_can_be_removed(other_loop, by):
    hook = other_loop.Hook()
    learner = make_learner(hook)

    learner.remove_cb({"instance": hook, "class": other_loop.Hook, "key": "hook"}[by])

    assert len(learner.cbs) == 0


def test_an_adapter_is_told_when_it_joins_a_learner_and_when_it_leaves(other_loop):
    hook = other_loop.Hook()

    learner = make_learner(hook)
    joined = hook.owner
    learner.remove_cb(hook)

    assert joined is learner
    assert hook.owner is None


def test_callbacks_of_one_fit_leave_when_it_ends(other_loop):
    hook = other_loop.Hook()

    make_learner().fit(1, cbs=hook)

    assert hook.calls == ["epoch 0"]
    assert hook.owner is None


def test_one_object_takes_part_once(other_loop):
    hook = other_loop.Hook()

    with pytest.raises(ActivationError, match="was added twice"):
        make_learner(hook, hook)


def test_looking_for_an_adapter_imports_nothing(site):
    site.install("callboard-other-loop", adapters=ADAPTED, modules=MODULES)
    discovery.refresh()

    assert adapter_for(int) is None
    assert "callboard_other_loop" not in sys.modules


def test_two_distributions_that_adapt_one_class_are_named(site, other_loop):
    site.install("rival-loop", adapters={"other_loop.Hook": "rival:adapted"})
    discovery.refresh()

    with pytest.raises(DoubledPluginError, match="rival-loop"):
        make_learner(other_loop.Hook())


def test_what_returns_no_adapter_is_named(site):
    wrong = {"other_loop.Hook": "callboard_other_loop:wrong"}
    site.install("callboard-other-loop", adapters=wrong, modules=MODULES)
    discovery.refresh()
    import other_loop

    with pytest.raises(ActivationError, match="returned Hook instead of an Adapter"):
        make_learner(other_loop.Hook())


def test_what_nobody_adapts_is_no_plugin(site):
    with pytest.raises(ActivationError, match="is no plugin"):
        make_learner(object())


def test_an_adapter_made_by_hand_takes_part_like_any_plugin():
    class Counter(Adapter):
        name = "counter"

        def after_batch(self):
            self.subject.append(self.learn.train_iter)

    counted = []
    learner = make_learner(Counter(counted))

    learner.fit(2)

    assert counted == [1, 2]
    assert learner.counter is counted
