"""What stands in the event files is what the run was, read back by TensorBoard."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import CallboardWarning, ObserverWarning, OptionError
from callboard_tensorboard import (
    TensorBoardCallback,
    TensorBoardProjectorCallback,
    projector_word_embeddings,
)

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
# TensorBoard's own generated code and image encoder warn on new Pythons.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
INPUTS = torch.linspace(-1, 1, 64).reshape(32, 2)
LABELS = (INPUTS.sum(1) > 0).long()
PICTURES = torch.linspace(0, 1, 32 * 16).reshape(32, 1, 4, 4)


class Measurements(Callback):
    """Publishes results, as the recorder does."""

    name = "recorder"
    role = "observe"

    def after_validate(self):
        self.learn.results |= {"train_loss": 0.7, "accuracy": self.epoch / 4}


def learner(tmp_path, *cbs, model=None, inputs=INPUTS, **options):
    torch.manual_seed(0)
    train = DataLoader(TensorDataset(inputs, LABELS), batch_size=4, shuffle=True)
    valid = DataLoader(TensorDataset(inputs, LABELS), batch_size=8)
    return Learner(
        DataLoaders(train, valid),
        model or nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        0.1,
        cbs=list(cbs),
        path=tmp_path,
        seed=3,
        **options,
    )


def picture_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 2))


def events_in(folder):
    """All that TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    unbounded = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), size_guidance=unbounded).Reload()


def scalars(folder, tag):
    return {event.step: event.value for event in events_in(folder).Scalars(tag)}


def text(folder, tag):
    (event,) = events_in(folder).Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_importing_the_plugin_imports_no_client():
    code = (
        "import sys, callboard_tensorboard;"
        "print([m for m in sys.modules if m.partition('.')[0] == 'tensorboard'])"
    )

    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "[]"


def test_losses_and_rates_stand_under_their_steps(tmp_path):
    losses = {}

    class See(Callback):
        role = "observe"

        def after_batch(self):
            if self.learn.training:
                losses[self.learn.train_iter] = self.learn.loss.item()

    learner(tmp_path, See(), TensorBoardCallback("logs")).fit(2)

    assert scalars(tmp_path / "logs", "raw_loss") == pytest.approx(losses)
    assert scalars(tmp_path / "logs", "lr_0") == pytest.approx(
        dict.fromkeys(range(1, 17), 0.1)
    )
    assert list(scalars(tmp_path / "logs", "train_loss")) == list(range(1, 17))


def test_results_of_epochs_stand_at_their_last_step(tmp_path):
    learner(tmp_path, Measurements(), TensorBoardCallback("logs")).fit(3)

    assert scalars(tmp_path / "logs", "accuracy") == {8: 0.0, 16: 0.25, 24: 0.5}
    assert list(scalars(tmp_path / "logs", "epoch_train_loss")) == [8, 16, 24]


def test_settings_stand_in_a_table(tmp_path):
    learner(tmp_path, TensorBoardCallback("logs", n_preds=4)).fit(1)

    lines = text(tmp_path / "logs", "settings").splitlines()
    assert lines[0] == "| setting | value |"
    assert "| model | Sequential |" in lines
    assert "| tensorboard.n_preds | 4 |" in lines


def test_model_is_drawn_as_a_graph(tmp_path):
    learner(tmp_path, TensorBoardCallback("logs")).fit(1)

    names = [node.name for node in graph_of(tmp_path / "logs").node]
    assert any("Linear[0]" in name for name in names)


def graph_of(folder):
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    return GraphDef.FromString(events_in(folder)._graph)


def test_model_of_two_inputs_is_traced_with_both(tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, left, right):
            return self.linear(left + right)

    board = TensorBoardCallback("logs")
    learn = learner(tmp_path, board, model=Sum())
    learn.dls = [(INPUTS[:4], INPUTS[4:8], LABELS[:4])] * 2

    learn.fit(1)

    names = [node.name for node in graph_of(tmp_path / "logs").node]
    assert len([name for name in names if name.startswith("input/")]) == 2


