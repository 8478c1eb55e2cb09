"""Callbacks of the kinds that people have written for fastai run, and do their work.

Each is written here, in the shortest way, after what callbacks of its kind depend on.
"""

from __future__ import annotations

import re
import time

import pytest
import torch
from torch import nn

from callboard_fastai.basics import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CrossEntropyLossFlat,
    F,
    L,
    Module,
    Recorder,
    TensorBase,
    TensorImage,
    ValueMetric,
    flatten_model,
    rank_distrib,
    store_attr,
    to_detach,
    unsqueeze,
)
from callboard_fastai.callback.all import Callback, MixHandler, TrackerCallback
from callboard_fastai.learner import CastToTensor
from callboard_recorder import Recorder as NativeRecorder

# A file as it was written for fastai; only the root of its imports is renamed.
FILE = """
from fastai.basics import *
from fastai.callback.all import *
from fastai2.callback.hook import *
from fastai.vision.all import RandTransform, DataBlock
import fastai.losses

class Flip(RandTransform):
    "Nobody uses it here, but the file must load."
    def encodes(self, x: TensorImage): return x.flip(-1)

def learner_of(block: DataBlock): ...

class EMACallback(Callback):
    "Validate with an average of the weights"
    order,run_valid = MixedPrecision.order+1,False
    def __init__(self, decay=.9): store_attr()
    def before_fit(self):
        self.run = not hasattr(self.learn, 'lr_finder')
        if not self.run: return
        self.average = deepcopy(self.learn.model)
        self.num_updates = 0
    def after_batch(self):
        with torch.no_grad():
            for a,p in zip(self.average.parameters(), self.model.parameters()):
                a.lerp_(p, 1-self.decay)
        self.num_updates += 1
    def before_validate(self):
        self.live,self.learn.model = self.learn.model,self.average
    def after_validate(self): self.learn.model = self.live

class Smoothness(HookCallback):
    "Penalise the outputs of a layer"
    @delegates(HookCallback.__init__)
    def __init__(self, alpha=.1, **kwargs):
        super().__init__(detach=False, cpu=False, **kwargs)
        self.alpha = alpha
    def hook(self, m, i, o): self.out = o
    def after_loss(self):
        if not self.training: return
        self.learn.loss_grad += self.alpha * self.out.float().pow(2).mean()
"""


def renamed(text):
    return re.sub(
        r"^(\s*(?:from|import) )fastai2?\b", r"\1callboard_fastai", text, flags=re.M
    )


@pytest.fixture
def file():
    space = {"__name__": "a_file"}
    exec(renamed(FILE), space)
    return space


def test_a_file_runs_after_renaming_the_root_of_its_imports(file, fit):
    layer = nn.Linear(2, 1)
    plain = fit(model=nn.Linear(2, 1))

    learner = fit(
        file["EMACallback"](), file["Smoothness"](modules=[layer]), model=layer
    )

    assert learner.model is layer
    assert learner.ema.num_updates == 3
    assert not torch.equal(layer.weight, plain.model.weight)
    assert not torch.equal(learner.ema.average.weight, layer.weight)


class Accumulate(Callback):
    """Steps once in ``n`` batches, and at the end of an epoch."""

    run_valid = False

    def __init__(self, n):
        store_attr()

    def before_fit(self):
        self.count = 0

    def after_backward(self):
        self.count += 1
        if self.count % self.n and self.iter < self.n_iter - 1:
            raise CancelBatchException()

    def after_step(self):
        self.steps = getattr(self, "steps", 0) + 1


def test_accumulation(fit):
    assert fit(Accumulate(2)).accumulate.steps == 2  # of three batches


class SkipsBadBatches(Callback):
    """Leaves batches out whose loss is no number."""

    def __init__(self):
        self.num_skipped = 0

    def after_loss(self):
        if torch.isnan(self.learn.loss):
            self.num_skipped += 1
            self.opt.zero_grad()
            raise CancelBatchException


@pytest.mark.parametrize("others", [(), (NativeRecorder,)])
def test_bad_batches_are_left_out(others, fit):
    x = torch.ones(4, 2)
    data = [(x, torch.ones(4, 1)), (x * torch.nan, torch.ones(4, 1))]

    learner = fit(SkipsBadBatches(), *others, data=(data, data[:1]))

    assert learner.skips_bad_batches.num_skipped == 1
    assert torch.isfinite(learner.model.weight).all()


class Distil(Callback):
    """Blends the loss with that towards another model."""

    def __init__(self, teacher, weight=0.5):
        store_attr()

    def after_loss(self):
        with torch.no_grad():
            target = self.teacher(self.x)
        other = F.mse_loss(self.pred, target)
        self.learn.loss_grad = torch.lerp(self.learn.loss_grad, other, self.weight)
        self.learn.loss = self.learn.loss_grad.clone()


def test_distillation(fit):
    teacher = nn.Linear(2, 1)
    nn.init.zeros_(teacher.weight), nn.init.zeros_(teacher.bias)

    learner = fit(Distil(teacher, weight=1.0), num_epochs=30)

    assert learner.model.weight.abs().max() < 0.1  # the teacher says 0


