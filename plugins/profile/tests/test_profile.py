"""Own time, shares, words, budgets, and that profiling changes nothing."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from callboard import Callback, hookimpl
from callboard.errors import OptionError
from callboard.testing import tiny_learner
from callboard.watching import NEXT_BATCH, THE_LOOP
from callboard_profile import BudgetError, Profile, read_budget
from callboard_profile.clock import BATCHES_PER_LOOK, Clock, counted_reads
from callboard_profile.report import (
    Line,
    Report,
    duration,
    over_budget,
    percent,
    report_of,
)


class Sleeper(Callback):
    def after_batch(self):
        time.sleep(0.01)


class Reader(Callback):
    role = "observe"
    run_valid = False

    def after_loss(self):
        self.learn.loss.item()


class Around(Callback):
    """Sleeps a little around a model that sleeps long."""

    @hookimpl(wrapper=True)
    def do_predict(self):
        time.sleep(0.001)
        return (yield)


def profiled(*cbs, **options):
    profile = Profile(show=False, **options)
    learner = tiny_learner(cbs=[*cbs, profile])
    learner.fit(2)
    return profile.report


def line_of(report, owner, event):
    (line,) = [x for x in report.lines if (x.owner, x.event) == (owner, event)]
    return line


def test_a_plugin_is_told_by_event_with_calls_time_and_share():
    report = profiled(Sleeper())

    line = line_of(report, "sleeper", "after_batch")
    assert line.num_calls == report.num_batches == 2 * 5
    assert line.seconds >= 0.1
    assert line.longest_seconds < line.seconds
    assert report.shares()["sleeper"] > 0.5
    assert report.shares()["plugins"] >= report.shares()["sleeper"]


def test_shares_of_plugins_model_data_and_loop_make_the_whole():
    shares = profiled(Sleeper()).shares()

    assert sum(shares.values()) - shares["plugins"] == pytest.approx(1)


def test_a_wrapper_has_its_own_time_only_and_the_model_keeps_its_own():
    class SlowModel(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            time.sleep(0.01)
            return self.model(inputs)

    profile = Profile(show=False)
    learner = tiny_learner(cbs=[Around(), profile])
    learner.model = SlowModel(learner.model)
    learner.fit(1)

    around = line_of(profile.report, "around", "do_predict")
    assert around.num_calls == 2 * 5  # before and behind its yield
    assert 5 * 0.001 <= around.seconds < 5 * 0.01
    assert line_of(profile.report, "model", "do_predict").seconds >= 5 * 0.01


def test_waiting_for_a_slow_loader_is_told_in_words():
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.01)
                yield batch

    profile = Profile(show=False)
    learner = tiny_learner(cbs=profile)
    learner.dls.train = Slow(learner.dls.train)
    learner.fit(1)

    report = profile.report
    assert report.shares()["data"] > 0.3
    assert any("waits for data" in sentence for sentence in report.verdict())


def test_reads_of_the_device_are_counted_for_who_reads():
    report = profiled(Reader())

    assert line_of(report, "reader", "after_loss").host_reads == 2 * 3
    assert any("reader reads values" in sentence for sentence in report.verdict())


def test_reads_of_what_lies_elsewhere_than_the_model_are_not_counted():
    here, elsewhere = [], []

    with counted_reads(lambda: here.append(1), torch.device("cpu")):
        torch.ones(1).item()
    with counted_reads(lambda: elsewhere.append(1), torch.device("meta")):
        torch.ones(1).item()

    assert (len(here), len(elsewhere)) == (1, 0)


def test_the_verdict_names_the_share_and_the_event():
    def line(owner, event, share):
        return Line(owner, event, 4, share * 2.0, 0.0, 0.01, share, 0, None, 0.0)

    lines = [line("model", "do_predict", 0.95), line("csv-logger", "after_epoch", 0.04)]
    report = Report([*lines, line("loop", "do_batch", 0.01)], 2.0, 4, 10)

    assert report.verdict() == [
        "Model, loss and optimizer take 95 % of each epoch, the loop itself 1.0 %, all "
        "plugins 4.0 %, waiting for data 0.0 %.",
        "csv-logger costs 4.0 % of each epoch (20 ms, in after_epoch).",
    ]


def test_what_a_profiled_run_learns_is_what_it_learns_without():
    plain = tiny_learner()
    plain.fit(2)
    learner = tiny_learner(cbs=Profile(show=False, trace_file=None))
    learner.fit(2)

    for one, other in zip(
        plain.model.parameters(), learner.model.parameters(), strict=True
    ):
        assert one.equal(other)


def test_nothing_of_torch_is_left_patched():
    before = torch.Tensor.item, torch.Tensor.__bool__
    profiled()

    assert (torch.Tensor.item, torch.Tensor.__bool__) == before


def test_a_fit_that_fails_is_reported_as_far_as_it_came():
    class Fails(Callback):
        def after_epoch(self):
            raise RuntimeError("on purpose")

    profile = Profile(show=False)
    with pytest.raises(RuntimeError, match="on purpose"):
        tiny_learner(cbs=[Fails(), profile]).fit(1)

    assert line_of(profile.report, "fails", "after_epoch").num_calls == 1


def test_over_its_budget_the_fit_is_done_and_then_fails():
    profile = Profile(budget="sleeper=10%; data=100%", show=False)
    learner = tiny_learner(cbs=[Sleeper(), profile])

    with pytest.raises(BudgetError, match=r"sleeper took \d\d % of the epochs, and"):
        learner.fit(1)

    assert learner.train_iter == 3


def test_within_its_budget_nothing_is_said():
    profiled(Sleeper(), budget={"sleeper": 1.0, "plugins": 1})


def test_a_budget_of_who_takes_no_part_is_refused_before_training():
    with pytest.raises(OptionError, match="'mixup', which takes no part"):
        profiled(budget="mixup=2%")


@pytest.mark.parametrize("wrong", ["mixup", "mixup=two", "mixup=200%", {"mixup": "x"}])
def test_a_budget_that_cannot_be_read_is_refused(wrong):
    with pytest.raises(OptionError, match="profile: "):
        Profile(budget=wrong)


def test_budgets_are_read_as_people_write_them():
    assert read_budget('"mixup=2%, data=0.5%"') == {"mixup": 0.02, "data": 0.005}
    assert over_budget({"mixup": 0.03}, {"mixup": 0.02, "data": 0.1}) == [
        "mixup took 3.0 % of the epochs, and may take 2.0 %"
    ]


def test_json_and_a_trace_for_chrome_are_written_below_the_path(tmp_path):
    profile = Profile(show=False, json_file="p.json", trace_file="deep/t.json")
    tiny_learner(cbs=[Sleeper(), profile], path=tmp_path).fit(1)

    numbers = json.loads((tmp_path / "p.json").read_text())
    assert {"shares", "verdict", "lines", "epoch_seconds"} <= set(numbers)
    events = json.loads((tmp_path / "deep/t.json").read_text())["traceEvents"][1:]
    epoch = next(e for e in events if e["name"] == "do_epoch")
    sleeps = [e for e in events if e["name"] == "sleeper: after_batch"]
    assert len(sleeps) == 5
    for each in sleeps:
        assert epoch["ts"] <= each["ts"]
        assert each["ts"] + each["dur"] <= epoch["ts"] + epoch["dur"]
        assert each["dur"] >= 10_000  # microseconds


def test_the_table_and_the_verdict_are_printed(capsys):
    tiny_learner(cbs=[Sleeper(), Profile()]).fit(1)

    printed = capsys.readouterr().out
    assert "sleeper" in printed
    assert "after_batch" in printed
    assert "sleeper costs" in printed


def test_a_piece_that_frees_and_takes_memory_is_told_what_it_kept():
    memory = iter([100, 100, 150, 160])  # outer begins, inner begins, ends, outer ends
    clock = Clock(lambda: next(memory))
    clock.begin("one", "after_epoch")
    clock.begin("two", "do_batch_of_its_own")
    clock.end("two", "do_batch_of_its_own")
    clock.end("one", "after_epoch")

    kept = {who: tally.bytes_kept for (who, _), tally in clock.tallies.items()}
    assert kept == {"one": 10, "two": 50}


class FakeEvent:
    """Stands for an event of a GPU that is behind by two ends of epochs."""

    clock = 0.0
    is_over = False

    def record(self):
        FakeEvent.clock += 1.0
        self.time = FakeEvent.clock

    def query(self):
        return FakeEvent.is_over

    def synchronize(self):
        FakeEvent.is_over = True

    def elapsed_time(self, other):
        return other.time - self.time


def test_a_gpus_own_time_is_read_when_it_is_there_and_awaited_only_at_the_end():
    FakeEvent.is_over = False
    clock = Clock(None, FakeEvent)
    clock.begin(THE_LOOP, "do_epoch")
    for _ in range(BATCHES_PER_LOOK):
        clock.begin(THE_LOOP, "do_batch")
        clock.begin(THE_LOOP, "do_predict")
        clock.end(THE_LOOP, "do_predict")
        clock.end(THE_LOOP, "do_batch")
    clock.end(THE_LOOP, "do_epoch")
    tally = clock.tallies[THE_LOOP, "do_predict"]
    assert tally.device_milliseconds == 0

    clock.read_device_times(is_last=True)

    assert tally.device_milliseconds == 1.0  # in the one batch that was looked at
    assert "on the GPU" in [c.header.strip() for c in report_of(clock).table().columns]


def test_waiting_for_batches_is_the_datas_time():
    clock = Clock()
    clock.begin(THE_LOOP, "do_epoch")
    clock.begin(THE_LOOP, NEXT_BATCH)
    time.sleep(0.01)
    clock.end(THE_LOOP, NEXT_BATCH)
    clock.end(THE_LOOP, "do_epoch")

    assert report_of(clock).shares()["data"] > 0.9


def test_shares_and_times_are_written_with_the_digits_that_mean_something():
    assert [percent(x) for x in (0.0004, 0.041, 0.634)] == ["0.0 %", "4.1 %", "63 %"]
    assert [duration(x) for x in (2.5, 0.0031, 4.2e-6)] == [
        *("2.5 s", "3.1 ms", "4.20 µs"),
    ]


@pytest.mark.slow
def test_the_command_line_profiles_and_fails_over_budget(tmp_path):
    target = tmp_path / "train_slowly.py"
    target.write_text(
        textwrap.dedent(
            """
            import time
            from callboard import Callback
            from callboard.testing import tiny_learner

            class Sleeper(Callback):
                def after_batch(self):
                    time.sleep(0.01)

            def learner():
                return tiny_learner(cbs=Sleeper())
            """
        )
    )
    command = [sys.executable, "-m", "callboard", "fit", target.name, "--epochs", "1"]

    def run(*options):
        return subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True
        )

    within = run("--profile")
    assert within.returncode == 0, within.stderr
    assert "sleeper costs" in within.stdout
    over = run("--budget", "sleeper=1%", "--budget", "data=99%")
    assert over.returncode == 1
    assert "sleeper took" in over.stderr
    assert Path(tmp_path, "train_slowly.py").exists()
