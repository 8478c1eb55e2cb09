"""Which sizes are found, and above all what a search leaves as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard.errors import DataError, OptionError
from callboard.testing import tiny_learner
from callboard_batch_size_finder import (
    BatchSizes,
    LiveBytes,
    Trial,
    batch_size_find,
    foreseen_bytes,
    free_bytes,
    resized,
    with_batch_size,
)
from callboard_batch_size_finder.memory import is_out_of_memory

NUM_SAMPLES, WIDTH = 200, 50
FLOAT_BYTES = 4


class Limited(nn.Sequential):
    """Runs out of memory, as a GPU does, in batches that are too large."""

    most = NUM_SAMPLES
    sizes: tuple = ()

    def forward(self, x):
        self.sizes = (*self.sizes, len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return super().forward(x)


def a_learner(*cbs, most=NUM_SAMPLES, batch_size=10):
    torch.manual_seed(0)
    inputs = torch.randn(NUM_SAMPLES, WIDTH)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    model = Limited(nn.Linear(WIDTH, 20), nn.Tanh(), nn.Linear(20, 1))
    model.most = most
    loader = DataLoader(data, batch_size, shuffle=True)
    # What SGD makes in a step is little beside what the samples make.
    parts = (loader, model, nn.MSELoss(), torch.optim.SGD)
    return Learner(*parts, cbs=[*cbs], seed=1, device="cpu")


def search(learner, **options):
    return batch_size_find(learner, **{"num_steps": 1, **options})


def sizes_of(found):
    return [trial.size for trial in found.trials]


def test_sizes_are_doubled_up_to_the_number_of_samples():
    found = search(a_learner())

    assert sizes_of(found) == [8, 16, 32, 64, 128, NUM_SAMPLES]
    assert found.largest == NUM_SAMPLES
    assert "200 is the largest that was to be tried" in str(found)


def test_a_size_at_which_memory_runs_out_is_the_last():
    found = search(a_learner(most=50))

    assert sizes_of(found) == [8, 16, 32, 64]
    assert found.largest == 32
    assert found.reason == "a batch of 64 does not fit, memory ran out"


def test_a_first_size_that_does_not_fit_is_halved():
    found = search(a_learner(most=3))

    assert sizes_of(found) == [2, 4, 8]
    assert found.largest == 2


def test_that_nothing_fits_is_said():
    with pytest.raises(DataError, match="not even one sample fits: memory ran out"):
        search(a_learner(most=0))


def test_a_size_that_is_foreseen_not_to_fit_is_not_run():
    learner = a_learner()
    sizes = {"start_size": 50, "max_size": NUM_SAMPLES}
    unlimited = {t.size: t.peak_bytes for t in search(learner, **sizes).trials}

    found = search(learner, memory_gb=(unlimited[100] + 1) / 1e9, **sizes)

    assert found.largest == 100
    assert found.trials[-1].seconds is None
    assert found.trials[-1].peak_bytes == pytest.approx(unlimited[200], rel=0.01)


def test_a_step_that_takes_too_long_does_not_fit():
    class Slow(Callback):
        stages = ("lr-find",)

        def before_batch(self):
            from time import sleep

            sleep(0.02 * (len(self.learn.xb[0]) > 16))

    found = search(a_learner(Slow()), step_seconds=0.02)

    assert found.largest == 16
    assert "a step takes" in found.reason


def test_memory_is_counted_from_when_a_tensor_is_made_until_it_is_let_go():
    with LiveBytes() as live:
        first = torch.ones(1000)
        view = first.view(10, 100)
        del first
        second = torch.ones(500)
        del second
        third = torch.ones(200)

    assert live.now == FLOAT_BYTES * (1000 + 200)
    assert live.peak == FLOAT_BYTES * (1000 + 500)
    del view, third
    assert live.now == 0


def test_a_model_with_sparse_gradients_can_be_searched():
    tokens = torch.arange(20) % 5
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
    data = [(tokens, torch.ones(20, 1))]
    learner = Learner(data, model, nn.MSELoss(), torch.optim.SGD, device="cpu")

    assert search(learner).largest == 20


def test_memory_of_a_step_grows_with_the_batch_and_is_the_same_in_every_run():
    one, other = search(a_learner()), search(a_learner())

    peaks = [trial.peak_bytes for trial in one.trials]
    assert peaks == [trial.peak_bytes for trial in other.trials]
    assert peaks == sorted(peaks)
    # What a sample makes: 20 numbers before and 20 behind the tanh, at least.
    assert peaks[-1] - peaks[0] >= (NUM_SAMPLES - 8) * 40 * FLOAT_BYTES


def test_a_line_through_the_two_largest_sizes_foresees_the_next():
    assert foreseen_bytes({8: 100, 16: 180, 32: 340}, 64) == 660  # 10 a sample, and 20
    assert foreseen_bytes({8: 100}, 16) == 0


def test_the_fastest_is_the_smallest_that_is_as_fast_as_any():
    trials = (Trial(8, 0, 0.08), Trial(16, 0, 0.1), Trial(32, 0, 0.19))  # 100, 160, 168
    found = BatchSizes((*trials, Trial(64, 0, None, "too large")), "")

    assert found.fastest == 16
    assert found.largest == 32


@pytest.mark.parametrize("kind", ["classification", "mapping", "unlabelled", "images"])
def test_all_kinds_of_batches_are_resized(kind):
    found = search(tiny_learner(kind), max_size=20)

    assert found.largest == 20


def test_what_is_no_row_of_a_batch_stays_as_it_is():
    batch = {"x": torch.arange(3), "scale": torch.ones(2), "names": ["a"], "n": 3}

    larger = resized(batch, 5, 3)

    assert larger["x"].tolist() == [0, 1, 2, 0, 1]
    assert larger["scale"].tolist() == [1, 1]
    assert (larger["names"], larger["n"]) == (["a"], 3)
    assert resized([torch.arange(3)], 2, 3)[0].tolist() == [0, 1]


@pytest.mark.parametrize("most", [NUM_SAMPLES, 20], ids=["fits", "runs out"])
def test_everything_is_afterwards_as_it_was(most):
    learner = a_learner(most=most)
    learner.fit(1)
    before = copy.deepcopy(learner.state_dict())
    dls, streams = learner.dls, torch.get_rng_state()

    search(learner)

    assert learner.dls is dls
    assert torch.get_rng_state().equal(streams)
    after = learner.state_dict()
    for name, weight in before["model"].items():
        assert after["model"][name].equal(weight)
    assert repr(after["opt"]) == repr(before["opt"])
    assert learner.stage == "fit"


def test_it_can_be_called_in_the_middle_of_a_fit_and_changes_nothing_there():
    class Searches(Callback):
        def after_epoch(self):
            self.found = search(self.learn, max_size=16)

    plain, searching = a_learner(), a_learner(Searches())
    plain.fit(3)
    searching.fit(3)

    assert searching.searches.found.largest == 16
    for one, other in zip(
        plain.model.parameters(), searching.model.parameters(), strict=True
    ):
        assert one.equal(other)


def test_an_error_of_the_model_is_the_models():
    class Fails(nn.Linear):
        def forward(self, x):
            if len(x) > 16:
                raise RuntimeError("shapes cannot be multiplied")
            return super().forward(x)

    learner = a_learner()
    learner.model = Fails(WIDTH, 1)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        search(learner)


@pytest.mark.parametrize(
    ("error", "is_about_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=["cuda", "python", "cpu", "mps", "shapes", "value"],
)
def test_it_is_known_which_errors_are_about_memory(error, is_about_memory):
    assert is_out_of_memory(error) is is_about_memory


def test_what_is_free_is_asked_of_the_machine():
    free = free_bytes(torch.device("cpu"))

    assert free is None or free > 0


def test_the_limit_of_a_container_counts(tmp_path):
    from callboard_batch_size_finder.memory import _left_to_group

    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert _left_to_group(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_to_group(tmp_path) is None
    assert _left_to_group(tmp_path / "nowhere") is None


def test_a_loader_of_another_size_gives_the_same_samples():
    loader = DataLoader(torch.arange(10), 3, drop_last=True)

    assert [len(batch) for batch in with_batch_size(loader, 4)] == [4, 4]
    with pytest.raises(DataError, match="Make it anew"):
        with_batch_size([torch.ones(2)], 4)


@pytest.mark.parametrize(
    "options",
    [
        {"start_size": 0},
        {"max_size": 0},
        {"num_steps": 1.5},
        {"memory_gb": -1},
        {"step_seconds": 0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_wrong_option_is_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        search(a_learner(), **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_the_allocator_counts():
    learner = a_learner()
    learner.device = torch.device("cuda", 0)

    found = search(learner, max_size=64)

    assert found.largest == 64
    assert found.trials[-1].peak_bytes >= 64 * 40 * FLOAT_BYTES
