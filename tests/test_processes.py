"""Where a Learner runs: in one process, or in one of several that train together."""

import copy

import pytest
import torch
from tests.runs import Trace, a_learner, at, callback_of, weights
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard.errors import ActivationError, NonFiniteError, ObserverWarning
from callboard.processes import Processes, is_first_to_fail


class TheSecondOfTwo(Processes):
    """What the second of two processes knows; the first is not there."""

    def __init__(self, owner=None, part=0):
        super().__init__(rank=1, world_size=2)
        self.owner = owner
        self.part = part


class Seen(Callback):
    """Notes the batches it sees."""

    def __init__(self):
        self.batches = []

    def before_batch(self):
        if self.learn.training:
            self.batches.append(self.learn.x.flatten().tolist())


def shuffled(**options):
    data = TensorDataset(torch.arange(12.0).reshape(12, 1), torch.zeros(12, 1))
    return DataLoader(data, 4, shuffle=True, **options)


class AShuffledStream:
    """Batches whose order nobody can see from outside."""

    def __iter__(self):
        for _ in range(3):
            yield torch.rand(2, 3), torch.zeros(2, 1)


def test_one_process_is_the_main_one_and_the_only_one():
    learner = a_learner()

    assert learner.is_main
    assert (learner.rank, learner.world_size) == (0, 1)


def test_one_process_gets_back_what_it_gave():
    alone = Processes()

    assert alone.sum([1.0, 2]) == [1.0, 2]
    assert alone.gather("a") == ["a"]
    assert alone.from_main("b") == "b"
    assert alone.signal is None


def test_the_sizes_of_a_batch_are_its_own_where_there_is_one_process():
    sizes = []
    learner = a_learner(
        num_train=2,
        num_valid=0,
        cbs=at("after_batch", lambda lrn: sizes.append(lrn.processes.sizes(lrn))),
    )

    learner.fit(1)

    assert sizes == [(2, 2), (2, 2)]


