"""Random numbers of a run hang on seed, fit, epoch and batch, and on nothing else."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from callboard import Callback, Learner


class Noisy(Dataset):
    """Draws from all three global streams for every sample, as augmentation does."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        noise = torch.rand(1) + random.random() + random.gauss(0, 1)
        return torch.tensor([float(index), float(noise + np.random.rand())])


def noisy_collate(samples):
    return torch.stack(samples) * torch.rand(1), torch.zeros(len(samples), 1)


class Keep(Callback):
    """Keeps all batches of a run, and what dropout made of them."""

    def __init__(self):
        self.seen = []

    def after_pred(self):
        self.seen.append((self.learn.x.clone(), self.learn.pred.detach().clone()))


class Draws(Callback):
    """Draws from every global stream once the model has answered."""

    role = "observe"

    def after_pred(self):
        torch.rand(3)
        np.random.rand(2)
        random.gauss(0, 1)

    after_batch = before_epoch = after_pred


def what_a_run_sees(seed=1, num_workers=0, cbs=(), **options):
    keep = Keep()
    loader = DataLoader(
        Noisy(),
        4,
        shuffle=True,
        collate_fn=noisy_collate,
        num_workers=num_workers,
        **options,
    )
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    learner = Learner(
        (loader, loader), model, nn.MSELoss(), cbs=[keep, *cbs], seed=seed
    )
    learner.fit(2)
    return keep.seen


def assert_same(one, other):
    assert len(one) == len(other)
    for (inputs, pred), (other_inputs, other_pred) in zip(one, other, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(pred, other_pred)


def test_two_runs_with_one_seed_see_the_same_bits():
    assert_same(what_a_run_sees(), what_a_run_sees())


def test_another_seed_sees_others():
    one, other = what_a_run_sees(seed=1), what_a_run_sees(seed=2)

    assert not any(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}])
def test_any_number_of_workers_gives_the_same_samples(options):
    assert_same(what_a_run_sees(), what_a_run_sees(num_workers=2, **options))


def test_a_plugin_that_draws_from_the_global_streams_moves_nobodys_draws():
    assert_same(what_a_run_sees(), what_a_run_sees(cbs=[Draws()]))


def test_a_validation_in_between_moves_nothing():
    class Validates(Callback):
        def after_batch(self):
            self.learn.validate()

    assert_same(what_a_run_sees(), what_a_run_sees(cbs=[Validates()]))


def test_a_validation_over_the_running_loader_does_not_restart_its_workers():
    class Validate(Callback):
        def before_batch(self):
            if self.iter == 1:
                self.learn.validate()

    options = {"num_workers": 1, "persistent_workers": True}

    plain = what_a_run_sees(**options)

    assert_same(plain, what_a_run_sees(cbs=[Validate()], **options))


def test_epochs_and_fits_are_shuffled_and_augmented_differently():
    keep = Keep()
    loader = DataLoader(Noisy(), 10, shuffle=True, collate_fn=noisy_collate)
    learner = Learner(loader, nn.Linear(2, 1), nn.MSELoss(), cbs=keep, seed=0)
    learner.fit(2)
    learner.fit(1)

    orders = [tuple(inputs[:, 0].argsort().tolist()) for inputs, _ in keep.seen]
    assert len(set(orders)) == 3


def test_without_a_seed_torchs_own_decides():
    def order():
        torch.manual_seed(11)
        return what_a_run_sees(seed=None)

    torch.manual_seed(11)
    assert_same(order(), order())


def test_a_loader_of_another_kind_is_left_alone():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.arange(6.0).unsqueeze(1))

    class Own(DataLoader):
        pass

    for loader in (DataLoader(Stream(), 2), Own(list(torch.arange(6.0).view(6, 1)), 2)):
        keep = Keep()
        model = nn.Linear(1, 1)
        Learner(loader, model, lambda pred: pred.sum(), cbs=keep).fit(1)
        assert [len(inputs) for inputs, _ in keep.seen] == [2, 2, 2]


def test_a_loader_without_batches_gives_single_samples():
    keep = Keep()
    loader = DataLoader(Noisy(), batch_size=None)
    Learner(loader, nn.Linear(2, 1), nn.MSELoss(), cbs=keep).fit(1)

    assert [inputs.shape for inputs, _ in keep.seen] == [(2,)] * 10


def test_a_dataset_that_fetches_many_at_once_is_asked_for_many():
    asked = []

    class Many(Noisy):
        def __getitems__(self, indices):
            asked.append(len(indices))
            return [self[index] for index in indices]

    loader = DataLoader(Many(), 4, collate_fn=noisy_collate)
    Learner(loader, nn.Linear(2, 1), nn.MSELoss()).fit(1)

    assert asked == [4, 4, 2]
