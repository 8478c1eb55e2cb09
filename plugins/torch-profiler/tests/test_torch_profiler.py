"""Traces of some steps, in which it stands who did what."""

import json

import pytest
import torch

from callboard import Callback
from callboard.errors import OptionError
from callboard.testing import cost_of, tiny_learner
from callboard_torch_profiler import TorchProfiler


class Works(Callback):
    def before_batch(self):
        self.learn.xb = tuple(part * 1 for part in self.learn.xb)


def names_in(trace):
    events = json.loads(trace.read_text())["traceEvents"]
    return [event.get("name", "") for event in events]


def test_the_steps_of_the_schedule_are_in_the_trace_with_who_did_what(tmp_path):
    profiler = TorchProfiler(wait=0, warmup=1, active=1, rows=0)

    tiny_learner(cbs=[Works(), profiler], path=tmp_path).fit(2)

    assert profiler.traces == [tmp_path / "torch-profile" / "trace-1.json"]
    names = names_in(profiler.traces[0])
    steps = {name for name in names if name.startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#1"}
    assert {"works: before_batch", "do_backward", "next batch", "aten::mul"} <= {*names}


def test_without_annotation_the_operations_are_there_alone(tmp_path):
    profiler = TorchProfiler(wait=0, warmup=1, active=1, rows=0, annotate=False)

    tiny_learner(cbs=[Works(), profiler], path=tmp_path).fit(1)

    names = names_in(profiler.traces[0])
    assert "aten::mul" in names
    assert "works: before_batch" not in names


def test_every_cycle_gives_a_trace(tmp_path):
    profiler = TorchProfiler(wait=0, warmup=1, active=1, repeat=2, rows=0)
    learner = tiny_learner(cbs=profiler, path=tmp_path)
    learner.dls.train = [*learner.dls.train] * 2

    learner.fit(1)

    assert [trace.name for trace in profiler.traces] == ["trace-1.json", "trace-2.json"]


def test_a_cycle_that_the_epoch_breaks_off_is_written_as_far_as_it_came(tmp_path):
    profiler = TorchProfiler(wait=0, warmup=1, active=100, rows=0)

    tiny_learner(cbs=profiler, path=tmp_path).fit(2)

    assert "ProfilerStep#2" in names_in(profiler.traces[0])  # the last of three


def test_the_longest_operations_are_listed(tmp_path, capsys):
    tiny_learner(cbs=TorchProfiler(wait=0, warmup=1, active=2), path=tmp_path).fit(1)

    printed = capsys.readouterr().out
    assert "aten::" in printed
    assert "trace-1.json" in printed


def test_a_fit_that_fails_leaves_no_profiler_running(tmp_path):
    class Fails(Callback):
        def after_loss(self):
            raise RuntimeError("on purpose")

    profiler = TorchProfiler(wait=0, warmup=1, rows=0)
    with pytest.raises(RuntimeError, match="on purpose"):
        tiny_learner(cbs=[Fails(), profiler], path=tmp_path).fit(1)

    assert not profiler.is_on
    again = TorchProfiler(wait=0, warmup=1, active=1, rows=0)
    tiny_learner(cbs=again, path=tmp_path).fit(1)
    assert again.traces


def test_nothing_is_learned_otherwise(tmp_path):
    plain, profiled = tiny_learner(), tiny_learner(cbs=TorchProfiler(rows=0))
    profiled.path = tmp_path
    plain.fit(2)
    profiled.fit(2)

    for one, other in zip(
        plain.model.parameters(), profiled.model.parameters(), strict=True
    ):
        assert one.equal(other)


def test_once_it_is_done_a_step_costs_next_to_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    cost = cost_of(
        lambda: TorchProfiler(wait=0, warmup=1, active=1, rows=0, annotate=False)
    )

    # One is that of the loop, which calls all observers of an event together.
    assert cost.python_calls <= 2
    assert cost.host_reads == 0


def test_of_two_at_a_time_the_second_says_that_it_records_nothing(tmp_path, caplog):
    first = TorchProfiler(wait=0, warmup=1, active=1, rows=0)
    second = TorchProfiler(wait=0, warmup=1, active=1, rows=0)

    tiny_learner(cbs=[first, second], path=tmp_path).fit(1)

    assert len(first.traces) + len(second.traces) == 1
    assert "another profiler of PyTorch is at work" in caplog.text


def test_inside_a_profiler_of_the_users_own_it_keeps_still(tmp_path, caplog):
    profiler = TorchProfiler(rows=0)

    with torch.profiler.profile():
        tiny_learner(cbs=profiler, path=tmp_path).fit(1)

    assert not profiler.traces
    assert "another profiler of PyTorch is at work" in caplog.text


@pytest.mark.parametrize("wrong", ["wait", "warmup", "active", "repeat", "rows"])
def test_numbers_that_are_too_small_are_refused(wrong):
    with pytest.raises(OptionError, match=f"torch-profiler: {wrong} must be at least"):
        TorchProfiler(**{wrong: -1})
