"""A run that goes on from any checkpoint is, bit for bit, the run that never ended."""

import copy
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from tests.runs import a_learner, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from callboard import Callback, Learner
from callboard.errors import CallboardWarning, OptionError, StateError
from callboard.testing import assert_same_run, tiny_learner
from callboard_checkpoint import CheckpointCallback
from callboard_csv_logger import CSVLogger
from callboard_early_stopping import EarlyStoppingCallback
from callboard_mixup import MixUp
from callboard_recorder import Recorder, accuracy
from callboard_save_model import SaveModelCallback
from callboard_schedule import ParamScheduler, combined_cos

NUM_SAMPLES, BATCH_SIZE = 14, 4


def noise():
    return float(torch.rand(())) + float(np.random.rand()) + random.random()


class Augmented(Dataset):
    """Samples that hang on all three global random streams."""

    def __init__(self):
        self.num_loaded = 0

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        self.num_loaded += 1
        inputs = torch.tensor([index / NUM_SAMPLES, noise(), 1.0])
        return inputs, torch.tensor(index % 3)


class Stream(IterableDataset):
    def __iter__(self):
        samples = Augmented()
        return (samples[index] for index in range(NUM_SAMPLES))


def noisy_collate(samples):
    inputs, labels = torch.utils.data.default_collate(samples)
    return inputs + 0.1 * noise(), labels


class Noisy(Augmented):
    """Samples that hang on a random stream of the dataset's own, as transforms have."""

    def __init__(self, stream):
        super().__init__()
        self.transforms = [{"noise": stream}]

    def __getitem__(self, index):
        self.num_loaded += 1
        drawn = draw(self.transforms[0]["noise"])
        return torch.tensor([index / NUM_SAMPLES, drawn, 1.0]), torch.tensor(index % 3)


def draw(stream):
    if isinstance(stream, torch.Generator):
        return float(torch.rand((), generator=stream))
    return float(stream.random())


OF_THE_MODULE = np.random.default_rng(5)


class WithModules(Augmented):
    """Samples that hang on a random stream of the module."""

    def __getitem__(self, index):
        self.num_loaded += 1
        drawn = float(OF_THE_MODULE.random())
        return torch.tensor([index / NUM_SAMPLES, drawn, 1.0]), torch.tensor(index % 3)


class NoisyCollation:
    """A collation with a random stream of its own."""

    def __init__(self):
        self.stream = np.random.default_rng(6)

    def __call__(self, samples):
        inputs, labels = torch.utils.data.default_collate(samples)
        return inputs + 0.1 * self.stream.random(), labels


def collation_of_a_function():
    stream = random.Random(7)

    def collate(samples):
        inputs, labels = torch.utils.data.default_collate(samples)
        return inputs + 0.1 * stream.random(), labels

    return collate


class LazySampler(torch.utils.data.Sampler):
    """Draws every index when it is asked for it."""

    def __iter__(self):
        return (int(torch.randint(NUM_SAMPLES, ())) for _ in range(NUM_SAMPLES))

    def __len__(self):
        return NUM_SAMPLES


class OwnSampler(LazySampler):
    """Draws its order from a stream of its own."""

    def __init__(self):
        self.stream = np.random.default_rng(8)

    def __iter__(self):
        return iter(self.stream.permutation(NUM_SAMPLES).tolist())


class ByEpoch(LazySampler):
    """An order that hangs on the epoch that it is told, as with several processes."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(NUM_SAMPLES, generator=order).tolist())


class Shuffled:
    """Batches in an order of numpy's, drawn before the first is asked for."""

    def __init__(self):
        self.batches = list(DataLoader(Augmented(), BATCH_SIZE))

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        order = np.random.permutation(len(self.batches))
        return iter([self.batches[number] for number in order])


def loader_of(dataset=None, **options):
    return DataLoader(dataset or Augmented(), BATCH_SIZE, **options)