def test_model_that_cannot_be_traced_is_told_of_and_the_rest_is_written(tmp_path):
    class Nameless(nn.Linear):
        def forward(self, x):
            return type("Output", (), {"logits": super().forward(x)})()

    def loss_func(pred, target):
        return nn.functional.cross_entropy(pred.logits, target)

    board = TensorBoardCallback("logs")
    learn = learner(tmp_path, board, model=Nameless(2, 2))
    learn.loss_func = loss_func

    with pytest.warns(CallboardWarning, match="cannot be traced"):
        learn.fit(1)

    assert len(scalars(tmp_path / "logs", "raw_loss")) == 8


def test_watched_run_is_bit_for_bit_the_run_that_nobody_watches(tmp_path):
    def model():
        return nn.Sequential(
            nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)
        )

    torch.manual_seed(1)
    plain_model = model()
    watched_model = copy.deepcopy(plain_model)
    board = TensorBoardCallback("logs", projector=True)
    plain = learner(tmp_path, model=plain_model)
    watched = learner(tmp_path, board, model=watched_model)

    plain.fit(2)
    watched.fit(2)

    for name, value in plain_model.state_dict().items():
        assert torch.equal(value, watched_model.state_dict()[name]), name


def test_tracing_leaves_frozen_layers_in_evaluation_mode(tmp_path):
    class Freeze(Callback):
        run_before = "tensorboard"

        def before_train(self):
            self.learn.model[1].eval()

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    modes = []

    class See(Callback):
        run_after = "tensorboard"

        def after_batch(self):
            if self.learn.training:
                modes.append((model[0].training, model[1].training))

    learner(tmp_path, Freeze(), See(), TensorBoardCallback("logs"), model=model).fit(1)

    assert set(modes) == {(True, False)}


def test_samples_stand_in_a_table_with_the_decisions(tmp_path):
    learn = learner(tmp_path, TensorBoardCallback("logs", n_preds=3))
    learn.dls.valid.dataset.classes = ["low", "high"]

    learn.fit(1, lr=0.0)

    header, _, first, *others = text(tmp_path / "logs", "samples").splitlines()
    decision = ["low", "high"][int(learn.model(INPUTS[:1]).argmax())]
    assert header == "| input | target | prediction |"
    assert first == f"| [-1.0, -0.9683] | low | {decision} |"
    assert len(others) == 2


def test_pictures_of_samples_are_shown(tmp_path):
    board = TensorBoardCallback("logs", n_preds=5)

    learner(tmp_path, board, model=picture_model(), inputs=PICTURES).fit(1)

    (event,) = events_in(tmp_path / "logs").Images("samples/input")
    assert (event.step, event.width) == (8, 5 * 4)  # side by side


def test_without_log_preds_there_are_no_samples(tmp_path):
    learner(tmp_path, TensorBoardCallback("logs", log_preds=False)).fit(1)

    assert events_in(tmp_path / "logs").Tags()["tensors"] == ["settings/text_summary"]


def test_default_folder_is_a_new_one_in_the_path_of_the_learner(tmp_path):
    board = TensorBoardCallback()
    learn = learner(tmp_path, board)

    learn.fit(1)
    learn.fit(1)

    (folder,) = (tmp_path / "runs").iterdir()
    assert board.folder == folder
    assert list(scalars(folder, "raw_loss")) == list(range(1, 17))


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
def test_resumed_run_ends_with_the_board_of_the_run_that_was_never_killed(
    tmp_path, step
):
    learner(tmp_path, KeepState(), Measurements(), TensorBoardCallback("through")).fit(
        3
    )
    keep = KeepState(step, death=19)
    with pytest.raises(KilledError):
        learner(tmp_path, keep, Measurements(), TensorBoardCallback()).fit(3)

    board = TensorBoardCallback()
    learn = learner(tmp_path, KeepState(), Measurements(), board)
    learn.fit(3, resume=keep.state)

    for tag in ("raw_loss", "train_loss", "lr_0", "accuracy"):
        events = events_in(board.folder).Scalars(tag)
        through = events_in(tmp_path / "through").Scalars(tag)
        assert [(e.step, e.value) for e in events] == [
            (e.step, e.value) for e in through
        ]


