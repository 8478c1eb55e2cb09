"""What is recorded, logged and shown of a fit."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback as FastaiCallback
from fastai.callback.data import CollectDataCallback as FastaiCollectData
from fastai.callback.progress import CSVLogger as FastaiCSVLogger
from fastai.callback.progress import ProgressCallback as FastaiProgress
from fastai.callback.progress import ShowGraphCallback as FastaiShowGraph
from fastai.learner import Recorder as FastaiRecorder
from torch import nn

from callboard_collect_data import CollectDataCallback
from callboard_csv_logger import CSVLogger
from callboard_progress import ProgressCallback
from callboard_recorder import Recorder
from callboard_schedule import fit_one_cycle
from callboard_show_graph import ShowGraphCallback
from parity.cases import case, difference
from parity.problems import MOMENTUM, Problem


@case("Recorder", "`valid_loss` and a metric of every epoch, with an uneven last batch")
def values(folder: Path) -> float:
    ours, theirs = Problem().ours(), Problem().theirs()
    ours.fit(3)
    theirs.fit(3)
    rows = [[row["valid_loss"], row["mean_error"]] for row in ours.recorder.values]
    return difference(rows, [row[1:] for row in theirs.recorder.values])


@case("Recorder", "smoothed loss and rate of every step, with `beta` 0.98 and 0.9")
def steps(folder: Path) -> float:
    def between(beta: float) -> float:
        problem = Problem(opt_func=MOMENTUM)
        ours, theirs = problem.ours(recorder=Recorder(beta=beta)), problem.theirs()
        theirs.remove_cb(FastaiRecorder).add_cb(FastaiRecorder(beta=beta))
        fit_one_cycle(ours, 2, 0.1)
        theirs.fit_one_cycle(2, 0.1)
        losses = ours.recorder.smooth_losses, theirs.recorder.losses
        return max(
            difference(*losses), difference(ours.recorder.lrs, theirs.recorder.lrs)
        )

    return max(map(between, (0.98, 0.9)))


@case("Recorder", "metrics of the training batches")
def train_metrics(folder: Path) -> float:
    ours = Problem().ours(recorder=Recorder(train_metrics=True))
    theirs = Problem().theirs()
    theirs.remove_cb(FastaiRecorder).add_cb(FastaiRecorder(train_metrics=True))
    ours.fit(2)
    theirs.fit(2)
    columns = theirs.recorder.metric_names[1:-1]
    rows = [dict(zip(columns, row, strict=True)) for row in theirs.recorder.values]
    names = ("train_mean_error", "valid_loss", "valid_mean_error")
    found = [[row[name] for name in names] for row in rows]
    ours_named = ("train_mean_error", "valid_loss", "mean_error")
    return difference(
        [[row[name] for name in ours_named] for row in ours.recorder.values], found
    )


@case("CSVLogger", "columns of the file, `valid_loss` and the metric in every row")
def csv(folder: Path) -> float:
    ours = Problem().ours(CSVLogger("ours.csv"), path=folder)
    theirs = Problem().theirs(FastaiCSVLogger("theirs.csv"), path=folder)
    ours.fit(3)
    theirs.fit(3)
    rows, table = ours.csv_logger.read_log(), theirs.csv_logger.read_log()
    names = ["epoch", "valid_loss", "mean_error"]
    return max(
        difference(sorted(rows[0]), sorted(table.columns)),
        difference(
            [[row[name] for name in names] for row in rows],
            table[names].values.tolist(),
        ),
    )


@case("ProgressCallback", "epoch, `valid_loss` and metric in the rows that are printed")
def table(folder: Path) -> float:
    def shown(run: Any) -> list[list[float]]:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            run()
        lines = [line.split() for line in output.getvalue().splitlines()]
        is_row = [bool(line) and line[0].isdigit() for line in lines]
        rows = [line for line, row in zip(lines, is_row, strict=True) if row]
        return [[float(row[0]), float(row[2]), float(row[3])] for row in rows]

    ours = Problem().ours(ProgressCallback(mode="plain"))
    theirs = Problem().theirs(FastaiProgress())
    return difference(shown(lambda: ours.fit(3)), shown(lambda: theirs.fit(3)))


class Bar:
    """Takes what fastai draws."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def update_graph(self, graphs: Any, *bounds: Any) -> None:
        self.graphs = [[list(numbers) for numbers in graph] for graph in graphs]


@case("ShowGraphCallback", "points of both lines that are drawn")
def graph(folder: Path) -> float:
    ours = Problem().ours(ShowGraphCallback(mode="file"), path=folder)
    ours.fit(3)
    drawn = ours.recorder.plot_loss(skip_start=0).get_lines()
    train, valid = drawn[-2:]
    lines = [train.get_ydata(), valid.get_xdata(), valid.get_ydata()]

    theirs = Problem().theirs(FastaiProgress(), FastaiShowGraph())
    bar = Bar()

    def swap(callback: Any) -> None:
        theirs.progress.mbar.update_graph = bar.update_graph

    theirs.fit(3, cbs=FastaiCallback(before_train=swap))
    (_, train_losses), (steps, valid_losses) = bar.graphs
    return difference(lines, [train_losses, steps, valid_losses])


@case("CollectDataCallback", "inputs, labels, predictions and losses of every batch")
def collected(folder: Path) -> float:
    ours, theirs = CollectDataCallback(), FastaiCollectData()
    Problem().ours(ours).fit(2)
    Problem().theirs(theirs).fit(2)
    return difference(list(ours.data), [list(batch) for batch in theirs.data])


@case("Learner.validate", "losses and metrics of training and validation data")
def validated(folder: Path) -> float:
    problem = Problem(loss_func=nn.L1Loss)
    ours, theirs = problem.ours(), problem.theirs()
    found = [list(ours.validate(ours.dls[i]).values()) for i in (0, 1)]
    return difference(found, [list(theirs.validate(i)) for i in (0, 1)])
