"""What is drawn, when and where to."""

import copy
import sys
from types import ModuleType

import matplotlib.image
import pytest
import torch
from torch import nn

from callboard import Callback, DataLoaders, Learner
from callboard.errors import ActivationError, ObserverWarning, OptionError
from callboard_recorder import Recorder
from callboard_show_graph import ShowGraphCallback

PNG = b"\x89PNG\r\n\x1a\n"


class Gone(Exception):
    """What a test raises in the middle of a fit."""


class Axes(ShowGraphCallback):
    """Keeps the lines and limits of every picture."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drawn, self.limits = [], []

    def _show(self, picture):
        (ax,) = self._figure.axes
        self.drawn.append([line.get_xydata().tolist() for line in ax.lines])
        self.limits.append(ax.get_xlim())
        super()._show(picture)


class Handle:
    """A cell's output, as IPython's DisplayHandle."""

    def __init__(self, shown):
        self.shown = shown

    def update(self, image):
        self.shown.append(("update", image))


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's IPython, and what it was asked to show."""
    shown = []

    def display(image, display_id):
        shown.append(("display", image))
        return Handle(shown)

    ipython, ipython_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = type("ZMQInteractiveShell", (), {})
    ipython_display.display, ipython_display.Image = display, bytes
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython_display)
    return shown


def batches(count):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, 3, generator=generator)
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


def a_learner(*cbs, path, num_valid=2, train=None):
    torch.manual_seed(0)
    return Learner(
        DataLoaders(train or batches(5), batches(num_valid) if num_valid else None),
        nn.Linear(3, 1),
        nn.MSELoss(),
        torch.optim.SGD,
        lr=0.1,
        cbs=[Recorder(), *cbs],
        path=path,
        seed=0,
    )


def at(event, action):
    return type("At", (Callback,), {event: lambda self: action(self.learn)})()


def test_a_script_gets_a_png_file(tmp_path):
    a_learner(ShowGraphCallback(), path=tmp_path).fit(2)

    assert [file.name for file in tmp_path.iterdir()] == ["graph.png"]
    assert (tmp_path / "graph.png").read_bytes().startswith(PNG)
    assert matplotlib.image.imread(tmp_path / "graph.png").shape == (400, 600, 4)


def test_the_file_is_there_after_the_first_epoch(tmp_path):
    sizes = []
    look = at("before_epoch", lambda learn: sizes.append(len(list(tmp_path.iterdir()))))

    a_learner(look, ShowGraphCallback(), path=tmp_path).fit(2)

    assert sizes == [0, 1]


def test_folders_are_made_and_absolute_names_kept(tmp_path):
    file = tmp_path / "pictures" / "run 1.png"

    a_learner(ShowGraphCallback(fname=file), path=tmp_path / "x").fit(1)

    assert file.exists()
    assert not (tmp_path / "x").exists()


def test_drawn_are_losses_by_step_smoothed_losses_and_validation(tmp_path):
    graph = Axes()
    learner = a_learner(graph, path=tmp_path)

    learner.fit(2)

    recorder = learner.recorder
    raw, smooth, valid = graph.drawn[-1]
    assert [y for _, y in raw] == pytest.approx(recorder.losses)
    assert [y for _, y in smooth] == pytest.approx(recorder.smooth_losses)
    assert [x for x, _ in valid] == [5, 10]
    assert [y for _, y in valid] == pytest.approx(
        [row["valid_loss"] for row in recorder.values]
    )


def test_the_axis_spans_the_whole_run_from_the_first_epoch_on(tmp_path):
    graph = Axes()

    a_learner(graph, path=tmp_path).fit(4)

    assert len(graph.limits) == 4
    assert len(set(graph.limits)) == 1
    assert graph.limits[0][1] > 20


def test_without_validation_data_there_is_the_training_loss(tmp_path):
    graph = Axes()

    a_learner(graph, path=tmp_path, num_valid=0).fit(1)

    assert len(graph.drawn[-1]) == 2


