import copy
import gc
import importlib
import json
import math
import weakref

import matplotlib as mpl
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torchmetrics.classification import MulticlassAccuracy

from callboard import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelTrainException,
    CancelValidException,
    DataLoaders,
    Learner,
)
from callboard.errors import CallboardError, CallboardWarning, OptionError
from callboard.testing import cost_per_step
from callboard_recorder import Recorder, accuracy, epoch_metric, mse
from callboard_recorder.phases import numbered

mpl.use("Agg")
EVENT_PREFIXES = ("before_", "after_", "do_", "on_")
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(44, 4, generator=GENERATOR)
LABELS = (INPUTS[:, 0] > 0).long() + (INPUTS[:, 1] > 0).long()
# Five training batches and three of validation, the last of each a small one.
TRAIN = list(zip(INPUTS[:34].split(8), LABELS[:34].split(8), strict=True))
VALID = list(zip(INPUTS[34:].split(4), LABELS[34:].split(4), strict=True))


def learner_with(*cbs, metrics=accuracy, dls=(TRAIN, VALID), recorder=None, **options):
    torch.manual_seed(0)
    options = {"lr": 0.1, "seed": 1, "device": "cpu", **options}
    recorder = recorder or Recorder()
    model = nn.Linear(4, 3)
    return Learner(
        dls, model, cross_entropy, metrics=metrics, cbs=[recorder, *cbs], **options
    )


def rows_without_time(recorder):
    return [{k: v for k, v in r.items() if k != "time"} for r in recorder.values]


def plain(state):
    """A state without its times, as comparable plain data."""
    state = json.loads(json.dumps(state, default=lambda tensor: tensor.tolist()))
    for row in state["values"]:
        row.pop("time", None)
    if state["phase"] is not None:
        state["phase"].pop("seconds")
    return state


# ---- rows and columns -------------------------------------------------------------


def test_an_epoch_is_one_row_of_all_columns_in_order():
    learner = learner_with()

    learner.fit(2)

    recorder = learner.recorder
    names = ["epoch", "train_loss", "valid_loss", "accuracy", "time"]
    assert recorder.names == recorder.metric_names == names
    assert [list(row) for row in recorder.values] == [names, names]
    assert [row["epoch"] for row in recorder.values] == [0, 1]
    assert all(isinstance(row["valid_loss"], float) for row in recorder.values)
    assert all(row["time"] > 0 for row in recorder.values)
    assert recorder.log == recorder.values[-1]
    assert list(recorder.final_record) == ["train_loss", "valid_loss", "accuracy"]


def test_the_train_loss_is_the_mean_over_the_samples_of_the_epoch():
    learner = learner_with(lr=0.0, opt_func=torch.optim.SGD)

    learner.fit(1)

    with torch.no_grad():
        whole = cross_entropy(learner.model(INPUTS[:34]), LABELS[:34]).item()
    assert learner.recorder.values[0]["train_loss"] == pytest.approx(whole)


class PrintMetricsCallback(Callback):
    """As in fastai's documentation."""

    def after_epoch(self):
        print(f"{self.learn.loss:.4f} {self.learn.recorder.metrics[0]:.4f}")


def test_the_callback_of_fastais_documentation_runs(capsys):
    learner = learner_with(PrintMetricsCallback())

    learner.fit(2)

    printed = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    recorded = [row["accuracy"] for row in learner.recorder.values]
    assert printed == pytest.approx(recorded, abs=1e-4)


def test_a_metric_value_formats_as_its_value():
    learner = learner_with()
    learner.fit(1)

    (metric,) = learner.recorder.metrics

    value = learner.recorder.values[0]["accuracy"]
    assert (metric.name, metric.value, float(metric)) == ("accuracy", value, value)
    assert f"{metric:>8.2f}" == f"{value:>8.2f}"
    assert str(metric) == str(value)