def test_full_disk_switches_it_off_and_training_goes_on(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    learn = learner(tmp_path, TensorBoardCallback("logs"))

    with pytest.warns(ObserverWarning):
        learn.fit(1)

    assert len(learn.record.failures) == 1


def test_files_are_closed_when_the_run_fails(tmp_path):
    with pytest.raises(KilledError):
        learner(tmp_path, TensorBoardCallback("logs"), KeepState(death=3)).fit(1)

    assert list(scalars(tmp_path / "logs", "raw_loss")) == [1, 2, 3]


def test_validations_outside_of_a_fit_write_nothing(tmp_path):
    learn = learner(tmp_path, TensorBoardCallback("logs", projector=True))

    learn.validate()

    assert not (tmp_path / "logs").exists()


# ---- the projector -------------------------------------------------------------------


def lines_of(file):
    return file.read_text().splitlines()


def vectors_of(file):
    return torch.tensor(
        [[float(v) for v in line.split("\t")] for line in lines_of(file)]
    )


def test_projector_has_what_goes_into_the_last_layer(tmp_path):
    board = TensorBoardCallback("logs", projector=True)
    learn = learner(tmp_path, board, model=picture_model(), inputs=PICTURES)

    learn.fit(1, lr=0.0)

    folder = tmp_path / "logs" / "00008" / "default"
    vectors = vectors_of(folder / "tensors.tsv")
    assert torch.allclose(vectors, learn.model[:3](PICTURES), atol=1e-6)
    labels = [int(label) for label in lines_of(folder / "metadata.tsv")]
    assert labels == LABELS.tolist()
    assert (folder / "sprite.png").exists()


def test_projector_may_show_the_output_of_a_layer(tmp_path):
    learn = learner(tmp_path)
    projector = TensorBoardProjectorCallback("logs", layer=learn.model[0])

    learn.validate(cbs=projector)

    vectors = vectors_of(tmp_path / "logs" / "00000" / "default" / "tensors.tsv")
    assert torch.allclose(vectors, learn.model[0](INPUTS), atol=1e-6)
    assert not learn.model[0]._forward_hooks


def test_projector_leaves_no_hook_behind_when_the_validation_fails(tmp_path):
    class Fail(Callback):
        stages = ("validate",)

        def after_loss(self):
            raise KilledError

    learn = learner(tmp_path, Fail())

    with pytest.raises(KilledError):
        learn.validate(cbs=TensorBoardProjectorCallback("logs"))

    assert not any(module._forward_hooks for module in learn.model.modules())


def test_words_have_all_their_vectors_the_last_one_too(tmp_path):
    model = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(3, 2))
    learn = learner(tmp_path, model=model)

    folder = projector_word_embeddings(learn, vocab=["a", " ", "b", "c"])

    assert folder.parent == tmp_path / "runs"
    (tensors,) = folder.rglob("tensors.tsv")
    assert torch.allclose(vectors_of(tensors), model[0].weight, atol=1e-6)
    words = lines_of(tensors.with_name("metadata.tsv"))
    assert words == ["a", "' '", "b", "c"]


def test_words_may_be_a_part_of_the_vocabulary_of_the_data(tmp_path):
    layer = nn.Embedding(4, 3)
    learn = learner(tmp_path)
    learn.dls.train.dataset.vocab = ["a", "b", "c", "d"]

    projector_word_embeddings(learn, layer, start=1, limit=2, log_dir="words")

    (metadata,) = (tmp_path / "words").rglob("metadata.tsv")
    assert lines_of(metadata) == ["b", "c"]


def test_words_that_do_not_fit_the_vectors_are_refused():
    with pytest.raises(OptionError, match="2 words and the layer 4 vectors"):
        projector_word_embeddings(layer=nn.Embedding(4, 3), vocab=["a", "b"])
    with pytest.raises(OptionError, match="give layer"):
        projector_word_embeddings(vocab=["a"])
    with pytest.raises(OptionError, match="give vocab"):
        projector_word_embeddings(layer=nn.Embedding(4, 3))


def test_folder_may_be_a_path(tmp_path):
    board = TensorBoardCallback(Path("logs"), trace_model=False)

    learner(tmp_path, board).fit(1)

    assert len(list((tmp_path / "logs").iterdir())) == 1
