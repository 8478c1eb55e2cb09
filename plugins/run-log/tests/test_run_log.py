"""The numbers of a run arrive complete, in order, under their step, and late enough."""

from __future__ import annotations

import copy
import logging
import math
import random

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, CancelFitException, DataLoaders, Learner
from callboard.errors import ActivationError, OptionError
from callboard_run_log import (
    RunLogCallback,
    RunLogger,
    as_picture,
    as_text,
    model_file,
    require_client,
    settings_of,
)

INPUTS = torch.linspace(-1, 1, 64).reshape(32, 2)
LABELS = (INPUTS.sum(1) > 0).long()
NUM_BATCHES = 8


class Tracker(RunLogger):
    """Keeps what a tracker would write."""

    name = "tracker-of-test"

    def __init__(self, *, fails_in="", **options):
        super().__init__(**options)
        self.fails_in = fails_in
        self.steps, self.epochs, self.samples, self.said = [], [], [], []
        self.deliveries = []

    def open_run(self):
        self._say("open")
        self.run_id = self.run_id or "run-1"

    def log_steps(self, steps):
        self._say("steps")
        self.deliveries.append(len(steps))
        self.steps += steps

    def log_results(self, results):
        self._say("results")
        self.epochs.append((self.last_step, self.learn.epoch, results))

    def log_samples(self, samples):
        self.samples.append(samples)

    def close_run(self, outcome):
        self._say(f"close {outcome}")

    def _say(self, what):
        self.said.append(what)
        if what == self.fails_in:
            raise ConnectionError("the server is gone")


class Measurements(Callback):
    """Publishes a result, as the recorder does."""

    name = "recorder"
    role = "observe"

    def after_validate(self):
        self.learn.results |= {"accuracy": 0.5, "train_loss": 0.7, "note": "slow"}


def learner(*cbs, shuffle=False, num_batches=NUM_BATCHES, **options):
    torch.manual_seed(0)
    train = TensorDataset(INPUTS[: 4 * num_batches], LABELS[: 4 * num_batches])
    loaders = DataLoaders(
        DataLoader(train, batch_size=4, shuffle=shuffle),
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8),
    )
    return Learner(
        loaders,
        nn.Linear(2, 2),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        0.1,
        cbs=list(cbs),
        seed=3,
        **options,
    )


def losses_without(num_epochs):
    """The losses of a fit that nobody logs."""
    seen = []

    class See(Callback):
        role = "observe"

        def after_batch(self):
            if self.learn.training:
                seen.append(self.learn.loss.item())

    learner(See()).fit(num_epochs)
    return seen


def test_every_step_arrives_once_with_its_number_and_loss():
    tracker = Tracker()

    learner(tracker).fit(2)

    assert [step.number for step in tracker.steps] == list(range(1, 17))
    losses = [step.loss for step in tracker.steps]
    assert losses == pytest.approx(losses_without(2), rel=1e-6)


def test_losses_are_read_fifty_at_a_time_and_at_the_end_of_an_epoch():
    tracker = Tracker()
    many = [(INPUTS[:4], LABELS[:4])] * 120
    learn = learner(tracker)
    learn.dls = many

    learn.fit(1)

    assert tracker.deliveries == [50, 50, 20]


def test_no_loss_is_read_while_steps_are_noted(monkeypatch):
    tracker = Tracker()
    learn = learner(tracker)
    reads = []
    for name in ("item", "tolist"):
        plain = getattr(torch.Tensor, name)

        def counted(tensor, *, plain=plain):
            reads.append(learn.train_iter)
            return plain(tensor)

        monkeypatch.setattr(torch.Tensor, name, counted)
    learn.dls = [(INPUTS[:4], LABELS[:4])] * 60

    learn.fit(1)

    assert sorted(set(reads)) == [50, 60]


def test_smooth_loss_is_the_average_without_its_start_at_zero():
    tracker = Tracker()

    learner(tracker).fit(1)

    first, second = tracker.steps[:2]
    assert first.smooth_loss == pytest.approx(first.loss)
    # (0.98 * 0.02 * first + 0.02 * second) / (1 - 0.98**2)
    mean = (0.98 * first.loss + second.loss) / 1.98
    assert second.smooth_loss == pytest.approx(mean)


def test_hyper_parameters_of_every_group_go_with_the_step():
    class Halve(Callback):
        role = "control"

        def before_batch(self):
            if self.learn.training:
                for group in self.learn.opt.param_groups:
                    group["lr"] /= 2

    tracker = Tracker()
    learn = learner(Halve(), tracker)
    learn.splitter = lambda model: [[model.weight], [model.bias]]

    learn.fit(1, lr=slice(0.1, 0.4))

    # SGD counts no beta, so mom is its momentum, which is 0.
    assert tracker.steps[1].hypers == pytest.approx(
        {"lr_0": 0.025, "lr_1": 0.1, "mom_0": 0, "mom_1": 0}
    )


