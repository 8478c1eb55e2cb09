import math
import operator
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

from callboard import Learner
from callboard.errors import ObserverWarning, OptionError
from callboard_recorder import (
    Recorder,
    accuracy,
    epoch_metric,
    error_rate,
    mae,
    mean_metric,
    mse,
    rmse,
    top_k_accuracy,
)
from callboard_recorder.activations import activated
from callboard_recorder.metrics import direction_of, name_of


def split(inputs, labels, sizes):
    return list(zip(inputs.split(sizes), labels.split(sizes), strict=True))


def classes(num_samples=50, num_classes=3):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, 4, generator=generator)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    return inputs, labels


def classifier(metrics, valid, num_classes=3, **options):
    inputs, labels = classes(num_classes=num_classes)
    torch.manual_seed(0)
    return Learner(
        (split(inputs, labels, 8), valid),
        nn.Linear(4, num_classes),
        cross_entropy,
        metrics=metrics,
        device="cpu",
        cbs=[Recorder(**options)],
    )


def regression(metrics, inputs, targets, sizes):
    torch.manual_seed(0)
    return Learner(
        ([(inputs, targets)], split(inputs, targets, sizes)),
        nn.Linear(2, 1).double(),
        mse_loss,
        torch.optim.SGD,
        metrics=metrics,
        device="cpu",
        cbs=[Recorder()],
    )


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), seed=st.integers(0, 99)
)
def test_a_mean_over_batches_of_any_sizes_is_the_mean_over_all_samples(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(sum(sizes), 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(sum(sizes), 1, generator=generator, dtype=torch.float64)
    learner = regression([mse, mae, rmse], inputs, targets, sizes)

    learner.fit(1)

    with torch.no_grad():
        error = learner.model(inputs) - targets
    whole = error.square().mean().item()
    row = learner.recorder.values[0]
    assert row["valid_loss"] == pytest.approx(whole, rel=1e-12)
    assert row["mse"] == pytest.approx(whole, rel=1e-12)
    assert row["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-12)
    assert row["rmse"] == pytest.approx(math.sqrt(whole), rel=1e-12)


def test_accuracies_over_uneven_batches_are_those_over_all_samples():
    inputs, labels = classes(num_classes=7)
    top_3 = partial(top_k_accuracy, k=3)
    learner = classifier(
        [accuracy, error_rate, top_3], split(inputs, labels, 8), num_classes=7
    )

    learner.fit(1)

    with torch.no_grad():
        prediction = learner.model(inputs)
    share = sklearn_metrics.accuracy_score(labels, prediction.argmax(1))
    row = learner.recorder.values[0]
    assert row["accuracy"] == pytest.approx(share, rel=1e-15)
    assert row["error_rate"] == pytest.approx(1 - share, rel=1e-15)
    best = sklearn_metrics.top_k_accuracy_score(labels, prediction, k=3)
    assert row["top_k_accuracy"] == pytest.approx(best, rel=1e-15)


def test_metrics_refuse_sizes_that_would_broadcast():
    with pytest.raises(OptionError, match="8 predictions for 4 labels"):
        mse(torch.zeros(8, 1), torch.zeros(4))

    assert mse(torch.zeros(8, 1), torch.arange(8.0)) == 17.5  # (0 + 1 + 4 + ...) / 8


def test_a_mean_metric_is_finished_after_averaging():
    perplexity = mean_metric(cross_entropy, "perplexity", then=math.exp)
    inputs, labels = classes()
    learner = classifier([perplexity], split(inputs, labels, 7))

    learner.fit(1)

    row = learner.recorder.values[0]
    assert row["perplexity"] == pytest.approx(math.exp(row["valid_loss"]))
    assert perplexity(learner.model(inputs), labels) == pytest.approx(row["perplexity"])


def numpy_accuracy(prediction, target):
    return np.mean(prediction.argmax(1).numpy() == target.numpy())


def test_a_metric_may_return_a_number_of_numpy_or_a_tensor_of_one_element():
    inputs, labels = classes()
    metrics = {
        "tensor": accuracy,
        "numpy": numpy_accuracy,
        "float": lambda prediction, target: float(numpy_accuracy(prediction, target)),
        "one element": lambda *batch: accuracy(*batch).reshape(1, 1),
        "truth": lambda prediction, target: True,
    }
    learner = classifier([metrics], split(inputs, labels, 8))

    learner.fit(1)

    row = learner.recorder.values[0]
    assert row["numpy"] == row["float"] == pytest.approx(row["tensor"])
    assert row["one element"] == row["tensor"]
    assert row["truth"] == 1.0


@pytest.mark.parametrize(
    ("returned", "in_words"),
    [
        ((1.0, 2.0), "tuple of 2"),
        (torch.zeros(3), r"float32 of shape \(3,\)"),
        (np.zeros(2), "ndarray"),
        (None, "NoneType"),
        ("0.5", "str"),
    ],
)
def test_what_is_not_one_number_is_refused_with_the_name_of_the_metric(
    returned, in_words
):
    def odd(prediction, target):
        return returned

    learner = classifier([odd, accuracy], split(*classes(), 25))

    with pytest.warns(ObserverWarning, match=f"'odd' failed.*returned {in_words}"):
        learner.fit(1)

    row = learner.recorder.values[0]
    assert row["odd"] is None
    assert row["accuracy"] is not None


def test_a_metric_that_raises_is_named_with_its_batch_and_spares_the_others():
    def broken(prediction, target):
        return prediction.no_such_thing

    learner = classifier([broken, accuracy], split(*classes(), 25))

    with pytest.warns(ObserverWarning) as warned:
        learner.fit(2)

    (message,) = [str(w.message) for w in warned]
    assert "the metric 'broken' failed in epoch 0, validation batch 0" in message
    assert "prediction float32 of shape (25, 3); labels int64 of shape (25,)" in message
    assert "AttributeError" in message
    assert "test_metrics.py, line" in message
    assert learner.record.failures == []
    assert [row["broken"] for row in learner.recorder.values] == [None, None]
    assert all(row["accuracy"] is not None for row in learner.recorder.values)


def test_a_metric_that_failed_in_one_fit_is_tried_again_in_the_next():
    is_broken = True

    def moody(prediction, target):
        if is_broken:
            raise ValueError("not today")
        return 0.5

    learner = classifier([moody], split(*classes(), 25))
    with pytest.warns(ObserverWarning, match="not today"):
        learner.fit(1)

    is_broken = False
    learner.fit(1)

    assert learner.recorder.values[0]["moody"] == 0.5


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("accuracy", "'accuracy' is no metric"),
        (BinaryAccuracy, r"give an instance, BinaryAccuracy\(\.\.\.\)"),
        (sklearn_metrics.roc_auc_score, r"epoch_metric\(roc_auc_score, activation="),
        (sklearn_metrics.log_loss, r"epoch_metric\(log_loss, activation="),
    ],
)
def test_what_cannot_be_measured_is_said_when_the_fit_starts(metric, problem):
    learner = classifier([metric], split(*classes(), 25))

    with pytest.warns(ObserverWarning, match=problem):
        learner.fit(1)

    assert learner.recorder.values[0]["valid_loss"] is not None


def test_torchmetrics_objects_give_the_value_over_all_samples():
    inputs, labels = classes()
    metric = MulticlassAccuracy(num_classes=3, average="macro")
    learner = classifier([metric], split(inputs, labels, 8))

    learner.fit(2)

    with torch.no_grad():
        chosen = learner.model(inputs).argmax(1)
    expected = sklearn_metrics.balanced_accuracy_score(labels, chosen)
    assert learner.recorder.values[1]["MulticlassAccuracy"] == pytest.approx(expected)
    assert metric.compute().item() == pytest.approx(expected)


def test_a_torchmetrics_object_starts_anew_each_epoch():
    learner = classifier(MeanSquaredErrorOfLabels(), split(*classes(), 8))

    learner.fit(2)

    first, second = (row["MeanSquaredErrorOfLabels"] for row in learner.recorder.values)
    assert first == second


class MeanSquaredErrorOfLabels(MeanSquaredError):
    def update(self, prediction, target):
        super().update(target, torch.zeros_like(target))


def test_a_torchmetrics_collection_is_one_column_for_each_of_its_metrics():
    collection = MetricCollection(
        {
            "macro": MulticlassAccuracy(num_classes=3, average="macro"),
            "micro": MulticlassAccuracy(num_classes=3, average="micro"),
        },
        prefix="acc_",
    )
    inputs, labels = classes()
    learner = classifier(collection, split(inputs, labels, 8))

    learner.fit(2)

    row = learner.recorder.values[1]
    with torch.no_grad():
        chosen = learner.model(inputs).argmax(1)
    macro = sklearn_metrics.balanced_accuracy_score(labels, chosen)
    assert row["acc_macro"] == pytest.approx(macro)
    assert row["acc_micro"] == pytest.approx((chosen == labels).float().mean().item())


def test_importing_and_using_the_recorder_imports_neither_of_the_metric_libraries():
    code = """
import sys, torch
from callboard import Learner
from callboard_recorder import Recorder, accuracy
data = [(torch.zeros(2, 4), torch.zeros(2).long())]
loss = torch.nn.functional.cross_entropy
learner = Learner((data, data), torch.nn.Linear(4, 2), loss, metrics=accuracy,
                  device="cpu", cbs=[Recorder()])
learner.fit(1)
print(sorted({"torchmetrics", "sklearn", "matplotlib", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_scikit_learn_functions_see_the_whole_epoch_with_class_numbers():
    inputs, labels = classes()
    macro_f1 = partial(sklearn_metrics.f1_score, average="macro")
    learner = classifier(
        [macro_f1, sklearn_metrics.accuracy_score], split(inputs, labels, 8)
    )

    learner.fit(1)

    with torch.no_grad():
        chosen = learner.model(inputs).argmax(1)
    row = learner.recorder.values[0]
    assert row["f1_score"] == macro_f1(labels, chosen)
    assert row["accuracy_score"] == sklearn_metrics.accuracy_score(labels, chosen)


def test_scikit_learn_functions_of_values_see_predictions_as_they_are():
    inputs = torch.randn(20, 2, dtype=torch.float64)
    targets = inputs.sum(1, keepdim=True)
    learner = regression([sklearn_metrics.r2_score], inputs, targets, 6)

    learner.fit(1)

    with torch.no_grad():
        prediction = learner.model(inputs)
    expected = sklearn_metrics.r2_score(targets, prediction)
    assert learner.recorder.values[0]["r2_score"] == pytest.approx(expected)


def test_scores_are_made_from_logits_when_asked():
    inputs, labels = classes(num_classes=2)
    area = epoch_metric(sklearn_metrics.roc_auc_score, "auc", activation="softmax")
    surprise = epoch_metric(sklearn_metrics.log_loss, activation="softmax")
    learner = classifier([area, surprise], split(inputs, labels, 8), num_classes=2)

    learner.fit(1)

    row = learner.recorder.values[0]
    with torch.no_grad():
        shares = learner.model(inputs).softmax(1)
    assert row["auc"] == sklearn_metrics.roc_auc_score(labels, shares[:, 1])
    assert row["log_loss"] == pytest.approx(row["valid_loss"], rel=1e-5)


def test_an_epoch_metric_of_the_users_own_gets_the_labels_first():
    seen = {}

    def keep(y_true, y_pred):
        seen.update(y_true=y_true, y_pred=y_pred)
        return 1.0

    inputs, labels = classes()
    learner = classifier([epoch_metric(keep)], split(inputs, labels, 8))

    learner.fit(1)

    with torch.no_grad():
        chosen = learner.model(inputs).argmax(1)
    assert seen["y_true"].tolist() == labels.tolist()
    assert seen["y_pred"].tolist() == chosen.tolist()
    assert learner.recorder.values[0]["keep"] == 1.0


logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])


@pytest.mark.parametrize(
    ("prediction", "target", "activation", "expected"),
    [
        (logits, torch.tensor([0, 1]), "auto", [0, 2]),
        (logits, torch.tensor([0, 1]), "argmax", [0, 2]),
        (logits, torch.tensor([0, 1]), None, logits.tolist()),
        (logits, torch.tensor([0.0, 1.0]), "auto", logits.tolist()),
        (logits, torch.zeros(2, 3).long(), "auto", logits.tolist()),
        (torch.zeros(2, 1), torch.tensor([0, 1]), "auto", [[0.0], [0.0]]),
        (torch.tensor([0.0]), torch.tensor([1]), "sigmoid", [0.5]),
        ((logits, "more"), torch.tensor([0, 1]), lambda parts: parts[0][:, 0], [2, 0]),
        (torch.zeros(1, 2), torch.tensor([1]), "softmax", [0.5]),
        (torch.zeros(1, 4), torch.tensor([1]), "softmax", [[0.25] * 4]),
    ],
)
def test_activations_make_what_scikit_learn_wants(
    prediction, target, activation, expected
):
    made, _ = activated(prediction, target, activation)

    assert made.tolist() == expected


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 5)])
def test_classes_may_stand_second_or_last(shape):
    prediction, target = torch.randn(shape), torch.zeros(2, 5).long()

    chosen, labels = activated(prediction, target, "auto")

    axis = shape.index(3)
    assert chosen.tolist() == prediction.argmax(axis).flatten().tolist()
    assert labels.shape == (10,)


@pytest.mark.parametrize(
    ("prediction", "activation", "problem"),
    [
        ((logits,), "auto", "the prediction is a tuple"),
        (logits[:, 0], "argmax", "needs a class dimension"),
    ],
)
def test_a_prediction_that_does_not_fit_its_activation_is_refused(
    prediction, activation, problem
):
    with pytest.raises(OptionError, match=problem):
        activated(prediction, torch.tensor([0, 1]), activation)


def test_an_unknown_activation_is_refused():
    with pytest.raises(OptionError, match=r"one of 'auto', 'argmax'.*got 'softmx'"):
        epoch_metric(sklearn_metrics.f1_score, activation="softmx")


class NumSamples:
    """fastai's protocol, written as there."""

    higher_is_better = True

    def reset(self):
        self.total = 0

    def accumulate(self, learn):
        self.total += len(learn.yb[0])

    @property
    def value(self):
        return self.total

    @property
    def name(self):
        return "num_samples"


def test_objects_with_fastais_protocol_are_measured():
    learner = classifier([NumSamples()], split(*classes(), 8))

    learner.fit(2)

    assert [row["num_samples"] for row in learner.recorder.values] == [50, 50]
    assert learner.recorder.higher_is_better["num_samples"] is True


def test_names_are_those_of_functions_and_objects():
    metrics = [accuracy, partial(top_k_accuracy, k=2), NumSamples(), BinaryAccuracy()]
    metrics += [nn.L1Loss(), sklearn_metrics.f1_score, epoch_metric(max, "mine"), rmse]

    names = [name_of(metric) for metric in metrics]

    assert names == [
        *("accuracy", "top_k_accuracy", "num_samples", "BinaryAccuracy"),
        *("L1Loss", "f1_score", "mine", "rmse"),
    ]


def declared(prediction, target):
    return 0.0


declared.higher_is_better = False


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (accuracy, True),
        (partial(top_k_accuracy, k=2), True),
        (error_rate, False),
        (rmse, False),
        (BinaryAccuracy(), True),
        (MeanSquaredError(), False),
        (sklearn_metrics.f1_score, True),
        (partial(sklearn_metrics.fbeta_score, beta=2), True),
        (sklearn_metrics.mean_absolute_error, False),
        (sklearn_metrics.hamming_loss, False),
        (sklearn_metrics.mean_poisson_deviance, False),
        (sklearn_metrics.matthews_corrcoef, None),
        (epoch_metric(sklearn_metrics.f1_score), True),
        (epoch_metric(sklearn_metrics.matthews_corrcoef, higher_is_better=True), True),
        (declared, False),
        (operator.sub, None),
        (lambda prediction, target: 0.0, None),
    ],
)
def test_a_direction_is_told_only_where_it_is_certain(metric, expected):
    assert direction_of(metric) is expected


def some_score(prediction, target):
    return 0.0


def test_no_direction_is_guessed_from_part_of_a_name():
    assert direction_of(some_score) is None
