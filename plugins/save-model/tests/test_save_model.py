"""What is saved when, and what is loaded back."""

import math
import os
import stat

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from callboard import (
    Callback,
    CancelEpochException,
    CancelFitException,
    CancelTrainException,
    Learner,
)
from callboard.errors import OptionError, StateError
from callboard_early_stopping import EarlyStoppingCallback
from callboard_recorder import Recorder
from callboard_save_model import (
    SaveModelCallback,
    load_optimizer,
    load_weights,
    replacing,
    save_optimizer,
    save_weights,
    tied_names,
)


class Publish(Callback):
    """Publishes one given value an epoch as ``score``."""

    def __init__(self, *values):
        self.values = values

    def after_validate(self):
        self.learn.results["score"] = self.values[self.epoch]


class KeepWeights(Callback):
    """Keeps the weights that every epoch ended with."""

    run_before = "save-model"

    def __init__(self):
        self.after = []

    def after_epoch(self):
        self.after.append(weights_of(self.learn))


def weights_of(learner):
    return {name: t.clone() for name, t in learner.model.state_dict().items()}


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def make_learner(*cbs, path, model=None, opt_func=torch.optim.Adam):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 2, generator=generator)
    batches = [(inputs[:4], inputs[:4, :1]), (inputs[4:], inputs[4:, :1])]
    return Learner(
        (batches, batches),
        model or nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
        nn.MSELoss(),
        opt_func,
        lr=0.1,
        cbs=[*cbs],
        path=path,
    )


def names_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))


# ---- the best -----------------------------------------------------------------


def test_best_epoch_is_saved_and_loaded_back(tmp_path):
    keep, save = KeepWeights(), SaveModelCallback("score", "max")
    learner = make_learner(Publish(1.0, 3.0, 2.0), keep, save, path=tmp_path)

    learner.fit(3)

    file = tmp_path / "models" / "model.safetensors"
    assert save.last_saved_path == file
    assert_same(safetensors.torch.load_file(file), keep.after[1])
    assert_same(weights_of(learner), keep.after[1])
    assert names_in(tmp_path) == ["models/model.safetensors"]


def test_loading_back_keeps_the_very_tensors_that_the_optimizer_knows(tmp_path):
    save = SaveModelCallback("score", "max")
    learner = make_learner(Publish(3.0, 1.0), save, path=tmp_path)
    before = list(learner.model.parameters())

    learner.fit(2)

    after = list(learner.model.parameters())
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert learner.opt.param_groups[0]["params"][0] is after[0]


def test_file_says_which_epoch_it_is_of(tmp_path):
    save = SaveModelCallback("score", "max")

    make_learner(Publish(1.0, 3.0, 2.0), save, path=tmp_path).fit(3)

    with safe_open(save.last_saved_path, "pt") as file:
        assert file.metadata() == {"epoch": "1"}


def test_default_monitors_the_validation_loss(tmp_path):
    save = SaveModelCallback()
    learner = make_learner(save, Recorder(), path=tmp_path)

    learner.fit(3)

    losses = [row["valid_loss"] for row in learner.recorder.values]
    assert save.best == min(losses)
    assert learner.validate()["valid_loss"] == pytest.approx(min(losses))


def test_a_result_that_is_never_a_number_saves_and_loads_nothing(tmp_path):
    keep, save = KeepWeights(), SaveModelCallback("score", "max")
    learner = make_learner(Publish(math.nan, math.nan), keep, save, path=tmp_path)

    learner.fit(2)

    assert save.last_saved_path is None
    assert_same(weights_of(learner), keep.after[1])
    assert names_in(tmp_path) == []


def test_stop_in_the_very_epoch_of_the_improvement_still_saves(tmp_path):
    class Stop(Callback):
        run_before = "save-model"

        def after_epoch(self):
            self.learn.stop("enough")

    save = SaveModelCallback("score", "max")

    make_learner(Publish(1.0, 2.0), Stop(), save, path=tmp_path).fit(2)

    assert (save.best, save.last_saved_path.exists()) == (1.0, True)