def test_learning_rate_kept_on_the_device_is_read_with_the_losses():
    tracker = Tracker(hyper_names=["lr"])
    learn = learner(tracker)
    rate = torch.tensor(0.25)
    learn.create_opt()
    learn.opt.param_groups[0]["lr"] = rate

    learn.fit(1, lr=0.25)

    assert tracker.steps[0].hypers == {"lr_0": 0.25}


def test_log_every_keeps_the_first_step_and_every_nth():
    tracker = Tracker(log_every=5)

    learner(tracker).fit(2)

    assert [step.number for step in tracker.steps] == [1, 5, 10, 15]


def test_results_arrive_after_the_steps_of_their_epoch_without_what_is_no_number():
    tracker = Tracker()

    learner(tracker, Measurements()).fit(2)

    results = {"accuracy": 0.5, "train_loss": 0.7}
    assert tracker.epochs == [(8, 0, results), (16, 1, results)]
    assert tracker.said == ["open", *["steps", "results"] * 2, "close finished"]


def test_second_fit_goes_on_in_the_same_run():
    tracker = Tracker()
    learn = learner(tracker, Measurements())

    learn.fit(1)
    learn.fit(1)

    assert [step.number for step in tracker.steps] == list(range(1, 17))
    assert [last for last, *_ in tracker.epochs] == [8, 16]


def test_fit_from_a_later_epoch_goes_on_counting():
    tracker = Tracker()
    learn = learner(tracker)

    learn.fit(1)
    learn.fit(2, start_epoch=1)

    assert [step.number for step in tracker.steps] == list(range(1, 17))


class KilledError(Exception):
    """Stands for what ends a process."""


class KeepState(Callback):
    """Keeps the state at one step and ends the fit at a later one."""

    def __init__(self, step=0, death=0):
        self._step, self._death, self.state = step, death, None

    def checkpoint(self):
        if self.learn.train_iter == self._step and self.state is None:
            self.state = copy.deepcopy(self.learn.state_dict())
        if self.learn.train_iter == self._death:
            raise KilledError