LOADERS = {
    "map-style": lambda: DataLoader(
        Augmented(), BATCH_SIZE, shuffle=True, collate_fn=noisy_collate
    ),
    "a generator of its own": lambda: DataLoader(
        Augmented(),
        BATCH_SIZE,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
    ),
    "numpy's stream of the dataset": lambda: loader_of(
        Noisy(np.random.default_rng(1)), shuffle=True
    ),
    "numpy's old stream": lambda: loader_of(Noisy(np.random.RandomState(1))),
    "Python's stream": lambda: loader_of(Noisy(random.Random(1)), shuffle=True),
    "torch's stream": lambda: loader_of(Noisy(torch.Generator().manual_seed(1))),
    "a stream of the module": lambda: loader_of(WithModules()),
    "a stream of the collation": lambda: loader_of(collate_fn=NoisyCollation()),
    "a stream that a function keeps": lambda: loader_of(
        collate_fn=collation_of_a_function()
    ),
    "a lazy sampler": lambda: loader_of(sampler=LazySampler()),
    "a sampler with a stream": lambda: loader_of(sampler=OwnSampler()),
    "a sampler that is told the epoch": lambda: loader_of(sampler=ByEpoch()),
    "weighted": lambda: loader_of(
        sampler=torch.utils.data.WeightedRandomSampler(
            range(1, NUM_SAMPLES + 1), NUM_SAMPLES
        )
    ),
    "shuffled by numpy": Shuffled,
    "stream": lambda: DataLoader(Stream(), BATCH_SIZE, collate_fn=noisy_collate),
    "list": lambda: list(DataLoader(Augmented(), BATCH_SIZE)),
}


class Average(Callback):
    """An average of the weights, and a counter that starts anew in every epoch."""

    def before_fit(self):
        self.average = [p.detach().clone() for p in self.learn.model.parameters()]
        self.num_drawn = 0.0

    def before_train(self):
        self.in_epoch = 0

    def after_step(self):
        self.in_epoch += 1
        self.num_drawn += self.rng.random()
        for mean, weight in zip(self.average, self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.1)

    def state_dict(self):
        return {
            "average": [mean.clone() for mean in self.average],
            "num_drawn": self.num_drawn,
            "in_epoch": self.in_epoch,
        }

    def load_state_dict(self, state):
        self.average = [mean.clone() for mean in state["average"]]
        self.num_drawn, self.in_epoch = state["num_drawn"], state["in_epoch"]


class KeepStates(Callback):
    role = "observe"
    run_after = ("recorder", "csv-logger")

    def __init__(self):
        self.states = []

    def checkpoint(self):
        self.states.append(copy.deepcopy(self.learn.state_dict()))


def make(path, loader="map-style", *cbs, with_keeper=True):
    for set_seed in (torch.manual_seed, np.random.seed, random.seed):
        set_seed(3)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)]
    everyday = [
        Recorder(train_metrics=True),
        CSVLogger(exclude="time"),
        EarlyStoppingCallback(patience=9),
        SaveModelCallback(),
        MixUp(),
        Average(),
        Average(),
    ]
    return Learner(
        (LOADERS[loader](), LOADERS["list"]()),
        nn.Sequential(*layers),
        nn.CrossEntropyLoss(),
        torch.optim.Adam,
        metrics=accuracy,
        cbs=[*everyday, *cbs, *([KeepStates()] if with_keeper else [])],
        path=path,
        seed=11,
    )


def make_plain(loader):
    return Learner(loader, nn.Linear(3, 3), nn.CrossEntropyLoss())


def one_cycle():
    return ParamScheduler({"lr": combined_cos(0.3, 1e-3, 1e-2, 1e-5)})


def bits(learner):
    """All that a run leaves behind, but for the times."""
    state = learner.state_dict()
    recorder = state["plugins"]["recorder"]
    recorder["values"] = [{**row, "time": 0} for row in recorder["values"]]
    recorder["phase"] = None
    state["loop"]["results"].pop("time")
    state["plugins"].pop("keep-states", None)
    return state


def assert_same(one, other, where="state"):
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), where