def test_early_stopping_ends_with_the_best_weights(tmp_path):
    keep = KeepWeights()
    save = SaveModelCallback("score", "max")
    stop = EarlyStoppingCallback("score", "max", patience=2)
    learner = make_learner(Publish(1, 5, 2, 3, 9), keep, stop, save, path=tmp_path)

    learner.fit(5)

    assert len(keep.after) == 4
    assert_same(weights_of(learner), keep.after[1])


class CancelSecond(Callback):
    """Cancels in the second epoch, before the plugin under test sees the event."""

    run_before = "save-model"

    def __init__(self, event, exception):
        setattr(self, event, self.cancel)
        self.exception = exception

    def cancel(self):
        if self.epoch == 1:
            raise self.exception("enough")


def test_cancel_of_the_fit_in_the_very_epoch_of_the_improvement_still_saves(tmp_path):
    keep, save = KeepWeights(), SaveModelCallback("score", "max")
    cancel = CancelSecond("after_epoch", CancelFitException)
    cancel.run_after = KeepWeights
    learner = make_learner(Publish(1.0, 3.0), keep, cancel, save, path=tmp_path)

    learner.fit(3)

    assert (save.best, save.best_epoch) == (3.0, 1)
    assert_same(safetensors.torch.load_file(save.last_saved_path), keep.after[1])


@pytest.mark.parametrize(
    ("event", "exception"),
    [
        ("before_batch", CancelFitException),
        ("before_epoch", CancelFitException),
        ("before_batch", CancelEpochException),
    ],
)
def test_epoch_that_was_cut_short_is_not_saved(tmp_path, event, exception):
    save = SaveModelCallback("score", "max")
    cancel = CancelSecond(event, exception)

    make_learner(Publish(1.0, 9.0), cancel, save, path=tmp_path).fit(2)

    assert (save.best, save.best_epoch) == (1.0, 0)


def test_cancel_in_before_fit_saves_nothing_of_the_fit_before(tmp_path):
    class CancelFit(Callback):
        run_before = "save-model"

        def before_fit(self):
            if self.is_on:
                raise CancelFitException

    cancel = CancelFit()
    cancel.is_on = False
    save = SaveModelCallback("score", "max", every_epoch=True)
    learner = make_learner(Publish(1.0, 2.0), cancel, save, path=tmp_path)
    learner.fit(2)
    cancel.is_on = True

    for file in tmp_path.glob("models/*"):
        file.unlink()
    learner.fit(2)

    assert names_in(tmp_path) == []


def test_error_in_a_fit_leaves_the_best_file_of_before(tmp_path):
    class Fail(Callback):
        def after_train(self):
            if self.epoch == 1:
                raise RuntimeError("out of memory")

    keep, save = KeepWeights(), SaveModelCallback("score", "max")
    learner = make_learner(Publish(1.0, 3.0), keep, Fail(), save, path=tmp_path)

    with pytest.raises(RuntimeError, match="out of memory"):
        learner.fit(2)

    assert_same(safetensors.torch.load_file(save.last_saved_path), keep.after[0])


def test_best_over_several_fits_is_loaded_back_when_it_is_kept(tmp_path):
    keep, publish = KeepWeights(), Publish(5.0, 1.0)
    save = SaveModelCallback("score", "max", reset_on_fit=False)
    learner = make_learner(publish, keep, save, path=tmp_path)
    learner.fit(2)

    publish.values = (2.0, 3.0)
    learner.fit(2)

    assert_same(weights_of(learner), keep.after[0])


def test_best_file_that_is_gone_at_the_end_is_an_error_that_says_so(tmp_path):
    class Remove(Callback):
        run_after = "save-model"

        def after_epoch(self):
            (tmp_path / "models" / "model.safetensors").unlink()

    save = SaveModelCallback("score", "max")

    with pytest.raises(StateError, match=r"model\.safetensors .*epoch 0 is gone"):
        make_learner(Publish(1.0), Remove(), save, path=tmp_path).fit(1)