def test_a_metric_without_a_value_says_none():
    learner = learner_with(dls=TRAIN)
    learner.fit(1)

    (metric,) = learner.recorder.metrics

    assert f"{metric:.4f}" == "none"
    assert math.isnan(float(metric))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"add_time": False}, "train_loss valid_loss accuracy"),
        ({"train_metrics": True}, "train_loss train_accuracy valid_loss accuracy time"),
        (
            {"train_metrics": True, "valid_metrics": False},
            "train_loss train_accuracy valid_loss time",
        ),
        ({"valid_metrics": False}, "train_loss valid_loss time"),
    ],
)
def test_options_decide_the_columns(options, names):
    learner = learner_with(recorder=Recorder(**options))

    learner.fit(1)

    assert learner.recorder.names == ["epoch", *names.split()]
    assert list(learner.recorder.values[0]) == learner.recorder.names
    assert None not in learner.recorder.values[0].values()
    assert ("accuracy" in learner.validate()) is options.get("valid_metrics", True)


def test_train_metrics_are_means_over_the_training_samples():
    recorder = Recorder(train_metrics=True)
    learner = learner_with(recorder=recorder, lr=0.0, opt_func=torch.optim.SGD)

    learner.fit(1)

    with torch.no_grad():
        share = accuracy(learner.model(INPUTS[:34]), LABELS[:34]).item()
    assert recorder.values[0]["train_accuracy"] == pytest.approx(share)


def test_without_validation_metrics_those_of_training_are_shown():
    recorder = Recorder(train_metrics=True, valid_metrics=False)
    learner = learner_with(recorder=recorder)

    learner.fit(1)

    assert recorder.metrics[0].value == recorder.values[0]["train_accuracy"]


def test_metrics_of_one_name_are_numbered_and_none_is_lost():
    metrics = [lambda *batch: 1.0, mse_of_ones, lambda *batch: 2.0, lambda *batch: 3.0]
    learner = learner_with(metrics=metrics)

    learner.fit(1)

    row = learner.recorder.values[0]
    names = ["<lambda>", "mse_of_ones", "<lambda>_2", "<lambda>_3"]
    assert [row[name] for name in names] == [1.0, 0.0, 2.0, 3.0]


def mse_of_ones(prediction, target):
    return mse(torch.ones(2), torch.ones(2))


def test_numbering_avoids_names_that_are_taken():
    names = numbered(["a", "a_2", "a", "time"], taken=["time"])

    assert names == ["a", "a_2", "a_3", "time_2"]


def test_a_mapping_names_its_metrics():
    learner = learner_with(metrics={"top": accuracy, "best": lambda *batch: 1.0})

    learner.fit(1)

    assert learner.recorder.names[3:5] == ["top", "best"]
    assert learner.recorder.higher_is_better["top"] is True


def test_without_metrics_losses_are_recorded():
    learner = learner_with(metrics=None)

    learner.fit(1)

    assert learner.recorder.names == ["epoch", "train_loss", "valid_loss", "time"]
    assert learner.recorder.metrics == []


def test_directions_are_told_for_losses_and_for_metrics_that_are_certain():
    learner = learner_with(metrics=[accuracy, mse_of_ones])

    learner.fit(1)

    assert learner.recorder.higher_is_better == {
        "train_loss": False,
        "valid_loss": False,
        "accuracy": True,
        "train_accuracy": True,
    }


# ---- data of every kind -----------------------------------------------------------


def test_without_validation_data_its_columns_are_none():
    learner = learner_with(dls=TRAIN)

    learner.fit(1)

    row = learner.recorder.values[0]
    assert row["train_loss"] is not None
    assert (row["valid_loss"], row["accuracy"]) == (None, None)
    assert row["time"] > 0


def test_an_empty_validation_gives_none():
    learner = learner_with(dls=(TRAIN, []))

    with pytest.warns(CallboardWarning, match="got no batch"):
        learner.fit(1)

    row = learner.recorder.values[0]
    assert (row["valid_loss"], row["accuracy"]) == (None, None)
    assert "valid_loss" not in learner.results


def test_batches_without_labels_are_left_out():
    unlabelled = [(INPUTS[:8],), *TRAIN]
    learner = learner_with(dls=(unlabelled, [*VALID, (INPUTS[:8],)]))

    learner.fit(1)

    with torch.no_grad():
        share = accuracy(learner.model(INPUTS[34:]), LABELS[34:]).item()
    assert learner.recorder.values[0]["accuracy"] == pytest.approx(share)
    assert learner.recorder.steps == [2, 3, 4, 5, 6]


