"""What is drawn how often, and that it is the same with any number of workers."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from callboard import Callback, DataLoaders, Learner
from callboard.errors import DataError, OptionError
from callboard_weighted_dl import (
    PartialDL,
    WeightedDL,
    partial_dataloaders,
    weighted_dataloaders,
)


class Noisy(Dataset):
    """Items with random augmentation, which hangs on who builds them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()]), torch.zeros(1)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Drawn(Callback):
    """The inputs of every training batch, by epoch."""

    run_valid = False

    def __init__(self):
        self.batches = []

    def after_batch(self):
        self.batches.append(self.learn.x.tolist())

    def items(self, epoch, num_batches):
        chosen = self.batches[epoch * num_batches : (epoch + 1) * num_batches]
        return [int(item[0]) for batch in chosen for item in batch]


def numbers(count=10):
    return list(range(count))


def drawn_from(loader):
    return [int(number) for batch in loader for number in batch]


def a_learner(train, valid=None, *cbs, seed=0, lr=1e-4):
    torch.manual_seed(0)
    data = DataLoaders(train, valid)
    return Learner(
        data, nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD, lr, cbs=[*cbs], seed=seed
    )


# ---- weighted -----------------------------------------------------------------


def test_items_come_as_often_as_their_weights_say():
    torch.manual_seed(0)
    loader = WeightedDL(numbers(4), 100, [1, 2, 0, 5], num_samples=8000)

    counts = Counter(drawn_from(loader))

    # 8000 / 8 = 1000 for each unit of weight; three standard deviations are below 140.
    assert counts[2] == 0
    for item, weight in enumerate([1, 2, 0, 5]):
        assert counts[item] == pytest.approx(1000 * weight, abs=140)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_weights_may_be_of_any_kind_and_need_not_add_up_to_one(kind):
    loader = WeightedDL(numbers(3), 2, kind([0.0, 3.0, 0.0]))

    assert drawn_from(loader) == [1, 1, 1]


def test_an_epoch_is_as_long_as_the_data():
    loader = WeightedDL(numbers(10), 4)

    assert len(loader) == 3
    assert len(drawn_from(loader)) == 10
    assert len(WeightedDL(numbers(10), 4, drop_last=True)) == 2


def test_without_weights_all_items_are_as_likely():
    torch.manual_seed(0)

    counts = Counter(drawn_from(WeightedDL(numbers(4), 100, num_samples=4000)))

    assert all(counts[item] == pytest.approx(1000, abs=100) for item in range(4))


@pytest.mark.parametrize(
    ("wgts", "message"),
    [
        ([1, 2], r"one weight for each of 3 items, got shape \(2,\)"),
        ([[1, 2, 3]], r"got shape \(1, 3\)"),
        ([1, -1, 2], r"must be numbers from 0 on, got -1.0 to 2.0"),
        ([1, float("nan"), 2], "must be numbers from 0 on"),
        ([0, 0, 0], "all wgts are 0"),
    ],
)
def test_what_is_no_weight_for_each_item_is_refused(wgts, message):
    with pytest.raises(OptionError, match=message):
        WeightedDL(numbers(3), 2, wgts)


# ---- partial ------------------------------------------------------------------


def test_some_items_are_drawn_anew_every_epoch_and_none_twice():
    torch.manual_seed(0)
    loader = PartialDL(numbers(100), 8, partial_n=20)

    first, second = drawn_from(loader), drawn_from(loader)

    assert len(first) == len(set(first)) == 20
    assert set(first) <= set(range(100))
    assert set(first) != set(second)


@pytest.mark.parametrize(
    ("partial_n", "drop_last", "num_batches"),
    [
        (20, False, 3),
        (20, True, 2),
        (16, False, 2),
        (None, False, 13),
        (500, False, 13),
    ],
)
def test_the_length_is_that_of_the_items_drawn(partial_n, drop_last, num_batches):
    loader = PartialDL(numbers(100), 8, partial_n, drop_last=drop_last)

    assert len(loader) == num_batches
    assert len(list(loader)) == num_batches


@pytest.mark.parametrize("partial_n", [None, 100, 500])
def test_all_items_come_once_where_there_are_no_more(partial_n):
    assert sorted(drawn_from(PartialDL(numbers(100), 8, partial_n))) == numbers(100)


@pytest.mark.parametrize("partial_n", [0, -1, 2.5, True])
def test_a_number_of_items_that_is_none_is_refused(partial_n):
    with pytest.raises(OptionError, match="partial_n must be a whole number from 1"):
        PartialDL(numbers(10), 2, partial_n)


def test_a_size_of_batches_that_is_none_is_refused():
    with pytest.raises(OptionError, match="bs must be a whole number from 1 on, got 0"):
        WeightedDL(numbers(10), 0)


@pytest.mark.parametrize("make", [WeightedDL, PartialDL])
def test_data_without_a_length_is_refused(make):
    with pytest.raises(DataError, match="needs a dataset with a length, got Stream"):
        make(Stream())


# ---- in a run -----------------------------------------------------------------

WEIGHTS = [0.0] * 6 + [1.0] * 6


