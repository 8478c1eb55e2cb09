"""Watchers are told of every piece of work, within what it lies, and that it ended."""

import pytest

from callboard import Callback, CancelBatchException, hookimpl
from callboard.errors import ObserverWarning
from callboard.testing import tiny_learner


class Diary:
    """Notes every piece of work, and checks that the pieces lie within one another."""

    def __init__(self):
        self.open = []
        self.begun = []

    def begin(self, who, what):
        self.open.append((who, what))
        self.begun.append((who, what))

    def end(self, who, what):
        assert self.open.pop() == (who, what)


class Changer(Callback):
    def before_batch(self):
        pass

    def do_step(self):
        return None


class Around(Callback):
    def __init__(self, diary):
        self.diary = diary
        self.open_inside = []

    @hookimpl(wrapper=True)
    def do_predict(self):
        made = yield
        self.open_inside = list(self.diary.open)
        return made


class Looker(Callback):
    role = "observe"

    def after_pred(self):
        raise ValueError("a look too close")

    def do_loss(self):
        return None


def watched_fit(*cbs, diary=None):
    diary = Diary() if diary is None else diary
    learner = tiny_learner(cbs=[*cbs])
    with learner.watched_by(diary):
        learner.fit(1)
    assert diary.open == []
    return diary


def test_the_loops_own_work_and_the_waiting_for_data_are_told_of():
    diary = watched_fit()

    told = {what for who, what in diary.begun if who == "the loop"}
    assert told == {
        *("do_epoch", "do_train", "do_validate", "do_batch", "next batch"),
        *("do_predict", "do_loss", "do_backward", "do_step", "do_zero_grad"),
    }


def test_every_hookimpl_is_told_of_by_the_key_of_its_plugin():
    diary = watched_fit(Changer(), Changer())

    num_batches = diary.begun.count(("the loop", "do_batch"))
    assert diary.begun.count(("changer", "before_batch")) == num_batches == 5
    assert diary.begun.count(("changer-2", "do_step")) == 3


def test_a_wrapper_is_told_of_before_and_behind_its_yield():
    diary = Diary()
    around = Around(diary)
    watched_fit(around, diary=diary)

    assert diary.begun.count(("around", "do_predict")) == 2 * 5
    spans = [("the loop", span) for span in ("do_epoch", "do_validate", "do_batch")]
    assert around.open_inside == [*spans, ("around", "do_predict")]


def test_an_observer_that_fails_is_reported_and_its_piece_has_ended():
    with pytest.warns(ObserverWarning) as warned:
        diary = watched_fit(Looker())

    assert "a look too close" in str(warned[0].message)
    assert diary.begun.count(("looker", "after_pred")) == 1


def test_a_cancel_ends_the_pieces_that_it_leaves():
    class Cancels(Callback):
        def after_loss(self):
            raise CancelBatchException("enough")

    diary = watched_fit(Cancels())

    assert ("the loop", "do_backward") not in diary.begun


def test_a_wrapper_still_sees_the_error_that_passes_through_it():
    class Fails(Callback):
        def do_predict(self):
            raise KeyError("gone")

    class Mends(Callback):
        @hookimpl(wrapper=True)
        def do_predict(self):
            try:
                return (yield)
            except KeyError:
                return self.learn.model(*self.learn.xb)

    watched_fit(Mends(), Fails())


def test_what_is_watched_learns_the_same_and_nothing_is_left_of_the_watchers():
    plain, watched = tiny_learner(), tiny_learner()
    plain.fit(1)
    with watched.watched_by(Diary()), watched.watched_by(Diary()):
        watched.fit(1)
        assert watched.plan.do_step is None

    for one, other in zip(
        plain.model.parameters(), watched.model.parameters(), strict=True
    ):
        assert one.equal(other)
    diary = Diary()
    with watched.watched_by(diary):
        pass
    watched.fit(1)
    assert diary.begun == []


def test_watching_may_begin_and_end_within_a_fit_and_sees_who_joins():
    diary = Diary()

    class Begins(Callback):
        @hookimpl(wrapper=True)
        def do_fit(self):
            with self.learn.watched_by(diary):
                return (yield)

        def before_train(self):
            self.learn.add_cb(Changer())

    tiny_learner(cbs=Begins()).fit(1)

    assert ("begins", "before_train") in diary.begun
    assert diary.begun.count(("changer", "do_step")) == 3