def test_a_validation_without_any_label_gives_none():
    learner = learner_with(dls=(TRAIN, [(INPUTS[:8],)]))

    learner.fit(1)

    row = learner.recorder.values[0]
    assert (row["valid_loss"], row["accuracy"]) == (None, None)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, features):
        return self.linear(features)


def test_mapping_batches_are_measured_by_their_labels():
    named = [{"features": x, "label": y} for x, y in VALID]
    learner = Learner(
        (named, named),
        Named(),
        cross_entropy,
        metrics=accuracy,
        device="cpu",
        cbs=[Recorder()],
    )

    learner.fit(1)

    with torch.no_grad():
        share = accuracy(learner.model(INPUTS[34:]), LABELS[34:]).item()
    assert learner.recorder.values[0]["accuracy"] == pytest.approx(share)


class ReturnsItsLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x, y):
        return {"loss": cross_entropy(self.linear(x), y)}


def test_the_loss_that_a_model_returns_is_recorded():
    dls = DataLoaders(TRAIN, VALID)
    recorder = Recorder()
    learner = Learner(
        dls, ReturnsItsLoss(), metrics=accuracy, device="cpu", cbs=[recorder]
    )

    learner.fit(1)

    row = recorder.values[0]
    assert row["valid_loss"] > 0
    assert row["accuracy"] is None  # the labels went to the model, not to metrics


def test_a_loss_for_each_sample_is_averaged():
    def unreduced(prediction, target):
        reduction = "mean" if prediction.requires_grad else "none"
        return cross_entropy(prediction, target, reduction=reduction)

    learner = learner_with()
    learner.loss_func = unreduced

    learner.fit(1)

    with torch.no_grad():
        whole = cross_entropy(learner.model(INPUTS[34:]), LABELS[34:]).item()
    assert learner.recorder.values[0]["valid_loss"] == pytest.approx(whole)


# ---- steps ------------------------------------------------------------------------


class KeepLosses(Callback):
    def __init__(self):
        self.kept = []

    def after_batch(self):
        if self.learn.training:
            self.kept.append(self.learn.loss.item())


def test_every_step_has_its_loss_and_its_hyper_parameters():
    witness = KeepLosses()
    learner = learner_with(witness, opt_func=torch.optim.AdamW)

    learner.fit(2)

    recorder = learner.recorder
    assert recorder.steps == list(range(1, 11))
    assert recorder.losses == witness.kept
    assert recorder.iters == [5, 10]
    assert recorder.lrs == recorder.hps["lr"] == [0.1] * 10
    assert list(recorder.hps) == ["lr", "mom", "sqr_mom", "wd", "eps"]
    assert recorder.hps["mom"] == [0.9] * 10


def test_the_smooth_loss_follows_the_loss_while_training():
    class Watch(Callback):
        run_after = "recorder"
        seen = None

        def after_batch(self):
            if self.learn.training:
                self.seen = [*(self.seen or []), self.learn.recorder.smooth_loss]

    watch = Watch()
    recorder = Recorder(beta=0.5)
    learner = learner_with(watch, recorder=recorder)
    assert recorder.smooth_loss is None

    learner.fit(1)

    first, second = recorder.losses[:2]
    # Half of each, over 1 - 0.5**2.
    assert recorder.smooth_losses[:2] == pytest.approx(
        [first, (0.25 * first + 0.5 * second) / 0.75]
    )
    assert watch.seen == recorder.smooth_losses


def test_the_last_parameter_group_is_recorded():
    def two_groups(model):
        return [[model.weight], [model.bias]]

    learner = learner_with(splitter=two_groups, lr=slice(1e-4, 1e-2))

    learner.fit(1)

    assert learner.recorder.lrs == [1e-2] * 5