def makes(name):
    if name == "weighted":
        return lambda **options: WeightedDL(Noisy(), 2, WEIGHTS, **options)
    return lambda **options: PartialDL(Noisy(), 2, 6, **options)


@pytest.mark.parametrize("kind", ["weighted", "partial"])
def test_any_number_of_workers_gives_the_same_samples(kind):
    def batches(**options):
        drawn = Drawn()
        a_learner(makes(kind)(**options), None, drawn).fit(2)
        return drawn.batches

    assert batches() == batches(num_workers=2)


@pytest.mark.parametrize("kind", ["weighted", "partial"])
def test_items_hang_on_the_seed_and_the_epoch(kind):
    def items(seed, epoch):
        drawn, loader = Drawn(), makes(kind)()
        a_learner(loader, None, drawn, seed=seed).fit(2)
        return drawn.items(epoch, len(loader))

    assert items(seed=0, epoch=0) == items(seed=0, epoch=0)
    assert items(seed=0, epoch=0) != items(seed=0, epoch=1)
    assert items(seed=0, epoch=0) != items(seed=1, epoch=0)


@pytest.mark.parametrize("kind", ["weighted", "partial"])
def test_a_run_that_was_cut_off_draws_the_rest_of_its_items(kind):
    class CutOff(Callback):
        def checkpoint(self):
            if self.learn.train_iter == 2:
                self.saved = copy.deepcopy(self.learn.state_dict())
                raise KeyboardInterrupt

    whole, rest, cut_off = Drawn(), Drawn(), CutOff()
    a_learner(makes(kind)(), None, whole).fit(2)
    with pytest.raises(KeyboardInterrupt):
        a_learner(makes(kind)(), None, cut_off).fit(2)

    resumed = a_learner(makes(kind)(), None, rest)
    resumed.fit(2, resume=cut_off.saved, resume_policy="ignore")

    assert rest.batches == whole.batches[2:]


def test_the_learners_own_data_is_drawn_by_weight():
    train = DataLoader(Noisy(), 4, shuffle=True)
    valid, drawn = [(torch.ones(1, 2), torch.ones(1, 1))], Drawn()
    learner = a_learner(train, valid, drawn)

    learner.dls = learner.weighted_dataloaders(WEIGHTS)
    learner.fit(1)

    assert set(drawn.items(0, 3)) <= set(range(6, 12))
    assert learner.dls.valid is valid
    assert learner.dls.train is not train


def test_of_the_learners_own_data_some_is_drawn():
    drawn = Drawn()
    learner = a_learner(DataLoader(Noisy(), 4), None, drawn)

    learner.dls = learner.partial_dataloaders(5, bs=3)
    learner.fit(1)

    assert [len(batch) for batch in drawn.batches] == [3, 2]


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, None), DataLoaders])
def test_data_may_be_given_without_a_learner(wrap):
    train = DataLoader(numbers(12), 4)

    dls = weighted_dataloaders(wrap(train), WEIGHTS, num_samples=8)

    assert isinstance(dls, DataLoaders)
    assert len(drawn_from(dls.train)) == 8


def test_the_settings_of_the_loader_are_kept():
    data = TensorDataset(torch.arange(10.0), torch.arange(10.0))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(
        data,
        4,
        drop_last=True,
        num_workers=1,
        collate_fn=list,
        prefetch_factor=3,
        generator=generator,
    )
    given = DataLoaders(loader, None, num_inputs=1, labels="y")

    dls = partial_dataloaders(given, 6)

    assert (dls.num_inputs, dls.labels) == (1, ("y",))
    assert given.train is loader
    for name in (
        "dataset",
        "num_workers",
        "collate_fn",
        "prefetch_factor",
        "generator",
    ):
        assert getattr(dls.train, name) is getattr(loader, name)
    assert (dls.train.batch_size, dls.train.drop_last) == (4, True)
    assert dls.train.sampler.generator is generator


def test_a_loader_of_single_items_stays_one():
    dls = partial_dataloaders(DataLoader(numbers(10), batch_size=None), 4)

    assert len(list(dls.train)) == 4


def test_weights_may_be_changed_later():
    dls = weighted_dataloaders(DataLoader(numbers(3), 2), [1.0, 0.0, 0.0])

    dls = weighted_dataloaders(dls, [0.0, 0.0, 1.0])

    assert drawn_from(dls.train) == [2, 2, 2]


class MyLoader(DataLoader):
    pass


@pytest.mark.parametrize(
    "loader", [[torch.ones(2, 1)], MyLoader(numbers(3)), DataLoader(Stream())]
)
def test_loaders_of_another_kind_are_refused(loader):
    with pytest.raises(DataError, match=r"needs a torch\.utils\.data\.DataLoader"):
        weighted_dataloaders(DataLoaders(loader), [1.0])


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SubsetRandomSampler([0, 1])},
        {"batch_sampler": [[0, 1], [2]]},
    ],
)
def test_a_sampler_that_chooses_items_is_not_given_up_silently(options):
    with pytest.raises(DataError, match="has a sampler of its own"):
        partial_dataloaders(DataLoader(numbers(3), **options), 2)
