"""The same batches, sooner: bit for bit, behind an interruption, and by whom they are
made."""

import copy
import os
import random
import time

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    random_split,
)

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard_prefetch import MIN_WAITING_SECONDS, Prefetch, faster

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


class Drawing(Dataset):
    """Samples that are augmented at random, slowly, and say who made them."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        noisy = INPUTS[index] + torch.rand(()) + random.random()
        return noisy, LABELS[index], os.getpid()


class Keeps(Callback):
    """Keeps what the model was given."""

    stages = ("fit", "validate")

    def __init__(self):
        self.batches = []
        self.makers = []

    def before_batch(self):
        *inputs, labels = [*self.learn.xb, *self.learn.yb]
        if len(inputs) == 2:  # with the number of the process that made it
            inputs, labels = inputs[:1], inputs[1]
            self.makers.append(int(self.learn.yb[0][0]))
            self.learn.xb, self.learn.yb = tuple(inputs), (labels,)
        self.batches.append((inputs[0].clone(), labels.clone()))


def tensors(shuffle=True):
    train, valid = random_split(
        TensorDataset(INPUTS, LABELS), [30, 10], torch.Generator().manual_seed(1)
    )
    return DataLoader(train, 8, shuffle=shuffle), DataLoader(valid, 8)


def drawn(seconds=0.0):
    return DataLoader(Drawing(seconds), 8, shuffle=True), None


def run(dls, *cbs, num_epochs=2, **fit):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.2))
    loss_func = torch.nn.CrossEntropyLoss()
    keeps = Keeps()
    learner = Learner(dls, model, loss_func, cbs=[keeps, *cbs], lr=0.1, seed=7)
    learner.fit(num_epochs, **fit)
    return learner, keeps


def assert_same(one, other):
    (learner, keeps), (learner_2, keeps_2) = one, other
    assert len(keeps.batches) == len(keeps_2.batches)
    for (x, y), (x_2, y_2) in zip(keeps.batches, keeps_2.batches, strict=True):
        assert x.equal(x_2)
        assert y.equal(y_2)
    for weight, weight_2 in zip(
        learner.model.parameters(), learner_2.model.parameters(), strict=True
    ):
        assert weight.equal(weight_2)


def test_tensors_are_fetched_by_the_batch_and_are_the_same():
    plain, ahead = run(tensors()), run(tensors(), Prefetch())

    assert_same(plain, ahead)
    assert ahead[0].prefetch.reasons == dict.fromkeys(
        ("train", "valid"), "whole batches are fetched"
    )


def test_whole_batches_are_what_torch_collates():
    loader = tensors(shuffle=False)[0]
    fetched, _ = faster(loader)

    for one, other in zip(loader, fetched, strict=True):
        assert type(one) is type(other)
        for part, part_2 in zip(one, other, strict=True):
            assert part.equal(part_2)
            assert part_2.is_contiguous()
    assert len(fetched) == len(loader)


def test_fetching_whole_batches_is_faster():
    data = TensorDataset(torch.randn(2048, 16), torch.arange(2048))
    loader = DataLoader(data, 64)

    def seconds(loader):
        start = time.perf_counter()
        for _ in loader:
            pass
        return time.perf_counter() - start

    whole, _ = faster(loader)
    assert min(seconds(whole) for _ in range(3)) < 0.5 * min(
        seconds(loader) for _ in range(3)
    )


def test_a_process_that_loads_ahead_draws_the_same_random_numbers():
    plain = run(drawn())
    ahead = run(drawn(), Prefetch(num_workers=1))

    assert_same(plain, ahead)
    assert set(plain[1].makers) == {os.getpid()}
    assert os.getpid() not in ahead[1].makers
    assert ahead[0].prefetch.reasons["train"] == "loaded ahead, workers: 1"


def test_what_keeps_the_model_waiting_is_loaded_ahead_from_the_second_epoch_on():
    seconds = 2 * MIN_WAITING_SECONDS
    _, keeps = run(drawn(seconds), Prefetch())

    assert set(keeps.makers[:5]) == {os.getpid()}
    assert os.getpid() not in keeps.makers[5:]


def test_going_on_from_the_middle_of_an_epoch_gives_the_same_batches():
    class Saves(Callback):
        def checkpoint(self):
            if self.learn.position == (1, 2):
                self.saved = copy.deepcopy(self.learn.state_dict())

    saves = Saves()
    straight = run(drawn(), Prefetch(num_workers=1), saves)

    options = {"resume": saves.saved, "resume_policy": "ignore"}
    learner, keeps = run(drawn(), Prefetch(num_workers=1), **options)

    num_left = 5 - 2
    assert len(keeps.batches) == num_left
    straight[1].batches = straight[1].batches[-num_left:]
    assert_same(straight, (learner, keeps))


def test_a_validation_alone_and_its_own_loader_are_fetched_too():
    learner, _ = run(tensors(), Prefetch(), num_epochs=1)
    learner.add_cb(keeps := Keeps())

    results = learner.validate(DataLoader(TensorDataset(INPUTS, LABELS), 8))

    assert len(keeps.batches) == 5
    assert "valid_loss" in results


def test_what_cannot_be_loaded_otherwise_is_left_alone():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with_workers = DataLoader(Drawing(), 4, num_workers=2)
    listed = [(INPUTS, LABELS)]
    own_collation = DataLoader(TensorDataset(INPUTS), 4, collate_fn=list)
    for loader in (listed, DataLoader(Stream()), with_workers, own_collation):
        same, reason = faster(loader)
        assert same is loader
        assert "left alone" in reason


def test_for_a_gpu_memory_is_pinned():
    pinned, reason = faster(tensors()[0], pin_memory=True)
    assert pinned.pin_memory
    assert reason.endswith("into pinned memory")
    with_workers = DataLoader(Drawing(), 4, num_workers=2)
    assert faster(with_workers, pin_memory=True)[0].pin_memory


@pytest.mark.parametrize("wrong", [-1, "many", True, 1.5])
def test_a_wrong_number_of_workers_is_refused(wrong):
    with pytest.raises(OptionError, match="num_workers must be"):
        Prefetch(num_workers=wrong)