@pytest.mark.parametrize("loader", LOADERS)
def test_going_on_from_any_checkpoint_equals_straight_through(loader, tmp_path):
    warnings.filterwarnings("ignore", "schedule: the training loader has no length")
    run, after = tmp_path / "run", tmp_path / "after"
    whole = make(run, loader)
    whole.fit(3, cbs=one_cycle())
    expected, states = bits(whole), whole.keep_states.states
    run.rename(after)
    assert len(states) == 3 * (4 + 1)

    for state in states:
        shutil.copytree(after, run)
        resumed = make(run, loader, with_keeper=False)
        resumed.fit(3, cbs=one_cycle(), resume=state, resume_policy="ignore")

        assert_same(bits(resumed) | {"lock": []}, expected | {"lock": []})
        log = (run / "history.csv").read_text()
        assert log == (after / "history.csv").read_text()
        shutil.rmtree(run)


class DrawingModule(nn.Module):
    """Noise from streams of its own, of three kinds."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.streams = [random.Random(1), np.random.default_rng(2)]

    def forward(self, inputs):
        kept = torch.rand(inputs.shape, generator=self.generator) > 0.2
        return inputs * kept + sum(float(s.random()) for s in self.streams)


class DrawingLoss(nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.stream = np.random.RandomState(5)

    def forward(self, pred, labels):
        return super().forward(pred, labels) * (1 + self.stream.rand())


def loss_that_keeps_a_stream():
    stream = random.Random(4)

    def loss(pred, labels):
        return nn.functional.cross_entropy(pred, labels) * (1 + stream.random())

    return loss


class DrawingPlugin(Callback):
    def __init__(self):
        self.stream = random.Random(5)

    def before_epoch(self):
        self.shift = self.stream.random()

    def after_pred(self):
        self.learn.pred = self.pred * (1 + self.shift) + self.stream.random()

    def state_dict(self):
        return {"shift": getattr(self, "shift", 0.0)}

    def load_state_dict(self, state):
        self.shift = state["shift"]


class GlobalPlugin(Callback):
    def after_pred(self):
        drawn = random.gauss(0, 1) + float(np.random.randn())
        self.learn.pred = self.pred * (1 + drawn)


class OfTorch(Callback):
    """Makes what its state goes into in before_fit, as is natural."""

    def before_fit(self):
        self.schedule = torch.optim.lr_scheduler.StepLR(self.opt, 2)

    def after_step(self):
        self.schedule.step()

    def state_dict(self):
        return self.schedule.state_dict()

    def load_state_dict(self, state):
        self.schedule.load_state_dict(state)


DRAWING = {
    "the model": {"model": lambda: nn.Sequential(nn.Linear(3, 3), DrawingModule())},
    "the loss": {"loss_func": DrawingLoss},
    "a function": {"loss_func": loss_that_keeps_a_stream},
    "a plugin": {"cbs": DrawingPlugin},
    "a plugin, globally": {"cbs": GlobalPlugin},
    "a schedule of torch": {"cbs": OfTorch},
}


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("who", DRAWING)
def test_streams_that_anybody_holds_go_on_where_they_were(who, num_workers, validates):
    def learner():
        made = {"model": lambda: nn.Linear(3, 3), "loss_func": nn.CrossEntropyLoss}
        made = {name: make() for name, make in {**made, **DRAWING[who]}.items()}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for layer in made["model"].modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
        loader = loader_of(shuffle=True, num_workers=num_workers)
        return Learner((loader, loader_of()), seed=1, lr=0.1, **made)

    class Validates(Callback):
        def after_pred(self):
            if self.learn.training and self.learn.stage == "fit":
                self.learn.validate()

    whole, keeper = learner(), KeepStates()
    whole.fit(2, cbs=keeper)

    for state in keeper.states[1:-1:3]:
        draw(random.Random()), random.random(), np.random.rand(), torch.rand(1)
        resumed = learner()
        cbs = Validates() if validates else None
        resumed.fit(2, cbs=cbs, resume=state, resume_policy="ignore")

        assert_same(resumed.model.state_dict(), whole.model.state_dict())


def test_streams_that_somebody_holds_stand_in_checkpoints(tmp_path):
    def learner(path, *cbs):
        torch.manual_seed(0)
        return Learner(
            loader_of(shuffle=True),
            nn.Sequential(nn.Linear(3, 3), DrawingModule()),
            DrawingLoss(),
            cbs=[DrawingPlugin(), CheckpointCallback("1 step", async_=False), *cbs],
            path=path,
            seed=1,
        )

    class Fails(Callback):
        def after_loss(self):
            if self.learn.train_iter == 5:
                raise ArithmeticError

    whole = learner(tmp_path / "whole")
    whole.fit(2)
    with pytest.raises(ArithmeticError):
        learner(tmp_path / "failed", Fails()).fit(2)

    resumed = learner(tmp_path / "failed")
    resumed.fit(2, resume="auto", resume_policy="ignore")

    assert_same(resumed.model.state_dict(), whole.model.state_dict())


def test_states_of_streams_that_do_not_fit_are_refused():
    learner = make_plain([(torch.randn(2, 3), torch.tensor([0, 1]))])
    learner.model.stream = random.Random(0)
    state = learner.state_dict()
    state["held_streams"]["model"] = [[1, 2, 3]]

    with pytest.raises(StateError, match="random streams that model holds"):
        learner.load_state_dict(state)


def test_an_error_in_load_state_dict_names_the_plugin():
    class Reads(Callback):
        def load_state_dict(self, state):
            raise KeyError("shift")

    keeper = KeepStates()
    make_plain([(torch.randn(2, 3), torch.tensor([0, 1]))]).fit(1, cbs=keeper)
    learner = make_plain([(torch.randn(2, 3), torch.tensor([0, 1]))])
    keeper.states[0]["plugins"]["reads"] = {}
    learner.add_cb(Reads())

    with pytest.raises(KeyError) as caught:
        learner.fit(1, resume=keeper.states[0], resume_policy="ignore")

    assert "load_state_dict of reads" in caught.value.__notes__[0]


def test_done_batches_are_not_loaded_again(tmp_path):
    whole = make(tmp_path)
    whole.fit(1)
    resumed = make(tmp_path)
    dataset = resumed.dls.train.dataset

    resumed.fit(1, resume=whole.keep_states.states[2])

    assert dataset.num_loaded == NUM_SAMPLES - 3 * BATCH_SIZE


WITH_STREAMS = [
    *("numpy's stream of the dataset", "Python's stream", "torch's stream"),
    *("a stream of the module", "a stream of the collation"),
    *("a stream that a function keeps", "a lazy sampler", "a sampler with a stream"),
]


@pytest.mark.parametrize("loader", WITH_STREAMS)
def test_streams_of_the_users_own_do_not_hang_on_the_number_of_workers(
    loader, tmp_path
):
    whole = make(tmp_path / "whole", loader)
    whole.fit(2)

    resumed = make(tmp_path / "resumed", loader)
    plain = resumed.dls.train
    resumed.dls.train = DataLoader(
        plain.dataset,
        batch_sampler=plain.batch_sampler,
        collate_fn=plain.collate_fn,
        num_workers=2,
    )
    resumed.fit(2, resume=whole.keep_states.states[2])

    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("stream", [np.random.default_rng(1), random.Random(1)])
def test_streams_of_the_users_own_are_left_as_they_were(stream):
    learner = make_plain(DataLoader(Noisy(stream), BATCH_SIZE))
    before = copy.deepcopy(stream)

    learner.fit(1)

    assert stream.random() == before.random()


def test_a_sampler_is_told_the_epoch():
    sampler, told = ByEpoch(), []
    sampler.set_epoch = told.append
    loader = DataLoader(Augmented(), BATCH_SIZE, sampler=sampler)

    make_plain(loader).fit(3)

    assert told == [0, 1, 2]


def test_the_number_of_workers_may_change(tmp_path):
    whole = make(tmp_path / "whole")
    whole.fit(2)

    resumed = make(tmp_path / "resumed")
    loader = DataLoader(
        Augmented(), BATCH_SIZE, shuffle=True, collate_fn=noisy_collate, num_workers=2
    )
    resumed.dls = (loader, resumed.dls.valid)
    resumed.fit(2, resume=whole.keep_states.states[1])

    assert torch.equal(weights(resumed), weights(whole))


def test_a_run_that_is_over_has_nothing_left_to_do(tmp_path):
    whole = make(tmp_path)
    whole.fit(2)

    resumed = make(tmp_path)
    resumed.fit(2, resume=whole.keep_states.states[-1])

    assert resumed.dls.train.dataset.num_loaded == 0
    assert torch.equal(weights(resumed), weights(whole))


def test_a_state_from_before_any_fit_is_the_beginning_of_one():
    whole, resumed = tiny_learner(), tiny_learner()
    before = copy.deepcopy(whole.state_dict())
    assert before["opt"] is None

    whole.fit(2)
    resumed.fit(2, resume=before, resume_policy="ignore")

    assert_same_run(whole, resumed)


def test_the_next_fit_leaves_out_those_that_were_over(tmp_path):
    def fine_tune(learner):
        learner.splitter = lambda model: [model[0], model[1:]]
        learner.freeze()
        learner.fit(1)
        learner.unfreeze()
        learner.fit(2)

    whole = make(tmp_path / "whole")
    fine_tune(whole)
    in_second = next(
        s for s in whole.keep_states.states if s["loop"]["fit_number"] == 2
    )

    resumed = make(tmp_path / "resumed")
    resumed.resume_next_fit(in_second)
    fine_tune(resumed)

    assert torch.equal(weights(resumed), weights(whole))


def test_a_stop_that_was_asked_for_still_holds(tmp_path):
    class Stop(Callback):
        def after_epoch(self):
            if self.epoch == 0:
                self.learn.stop("enough")

    whole = make(tmp_path, "list", Stop())
    whole.fit(3)
    resumed = make(tmp_path, "list", Stop())
    resumed.fit(3, resume=whole.keep_states.states[-1])
    longer = make(tmp_path, "list", Stop())
    with pytest.warns(CallboardWarning, match="was to have 3 epochs and now has 4"):
        longer.fit(4, resume=whole.keep_states.states[-1])

    assert resumed.stop_reason == "enough"
    assert (resumed.epoch, resumed.position) == (whole.epoch, whole.position)
    assert torch.equal(weights(resumed), weights(whole))
    assert longer.epoch == 3


def test_what_is_not_as_it_was_is_said_or_refused(tmp_path):
    whole = make(tmp_path, "list", Average())
    whole.fit(1)
    state = whole.keep_states.states[1]

    with pytest.warns(
        CallboardWarning, match=r"average-3 \(test_resume.py\) was active"
    ):
        make(tmp_path, "list").fit(1, resume=state)
    with pytest.raises(StateError, match="average-3") as refused:
        make(tmp_path, "list").fit(1, resume=state, resume_policy="strict")
    make(tmp_path, "list").fit(1, resume=state, resume_policy="ignore")

    assert 'resume_policy="warn"' in str(refused.value)


def test_another_option_or_library_is_said(tmp_path):
    whole = make(tmp_path, "list")
    whole.fit(1)
    state = copy.deepcopy(whole.keep_states.states[1])
    state["environment"]["torch"] = "1.0"
    resumed = make(tmp_path, "list")
    resumed.early_stopping.patience = 3

    with pytest.warns(CallboardWarning) as said:
        resumed.fit(1, resume=state)

    (text,) = [str(warning.message) for warning in said]
    assert "early-stopping: patience is 3 now and was 9 then" in text
    assert "was 1.0 then" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [(7, "resume must be"), ({"model": {}}, "no state of a Learner")],
)
def test_what_is_no_state_is_refused(given, message):
    with pytest.raises((OptionError, StateError), match=message):
        a_learner().fit(1, resume=given)


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    whole = make(tmp_path)
    whole.fit(2)

    with pytest.raises(StateError, match="has done 2 epochs"):
        make(tmp_path).fit(1, resume=whole.keep_states.states[-1])


def test_frozen_parameters_come_back_frozen():
    class Thaw(Callback):
        def before_fit(self):
            self.learn.freeze_to(0)
            self.learn.model[0].weight.requires_grad_(False)

        def before_epoch(self):
            if self.epoch == 1:
                self.learn.model[0].weight.requires_grad_(True)

    keep = KeepStates()
    whole = a_learner(cbs=[Thaw(), keep])
    whole.fit(4)
    resumed = a_learner(cbs=[Thaw(), KeepStates()])
    resumed.fit(4, resume=keep.states[7])

    assert torch.equal(weights(resumed), weights(whole))
