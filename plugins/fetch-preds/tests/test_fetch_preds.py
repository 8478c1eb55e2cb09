"""Predictions are those of the model after every validation, and cost nobody a bit."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, CancelValidException, DataLoaders, Learner
from callboard.errors import OptionError
from callboard_fetch_preds import FetchPredsCallback
from callboard_gather_preds import get_preds
from callboard_recorder import Recorder


def make_data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(10, 4, generator=generator)
    return TensorDataset(inputs, torch.arange(10) % 3)


def make_learner(*cbs, valid="data", model=None):
    torch.manual_seed(0)
    data = make_data()
    return Learner(
        DataLoaders(
            DataLoader(data, 4, shuffle=True, drop_last=True),
            DataLoader(data, 4) if valid == "data" else valid,
        ),
        model or nn.Linear(4, 3),
        nn.CrossEntropyLoss(),
        lr=0.1,
        cbs=[*cbs],
        seed=0,
    )


class Read(Callback):
    """What a callback that runs later finds."""

    run_after = "fetch-preds"
    stages = ("fit", "validate")

    def __init__(self):
        self.seen = []

    def after_validate(self):
        with torch.no_grad():
            scores = self.learn.model(make_data().tensors[0])
        self.seen.append((self.learn.fetch_preds.preds, scores.softmax(1)))


def test_predictions_are_those_of_the_model_after_each_validation():
    read = Read()

    make_learner(FetchPredsCallback(), read).fit(2)

    assert len(read.seen) == 2
    for (preds, targets), expected in read.seen:
        torch.testing.assert_close(preds, expected)
        assert torch.equal(targets, make_data().tensors[1])
    assert not torch.equal(read.seen[0][1], read.seen[1][1])


def test_validate_fetches_too_and_comes_to_an_end():
    fetch = FetchPredsCallback()
    learner = make_learner(fetch)

    results = learner.validate()

    expected, _ = get_preds(learner)
    assert set(results) == {"valid_loss"}
    assert torch.equal(fetch.preds[0], expected)


def test_all_that_was_asked_for_is_fetched_from_the_data_asked_for():
    fetch = FetchPredsCallback(ds_idx=0, with_input=True, with_decoded=True)

    make_learner(fetch).validate()

    inputs, preds, targets, decoded = fetch.preds
    assert torch.equal(inputs, make_data().tensors[0])
    assert torch.equal(targets, make_data().tensors[1])
    assert torch.equal(decoded, preds.argmax(1))


def test_other_batches_come_in_their_own_order():
    inputs, labels = make_data().tensors
    fetch = FetchPredsCallback(dl=[(inputs[5:], labels[5:]), (inputs[:5], labels[:5])])

    make_learner(fetch).validate()

    assert torch.equal(fetch.preds[1], torch.cat([labels[5:], labels[:5]]))


def test_without_reorder_the_loader_decides_the_order():
    data = make_data()
    order = [[3, 1], [2, 0]]
    fetch = FetchPredsCallback(dl=DataLoader(data, batch_sampler=order), reorder=False)

    make_learner(fetch).validate()

    assert torch.equal(fetch.preds[1], data.tensors[1][[3, 1, 2, 0]])


def test_callbacks_given_take_part_in_the_prediction_alone():
    class Double(Callback):
        stages = ("predict",)

        def after_pred(self):
            self.learn.pred = self.learn.pred * 0

    fetch = FetchPredsCallback(cbs=Double())
    learner = make_learner(fetch)

    learner.fit(1)

    torch.testing.assert_close(fetch.preds[0], torch.full((10, 3), 1 / 3))
    assert "double" not in learner.cbs


class Dropped(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )


def run(*cbs):
    torch.manual_seed(0)
    recorder = Recorder()
    learner = make_learner(recorder, *cbs, model=Dropped())
    learner.fit(2)
    rows = [{**row, "time": None} for row in recorder.values]
    weights = {n: t.tolist() for n, t in learner.model.state_dict().items()}
    return weights, rows, recorder.losses


@pytest.mark.parametrize("ds_idx", [0, 1])
def test_fetching_changes_no_bit_of_a_fit(ds_idx):
    assert run(FetchPredsCallback(ds_idx=ds_idx)) == run()


def test_removing_it_leaves_the_plain_run():
    learner = make_learner(FetchPredsCallback())
    learner.remove_cb(FetchPredsCallback)

    learner.fit(1)

    plain = make_learner()
    plain.fit(1)
    assert torch.equal(learner.model.weight, plain.model.weight)


def test_a_validation_that_was_cancelled_is_over_too():
    class Cancel(Callback):
        def before_batch(self):
            if not self.training:
                raise CancelValidException("enough")

    fetch = FetchPredsCallback()

    make_learner(fetch, Cancel()).fit(1)

    assert fetch.preds[0].shape == (10, 3)


def test_an_error_in_the_prediction_ends_the_fit_and_leaves_nothing_behind():
    class Fail(Callback):
        stages = ("predict",)

        def after_pred(self):
            raise RuntimeError("a fault")

    learner = make_learner(FetchPredsCallback(cbs=Fail()))

    with pytest.raises(RuntimeError, match="a fault"):
        learner.fit(1)

    assert list(learner.cbs.keys()) == ["fetch-preds"]
    assert learner.stage == "fit"


def test_predictions_of_an_earlier_fit_are_forgotten():
    fetch = FetchPredsCallback()
    learner = make_learner(fetch)
    learner.fit(1)

    learner.fit(0)

    assert fetch.preds is None


def test_two_of_them_fetch_side_by_side():
    valid, train = FetchPredsCallback(), FetchPredsCallback(ds_idx=0, with_input=True)

    make_learner(valid, train).fit(1)

    assert (len(valid.preds), len(train.preds)) == (2, 3)


def test_a_fit_without_validation_is_refused():
    with pytest.raises(OptionError, match="has no validation data"):
        make_learner(FetchPredsCallback(), valid=None).fit(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ds_idx": 2}, "ds_idx must be 0 .* got 2"),
        ({"dl": iter([])}, "dl can be gone through once only"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(OptionError, match=f"fetch-preds: {message}"):
        FetchPredsCallback(**options)