def test_a_rate_that_lies_in_a_tensor_is_recorded_as_it_was_at_each_step():
    class Decay(Callback):
        def before_batch(self):
            if self.learn.training:
                self.learn.opt.param_groups[0]["lr"].fill_(1 / (self.learn.iter + 1))

    learner = learner_with(
        Decay(), opt_func=lambda groups, lr: torch.optim.SGD(groups, torch.tensor(lr))
    )
    learner.create_opt()
    learner.opt.param_groups[0]["lr"] = torch.tensor(0.1)

    learner.fit(1)

    assert learner.recorder.lrs == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_memory_for_steps_is_bounded_and_keeps_first_and_latest():
    learner = learner_with(recorder=Recorder(max_points=16))

    learner.fit(20)

    recorder = learner.recorder
    assert len(recorder.steps) <= 16
    assert (recorder.steps[0], recorder.steps[-1]) == (1, 100)
    assert len(recorder.losses) == len(recorder.lrs) == len(recorder.steps)
    assert len(recorder.values) == 20


def cost_of(**options):
    def fit(num_batches, cbs=None):
        inputs = torch.randn(8, 4)
        batches = [(inputs, inputs.sum(1, keepdim=True))] * num_batches
        model, opt_func = nn.Linear(4, 1), torch.optim.Adam
        Learner(batches, model, mse_loss, opt_func, device="cpu", cbs=cbs).fit(1)

    few, many = 64, 320  # whole reads
    with_recorder = cost_per_step(
        lambda n: fit(n, Recorder(**options)), few=few, many=many
    )
    return with_recorder - cost_per_step(fit, few=few, many=many)


def test_a_step_costs_few_calls_one_tensor_operation_and_hardly_a_read():
    cost = cost_of()

    assert cost.python_calls <= 5.5
    assert cost.tensor_operations <= 1.05
    assert cost.host_reads <= 1 / 64


# ---- results ----------------------------------------------------------------------


class KeepResults(Callback):
    """Does not say that it runs after the recorder, and is there before it."""

    run_before = "recorder"

    def __init__(self):
        self.kept, self.rows, self.values = [], [], []

    def after_epoch(self):
        recorder = self.learn.recorder
        self.kept.append(dict(self.learn.results))
        self.rows.append(dict(recorder.values[-1]))
        self.values.append(recorder.metrics[0].value)


def test_row_and_results_are_complete_before_after_epoch():
    witness = KeepResults()
    learner = learner_with(witness)

    learner.fit(2)

    assert witness.rows == learner.recorder.values
    assert witness.kept == [
        {name: value for name, value in row.items() if name != "epoch"}
        for row in learner.recorder.values
    ]
    assert list(witness.kept[0])[-1] == "time"
    assert witness.values == [row["accuracy"] for row in learner.recorder.values]


def test_validate_returns_the_metrics_and_leaves_the_record_alone():
    learner = learner_with()
    learner.fit(1)
    before = plain(learner.recorder.state_dict())

    results = learner.validate(TRAIN)

    with torch.no_grad():
        prediction = learner.model(INPUTS[:34])
    assert results["accuracy"] == accuracy(prediction, LABELS[:34]).item()
    assert results["valid_loss"] == pytest.approx(
        cross_entropy(prediction, LABELS[:34]).item()
    )
    assert "time" not in results
    assert plain(learner.recorder.state_dict()) == before


def test_validate_works_before_any_fit():
    learner = learner_with()

    assert set(learner.validate()) == {"valid_loss", "accuracy"}
    assert learner.recorder.values == []


class ValidateEverywhere(Callback):
    """Validates inside of training, inside of validation and between epochs."""

    def after_batch(self):
        if self.learn.iter == 1:
            self.learn.validate(TRAIN)

    def after_epoch(self):
        self.learn.validate(TRAIN)


def stateful_metrics():
    return [
        accuracy,
        MulticlassAccuracy(num_classes=3),
        epoch_metric(f1_score_macro),
        KeepsCount(),
    ]


def f1_score_macro(y_true, y_pred):
    return f1_score(y_true, y_pred, average="macro")


class KeepsCount:
    name = "count"

    def __init__(self):
        self.value = None

    def reset(self):
        self.value = 0

    def accumulate(self, learn):
        self.value += len(learn.y)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