# ---- every epoch, at the end --------------------------------------------------


def test_every_epoch_has_a_file_of_its_own_and_nothing_is_loaded_back(tmp_path):
    keep = KeepWeights()
    save = SaveModelCallback(every_epoch=True)
    learner = make_learner(keep, save, path=tmp_path)

    learner.fit(3)

    assert names_in(tmp_path) == [f"models/model_{n}.safetensors" for n in range(3)]
    for number, weights in enumerate(keep.after):
        file = tmp_path / "models" / f"model_{number}.safetensors"
        assert_same(safetensors.torch.load_file(file), weights)
    assert_same(weights_of(learner), keep.after[-1])


def test_every_few_epochs_counts_from_the_first(tmp_path):
    save = SaveModelCallback(every_epoch=2, fname="run1/net")

    make_learner(save, path=tmp_path).fit(4)

    assert names_in(tmp_path) == [
        "models/run1/net_0.safetensors",
        "models/run1/net_2.safetensors",
    ]


def test_at_end_saves_once_what_the_fit_leaves(tmp_path):
    save = SaveModelCallback(at_end=True, fname="last")
    learner = make_learner(save, path=tmp_path)

    learner.fit(2)

    file = tmp_path / "models" / "last.safetensors"
    assert_same(safetensors.torch.load_file(file), weights_of(learner))
    assert names_in(tmp_path) == ["models/last.safetensors"]


def test_at_end_saves_after_a_cancelled_fit_too(tmp_path):
    save = SaveModelCallback(at_end=True)
    cancel = CancelSecond("before_batch", CancelFitException)

    make_learner(cancel, save, path=tmp_path).fit(2)

    assert save.last_saved_path.exists()


def test_cancelled_training_of_an_epoch_still_saves_that_epoch(tmp_path):
    save = SaveModelCallback(every_epoch=True)
    cancel = CancelSecond("before_train", CancelTrainException)

    make_learner(cancel, save, path=tmp_path).fit(2)

    assert save.last_saved_path.name == "model_1.safetensors"


def test_best_and_every_epoch_work_side_by_side(tmp_path):
    best = SaveModelCallback("score", "max", fname="net")
    every = SaveModelCallback(fname="net", every_epoch=True)

    make_learner(Publish(1.0, 2.0), best, every, path=tmp_path).fit(2)

    assert names_in(tmp_path) == [
        "models/net.safetensors",
        "models/net_0.safetensors",
        "models/net_1.safetensors",
    ]


# ---- the optimizer ------------------------------------------------------------


def test_optimizer_is_saved_and_loaded_back_with_the_weights(tmp_path):
    class KeepSteps(Callback):
        def after_epoch(self):
            state = next(iter(self.learn.opt.state.values()))
            steps.append(int(state["step"]))

    steps = []
    save = SaveModelCallback("score", "max", with_opt=True)
    learner = make_learner(Publish(1, 3, 2), KeepSteps(), save, path=tmp_path)

    learner.fit(3)

    states = list(learner.opt.state.values())
    assert steps == [2, 4, 6]
    assert {int(state["step"]) for state in states} == {4}
    assert names_in(tmp_path / "models") == [
        "model.optimizer.pt",
        "model.safetensors",
    ]


def test_optimizer_file_is_plain_data(tmp_path):
    save = SaveModelCallback(at_end=True, with_opt=True)
    learner = make_learner(save, path=tmp_path)

    learner.fit(1)

    file = tmp_path / "models" / "model.optimizer.pt"
    state = torch.load(file, weights_only=True)
    assert_same(state, learner.opt.state_dict())


def test_optimizer_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    file = tmp_path / "evil.pt"
    torch.save(Evil(), file)
    learner = make_learner(path=tmp_path)
    opt = learner.create_opt()

    with pytest.raises(StateError, match="more than tensors and plain data"):
        load_optimizer(opt, file)

    assert not (tmp_path / "owned").exists()