def test_data_without_a_length_is_drawn(tmp_path):
    class Endless:
        def __iter__(self):
            return iter(batches(5))

    graph = Axes()

    a_learner(graph, path=tmp_path, train=Endless()).fit(2)

    assert len(graph.drawn[-1][0]) == 10


def test_a_fit_that_starts_later_is_drawn_where_it_is(tmp_path):
    graph = Axes()

    a_learner(graph, path=tmp_path).fit(4, start_epoch=2)

    _, _, valid = graph.drawn[-1]
    assert [x for x, _ in valid] == [15, 20]


def test_a_resumed_fit_is_drawn_with_its_earlier_epochs(tmp_path):
    saved = []
    save = at(
        "checkpoint", lambda learn: saved.append(copy.deepcopy(learn.state_dict()))
    )
    a_learner(save, path=tmp_path).fit(2)
    graph = Axes()

    a_learner(graph, path=tmp_path).fit(2, resume=saved[5], resume_policy="ignore")

    raw, _, valid = graph.drawn[-1]
    assert len(raw) == 10
    assert [x for x, _ in valid] == [5, 10]


@pytest.mark.parametrize("error", [Gone, KeyboardInterrupt])
def test_a_fit_that_breaks_off_is_drawn_as_far_as_it_got(tmp_path, error):
    def strike(learner):
        if learner.train_iter == 7:
            raise error

    graph = Axes()
    learner = a_learner(graph, at("after_batch", strike), path=tmp_path)

    with pytest.raises(error):
        learner.fit(2)

    assert len(graph.drawn[-1][0]) >= 6


def test_a_fit_of_no_epochs_draws_nothing(tmp_path):
    a_learner(ShowGraphCallback(), path=tmp_path).fit(0)

    assert list(tmp_path.iterdir()) == []


def test_evaluations_draw_nothing(tmp_path):
    learner = a_learner(ShowGraphCallback(), path=tmp_path)

    learner.validate()
    with learner.evaluating("predict"):
        learner.run_validation()

    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_one_picture_that_changes(notebook, tmp_path):
    a_learner(ShowGraphCallback(), path=tmp_path).fit(3)

    assert [how for how, _ in notebook] == ["display", "update", "update"]
    assert all(image.startswith(PNG) for _, image in notebook)
    assert list(tmp_path.iterdir()) == []


def test_each_fit_has_a_picture_of_its_own_in_a_notebook(notebook, tmp_path):
    learner = a_learner(ShowGraphCallback(), path=tmp_path)

    learner.fit(1)
    learner.fit(1)

    assert [how for how, _ in notebook] == ["display", "display"]


def test_a_notebook_may_write_a_file_instead(notebook, tmp_path):
    a_learner(ShowGraphCallback(mode="file"), path=tmp_path).fit(1)

    assert notebook == []
    assert (tmp_path / "graph.png").exists()


def test_pyplot_knows_nothing_of_the_figure(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    a_learner(ShowGraphCallback(), path=tmp_path).fit(1)

    assert plt.get_fignums() == before


def test_a_picture_that_cannot_be_written_does_not_end_the_fit(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    learner = a_learner(ShowGraphCallback("folder/graph.png"), path=tmp_path)

    with pytest.warns(ObserverWarning, match="show-graph"):
        learner.fit(2)

    assert learner.train_iter == 10


def test_without_the_recorder_it_is_refused(tmp_path):
    with pytest.raises(ActivationError, match="recorder"):
        Learner(batches(2), nn.Linear(3, 1), nn.MSELoss(), cbs=[ShowGraphCallback()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "notebok"}, 'one of "auto", "notebook", "file", got .*"notebook"'),
        ({"fname": "graph.jpg"}, "name of a PNG file, got 'graph.jpg'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        ShowGraphCallback(**options)
