"""What goes wrong with fastai 2.8 in a user's hands does not go wrong here.

Each fault was reproduced there; the number is that of its thread on GitHub, where there
is one. The plugins that come with ``callboard[standard]`` take part, as they would.
"""

import pytest
import torch
from tests.runs import a_learner, at, batches, weights
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from callboard import Callback, CancelTrainException, DataLoaders, Learner
from callboard.errors import (
    CallboardWarning,
    MisplacedCancelError,
    OptionError,
    UnknownEventError,
)
from callboard_csv_logger import CSVLogger
from callboard_early_stopping import EarlyStoppingCallback
from callboard_mixup import MixUp
from callboard_recorder import Recorder
from callboard_save_model import SaveModelCallback


def mean_error(pred, target):
    return (pred - target).abs().mean()


def error_score(pred, target):
    return -(pred - target).abs().mean()


def an_everyday_learner(tmp_path, *cbs, **options):
    everyday = [
        Recorder(),
        CSVLogger(),
        EarlyStoppingCallback(patience=5),
        SaveModelCallback(),
    ]
    options = {"metrics": mean_error, "path": tmp_path, **options}
    return a_learner(3, 2, cbs=[*everyday, *cbs], **options)


def files_of(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def without_time(rows):
    return [{**row, "time": None} for row in rows]


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("event", ["after_pred", "after_loss", "before_step"])
def test_an_error_in_mid_batch_leaves_no_loss_function_swapped(event, error):
    def fail(learn):
        raise error

    learner = a_learner(cbs=[MixUp(), at(event, fail)])
    loss_func = learner.loss_func

    with pytest.raises(error):
        learner.fit(1)

    assert learner.loss_func is loss_func


def test_a_misspelled_event_is_refused_when_the_class_is_written():
    with pytest.raises(UnknownEventError, match='Did you mean "before_epoch"'):

        class Old(Callback):
            def before_epochs(self):
                pass


@pytest.mark.parametrize("event", ["before_batch", "after_batch", "after_epoch"])
@pytest.mark.parametrize("evaluation", ["validate", "get_preds"])
def test_evaluating_in_a_callback_changes_no_weight_row_or_file(
    event, evaluation, tmp_path
):
    """#3336, #2862, fastai2#222: history gone, CSV file cut off, best value lost."""

    def evaluate(learn):
        if evaluation == "validate":
            learn.validate()
        else:
            learn.get_preds()

    plain = an_everyday_learner(tmp_path / "plain")
    plain.fit(2)
    nested = an_everyday_learner(tmp_path / "nested", at(event, evaluate))
    nested.fit(2)

    assert torch.equal(weights(nested), weights(plain))
    assert without_time(nested.recorder.values) == without_time(plain.recorder.values)
    assert nested.early_stopping.best == plain.early_stopping.best
    log = (tmp_path / "nested" / "history.csv").read_text().splitlines()
    assert len(log) == 3


def test_evaluating_after_a_fit_leaves_record_and_files_alone(tmp_path):
    learner = an_everyday_learner(tmp_path)
    learner.fit(2)
    files, values = files_of(tmp_path), list(learner.recorder.values)

    learner.validate()
    learner.get_preds()

    assert files_of(tmp_path) == files
    assert learner.recorder.values == values


def test_two_callbacks_of_one_class_keep_apart_and_leave_apart(tmp_path):
    """#3829: the second hid the first, and removing one took the name of both."""
    one = SaveModelCallback(fname="one")
    other = SaveModelCallback("mean_error", comp="min", fname="other")
    learner = a_learner(metrics=mean_error, path=tmp_path, cbs=[Recorder(), one, other])
    learner.fit(2)

    assert learner.save_model is one
    assert learner.save_model_2 is other
    saved = {path.stem for path in tmp_path.rglob("*.safetensors")}
    assert saved == {"one", "other"}

    learner.remove_cb(one)

    assert list(learner.cbs) == [learner.recorder, other]
    assert learner.save_model_2 is other


def test_a_cancelled_phase_shifts_no_column(tmp_path):
    """#3126: without its training columns every value stood under a wrong name."""

    def cancel(learn):
        if learn.training and learn.epoch == 1:
            raise CancelTrainException

    learner = an_everyday_learner(tmp_path, at("before_batch", cancel))
    learner.fit(2)

    first, second = learner.recorder.values
    assert list(first) == list(second)
    assert second["train_loss"] is None
    assert None not in (second["valid_loss"], second["mean_error"])


class Wordless(Exception):
    def __init__(self):
        super().__init__()


def test_an_error_without_a_message_keeps_its_type_and_attributes():
    """#4019: an IndexError came instead, from rewriting what was not there."""

    def fail(learn):
        raise Wordless

    learner = a_learner(cbs=at("after_pred", fail))

    with pytest.raises(Wordless) as caught:
        learner.fit(1)

    assert caught.value.args == ()
    assert "after_pred" in caught.value.__notes__[0]


def test_a_cancel_at_a_wrong_level_is_explained():
    def cancel(learn):
        if not learn.training:
            raise CancelTrainException

    with pytest.raises(MisplacedCancelError, match="no train is open"):
        a_learner(cbs=at("before_batch", cancel)).fit(1)


def test_one_cycle_runs_with_an_optimizer_that_has_no_momentum():
    learner = a_learner(opt_func=torch.optim.Adagrad)

    with pytest.warns(CallboardWarning, match="mom"):
        learner.fit_one_cycle(2, 0.1)

    assert learner.train_iter == 4


def test_the_direction_of_a_metric_is_not_guessed_from_its_name(tmp_path):
    """#2469: `error` in a name made a score one of which less is better."""
    save = SaveModelCallback("error_score")
    options = {"metrics": error_score, "path": tmp_path}

    with pytest.raises(OptionError, match="comp"):
        a_learner(cbs=[Recorder(), save], **options).fit(1)

    save = SaveModelCallback("error_score", comp="max")
    learner = a_learner(cbs=[Recorder(), save], **options)
    learner.fit(3)
    assert save.best == max(row["error_score"] for row in learner.recorder.values)


class Stream(IterableDataset):
    def __iter__(self):
        for inputs, labels in batches(3):
            yield from zip(inputs, labels, strict=True)


def test_a_stream_without_length_and_without_validation_trains():
    """#3413, tsai#671."""
    data = DataLoaders(DataLoader(Stream(), 2))
    learner = Learner(
        data, nn.Linear(3, 1), nn.MSELoss(), cbs=[Recorder()], lr=0.01, seed=1
    )

    with pytest.warns(CallboardWarning, match="no length"):
        learner.fit_one_cycle(2, 0.01)

    assert learner.n_iter == 3
    assert len(learner.recorder.values) == 2


def test_start_epoch_keeps_schedule_and_rows_in_their_places(tmp_path):
    """#3653, #3844."""
    learner = an_everyday_learner(tmp_path)

    learner.fit_one_cycle(4, 0.1, start_epoch=2)

    with (tmp_path / "history.csv").open() as log:
        epochs = [line.split(",")[0] for line in log][1:]
    assert epochs == ["2", "3"]
