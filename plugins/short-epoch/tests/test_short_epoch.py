"""How many batches are run, which, and that nothing is missing in the results."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from callboard import Callback, DataLoaders, Learner
from callboard.errors import DataError, OptionError
from callboard_recorder import Recorder
from callboard_schedule import ParamScheduler, SchedLin
from callboard_short_epoch import ShortEpochCallback, num_batches_of, shortened


class Seen(Callback):
    """The inputs, and the losses, of every batch by phase."""

    def __init__(self):
        self.train, self.valid, self.losses, self.events = [], [], [], []

    def after_batch(self):
        seen = self.train if self.training else self.valid
        seen.append(self.learn.x[:, 0].tolist())
        if self.training:
            self.losses.append(self.learn.loss.item())

    def after_cancel_train(self):
        self.events.append("cancel")

    def after_train(self):
        self.events.append(self.learn.n_iter)


class Noisy(Dataset):
    """Items that random augmentation makes other ones every time."""

    def __init__(self, num_items=20):
        self.num_items = num_items

    def __len__(self):
        return self.num_items

    def __getitem__(self, index):
        return index + torch.rand(1), torch.zeros(1)


class Stream(IterableDataset):
    def __len__(self):
        return 20

    def __iter__(self):
        return ((torch.full((1,), float(n)), torch.zeros(1)) for n in range(20))


def batches(count):
    return [(torch.full((2, 1), float(n)), torch.zeros(2, 1)) for n in range(count)]


def a_learner(train, valid=None, *cbs, **options):
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.fill_(0)
    options = {"opt_func": torch.optim.SGD, "lr": 1e-3, "seed": 0, **options}
    data = DataLoaders(train, valid)
    return Learner(data, model, nn.MSELoss(), cbs=[*cbs], **options)


def seen_in(train, *cbs, epochs=1, valid=None):
    seen = Seen()
    a_learner(train, valid, seen, *cbs).fit(epochs)
    return seen


@pytest.mark.parametrize(
    ("pct", "in_all", "expected"),
    [
        (0.01, 100, 1),
        (0.01, 101, 2),
        (0.01, 5, 1),
        (0.5, 4, 2),
        (0.5, 5, 3),
        (0.1, 30, 3),
        (1, 7, 7),
        (0.9999999999, 7, 7),
        (0.3, 1, 1),
    ],
)
def test_a_share_is_rounded_up_to_whole_batches(pct, in_all, expected):
    assert num_batches_of(pct, in_all) == expected


def test_training_and_validation_end_after_their_share():
    seen = seen_in(batches(8), ShortEpochCallback(0.25), epochs=2, valid=batches(4))

    assert seen.train == [[0, 0], [1, 1]] * 2
    assert seen.valid == [[0, 0]] * 2


def test_validation_is_left_whole_where_that_is_asked_for():
    short = ShortEpochCallback(0.25, short_valid=False)

    seen = seen_in(batches(8), short, valid=batches(4))

    assert len(seen.train) == 2
    assert len(seen.valid) == 4


def test_all_of_it_is_run_where_the_share_is_one():
    assert len(seen_in(batches(8), ShortEpochCallback(1)).train) == 8


def test_nothing_is_cancelled_and_the_number_of_batches_is_told():
    assert seen_in(batches(8), ShortEpochCallback(0.25)).events == [2]


def test_the_columns_of_training_and_validation_are_kept():
    recorder, seen = Recorder(), Seen()
    learner = a_learner(
        batches(8), batches(8), recorder, seen, ShortEpochCallback(0.25)
    )

    learner.fit(1)

    # Bias 0 and weight 1 give x back, so the first two batches have the losses 0, 1.
    row = recorder.values[0]
    assert row["train_loss"] == pytest.approx(sum(seen.losses) / 2)
    assert seen.losses[1] == pytest.approx(1)
    model = learner.model
    expected = [model(x).square().mean().item() for x, _ in batches(2)]
    assert row["valid_loss"] == pytest.approx(sum(expected) / 2)


def test_evaluations_are_not_shortened():
    learner = a_learner(batches(8), batches(8), ShortEpochCallback(0.25))
    seen = Seen()
    seen.stages = ("validate",)

    learner.validate(cbs=seen)

    assert len(seen.valid) == 8


def test_a_validation_inside_of_a_fit_is_not_shortened():
    class Validate(Callback):
        stages = ("fit", "validate")

        def after_train(self):
            self.count = 0
            self.learn.validate()
            self.is_over = True

        def after_batch(self):
            self.count += self.learn.stage == "validate"

    validate = Validate()
    validate.count = 0

    seen = seen_in(batches(8), ShortEpochCallback(0.25), validate, valid=batches(8))

    assert validate.count == 8
    assert len(seen.valid) == 2


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("sampling", ["shuffle", "generator", "sampler", "no batches"])
def test_batches_are_the_first_of_the_whole_epoch(num_workers, sampling):
    def loader():
        options = {"batch_size": 2, "num_workers": num_workers}
        generator = torch.Generator().manual_seed(5)
        if sampling == "shuffle":
            options["shuffle"] = True
        elif sampling == "generator":
            options |= {"shuffle": True, "generator": generator}
        elif sampling == "sampler":
            sampler = RandomSampler(Noisy(), generator=generator)
            options["sampler"] = sampler
        else:
            options |= {"batch_size": None, "shuffle": True, "collate_fn": one_item}
        return DataLoader(Noisy(), **options)

    whole = seen_in(loader(), epochs=2)
    short = seen_in(loader(), ShortEpochCallback(0.2), epochs=2)

    half = len(whole.train) // 2
    count = 4 if sampling == "no batches" else 2
    first, second = whole.train[:count], whole.train[half : half + count]
    assert short.train == [*first, *second]
    assert first != second


def one_item(item):
    return tuple(part[None] for part in item)


def test_workers_persist_over_the_epochs():
    loader = DataLoader(
        Noisy(), batch_size=2, num_workers=1, persistent_workers=True, shuffle=True
    )
    loaders = []

    class Loaders(Callback):
        def after_train(self):
            loaders.append(self.learn.dl)

    short = ShortEpochCallback(0.2)
    a_learner(loader, None, short, Loaders()).fit(3)

    assert loaders[0] is loaders[1] is loaders[2]
    assert loaders[0].persistent_workers
    assert short._loaders == {}


def test_only_the_batches_that_are_wanted_are_built():
    class Counting(Noisy):
        num_built = 0

        def __getitem__(self, index):
            Counting.num_built += 1
            return super().__getitem__(index)

    seen_in(DataLoader(Counting(), batch_size=2), ShortEpochCallback(0.3))

    assert Counting.num_built == 6


class MyLoader(DataLoader):
    def __iter__(self):
        for inputs, labels in super().__iter__():
            yield inputs + 100, labels


@pytest.mark.parametrize(
    ("loader", "first"),
    [
        (MyLoader(Noisy(), batch_size=2), 100),
        (DataLoader(Stream(), batch_size=2), 0),
        (tuple(batches(10)), 0),
    ],
)
def test_loaders_of_any_kind_with_a_length_are_shortened(loader, first):
    seen = seen_in(loader, ShortEpochCallback(0.2), epochs=2)

    assert len(seen.train) == 4
    assert int(seen.train[0][0]) == first


def test_the_shortened_loader_has_the_settings_of_the_whole():
    loader = DataLoader(
        Noisy(),
        batch_size=2,
        num_workers=1,
        collate_fn=one_item,
        timeout=3,
        prefetch_factor=4,
        worker_init_fn=print,
        multiprocessing_context="spawn",
        in_order=False,
        generator=torch.Generator(),
    )

    short = shortened(loader, 2)

    same = ("dataset", "num_workers", "collate_fn", "timeout", "prefetch_factor")
    same += ("worker_init_fn", "in_order", "generator", "multiprocessing_context")
    assert len(short) == 2
    for name in same:
        assert getattr(short, name) is getattr(loader, name), name


def test_schedules_run_to_their_end_over_the_short_epochs():
    class Rates(Callback):
        def after_step(self):
            rates.append(self.learn.opt.param_groups[0]["lr"])

    rates = []
    cbs = [ShortEpochCallback(0.2), ParamScheduler({"lr": SchedLin(1.0, 0.0)}), Rates()]
    a_learner(batches(10), None, *cbs).fit(2)

    assert rates == pytest.approx([1, 0.75, 0.5, 0.25])


def test_the_loaders_of_the_learner_stay_in_their_place():
    train, valid = batches(8), batches(8)
    learner = a_learner(train, valid)

    learner.fit(1, cbs=ShortEpochCallback(0.25))

    assert learner.dls.train is train
    assert learner.dls.valid is valid
    seen = Seen()
    learner.fit(1, cbs=seen)
    assert len(seen.train) == 8


def test_a_loader_that_another_plugin_put_there_is_shortened():
    class Other(Callback):
        run_before = "short-epoch"

        def before_train(self):
            self.learn.dl = batches(4)

    seen = seen_in(batches(100), ShortEpochCallback(0.5), Other())

    assert seen.train == [[0, 0], [1, 1]]


@pytest.mark.parametrize("pct", [0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused_with_a_good_one(pct):
    with pytest.raises(OptionError, match=r"short-epoch: pct is a share .* Use 0\.01"):
        ShortEpochCallback(pct)


def test_a_loader_without_a_length_is_refused():
    class Endless:
        def __iter__(self):
            return iter(batches(8))

    with pytest.raises(DataError, match=r"training loader \(Endless\) has no length"):
        a_learner(Endless(), None, ShortEpochCallback()).fit(1)


def test_a_run_that_was_cut_off_in_a_short_epoch_goes_on_with_the_same_batches():
    class CutOff(Callback):
        def checkpoint(self):
            if self.learn.train_iter == 4:
                self.saved = copy.deepcopy(self.learn.state_dict())
                raise KeyboardInterrupt

    def learner(*cbs):
        loader = DataLoader(Noisy(), batch_size=2, shuffle=True)
        return a_learner(loader, None, ShortEpochCallback(0.3), *cbs)

    whole, rest, cut_off = Seen(), Seen(), CutOff()
    learner(whole).fit(2)
    with pytest.raises(KeyboardInterrupt):
        learner(cut_off).fit(2)

    learner(rest).fit(2, resume=cut_off.saved, resume_policy="ignore")

    assert len(whole.train) == 6
    assert rest.train == whole.train[4:]
