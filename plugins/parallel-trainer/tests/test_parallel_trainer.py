"""Which GPUs share a batch, and that nobody but the prediction notices."""

import copy

import pytest
import torch
from torch import nn

import callboard_parallel_trainer
from callboard import Callback
from callboard.errors import ActivationError, CallboardWarning, OptionError
from callboard.testing import InjectedError, assert_same_run, raise_at, tiny_learner
from callboard_parallel_trainer import ParallelTrainer, devices_to_use

NO_SECOND_GPU = torch.cuda.device_count() < 2


class InHalves(nn.Module):
    """Stands for DataParallel on two GPUs: predicts each half of a batch by itself."""

    def __init__(self, module, devices):
        super().__init__()
        self.module, self.devices, self.num_batches = module, devices, 0

    def forward(self, *inputs, **named):
        self.num_batches += 1
        parts = [each.chunk(2) for each in (*inputs, *named.values())]
        made = [
            self.module(*part[: len(inputs)], **dict(zip(named, part, strict=False)))
            for part in zip(*parts, strict=True)
        ]
        return torch.cat(made)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs, as far as the plugin can see; gives every stand-in that was made."""
    made = []

    def replicated(model, devices):
        made.append(InHalves(model, devices))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        callboard_parallel_trainer, "_with_number", lambda _: torch.device("cuda", 0)
    )
    monkeypatch.setattr(callboard_parallel_trainer, "replicated", replicated)
    return made


def a_linear_learner(*cbs, kind="regression", **options):
    learner = tiny_learner(kind, cbs=[*cbs], **options)
    torch.manual_seed(3)
    # No normalisation, which would see halves of batches.
    learner.model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    return learner


@pytest.mark.parametrize(
    ("asked", "home", "num_gpus", "expected"),
    [
        (None, "cuda:0", 3, [0, 1, 2]),
        (None, "cuda:1", 3, [1, 0, 2]),
        ([0, 2], "cuda:2", 3, [2, 0]),
        ([1], "cuda:1", 3, []),
        (None, "cuda:0", 1, []),
        (None, "cpu", 0, []),
        (None, "cpu", 4, []),
    ],
)
def test_the_gpu_with_the_weights_comes_first(asked, home, num_gpus, expected):
    assert devices_to_use(asked, torch.device(home), num_gpus) == expected


@pytest.mark.parametrize(
    ("asked", "home", "num_gpus", "message"),
    [
        ([0, 1], "cuda:0", 1, r"names \[1\], and torch finds 1 GPUs"),
        ([0, 1], "cpu", 0, r"names \[0, 1\], and torch finds 0 GPUs"),
        ([1, 2], "cuda:0", 3, r"on cuda:0, .*none of device_ids \[1, 2\].*cuda:1"),
        ([0, 1], "cpu", 2, r'on cpu, .*Give Learner\(device="cuda:0"\)'),
    ],
)
def test_gpus_that_cannot_be_used_are_refused(asked, home, num_gpus, message):
    with pytest.raises(OptionError, match=message):
        devices_to_use(asked, torch.device(home), num_gpus)


@pytest.mark.parametrize("ids", [[], [0, 0], [-1], [True], ["cuda:0"], 2, "01"])
def test_a_wrong_option_is_refused(ids):
    with pytest.raises(OptionError, match=r"device_ids must be .* Use \[0, 1\]"):
        ParallelTrainer(ids)


@pytest.mark.skipif(not NO_SECOND_GPU, reason="this machine has several GPUs")
def test_without_a_second_gpu_it_says_so_once_and_trains_as_ever():
    plain, learner = tiny_learner(), tiny_learner(cbs=ParallelTrainer())
    plain.fit(2)

    with pytest.warns(CallboardWarning, match="no batch is shared") as warned:
        learner.fit(2)
    learner.validate()  # a second warning would be an error

    assert len(warned) == 1
    assert_same_run(learner, plain, plugins=False)


def test_a_device_that_was_chosen_is_named_in_the_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    with pytest.warns(CallboardWarning, match="the Learner's device is cpu"):
        tiny_learner(cbs=ParallelTrainer()).fit(1)


def test_batches_are_shared_in_training_and_validation(two_gpus):
    learner = a_linear_learner(ParallelTrainer())
    learner.fit(2)

    # Three batches to train on and two to validate on, in two epochs.
    assert sum(each.num_batches for each in two_gpus) == 10
    assert learner.parallel_trainer.devices == [0, 1]


def test_evaluations_are_shared_too(two_gpus):
    learner = a_linear_learner(ParallelTrainer())
    shared = learner.validate()

    assert sum(each.num_batches for each in two_gpus) == 2
    assert shared == pytest.approx(a_linear_learner().validate())


def test_it_learns_what_one_device_learns(two_gpus):
    plain, learner = a_linear_learner(), a_linear_learner(ParallelTrainer())
    plain.fit(2)
    learner.fit(2)

    for one, other in zip(
        plain.model.parameters(), learner.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_mapping_batches_are_shared_by_their_names(two_gpus):
    shared = tiny_learner("mapping", cbs=ParallelTrainer()).validate()

    assert sum(each.num_batches for each in two_gpus) == 2
    assert shared == pytest.approx(tiny_learner("mapping").validate())


def test_weights_keep_their_names_and_the_model_its_place_in_the_fit(two_gpus):
    class Names(Callback):
        def after_batch(self):
            assert self.learn.model is model
            self.names = list(self.learn.state_dict()["model"])

    learner = a_linear_learner(ParallelTrainer(), Names())
    model = learner.model
    learner.fit(1)

    assert learner.names.names == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_an_error_leaves_the_model_as_it_was(two_gpus):
    learner = a_linear_learner(ParallelTrainer(), raise_at("after_loss"))
    model = learner.model

    with pytest.raises(InjectedError):
        learner.fit(1)

    assert learner.model is model
    assert learner.parallel_trainer._parallel is None


def test_a_saved_run_goes_on_without_the_gpus(two_gpus, monkeypatch):
    class Keep(Callback):
        def checkpoint(self):
            if self.learn.position == (1, 1):
                self.state = copy.deepcopy(self.learn.state_dict())

    learner = a_linear_learner(ParallelTrainer(), Keep())
    learner.fit(2)
    elsewhere = a_linear_learner()
    elsewhere.fit(2, resume=learner.keep.state, resume_policy="ignore")

    for one, other in zip(
        learner.model.parameters(), elsewhere.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_model_with_a_loss_of_its_own_is_refused(two_gpus):
    with pytest.raises(OptionError, match="the model works out its own loss"):
        tiny_learner("unlabelled", cbs=ParallelTrainer()).fit(1)


@pytest.mark.parametrize("name", ["Compile", "CudaGraphs"])
def test_it_is_refused_beside_what_predicts_in_the_models_place(name):
    with pytest.raises(ActivationError, match="both would predict in place of"):
        tiny_learner(cbs=[ParallelTrainer(), type(name, (Callback,), {})()])


def test_the_methods_turn_it_on_once_and_off_again(two_gpus):
    learner = a_linear_learner()

    assert learner.to_parallel() is learner
    learner.to_parallel([0, 1])
    assert [callback.device_ids for callback in learner.cbs] == [[0, 1]]

    assert learner.detach_parallel() is learner
    learner.detach_parallel()
    assert len(learner.cbs) == 0


def test_the_context_shares_batches_inside_the_block_only(two_gpus):
    learner = a_linear_learner()
    with learner.parallel_ctx():
        learner.fit(1)
    num_inside = sum(each.num_batches for each in two_gpus)
    learner.fit(1)

    assert num_inside == sum(each.num_batches for each in two_gpus) == 5


def test_a_copy_of_the_learner_shares_the_work_of_its_own_model(two_gpus):
    learner = a_linear_learner(ParallelTrainer())
    learner.validate()
    copied = copy.deepcopy(learner)
    copied.validate()

    assert two_gpus[-1].module is copied.model


@pytest.mark.skipif(NO_SECOND_GPU, reason="this machine has no second GPU")
def test_it_learns_on_real_gpus_what_one_of_them_learns():
    plain = a_linear_learner(device="cuda:0")
    learner = a_linear_learner(ParallelTrainer(), device="cuda:0")
    plain.fit(2)
    learner.fit(2)

    for one, other in zip(
        plain.model.parameters(), learner.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)