@pytest.mark.parametrize("run_after", ["recorder", ()])
def test_a_validation_inside_a_callback_leaves_everything_as_it_was(run_after):
    nosy = ValidateEverywhere()
    nosy.run_after = run_after
    disturbed = learner_with(
        nosy, metrics=stateful_metrics(), recorder=Recorder(train_metrics=True)
    )
    quiet = learner_with(
        metrics=stateful_metrics(), recorder=Recorder(train_metrics=True)
    )

    disturbed.fit(2)
    quiet.fit(2)

    recorded = plain(disturbed.recorder.state_dict())
    assert recorded == plain(quiet.recorder.state_dict())
    assert [m.value for m in disturbed.recorder.metrics] == [
        m.value for m in quiet.recorder.metrics
    ]
    assert None not in disturbed.recorder.values[0].values()


def test_a_nested_validation_that_fails_leaves_the_outer_one_alone():
    class Fails(Callback):
        stages = ("validate",)

        def after_batch(self):
            raise ZeroDivisionError

    class Nosy(Callback):
        def after_batch(self):
            with pytest.raises(ZeroDivisionError):
                self.learn.validate(TRAIN, cbs=Fails())

    disturbed, quiet = learner_with(Nosy()), learner_with()

    disturbed.fit(1)
    quiet.fit(1)

    assert rows_without_time(disturbed.recorder) == rows_without_time(quiet.recorder)


# ---- cancels ----------------------------------------------------------------------


class Raises(Callback):
    """Raises an exception at an event of the second epoch."""

    def __init__(self, event, exception, training=None, run_before=()):
        self.event, self.exception, self.phase = event, exception, training
        self.run_before = run_before

    def at(self, event):
        is_now = event == self.event and self.learn.epoch == 1
        if is_now and self.phase in (None, self.learn.training):
            raise self.exception

    def before_epoch(self):
        self.at("before_epoch")

    def before_train(self):
        self.at("before_train")

    def before_validate(self):
        self.at("before_validate")

    def after_batch(self):
        if self.learn.iter == 1:
            self.at("after_batch")


@pytest.mark.parametrize("run_before", [(), "recorder"])
@pytest.mark.parametrize(
    ("event", "exception", "training", "empty"),
    [
        ("before_train", CancelTrainException, None, {"train"}),
        ("after_batch", CancelTrainException, True, {"train"}),
        ("before_validate", CancelValidException, None, {"valid"}),
        ("after_batch", CancelValidException, False, {"valid"}),
        ("before_epoch", CancelEpochException, None, {"train", "valid"}),
        ("after_batch", CancelEpochException, True, {"train", "valid"}),
        ("after_batch", CancelEpochException, False, {"valid"}),
        ("after_batch", CancelFitException, True, {"train", "valid"}),
        ("after_batch", CancelFitException, False, {"valid"}),
    ],
)
def test_a_cancelled_phase_is_none_in_its_columns_and_shifts_no_other(
    event, exception, training, empty, run_before
):
    canceller = Raises(event, exception, training, run_before)
    learner = learner_with(canceller, recorder=Recorder(train_metrics=True))

    learner.fit(3)

    rows = learner.recorder.values
    num_rows = 2 if exception is CancelFitException else 3
    assert [row["epoch"] for row in rows] == list(range(num_rows))
    assert all(list(row) == learner.recorder.names for row in rows)
    empty_columns = {name for name, value in rows[1].items() if value is None}
    expected = set()
    if "train" in empty:
        expected |= {"train_loss", "train_accuracy"}
    if "valid" in empty:
        expected |= {"valid_loss", "accuracy"}
    assert empty_columns - {"time"} == expected
    if num_rows == 3:
        assert None not in rows[2].values()


def test_a_metric_of_a_cancelled_validation_has_no_value():
    learner = learner_with(Raises("after_batch", CancelValidException, training=False))

    learner.fit(2)

    assert learner.recorder.metrics[0].value is None


def test_a_batch_that_was_cancelled_before_its_loss_is_left_out():
    class SkipSecond(Callback):
        def before_batch(self):
            if self.learn.iter == 1:
                raise CancelBatchException

    learner = learner_with(SkipSecond())

    learner.fit(1)

    seen = torch.cat([VALID[0][0], VALID[2][0]])
    labels = torch.cat([VALID[0][1], VALID[2][1]])
    with torch.no_grad():
        share = accuracy(learner.model(seen), labels).item()
    assert learner.recorder.steps == [1, 3, 4, 5]
    assert learner.recorder.values[0]["accuracy"] == pytest.approx(share)


