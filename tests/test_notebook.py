"""What a notebook shows of Learners, boards and records, and that the example runs."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from callboard import Callback, DataLoaders, Learner
from callboard.notebook import record_html, size_in_words
from callboard.state import Failure, Reason, RunRecord

EXAMPLE = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def a_learner(*cbs, **options):
    data = [(torch.zeros(2, 1), torch.zeros(2, 1))] * 3
    return Learner(DataLoaders(data), nn.Linear(1, 1), nn.MSELoss(), cbs=cbs, **options)


class Scribe(Callback):
    role = "observe"

    def after_epoch(self):
        self.learn.results["<loss>"] = 0.123456


# ---- a Learner and its board --------------------------------------------------


def test_a_learner_says_what_it_is_made_of_and_who_is_on_its_board():
    shown = a_learner(Scribe(), opt_func=partial(torch.optim.SGD))._repr_html_()

    assert "<code>Linear</code>" in shown
    assert ">2 parameters, on cpu<" in shown
    assert "train=3 batches" in shown
    assert "MSELoss" in shown
    assert "SGD, learning rate 0.001" in shown
    assert ">scribe<" in shown
    assert ">observe<" in shown
    assert "metrics" not in shown


def test_metrics_are_named_as_functions_and_as_classes():
    def error(preds, labels):
        return 0.0

    shown = a_learner(metrics=[error, nn.L1Loss()], opt_func=torch.optim.SGD)

    assert "error, L1Loss" in shown._repr_html_()


def test_results_of_the_latest_epoch_are_shown_and_escaped():
    learner = a_learner(Scribe())

    learner.fit(2)

    assert "epoch 1" in learner._repr_html_()
    assert "&lt;loss&gt; 0.1235" in learner._repr_html_()


def test_a_learner_without_a_loss_or_plugins_is_shown():
    learner = Learner(DataLoaders([torch.zeros(1)]), nn.Linear(1, 1))

    assert "of the model" in learner._repr_html_()
    assert "no active plugins" in learner.cbs._repr_html_()


def test_a_board_is_a_table_in_running_order():
    class Second(Callback):
        run_after = "scribe"

        def after_epoch(self):
            pass

    shown = a_learner(Second(), Scribe()).cbs._repr_html_()

    assert shown.index(">scribe<") < shown.index(">second<")
    assert shown.count("<tr>") == 3


def test_parameters_are_counted_and_so_are_those_that_are_trained():
    model = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 1))
    assert size_in_words(model) == "1,201 parameters"

    model[0].requires_grad_(False)

    assert size_in_words(model) == "1,201 parameters, 101 of them trained"


def test_parameters_without_a_shape_yet_are_no_error():
    assert "first batch" in size_in_words(nn.LazyLinear(3))


# ---- the record of a fit ------------------------------------------------------


def test_a_record_says_what_was_stopped_and_what_failed():
    record = RunRecord(
        [Reason("stop", "it is <enough>", "judge", 2, 7)],
        [Failure("scribe", "callboard-scribe 1.0", "after_step", "no disk", 1, 3)],
    )

    shown = record._repr_html_()

    assert "it is &lt;enough&gt;" in shown
    assert ">judge<" in shown
    assert "after_step of callboard-scribe 1.0 failed: no disk" in shown


def test_a_record_of_nothing_says_so():
    assert "nothing was stopped" in record_html(RunRecord())


def test_of_many_reasons_the_last_are_shown():
    record = RunRecord([Reason("batch", "", "sums", 0, i) for i in range(50)])

    shown = record_html(record)

    assert "30 before these" in shown
    assert shown.count(">sums<") == 20
    assert ">49<" in shown


def test_the_record_stands_below_a_learner_that_has_one():
    class Judge(Callback):
        role = "control"

        def after_epoch(self):
            self.learn.stop("it is enough")

    learner = a_learner(Judge())
    assert "it is enough" not in learner._repr_html_()

    learner.fit(3)

    assert "it is enough" in learner._repr_html_()


# ---- the example --------------------------------------------------------------


def test_the_example_is_stored_without_outputs():
    cells = json.loads(EXAMPLE.read_text())["cells"]

    assert all(not cell.get("outputs") for cell in cells)
    assert all(cell.get("execution_count") is None for cell in cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the kernel's client are not ours
def test_the_example_runs_in_a_kernel_and_shows_tables_and_plots(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    monkeypatch.delenv("CALLBOARD_AUTOLOAD", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(EXAMPLE, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}

    nbclient.NotebookClient(notebook, timeout=120, resources=place).execute()

    shown = shown_by(notebook)
    assert "<b>Learner</b> of <code>Sequential</code>" in shown["learn"]["text/html"]
    fitted = shown["learn.fit_one_cycle(3, 1e-2)"]["text/html"]
    assert "<th>valid_loss</th><th>accuracy</th>" in fitted
    assert fitted.count("<tr>") == 1 + 3
    assert "<progress" not in fitted
    assert "good-enough" in shown["learn.record"]["text/html"]
    assert "callboard-mixup" in shown["learn.cbs"]["text/html"]
    for plotted in (
        "learn.lr_find(num_it=60)",
        "learn.recorder.plot_loss(skip_start=0);",
    ):
        assert "image/png" in shown[plotted], plotted


def shown_by(notebook):
    """The last line of every cell, and what the cell shows by kind."""
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            data = found.setdefault(cell.source.splitlines()[-1], {})
            for output in cell.outputs:
                for kind, text in output.get("data", {}).items():
                    data[kind] = data.get(kind, "") + text
    return found
