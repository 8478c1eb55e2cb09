"""fastai's own callbacks: plugins when they are made, fastai's when derived from."""

from __future__ import annotations

import numpy as np
import pytest

import callboard_early_stopping
import callboard_recorder
import callboard_save_model
from callboard_fastai import exports
from callboard_fastai.callback.core import Callback
from callboard_fastai.callback.progress import CSVLogger
from callboard_fastai.callback.schedule import ParamScheduler
from callboard_fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TrackerCallback,
)
from callboard_fastai.learner import Recorder


def test_made_directly_it_is_the_plugin():
    made = EarlyStoppingCallback("valid_loss", patience=3)

    assert type(made) is callboard_early_stopping.EarlyStoppingCallback
    assert made.patience == 3


def test_fastais_positions_of_arguments_hold():
    made = EarlyStoppingCallback("valid_loss", np.less, 0.1, 4)

    assert (made.direction, made.min_delta, made.patience) == ("min", 0.1, 4)


def test_the_plugin_is_an_instance_of_fastais_class():
    made = SaveModelCallback()

    assert isinstance(made, SaveModelCallback)
    assert isinstance(callboard_save_model.SaveModelCallback(), SaveModelCallback)
    assert not isinstance(made, EarlyStoppingCallback)


def test_the_plugin_trains_like_any_other(fit):
    learner = fit(callboard_recorder.Recorder(), EarlyStoppingCallback(), num_epochs=3)

    assert learner.early_stopping.best is not None


@pytest.mark.parametrize(
    ("cls", "order"),
    [
        (Recorder, 50),
        (TrackerCallback, 60),
        (SaveModelCallback, 61),
        (ReduceLROnPlateau, 62),
        (EarlyStoppingCallback, 63),
        (ParamScheduler, 60),
    ],
)
def test_orders_are_fastais(cls, order):
    assert cls.order == order


def test_a_class_derived_from_it_is_fastais(fit):
    class Watch(TrackerCallback):
        def __init__(self):
            super().__init__(monitor="valid_loss")
            self.seen = []

        def after_epoch(self):
            super().after_epoch()
            row = self.recorder.values[-1]
            self.seen.append((self.new_best, self.best == row[self.idx]))

    learner = fit(Watch(), num_epochs=3)

    assert isinstance(learner.watch, Callback)
    assert learner.watch.seen == [(True, True)] * 3


def test_an_own_early_stopping_stops(fit):
    class Impatient(EarlyStoppingCallback):
        def after_epoch(self):
            super().after_epoch()

    learner = fit(Impatient(monitor="valid_loss", min_delta=100), num_epochs=9)

    # The first value beats infinity, the second is no better by 100.
    assert learner.epoch == 1
    assert learner.record.reasons[-1].what == "fit"


def test_an_own_saver_writes_the_file_of_fastai(fit, tmp_path):
    class Saver(SaveModelCallback):
        pass

    learner = fit(Saver(fname="best"))

    assert (tmp_path / "models" / "best.pth").exists()
    assert learner.saver.last_saved_path == tmp_path / "models" / "best.pth"


def test_an_own_plateau_divides_the_rate(fit):
    class Plateau(ReduceLROnPlateau):
        pass

    learner = fit(Plateau(min_delta=100, factor=10), num_epochs=2)

    assert learner.opt.param_groups[0]["lr"] == pytest.approx(0.01)


def test_an_own_scheduler_sets_hyper_parameters(fit):
    class Halving(ParamScheduler):
        def __init__(self):
            super().__init__({"lr": lambda pct: 0.1 * (1 - pct / 2)})

    learner = fit(Halving())

    # Three batches, at 0, 1/3 and 2/3 of the run.
    assert learner.halving.hps["lr"] == pytest.approx([0.1, 0.25 / 3, 0.2 / 3])


def test_an_own_logger_writes_the_rows_of_the_recorder(fit, tmp_path):
    class Log(CSVLogger):
        pass

    fit(Log(fname="log.csv"), num_epochs=2)

    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,train_loss,valid_loss,time"
    assert [line.partition(",")[0] for line in lines[1:]] == ["0", "1"]


def test_an_own_recorder_records_in_fastais_shapes(fit):
    class Extra(Recorder):
        pass

    learner = fit(Extra(add_time=False), num_epochs=2)

    assert list(learner.extra.metric_names) == ["epoch", "train_loss", "valid_loss"]
    assert [len(row) for row in learner.extra.values] == [2, 2]


def test_options_that_the_plugin_lacks_make_fastais_class(tmp_path):
    made = CSVLogger(tmp_path / "x.csv", True)

    assert made.append is True


def test_without_the_plugin_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(exports, "installed_plugin", lambda name: None)

    with pytest.raises(ImportError, match="pip install callboard-early-stopping"):
        EarlyStoppingCallback()