def test_after_an_error_the_steps_until_then_are_there():
    learner = learner_with(Raises("after_batch", ZeroDivisionError, training=True))

    with pytest.raises(ZeroDivisionError):
        learner.fit(2)

    assert learner.recorder.steps == [1, 2, 3, 4, 5, 6, 7]
    assert learner.recorder.values[1]["train_loss"] is None


def test_a_stop_in_training_keeps_the_mean_of_the_batches_so_far():
    class StopEarly(Callback):
        def after_batch(self):
            if self.learn.iter == 1:
                self.learn.stop("enough")

    learner = learner_with(StopEarly(), lr=0.0, opt_func=torch.optim.SGD)

    learner.fit(2)

    (row,) = learner.recorder.values
    with torch.no_grad():
        seen = cross_entropy(learner.model(INPUTS[:16]), LABELS[:16]).item()
    assert row["train_loss"] == pytest.approx(seen)
    assert row["valid_loss"] is None


# ---- several fits and resuming ----------------------------------------------------


def test_a_new_fit_starts_a_new_history():
    learner = learner_with()
    learner.fit(3)

    learner.fit(2)

    recorder = learner.recorder
    assert [row["epoch"] for row in recorder.values] == [0, 1]
    assert recorder.steps == list(range(1, 11))
    assert recorder.iters == [5, 10]


def test_a_fit_that_starts_later_goes_on_with_the_history():
    learner = learner_with()
    learner.fit(3)
    before = list(learner.recorder.values)
    losses = learner.recorder.losses

    learner.fit(4, start_epoch=2)

    recorder = learner.recorder
    assert [row["epoch"] for row in recorder.values] == [0, 1, 2, 3]
    assert recorder.values[:2] == before[:2]
    assert recorder.steps == list(range(1, 21))
    assert recorder.losses[:10] == losses[:10]
    assert recorder.iters == [5, 10, 15, 20]


def recording_everything(*cbs):
    return learner_with(
        *cbs, metrics=stateful_metrics(), recorder=Recorder(train_metrics=True)
    )


class KeepState(Callback):
    run_after = "recorder"

    def __init__(self, epoch, num_batches=None):
        self.moment = (epoch, num_batches)
        self.state = None

    def checkpoint(self):
        learner = self.learn
        is_after_epoch = "accuracy" in learner.results
        num_batches = None if is_after_epoch else learner.iter + 1
        if (learner.epoch, num_batches) == self.moment:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["plugins"].pop(self.name, None)

    @property
    def recorded(self):
        return self.state["plugins"]["recorder"]


def test_a_resumed_run_has_the_history_of_one_that_was_never_stopped():
    whole = recording_everything(keeper := KeepState(0))
    whole.fit(3)

    resumed = recording_everything()
    resumed.load_state_dict(keeper.state)
    resumed.fit(3, start_epoch=1)

    expected = plain(whole.recorder.state_dict())
    assert plain(resumed.recorder.state_dict()) == expected


class StartInside(Callback):
    """Starts the first epoch behind its first batches, as a resumed loop does."""

    run_before = "recorder"

    def __init__(self, num_done):
        self.num_done = num_done

    def before_train(self):
        if self.num_done:
            self.learn.dl = self.learn.dl[self.num_done :]
            self.learn.train_iter += self.num_done
            self.num_done = 0


@pytest.mark.parametrize("num_done", [1, 2, 4])
def test_a_run_resumed_inside_an_epoch_has_its_history_too(num_done):
    whole = recording_everything(keeper := KeepState(1, num_done))
    whole.fit(3)

    resumed = recording_everything(StartInside(num_done))
    resumed.load_state_dict(keeper.state)
    resumed.fit(3, start_epoch=1)

    expected = plain(whole.recorder.state_dict())
    assert plain(resumed.recorder.state_dict()) == expected


def test_state_is_plain_data_and_tensors():
    learner = recording_everything(keeper := KeepState(0, 2))
    learner.fit(1)

    def check(value):
        if isinstance(value, dict):
            assert all(type(key) in (str, int) for key in value)
            value = list(value.values())
        if isinstance(value, list | tuple):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (str, int, float, torch.Tensor)

    check(keeper.recorded)
    assert keeper.recorded["phase"]["measured"]["metrics"]["count"]["metric"] == {
        "value": 16
    }