def test_optimizer_of_another_shape_is_refused(tmp_path):
    file = tmp_path / "opt.pt"
    save_optimizer(torch.optim.Adam(nn.Linear(2, 2).parameters()), file)

    with pytest.raises(StateError, match=r"opt\.pt does not fit the optimizer"):
        load_optimizer(torch.optim.Adam([nn.Parameter(torch.ones(2))]), file)


# ---- weights of all kinds -----------------------------------------------------


class Tied(nn.Module):
    """Two names for one tensor, as input and output embeddings have it."""

    def __init__(self, names):
        super().__init__()
        weight = nn.Parameter(torch.randn(3, 3))
        for name in names:
            setattr(self, name, weight)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    model, file = Tied(["a", "b"]), tmp_path / "w.safetensors"
    value = model.a.detach().clone()

    save_weights(model, file)
    model.a.data.zero_()
    load_weights(model, file)

    assert list(safetensors.torch.load_file(file)) == ["a"]
    assert model.a is model.b
    assert_same(model.b.detach(), value)


def test_tied_weights_load_where_their_names_come_in_another_sequence(tmp_path):
    model, other = Tied(["a", "b"]), Tied(["b", "a"])
    file = tmp_path / "w.safetensors"

    save_weights(model, file)
    load_weights(other, file)

    assert_same(other.a.detach(), model.a.detach())


def test_weights_that_are_views_of_one_memory_are_saved(tmp_path):
    # As an LSTM has them on a GPU.
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            memory = torch.arange(10.0)
            self.first = nn.Parameter(memory[:4])
            self.second = nn.Parameter(memory[4:].view(2, 3))
            self.register_buffer("overlap", memory[2:6])

    model, file = Flat(), tmp_path / "w.safetensors"
    before = {name: t.clone() for name, t in model.state_dict().items()}

    save_weights(model, file)
    model.first.data.zero_()
    load_weights(model, file)

    assert_same(dict(model.state_dict()), before)


def test_memory_format_and_dtype_of_the_model_stay_as_they_are(tmp_path):
    model = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
    value, file = model.weight.detach().clone(), tmp_path / "w.safetensors"

    save_weights(model, file)
    model.double()
    load_weights(model, file)

    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.weight.dtype == torch.float64
    assert_same(model.weight.detach().float(), value)


def test_empty_weights_are_not_taken_for_tied():
    state = {"a": torch.empty(0), "b": torch.empty(0)}

    assert tied_names(state) == [["a"], ["b"]]


def test_weights_of_another_model_are_refused_with_the_file(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 2), file)

    with pytest.raises(StateError, match=r"w\.safetensors does not fit the model"):
        load_weights(nn.Linear(2, 3), file)


def test_file_is_readable_by_safetensors_own_loader(tmp_path):
    model, file = Tied(["a", "b"]), tmp_path / "w.safetensors"
    save_weights(model, file)
    other = Tied(["a", "b"])

    safetensors.torch.load_model(other, file)

    assert_same(other.b.detach(), model.b.detach())


# ---- the file -----------------------------------------------------------------


def test_interrupted_writing_leaves_the_file_of_before_and_no_litter(tmp_path):
    file = tmp_path / "f"
    file.write_text("before")

    def write_half():
        with replacing(file) as fresh:
            fresh.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()

    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_complete_writing_replaces_the_file_with_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    file = tmp_path / "w.safetensors"
    file.write_text("before")

    with replacing(file) as fresh:
        save_weights(nn.Linear(2, 2), fresh)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in (usual, file)}
    assert len(modes) == 1
    assert len(safetensors.torch.load_file(file)) == 2


