"""Watchers that ask for results, and what they look at without touching it."""

from callboard import Callback, hookimpl
from callboard.testing import tiny_learner


class Results:
    """Notes what pieces of work give."""

    def __init__(self):
        self.found = []

    def begin(self, who, what):
        pass

    def made(self, who, what, result):
        self.found.append((who, what, result))

    def end(self, who, what):
        pass


class Doubles(Callback):
    @hookimpl(wrapper=True)
    def do_loss(self):
        loss = yield
        return loss * 2


class Predicts(Callback):
    def do_predict(self):
        return self.learn.model(*self.learn.xb)


def results_of(*cbs):
    results = Results()
    learner = tiny_learner(cbs=[*cbs], valid=False)
    with learner.watched_by(results):
        learner.fit(1)
    return results.found


def test_results_are_told_of_by_who_gives_them_the_wrapper_last():
    found = results_of(Doubles())

    losses = [(who, result) for who, what, result in found if what == "do_loss"]
    assert [who for who, _ in losses[:2]] == ["the loop", "doubles"]
    assert losses[1][1].item() == 2 * losses[0][1].item()


def test_who_does_the_work_in_place_of_the_loop_gives_the_result():
    found = results_of(Predicts())

    assert {who for who, what, _ in found if what == "do_predict"} == {"predicts"}


def test_a_batch_is_the_result_of_the_waiting_for_it():
    found = results_of()

    batches = [result for _, what, result in found if what == "next batch"]
    assert len([batch for batch in batches if batch is not None]) == 3


def test_the_loss_of_backward_is_seen_without_becoming_a_tensor_of_its_own():
    seen = []

    class Looks(Callback):
        role = "observe"

        def before_backward(self):
            seen.append(self.learn.backward_loss is self.learn.loss)

        def after_backward(self):
            self.learn.loss_grad  # noqa: B018, reading it is what makes it
            seen.append(self.learn.backward_loss is self.learn.loss)

    tiny_learner(cbs=Looks()).fit(1)

    assert seen[:2] == [True, False]


def test_wrappers_of_do_fit_inside_of_the_one_that_lets_watch_are_told_of():
    told = []

    class Names:
        def begin(self, who, what):
            told.append((who, what))

        def end(self, who, what):
            pass

    class Opens(Callback):
        @hookimpl(wrapper=True)
        def do_fit(self):
            with self.learn.watched_by(Names()):
                return (yield)

    class Within(Callback):
        @hookimpl(wrapper=True)
        def do_fit(self):
            return (yield)

    tiny_learner(cbs=[Opens(), Within()]).fit(1)

    assert ("within", "do_fit") in told