def test_a_metric_without_a_state_is_none_in_the_epoch_that_was_resumed_inside():
    class Forgets(KeepsCount):
        state_dict = None

    def make(*cbs):
        recorder = Recorder(train_metrics=True)
        return learner_with(*cbs, metrics=[Forgets(), accuracy], recorder=recorder)

    whole = make(keeper := KeepState(0, 2))
    whole.fit(1)
    resumed = make(StartInside(2))
    resumed.load_state_dict(keeper.state)

    resumed.fit(2)

    first, second = resumed.recorder.values
    assert first["train_count"] is None
    assert (first["count"], second["train_count"]) == (10, 34)


def test_an_epoch_that_is_run_again_from_its_start_is_counted_once():
    whole = recording_everything(keeper := KeepState(1, 3))
    whole.fit(2)

    resumed = recording_everything()
    resumed.load_state_dict(keeper.state)
    resumed.fit(2, start_epoch=1)

    assert resumed.recorder.steps == list(range(1, 11))
    assert resumed.recorder.values[1]["train_count"] == 34


# ---- a good citizen ---------------------------------------------------------------


def test_recording_changes_nothing_that_is_learned():
    def trained(*cbs):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
        learner = Learner(
            (TRAIN, VALID),
            model,
            cross_entropy,
            metrics=stateful_metrics(),
            seed=1,
            device="cpu",
            cbs=list(cbs),
        )
        learner.fit(2)
        return model.state_dict()

    with_recorder, without = trained(Recorder(train_metrics=True)), trained()

    assert all(torch.equal(with_recorder[name], without[name]) for name in without)


def test_the_recorder_keeps_neither_the_learner_nor_a_graph_alive():
    learner = learner_with()
    learner.fit(1)
    recorder, model = learner.recorder, weakref.ref(learner.model)

    del learner
    gc.collect()

    assert model() is None
    assert recorder.values


@pytest.mark.parametrize("beta", [-0.1, 1, 2])
def test_a_beta_outside_its_range_is_refused(beta):
    with pytest.raises(OptionError, match=f"beta must be .* got {beta}"):
        Recorder(beta=beta)


def test_too_few_points_are_refused():
    with pytest.raises(OptionError, match="max_points must be at least 2, got 1"):
        Recorder(max_points=1)


def test_the_recorder_says_what_it_listens_to():
    documented = Recorder.__module__.partition(".")[0]
    text = importlib.import_module(documented).__doc__

    events = [name for name in vars(Recorder) if name.startswith(EVENT_PREFIXES)]
    assert all(event in text for event in [*events, "teardown"])


# ---- pictures ---------------------------------------------------------------------


def test_the_loss_picture_has_train_and_valid_by_step():
    learner = learner_with()
    learner.fit(2)

    ax = learner.recorder.plot_loss(skip_start=2)

    raw, smooth, valid = ax.lines
    assert list(raw.get_xdata()) == list(smooth.get_xdata()) == list(range(3, 11))
    assert list(smooth.get_ydata()) == learner.recorder.smooth_losses[2:]
    assert list(valid.get_xdata()) == [5, 10]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss")


def test_the_loss_picture_goes_where_it_is_told_to():
    import matplotlib.pyplot as plt

    learner = learner_with()
    learner.fit(1)
    given = plt.figure().subplots()

    ax = learner.recorder.plot_loss(with_valid=False, ax=given)

    assert ax is given
    assert len(ax.lines) == 2


def test_the_schedule_picture_shows_the_rate_and_what_changed():
    class Warm(Callback):
        def before_batch(self):
            for group in self.learn.opt.param_groups:
                group["betas"] = (0.8 + self.learn.train_iter / 100, 0.99)

    learner = learner_with(Warm())
    learner.fit(1)

    figure = learner.recorder.plot_sched()

    assert [ax.get_ylabel() for ax in figure.axes] == ["lr", "mom"]


def test_a_picture_of_nothing_is_refused():
    learner = learner_with()

    with pytest.raises(CallboardError, match="no step was recorded yet"):
        learner.recorder.plot_loss()