def test_disk_that_fills_up_while_saving_keeps_the_best_of_before(
    tmp_path, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    keep, publish = KeepWeights(), Publish(1.0, 2.0)
    save = SaveModelCallback("score", "max", with_opt=True)
    learner = make_learner(publish, keep, save, path=tmp_path)
    learner.fit(1)
    kept = keep.after[0]

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        learner.fit(2, start_epoch=1)

    assert_same(safetensors.torch.load_file(save.last_saved_path), kept)
    assert names_in(tmp_path / "models") == [
        "model.optimizer.pt",
        "model.safetensors",
    ]


# ---- what is refused ----------------------------------------------------------


@pytest.mark.parametrize("fname", ["../x", "a/../../x", "/tmp/x", "", ".", "a/.."])
def test_name_that_leaves_the_folder_is_refused(fname):
    with pytest.raises(OptionError, match="save-model: fname must name a file inside"):
        SaveModelCallback(fname=fname)


def test_name_may_have_the_ending(tmp_path):
    save = SaveModelCallback(fname="v1.5.safetensors", at_end=True)

    make_learner(save, path=tmp_path).fit(1)

    assert save.last_saved_path == tmp_path / "models" / "v1.5.safetensors"


def test_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "models").write_text("a file in the place of the folder")
    learner = make_learner(SaveModelCallback("score", "max"), path=tmp_path)

    with pytest.raises(OptionError, match=r"nothing can be written .*Learner\(path="):
        learner.fit(1)

    assert learner.train_iter == 0


def test_model_with_a_state_that_is_no_tensor_is_refused_before_training(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    learner = make_learner(
        SaveModelCallback(at_end=True), path=tmp_path, model=Odd(2, 1)
    )

    with pytest.raises(OptionError, match=r"'_extra_state' .* is no tensor but dict"):
        learner.fit(1)


def test_two_that_would_write_one_file_are_refused(tmp_path):
    cbs = SaveModelCallback("score", "max"), SaveModelCallback("score", "min")

    with pytest.raises(OptionError, match="two of them save to 'model'"):
        make_learner(Publish(1.0), *cbs, path=tmp_path).fit(1)


@pytest.mark.parametrize("every_epoch", [-1, 1.5, "often", None])
def test_every_epoch_that_is_no_number_of_epochs_is_refused(every_epoch):
    with pytest.raises(OptionError, match="save-model: every_epoch must be True"):
        SaveModelCallback(every_epoch=every_epoch)


def test_every_epoch_and_at_end_together_are_refused():
    with pytest.raises(OptionError, match="choose one"):
        SaveModelCallback(every_epoch=True, at_end=True)


# ---- state --------------------------------------------------------------------


def test_resumed_fit_ends_with_the_best_of_the_whole_run(tmp_path):
    values, keep = (5.0, 1.0, 4.0), KeepWeights()
    first = make_learner(
        Publish(*values), keep, SaveModelCallback("score", "max"), path=tmp_path
    )
    first.fit(2)

    save = SaveModelCallback("score", "max")
    second = make_learner(Publish(*values), KeepWeights(), save, path=tmp_path)
    second.load_state_dict(first.state_dict())
    second.fit(3, start_epoch=2)

    assert (save.best, save.best_epoch) == (5.0, 0)
    assert save.last_saved_path == tmp_path / "models" / "model.safetensors"
    assert_same(weights_of(second), keep.after[0])


def test_state_is_plain_data(tmp_path):
    save = SaveModelCallback("score", "max")
    make_learner(Publish(1.0), save, path=tmp_path).fit(1)

    assert save.state_dict() == {
        "best": 1.0,
        "best_epoch": 0,
        "last_saved": "model",
    }


def test_validate_in_a_fit_saves_and_loads_nothing(tmp_path):
    class Validate(Callback):
        def after_train(self):
            self.learn.validate()

    save = SaveModelCallback("score", "max")
    learner = make_learner(Publish(1.0), save, path=tmp_path)

    learner.validate()
    assert names_in(tmp_path) == []

    learner.add_cb(Validate())
    learner.fit(1)
    assert save.best == 1.0