@pytest.mark.parametrize("step", [3, 8, 11])
def test_resumed_run_goes_on_with_the_steps_that_were_not_handed_on(step):
    keep = KeepState(step, death=13)
    with pytest.raises(KilledError):
        learner(keep, Tracker(), shuffle=True).fit(2)
    through = Tracker()
    learner(KeepState(), through, shuffle=True).fit(2)
    tracker = Tracker()

    learner(KeepState(), tracker, shuffle=True).fit(2, resume=keep.state)

    first = 8 * ((step - 1) // 8)  # steps of an epoch that is over were handed on
    assert tracker.steps == through.steps[first:]
    assert tracker.run_id == "run-1"


def test_saving_the_state_hands_nothing_on_and_loses_nothing():
    keep, tracker = KeepState(3), Tracker()

    learner(keep, tracker).fit(1)

    assert [step.number for step in tracker.steps] == list(range(1, 9))
    assert len(keep.state["plugins"]["tracker-of-test"]["steps"]["unsent"]) == 3


@pytest.mark.parametrize("event", ["open", "steps", "results"])
@pytest.mark.filterwarnings("ignore::callboard.errors.ObserverWarning")
def test_tracker_whose_server_is_gone_is_switched_off_and_training_goes_on(event):
    tracker = Tracker(fails_in=event)
    learn = learner(tracker, Measurements())
    plain = learner()
    plain.fit(3)

    learn.fit(3)

    assert tracker.said.count(event) == 1
    assert tracker.said[-1] == "close unreachable"
    assert len(learn.record.failures) == 1
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_error_of_the_run_closes_it_as_failed_with_the_steps_up_to_it():
    tracker = Tracker()

    with pytest.raises(KilledError):
        learner(tracker, KeepState(death=3)).fit(1)

    assert [step.number for step in tracker.steps] == [1, 2, 3]
    assert tracker.said[-1] == "close failed"


def test_cancelled_fit_hands_on_what_there_is():
    class End(Callback):
        role = "control"

        def after_epoch(self):
            raise CancelFitException

    tracker = Tracker()
    end = End()
    end.run_before = "tracker-of-test"

    learner(end, tracker, Measurements()).fit(2)

    assert len(tracker.steps) == 8
    assert len(tracker.epochs) == 1


def test_tracker_that_draws_random_numbers_moves_no_draw_of_the_run():
    class Drawing(Tracker):
        def _say(self, what):
            super()._say(what)
            torch.rand(1), random.random()

    learn, plain = learner(Drawing(), shuffle=True), learner(shuffle=True)
    states = []

    for each in (learn, plain):
        torch.manual_seed(5)
        random.seed(5)
        each.fit(2)
        states.append((torch.get_rng_state().tolist(), random.getstate()))

    assert states[0] == states[1]


def test_logged_run_is_bit_for_bit_the_run_that_nobody_logs():
    learn, plain = learner(Tracker(num_samples=4)), learner()

    learn.fit(2)
    plain.fit(2)

    assert torch.equal(learn.model.weight, plain.model.weight)


def test_nested_validation_and_other_processes_write_nothing(monkeypatch):
    tracker = Tracker(num_samples=2)
    learn = learner(tracker)

    learn.validate()
    monkeypatch.setenv("RANK", "1")
    learn.fit(1)

    assert tracker.said == []


def test_samples_are_the_first_of_the_validation_with_decisions():
    tracker = Tracker(num_samples=10)
    learn = learner(tracker)

    learn.fit(2, lr=0.0)

    assert [len(samples) for samples in tracker.samples] == [10, 10]
    decided = learn.model(INPUTS[:10]).argmax(1)
    for sample, x, y, decision in zip(
        tracker.samples[0], INPUTS, LABELS, decided, strict=False
    ):
        assert torch.equal(sample.input, x)
        assert (sample.target, sample.prediction) == (int(y), int(decision))


def test_samples_may_be_drawn_by_a_seed_and_shown_at_the_end_only():
    tracker = Tracker(num_samples=5, sample_seed=1, samples_each_epoch=False)

    learner(tracker).fit(2)

    (samples,) = tracker.samples
    inputs = INPUTS.tolist()
    places = [inputs.index(sample.input.tolist()) for sample in samples]
    assert len(set(places)) == 5
    assert places == sorted(places)
    assert places != list(range(5))


def test_samples_are_named_where_the_data_has_names():
    tracker = Tracker(num_samples=1)
    learn = learner(tracker)
    learn.dls.valid.dataset.classes = ["low", "high"]

    learn.fit(1)

    assert tracker.samples[0][0].target == "low"
    assert tracker.samples[0][0].prediction in ("low", "high")


def test_settings_name_model_data_optimizer_and_options_of_plugins():
    class Look(Callback):
        role = "observe"

        def before_fit(self):
            found.update(settings_of(self.learn))

    found = {}

    learner(Look(), RunLogCallback(log_every=7)).fit(2)

    assert found["model"] == "Linear"
    assert found["num_parameters"] == 6
    assert found["loss_func"] == "CrossEntropyLoss"
    assert found["batch_size"] == 4
    assert found["num_train_batches"] == NUM_BATCHES
    assert found["opt.lr_0"] == 0.1
    assert found["run-log.log_every"] == 7
    assert found["n_epoch"] == 2


def test_weights_file_is_that_of_save_model_or_one_made_for_now(tmp_path):
    class Saver(Callback):
        name = "save-model"
        last_saved_path = None

    saver = Saver()
    learn = learner(saver)
    saved = tmp_path / "best.safetensors"
    saved.touch()

    with model_file(learn) as made:
        weights = torch.load(made, weights_only=True)
    saver.last_saved_path = saved
    with model_file(learn) as found:
        assert found == saved

    assert torch.equal(weights["weight"], learn.model.weight)
    assert not made.exists()


def test_function_gets_steps_and_results():
    got = []

    def log(step, numbers):
        got.append((step, numbers))

    learner(RunLogCallback(log, log_every=4), Measurements()).fit(1)

    assert [step for step, _ in got] == [1, 4, 8, 8]
    names = ["epoch", "train_loss", "raw_loss", "lr_0", "mom_0"]
    assert list(got[0][1]) == names
    assert got[-1][1] == {"epoch": 1, "accuracy": 0.5, "epoch_train_loss": 0.7}


def test_without_a_function_lines_go_to_logging(caplog):
    caplog.set_level(logging.INFO, "callboard.run")

    learner(RunLogCallback(), Measurements()).fit(1)

    first, last = caplog.messages
    assert first.startswith("step 1  epoch 0.125  train_loss 1.")
    assert last == "step 8  epoch 1  accuracy 0.5  epoch_train_loss 0.7"


def test_client_that_is_not_installed_is_told_of_with_the_way_to_get_it():
    message = "sky: its client, sky-client, is not installed: python -m pip install sky"

    with pytest.raises(ActivationError, match=message):
        require_client("sky", "no_such_module.sky", "sky-client")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "log_every must be a whole number from 1 on, got 0"),
        ({"num_samples": -1}, "n_preds must be a whole number from 0 on, got -1"),
        ({"hyper_names": ["rate"]}, "hyper_names must be among lr, mom"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Tracker(**options)


def test_pictures_have_channels_first_and_values_from_zero_to_one():
    picture = as_picture(torch.linspace(-3, 5, 48).reshape(3, 4, 4))

    assert picture.shape == (3, 4, 4)
    assert (picture.min(), picture.max()) == (0, 1)
    assert as_picture(torch.zeros(4, 4)).shape == (1, 4, 4)
    assert as_picture(torch.zeros(7)) is None
    assert as_picture(torch.zeros(5, 4, 4)) is None
    assert as_picture("text") is None


def test_cells_show_names_numbers_and_small_tensors():
    assert as_text(None) == ""
    assert as_text("cat") == "cat"
    assert as_text(1 / 3) == "0.3333"
    assert as_text(torch.tensor([1 / 3, math.pi])) == "[0.3333, 3.142]"
    assert as_text(torch.zeros(4, 4)) == "(4, 4) of float32"