class TwoViews(Callback):
    """Contrasts two views of every item; loss and labels are its own."""

    order, run_valid = 9, True

    def before_fit(self):
        self.learn.loss_func = self.lf

    def before_batch(self):
        self.learn.xb = (torch.cat([self.x, self.x + 0.1]),)
        size = len(self.x)
        self.learn.yb = (torch.arange(size).roll(size // 2),)

    def lf(self, pred, *yb):
        close = -torch.cdist(pred, pred)
        return F.cross_entropy(close - 10 * torch.eye(len(pred)), yb[0])


def test_self_supervision(fit):
    learner = fit(TwoViews(), num_epochs=3, model=nn.Linear(2, 4))

    assert len(learner.fastai.recorder.losses) == 9


class DictModel(nn.Module):
    """Gives a dict, with the loss in it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch):
        x, y = batch
        return {"loss": F.mse_loss(self.layer(x), y), "logits": self.layer(x)}


class OwnLoss(Callback):
    """Takes the loss out of what the model gives."""

    def before_batch(self):
        self.learn.xb = ((self.x, self.y),)

    def after_pred(self):
        self.found = self.pred["loss"]
        self.learn.pred = self.pred["logits"]

    def after_loss(self):
        self.learn.loss_grad = self.found
        self.learn.loss = self.learn.loss_grad.clone()


def test_models_with_a_loss_of_their_own(fit):
    learner = fit(OwnLoss(), num_epochs=8, model=DictModel())

    losses = learner.fastai.recorder.losses
    assert losses[-1] < losses[0]


class NoLabelsForTheLoss(Callback):
    """Empties the labels, so that no loss is asked for, and gives one itself."""

    def before_batch(self):
        self.kept, self.learn.yb = self.yb, ()

    def after_pred(self):
        self.learn.loss_grad = F.l1_loss(self.pred, self.kept[0])
        self.learn.loss = self.learn.loss_grad.clone()

    def after_loss(self):
        self.learn.yb = self.kept


def test_labels_may_come_back_after_the_loss(fit):
    learner = fit(NoLabelsForTheLoss(), num_epochs=8)

    values = learner.fastai.recorder.values
    assert values[-1][1] < values[0][1]


class Logs(Callback):
    """Writes losses, rates and the rows of the recorder somewhere."""

    order = Recorder.order + 1

    def __init__(self):
        self.steps, self.rows = [], []

    def before_fit(self):
        self.run = not hasattr(self.learn, "lr_finder") and rank_distrib() == 0

    def after_batch(self):
        if self.training:
            hypers = {
                f"{k}_{i}": v
                for i, h in enumerate(self.opt.hypers)
                for k, v in h.items()
            }
            self.steps.append((float(to_detach(self.smooth_loss)), hypers["lr_0"]))

    def after_epoch(self):
        row = zip(self.recorder.metric_names, self.recorder.log, strict=True)
        self.rows.append({n: s for n, s in row if n not in ("epoch", "time")})

    def after_fit(self):
        self.final = list(self.learn.final_record)


def test_loggers(fit):
    learner = fit(Logs(), num_epochs=2)

    logs = learner.logs
    assert len(logs.steps) == 6
    assert [rate for _, rate in logs.steps] == [0.1] * 6
    assert [list(row) for row in logs.rows] == [["train_loss", "valid_loss"]] * 2
    assert list(logs.rows[-1].values()) == logs.final


class Prunes(TrackerCallback):
    """Reports a value to somebody who may end the fit."""

    def __init__(self, report):
        super().__init__(monitor="valid_loss")
        self.report = report

    def after_epoch(self):
        super().after_epoch()
        if self.report(self.recorder.final_record[self.idx], self.epoch):
            raise CancelFitException()


def test_pruning(fit):
    learner = fit(Prunes(lambda value, epoch: epoch == 1), num_epochs=5)

    assert learner.epoch == 1


class TimeLimit(Callback):
    """Ends the fit when it takes too long."""

    def __init__(self, seconds):
        self.seconds = seconds

    def before_fit(self):
        self.began = time.time()

    def after_epoch(self):
        if time.time() - self.began > self.seconds:
            raise CancelFitException("time is up")


def test_time_limits(fit):
    learner = fit(TimeLimit(-1), num_epochs=5)

    assert learner.epoch == 0


class Steps(Callback):
    """Counts the run in steps instead of epochs."""

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def before_train(self):
        self.learn.pct_train = self.train_iter / self.num_steps

    def after_batch(self):
        self.learn.pct_train = self.train_iter / self.num_steps
        if self.train_iter == self.num_steps:
            raise CancelFitException

    def after_train(self):
        raise CancelEpochException


def test_runs_in_steps(fit):
    learner = fit(Steps(5), num_epochs=9)

    assert learner.train_iter == 5
    assert len(learner.fastai.recorder.losses) == 4  # the fifth batch ended the fit


class MeasuresItself(Callback):
    """Measures something over the validation and shows it as a metric."""

    def before_fit(self):
        if "range" not in self.learn.metrics.attrgot("name"):
            self.learn.metrics = self.learn.metrics + L(
                ValueMetric(self.range, "range")
            )

    def before_validate(self):
        self.preds = []

    def after_batch(self):
        if not self.training:
            self.preds.append(to_detach(self.pred))

    def range(self):
        preds = torch.cat(self.preds)
        return (preds.max() - preds.min()).item()


def test_metrics_from_callbacks(fit):
    learner = fit(MeasuresItself(), num_epochs=2)

    assert learner.fastai.recorder.metric_names[3] == "range"
    assert all(row[-1] > 0 for row in learner.fastai.recorder.values)


class OwnMix(MixHandler):
    """Blends items, and losses where labels are classes."""

    def __init__(self, alpha=0.4):
        super().__init__(alpha)

    def before_batch(self):
        share = self.distrib.sample((self.y.size(0),))
        self.lam = torch.stack([share, 1 - share], 1).max(1)[0]
        shuffle = torch.randperm(self.y.size(0))
        self.yb1 = tuple(L(self.yb).itemgot(shuffle))
        others = tuple(L(self.xb).itemgot(shuffle))
        self.learn.xb = tuple(
            L(others, self.xb).map_zip(torch.lerp, weight=unsqueeze(self.lam, n=1))
        )


def test_mixing(fit):
    x, y = torch.randn(6, 2), torch.arange(6) % 3
    loss_func = CrossEntropyLossFlat()

    learner = fit(
        OwnMix(), data=([(x, y)], [(x, y)]), model=nn.Linear(2, 3), loss_func=loss_func
    )

    assert learner.loss_func is loss_func
    assert loss_func.reduction == "mean"


class ReplacesLogger(Callback):
    """Takes the rows of the recorder before anybody else."""

    order = 60

    def before_fit(self):
        self.rows = []
        self.old_logger, self.learn.logger = self.learn.logger, self.write

    def write(self, row):
        self.rows.append(list(row))
        self.old_logger(row)

    def after_fit(self):
        self.learn.logger = self.old_logger


def test_loggers_in_a_chain(fit):
    learner = fit(ReplacesLogger(), num_epochs=2)

    assert [row[0] for row in learner.replaces_logger.rows] == [0, 1]


class Adversaries(nn.Module):
    """Two models in one."""

    def __init__(self):
        super().__init__()
        self.maker, self.judge = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.maker(x)


class Adversarial(Callback):
    """Trains the judge by an optimizer of its own, after every batch."""

    def before_train(self):
        self.opt_judge = self.learn.opt_func(
            self.learn.splitter(nn.Sequential(*flatten_model(self.judge))),
            self.learn.lr,
        )
        self.opt_judge.hypers = self.learn.opt.hypers

    def before_batch(self):
        for p in self.judge.parameters():
            p.requires_grad_(False)

    def after_batch(self):
        if not self.training:
            return
        for p in self.judge.parameters():
            p.requires_grad_(True)
        fake = self.learn.pred.detach()
        (self.judge(fake).mean() - self.judge(self.x).mean()).backward()
        self.opt_judge.step()
        self.opt_judge.zero_grad()


def test_two_optimizers(fit):
    model = Adversaries()
    before = model.judge.weight.detach().clone()

    fit(Adversarial(), model=model, loss_func=lambda pred, y: model.judge(pred).mean())

    assert not torch.equal(model.judge.weight, before)


class DataChanges(Callback):
    """Looks at the data and takes another part of it."""

    def before_fit(self):
        x, y = self.dls.one_batch()
        self.shapes = x.shape, y.shape, self.dls.bs, len(self.dls.train)
        self.learn.dls.train = self.dls.valid

    def after_fit(self):
        self.num_batches = len(self.recorder.losses)


def test_data_may_be_changed(fit):
    learner = fit(DataChanges())

    assert learner.data_changes.shapes == ((4, 2), (4, 1), 4, 3)
    assert learner.data_changes.num_batches == 1


class EvaluatesTwice(Callback):
    """Evaluates on the training data after every epoch."""

    def after_epoch(self):
        learn = self.learn
        with learn.no_logging(), learn.removed_cbs(self):
            self.found = learn.validate(ds_idx=0)


def test_evaluations_in_the_middle_of_a_fit(fit):
    learner = fit(EvaluatesTwice(), num_epochs=2)

    assert len(learner.evaluates_twice.found) == 1
    assert len(learner.fastai.recorder.values) == 2


class GradientReport(Callback):
    """Reads gradients through the optimizer."""

    def __init__(self):
        self.norms = []

    def before_step(self):
        grads = [p.grad.flatten() for p, *_ in self.opt.all_params(with_grad=True)]
        self.norms.append(torch.cat(grads).norm().item())


def test_gradients(fit):
    norms = fit(GradientReport()).gradient_report.norms

    assert len(norms) == 3
    assert min(norms) > 0


def test_module_and_tensors_of_fastai(fit):
    class Line(Module):
        def __init__(self):
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return TensorBase(self.layer(x))

    learner = fit(Callback(), CastToTensor(), model=Line())

    assert len(learner.fastai.recorder.values) == 1
    assert type(TensorImage([1.0, 2.0]) + 1) is TensorImage
