"""Callbacks written for fastai live in the loop and the order of all other plugins."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import warnings
import weakref

import pytest
import torch
from torch import nn

import callboard
from callboard import Learner
from callboard.errors import ActivationError, MisplacedCancelError
from callboard_early_stopping import EarlyStoppingCallback
from callboard_fastai.adapter import FastaiAdapter
from callboard_fastai.callback.core import (
    Callback,
    CancelFitException,
    CancelTrainException,
)
from callboard_fastai.learner import Recorder
from callboard_fastai.orders import ORDERS, neighbours
from callboard_progress import ProgressCallback
from callboard_recorder import Recorder as NativeRecorder
from callboard_save_model import SaveModelCallback


class Events(Callback):
    """Writes down every event."""

    def __init__(self):
        self.seen = []

    def __call__(self, event_name):
        self.seen.append(event_name)
        return super().__call__(event_name)


class Counts(Callback):
    """Counts batches; can be pickled."""

    num_batches = 0

    def after_batch(self):
        self.num_batches += 1


class NativeOnly(callboard.Callback):
    """A plugin of Callboard's own kind, which writes down when it runs."""

    def __init__(self, log):
        self.log = log

    def after_epoch(self):
        self.log.append("native")


def with_order(number, log=None):
    class Ordered(Callback):
        order = number

        def after_epoch(self):
            if log is not None:
                log.append(number)

    return Ordered()


# ---- the order ----------------------------------------------------------------


def test_order_alone_decides_among_fastais(fit):
    log = []

    fit(with_order(70, log), with_order(-20, log), with_order(0, log))

    assert log == [-20, 0, 70]


@pytest.mark.parametrize("order", [0, 49, 51, 60, 61.5, 62, 64])
def test_a_callback_stands_where_its_order_puts_it_among_plugins(order, fit):
    callback = with_order(order)
    plugins = [NativeRecorder(), SaveModelCallback(), EarlyStoppingCallback()]

    keys = fit(*plugins, callback).cbs.keys()

    place = keys.index("ordered")
    for name in ("recorder", "save-model", "early-stopping"):
        assert (keys.index(name) < place) == (ORDERS[name] < order)


def test_what_it_runs_after_and_before_are_told_apart_by_number():
    after, before = neighbours(60)

    assert "recorder" in after
    assert "early-stopping" in before
    assert "progress" not in (*after, *before)


def test_a_name_that_a_plugin_has_too_moves_nobody(fit):
    log = []

    class Saver(Callback):
        name = "save_model"

        def after_epoch(self):
            log.append("saver")

    learner = fit(with_order(51, log), Saver())

    assert log == ["saver", 51]
    assert learner.fastai.save_model is learner.cbs[Saver][0]


def test_declarations_that_fastai_does_not_read_draw_a_warning():
    with pytest.warns(UserWarning, match="declares run_after, which fastai does not"):

        class Late(Callback):
            run_after = Recorder

    assert Late.order == 0


