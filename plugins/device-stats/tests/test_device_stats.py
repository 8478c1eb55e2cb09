"""What an epoch takes of the machine, and that looking costs a step next to nothing."""

import sys
from types import SimpleNamespace

import pytest
import torch

import callboard_device_stats
from callboard import Callback
from callboard.errors import OptionError
from callboard.testing import cost_of, tiny_learner
from callboard_device_stats import DeviceStats, measures_of, process_memory, summary

CPU = torch.device("cpu")


def test_memories_are_told_by_their_largest_and_percentages_by_their_mean():
    seen = {"gpu_memory_mib": [1.0, 3.0], "gpu_percent": [50, 100], "idle_mib": []}

    assert summary(seen) == {"gpu_memory_mib": 3.0, "gpu_percent": 75.0}


def test_memory_and_processor_are_published_before_the_epoch_ends():
    seen = []

    class Reads(Callback):
        def after_epoch(self):
            seen.append(dict(self.learn.results))

    stats = DeviceStats()
    tiny_learner(cbs=[stats, Reads()]).fit(2)

    assert len(seen) == len(stats.rows) == 2
    for results, row in zip(seen, stats.rows, strict=True):
        assert results["process_memory_mib"] > 50  # torch alone takes more
        assert results["cpu_percent"] > 0
        assert row.items() <= results.items()


def test_memory_that_was_taken_shows():
    class Takes(Callback):
        def before_train(self):
            self.taken = torch.ones(2**24)  # 64 MiB

    plain, taking = DeviceStats(), DeviceStats()
    tiny_learner(cbs=plain).fit(1)
    tiny_learner(cbs=[taking, Takes()]).fit(1)

    grown = taking.rows[0]["process_memory_mib"] - plain.rows[0]["process_memory_mib"]
    assert 48 < grown < 256


@pytest.fixture
def elsewhere(monkeypatch):
    """A system without Linux's file of a process's memory."""
    monkeypatch.setattr(callboard_device_stats.os.path, "exists", lambda path: False)


def test_on_other_systems_psutil_tells_the_memory(monkeypatch, elsewhere):
    class Process:
        def memory_info(self):
            return SimpleNamespace(rss=5 * 2**20)

    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=Process))

    assert process_memory()() == 5.0


@pytest.mark.skipif(sys.platform == "win32", reason="Unix alone has `resource`")
def test_without_psutil_the_most_that_was_ever_held_is_told(monkeypatch, elsewhere):
    monkeypatch.setitem(sys.modules, "psutil", None)

    assert process_memory()() > 50


def test_what_a_machine_cannot_tell_is_left_out(monkeypatch):
    def no_driver(device):
        raise RuntimeError("no driver")

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    monkeypatch.setattr(cuda, "memory_reserved", lambda device: 4 * 2**20)
    monkeypatch.setattr(cuda, "utilization", no_driver)

    measures = measures_of(torch.device("cuda", 0))

    assert set(measures) == {
        *("process_memory_mib", "gpu_memory_mib", "gpu_reserved_mib"),
    }
    assert measures["gpu_memory_mib"]() == 3.0


def test_a_step_costs_a_call_and_reads_nothing():
    cost = cost_of(DeviceStats)

    # One is that of the loop, which calls all observers of an event together.
    assert cost.python_calls < 2.25
    assert cost.tensor_operations == 0
    assert cost.host_reads == 0


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_numbers_of_batches_that_are_none_are_refused(wrong):
    with pytest.raises(OptionError, match="device-stats: every must be a whole number"):
        DeviceStats(every=wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_told_of():
    learner = tiny_learner(cbs=DeviceStats())
    learner.device = torch.device("cuda")

    learner.fit(1)

    assert learner.results["gpu_memory_mib"] > 0