def test_a_process_that_torchrun_started_knows_its_rank_before_they_are_together(
    monkeypatch,
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    learner = a_learner()

    assert not learner.is_main
    assert (learner.rank, learner.world_size) == (1, 1)


@pytest.mark.parametrize("world_size", ["1", ""])
def test_a_rank_of_one_process_means_nothing(monkeypatch, world_size):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", world_size)

    assert a_learner().is_main


@pytest.mark.parametrize(
    ("role", "declared", "num_fits"),
    [
        ("observe", None, 0),
        ("observe", "all", 1),
        ("control", None, 1),
        ("control", "main", 0),
        ("modify", None, 1),
    ],
)
def test_an_observer_runs_on_main_and_the_others_on_all_unless_they_declare(
    role, declared, num_fits
):
    seen = []
    functions = {"before_fit": lambda self: seen.append("before_fit")}
    plugin = callback_of("Noting", functions, role=role, ranks=declared)()
    learner = a_learner(cbs=plugin)
    learner.processes = TheSecondOfTwo()

    learner.fit(1)

    assert len(seen) == num_fits


def test_everything_runs_on_main():
    trace = Trace()
    learner = a_learner(cbs=trace)
    learner.processes = Processes(rank=0, world_size=2)

    learner.fit(1)

    assert "after_fit" in trace.seen


def test_ranks_must_be_main_or_all():
    with pytest.raises(ActivationError, match='ranks must be "main" or "all"'):
        callback_of("Lost", {}, ranks="first")


def test_what_changes_training_may_not_run_in_one_process_alone():
    with pytest.raises(ActivationError, match="they would drift apart"):
        callback_of("Lopsided", {}, role="modify", ranks="main")


def test_the_processes_part_when_the_plugin_that_brought_them_together_leaves():
    owner = callback_of("Together", {})()
    learner = a_learner(cbs=owner)
    learner.processes = TheSecondOfTwo(owner)

    learner.remove_cb(owner)

    assert learner.world_size == 1


def test_a_copy_of_a_learner_is_alone():
    learner = a_learner()
    learner.processes = TheSecondOfTwo()

    assert copy.deepcopy(learner).world_size == 1


def test_parts_of_a_batch_draw_apart_and_the_first_draws_as_if_alone():
    drawn = {}
    for name, part in (("alone", None), ("first", 0), ("second", 1)):
        numbers = drawn[name] = []
        note = at("before_batch", lambda _, to=numbers: to.append(torch.rand(1).item()))
        learner = a_learner(num_valid=0, cbs=note)
        if part is not None:
            learner.processes = TheSecondOfTwo(part=part)
        learner.fit(1)

    assert drawn["first"] == drawn["alone"]
    assert set(drawn["second"]).isdisjoint(drawn["alone"])


@pytest.mark.parametrize(
    "data",
    [shuffled, lambda: shuffled(num_workers=1), AShuffledStream],
    ids=["a loader", "a loader with a worker", "a stream"],
)
def test_all_parts_come_in_one_order(data):
    orders = []
    for part in (0, 1):
        seen = Seen()
        learner = a_learner_on(data(), seen)
        learner.processes = TheSecondOfTwo(part=part)
        learner.fit(1)
        orders.append(seen.batches)

    assert len(orders[0]) == 3
    assert orders[0] == orders[1]


def a_learner_on(data, cbs):
    width = 3 if isinstance(data, AShuffledStream) else 1
    model = torch.nn.Linear(width, 1)
    return Learner(data, model, torch.nn.MSELoss(), seed=1, cbs=cbs)


def test_a_stop_is_asked_of_all_processes():
    asked = []

    class Asking(TheSecondOfTwo):
        def stop(self, learner, reason):
            asked.append(reason)

    learner = a_learner(cbs=at("after_epoch", lambda lrn: lrn.stop("enough")))
    learner.processes = Asking()

    learner.fit(2)

    assert asked == ["enough", "enough"]  # nobody has answered


def test_a_loss_that_is_no_number_in_another_process_ends_this_one_too():
    class OtherIsLost(TheSecondOfTwo):
        def sum(self, numbers):
            return [number + float("nan") for number in numbers]

    learner = a_learner()
    learner.processes = OtherIsLost()

    with pytest.raises(NonFiniteError):
        learner.fit(1)


def test_the_loss_of_a_validation_is_the_mean_over_all_processes():
    class OtherHasTwoSamplesOfLossFour(TheSecondOfTwo):
        def sum(self, numbers):
            total, num_samples = numbers
            return [total + 2 * 4.0, num_samples + 2]

    learner = a_learner()
    own = learner.validate()["valid_loss"]
    learner.processes = OtherHasTwoSamplesOfLossFour()

    assert learner.validate()["valid_loss"] == pytest.approx((own * 2 + 8) / 4)


def failing(ranks):
    def fail(self):
        raise ValueError("no space")

    return callback_of("Failing", {"after_loss": fail}, role="observe", ranks=ranks)()


def test_an_observer_of_all_processes_that_fails_in_one_ends_the_fit():
    learner = a_learner(cbs=failing("all"))
    learner.processes = TheSecondOfTwo()

    with pytest.raises(ValueError, match="no space"):
        learner.fit(1)


def test_an_observer_of_main_that_fails_is_switched_off_in_several_processes_too():
    learner = a_learner(cbs=failing("main"))
    learner.processes = Processes(rank=0, world_size=2)
    before = weights(learner)

    with pytest.warns(ObserverWarning, match="switched off"):
        learner.fit(1)

    assert not torch.equal(weights(learner), before)


def test_state_is_asked_of_and_given_to_the_processes():
    class Elsewhere(TheSecondOfTwo):
        def model_state(self, learner, *, whole=True):
            return {"from": "elsewhere", "whole": whole}

        def load_model_state(self, learner, state):
            self.taken = state

    learner = a_learner()
    learner.processes = elsewhere = Elsewhere()

    state = learner.state_dict()
    learner.load_state_dict(state)
    in_shares = learner.state_dict(whole=False)

    assert state["model"] == {"from": "elsewhere", "whole": True}
    assert in_shares["model"] == {"from": "elsewhere", "whole": False}
    assert elsewhere.taken == state["model"]


def test_one_process_tells_of_its_errors():
    assert is_first_to_fail()


@pytest.mark.parametrize(("rank", "tells"), [("0", True), ("1", False)])
def test_where_nobody_keeps_a_store_the_main_process_tells(monkeypatch, rank, tells):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("MASTER_ADDR", raising=False)

    assert is_first_to_fail() is tells