def test_such_declarations_draw_a_warning_where_the_callback_is_given(fit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        class Early(Callback):
            run_before = Recorder
            toward_end = True

    with pytest.warns(UserWarning, match="run_before, toward_end"):
        fit(Early())


def test_such_declarations_change_nothing(fit):
    log = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        late = with_order(0, log)
        type(late).run_after = Recorder

        fit(late, with_order(10, log))

    assert log == [0, 10]


# ---- in the loop of everybody -------------------------------------------------


def test_both_kinds_share_one_loop(fit):
    log = []

    learner = fit(NativeOnly(log), with_order(0, log))

    assert sorted(map(str, log)) == ["0", "native"]
    assert {"native-only", "ordered"} <= set(learner.cbs.keys())


def test_an_event_that_is_not_implemented_costs_nothing(fit, capsys):
    learner = fit(Counts(), num_epochs=0)

    learner.show_training_loop()

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "after_batch: counts > fastai-recorder" in lines
    assert [line for line in lines if line.startswith("before_step")] == []


def test_a_native_plugin_sees_what_a_callback_changes(fit):
    class Double(Callback):
        def before_batch(self):
            self.learn.xb = (self.x * 2,)

    class Sums(callboard.Callback):
        run_after = "double"

        def before_batch(self):
            self.sums = [*vars(self).get("sums", []), float(self.learn.x.sum())]

    plain, doubled = Sums(), Sums()
    fit(plain)
    fit(Double(), doubled)

    assert doubled.sums == pytest.approx([2 * total for total in plain.sums])


def test_a_cancel_is_blamed_on_the_callback(fit):
    class Ends(Callback):
        def after_batch(self):
            raise CancelFitException("enough")

    [why] = fit(Ends()).record.reasons

    assert (why.what, why.reason, why.plugin) == ("fit", "enough", "ends")


def test_a_cancel_at_the_wrong_level_is_an_error(fit):
    class Lost(Callback):
        def after_validate(self):
            raise CancelTrainException

    with pytest.raises(MisplacedCancelError, match="CancelTrainException"):
        fit(Lost())


def test_an_error_keeps_its_type_and_says_where_it_was_raised(fit):
    class Fails(Callback):
        def after_step(self):
            raise KeyError("lamp")

    with pytest.raises(KeyError) as raised:
        fit(Fails())

    [note] = raised.value.__notes__
    assert "plugin fails" in note
    assert "after_step" in note


def test_the_state_of_a_callback_travels_with_the_learner(fit):
    class Remembers(Callback):
        kept = 0

        def state_dict(self):
            return {"kept": self.kept}

        def load_state_dict(self, state):
            self.kept = state["kept"]

    first, second = Remembers(), Remembers()
    first.kept = 7
    learner, other = fit(first), fit(second)

    other.load_state_dict(learner.state_dict())

    assert second.kept == 7


# ---- coming and going ---------------------------------------------------------


def test_a_callback_has_its_learner_from_the_start_and_none_after_removal(fit):
    callback = Events()
    learner = fit(callback, num_epochs=0)
    had = callback.learn

    learner.remove_cb(callback)

    assert had is learner.fastai
    assert callback.learn is None


def test_after_create_is_for_those_the_learner_is_made_with(fit):
    made_with, added, scoped = Events(), Events(), Events()
    learner = fit(made_with, num_epochs=0)

    learner.add_cb(added)
    learner.fit(1, cbs=scoped)

    assert made_with.seen[0] == "after_create"
    assert added.seen[0] == scoped.seen[0] == "before_fit"


def test_a_callback_of_one_fit_leaves_nothing_behind(fit):
    callback = Events()
    learner = fit(num_epochs=0)

    learner.fit(1, cbs=callback)

    assert callback.seen[-1] == "after_fit"
    assert callback.learn is None
    assert len(learner.cbs) == 0


def test_two_of_one_class_both_take_part(fit):
    one, other = Counts(), Counts()

    learner = fit(one, other)

    assert one.num_batches == other.num_batches == 4
    assert {"counts", "counts-2"} <= set(learner.cbs.keys())


def test_one_callback_takes_part_once(fit):
    callback = Counts()

    with pytest.raises(ActivationError, match="was added twice"):
        fit(callback, callback)


def test_a_class_can_be_given(fit):
    learner = fit(Counts)

    assert learner.counts.num_batches == 4


def test_a_callback_may_add_another_in_the_middle_of_a_fit(fit):
    late = Events()

    class Adds(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                self.learn.add_cb(late)

    fit(Adds(), num_epochs=2)

    assert late.seen[0] == "before_train"
    assert late.seen[-1] == "after_fit"


def test_a_callback_may_remove_a_class_when_the_fit_is_over(fit):
    class Cleans(Callback):
        order = 90

        def after_fit(self):
            self.remove_cb(Counts)

    learner = fit(Counts(), Cleans())

    assert "counts" not in learner.cbs


def test_run_is_true_again_after_a_fit(fit):
    class Once(Callback):
        run = False

    learner = fit(Once(), num_epochs=0)
    once = learner.once

    learner.fit(1)

    assert once.run is True


def test_a_copy_of_a_learner_has_callbacks_of_its_own(fit):
    learner = fit(Counts())

    twin = copy.deepcopy(learner)
    twin.fit(1)

    assert twin.counts.learn.callboard is twin
    assert (learner.counts.num_batches, twin.counts.num_batches) == (4, 8)


def test_a_learner_can_be_pickled_with_callbacks():
    batches = [(torch.zeros(2, 2), torch.zeros(2, 1))]
    learner = Learner(batches, nn.Linear(2, 1), nn.MSELoss(), cbs=[Adds2()])

    twin = pickle.loads(pickle.dumps(learner))
    twin.fit(1)

    assert twin.adds2.total == 1


class Adds2(Callback):
    """At the top of a module, so that it can be pickled."""

    total = 0

    def after_batch(self):
        self.total += 1


def test_a_learner_is_freed_when_nobody_holds_it(fit):
    gc.collect()
    gc.disable()
    try:
        learner = fit(Counts())
        alive = weakref.ref(learner)

        del learner

        assert alive() is None
    finally:
        gc.enable()


# ---- evaluations --------------------------------------------------------------

EVALUATION = ["before_fit", "before_epoch", "before_validate", "before_batch"]
EVALUATION += ["after_pred", "after_loss", "after_batch", "after_validate"]
EVALUATION += ["after_epoch", "after_fit"]


def test_a_validation_fires_what_it_fires_in_fastai(fit):
    callback = Events()
    learner = fit(callback)
    callback.seen.clear()

    learner.validate()

    assert callback.seen == EVALUATION


def test_predictions_are_known_by_gather_preds(fit):
    class Looks(Callback):
        def __init__(self):
            self.seen = []

        def before_fit(self):
            self.seen.append(hasattr(self, "gather_preds"))

    learner = fit(Looks())

    learner.get_preds()

    assert learner.looks.seen == [False, True]


def test_a_validation_inside_a_fit_is_a_validation_alone(fit):
    class Validates(callboard.Callback):
        def before_train(self):
            self.learn.validate()

    callback = Events()

    fit(callback, Validates())

    place = callback.seen.index("before_validate")
    assert callback.seen[place - 1] in ("before_epoch", "before_train")
    assert callback.seen[place : place + 6] == EVALUATION[2:8]
    assert callback.seen.count("before_fit") == 1


def test_a_validation_leaves_the_record_of_the_fit(fit):
    learner = fit(Counts(), num_epochs=2)
    before = [list(row) for row in learner.fastai.recorder.values]

    learner.validate()

    assert [list(row) for row in learner.fastai.recorder.values] == before


# ---- an installed fastai ------------------------------------------------------

FASTAI = """
class CancelFitException(Exception): pass
class CancelBatchException(Exception): pass

class Callback:
    order, learn, run = 0, None, True

    def __call__(self, name):
        method = getattr(self, name, None)
        return method() if method and self.run else None

    def __getattr__(self, name):
        if name == "learn" or self.learn is None:
            raise AttributeError(name)
        return getattr(self.learn, name)

    @property
    def name(self):
        return type(self).__name__.lower()
"""


@pytest.fixture
def installed_fastai(tmp_path, monkeypatch):
    """A stand-in for an installed fastai: its Callback, where fastai has it."""
    package = tmp_path / "site" / "fastai" / "callback"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "core.py").write_text(FASTAI)
    monkeypatch.syspath_prepend(tmp_path / "site")
    kept = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "fastai"}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    import fastai.callback.core as core

    yield core
    for name in [n for n in sys.modules if n.partition(".")[0] == "fastai"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_a_callback_of_an_installed_fastai_takes_part_as_it_is(installed_fastai, fit):
    class Foreign(installed_fastai.Callback):
        total = 0

        def after_batch(self):
            self.total += len(self.x)
            self.learn.seen = self.epoch

    learner = fit(Foreign(), num_epochs=2)

    assert learner.foreign.total == 32  # twelve items and four, twice
    assert learner.fastai.seen == 1


def test_its_cancels_are_understood(installed_fastai, fit):
    class Foreign(installed_fastai.Callback):
        def after_batch(self):
            raise installed_fastai.CancelFitException("enough")

    learner = fit(Foreign(), num_epochs=3)

    assert learner.epoch == 0
    assert learner.record.reasons[0].reason == "enough"


def test_its_dead_declarations_draw_a_warning(installed_fastai, fit):
    class Foreign(installed_fastai.Callback):
        run_after = object

    with pytest.warns(UserWarning, match="Foreign declares run_after"):
        fit(Foreign())


def test_it_is_adapted_by_this_package(installed_fastai, fit):
    class Foreign(installed_fastai.Callback):
        pass

    members = fit(Foreign()).cbs.members

    assert any(isinstance(member.plugin, FastaiAdapter) for member in members)


def test_a_progress_plugin_has_bars_that_callbacks_can_talk_to(fit, capsys):
    class Talks(Callback):
        def after_epoch(self):
            self.progress.mbar.write("hello")
            self.progress.mbar.update_graph([([0], [1])])

    fit(Talks(), ProgressCallback(mode="plain"))

    assert "hello" in capsys.readouterr().out
