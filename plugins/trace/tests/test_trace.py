"""Who changed what in a fit, and how long it took, told by a trace."""

import copy
import json
import sqlite3
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import callboard_trace
from callboard import Callback, CancelBatchException, hookimpl
from callboard.cli import main
from callboard.errors import ObserverWarning, OptionError
from callboard.testing import Site, assert_same_run, cost_of, tiny_learner
from callboard_trace import TraceCallback, TraceError, command
from callboard_trace.answers import deeds, shares, who_wrote
from callboard_trace.chrome import export
from callboard_trace.file import opened


class Doubles(Callback):
    """Doubles the loss, by a wrapper."""

    name = "doubles"

    @hookimpl(wrapper=True)
    def do_loss(self):
        loss = yield
        return None if loss is None else loss * 2


class Halves(Callback):
    """Halves what backward runs on."""

    name = "halves"

    def before_backward(self):
        self.learn.loss_grad = self.learn.loss_grad * 0.5


class Looks(Callback):
    name = "looks"
    role = "observe"

    def after_loss(self):
        assert self.learn.loss is not None


@pytest.fixture
def place(tmp_path):
    return tmp_path / "trace.sqlite"


def traced(place, *cbs, epochs=1, learner=tiny_learner, **options):
    made = learner(cbs=[*cbs, TraceCallback(place, **options)])
    made.fit(epochs)
    return made


def ask(*arguments, place, code=0):
    result = CliRunner().invoke(command, [*arguments, "--trace", str(place)])
    assert result.exit_code == code, result.output
    return result.output


def writers(place, attribute, **where):
    with opened(place) as trace:
        found = who_wrote(trace, attribute, **where).writers
    return [(writer.plugin, writer.event) for writer in reversed(found)]


# What a trace must never do


@pytest.mark.parametrize("weights", ["none", "model", "each"])
def test_a_traced_run_is_bit_for_bit_the_run_without(place, weights):
    plain = tiny_learner(cbs=[Doubles(), Halves(), Looks()])
    plain.fit(2)

    run = traced(place, Doubles(), Halves(), Looks(), epochs=2, weights=weights)

    assert_same_run(run, plain)


def lbfgs(**options):
    return tiny_learner(opt_func=torch.optim.LBFGS, lr=0.1, **options)


LEARNERS = {
    "regression": lambda **o: tiny_learner("regression", **o),
    "unlabelled": lambda **o: tiny_learner("unlabelled", **o),
    "mapping": lambda **o: tiny_learner("mapping", **o),
    "no validation": lambda **o: tiny_learner(valid=False, **o),
    "an optimizer that works the loss out again": lbfgs,
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_any_learner_trains_the_same_with_a_trace(place, kind):
    plain = LEARNERS[kind]()
    plain.fit(2)

    run = traced(place, epochs=2, learner=LEARNERS[kind])

    assert_same_run(run, plain)


def test_a_trace_changes_nothing_that_is_drawn_at_random(place):
    class Draws(Callback):
        def after_batch(self):
            self.learn.results["drawn"] = float(torch.rand(()) + self.rng.random())

    plain = tiny_learner(cbs=Draws())
    plain.fit(2)

    assert_same_run(traced(place, Draws(), epochs=2), plain)


def test_without_a_trace_nothing_is_watched_and_nothing_paid(place):
    learner = tiny_learner(cbs=Looks())
    plans = []

    class Keeps(Callback):
        def after_batch(self):
            plans.append([self.plan.do_step, self.plan.do_loss, self.plan.do_predict])

    with learner.added_cbs([Keeps()]):
        learner.fit(1)

    assert plans[0] == [None, None, None]
    assert vars(TraceCallback(place))["_tracer"] is None


def test_a_trace_that_is_switched_off_costs_nothing_a_step(place):
    class Off(TraceCallback):
        run = False

    cost = cost_of(lambda: Off(place))

    assert (cost.python_calls, cost.tensor_operations, cost.host_reads) == (0, 0, 0)


def test_after_the_fit_nobody_looks_on_any_more(place):
    learner = traced(place)
    with sqlite3.connect(place) as connection:
        (before,) = connection.execute("SELECT count(*) FROM calls").fetchone()

    learner.remove_cb("trace")
    learner.fit(1)

    with sqlite3.connect(place) as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (before,)


def test_a_trace_does_not_keep_a_learner_alive(place):
    learner = traced(place)
    reference = weakref.ref(learner)

    del learner

    assert reference() is None


# Who wrote what


def test_the_twentieth_plugin_that_changed_a_value_is_found(place):
    """Twenty plugins at one event; one of them, in one step, spoils a batch."""

    def innocent(number):
        def after_loss(self):
            _ = self.learn.loss

        attributes = {"name": f"plugin-{number}", "after_loss": after_loss}
        return type(f"Plugin{number}", (Callback,), attributes)()

    class Guilty(Callback):
        name = "plugin-13"

        def after_loss(self):
            if self.training and self.train_iter == 1:
                self.learn.loss.data.mul_(1.5)  # unseen by torch's version counter

    plugins = [innocent(n) for n in range(20) if n != 13]
    plugins.insert(7, Guilty())

    run = traced(place, *plugins)

    with opened(place) as trace:
        last = who_wrote(trace, "loss", step=2).writers[0]
        others = who_wrote(trace, "loss", step=1).writers
    assert (last.plugin, last.event, last.step) == ("plugin-13", "after_loss", 2)
    assert last.origin == "test_trace.py"
    assert last.after["mean"] == pytest.approx(1.5 * last.before["mean"], rel=1e-6)
    assert "plugin-13" not in {writer.plugin for writer in others}
    assert len(run.cbs) == 21


def test_the_loss_is_written_by_the_loop_and_then_by_the_wrapper_around_it(place):
    traced(place, Doubles(), Looks())

    assert writers(place, "loss", step=2) == [
        ("the loop", "do_batch"),  # which takes the old one away
        ("the loop", "do_loss"),
        ("doubles", "do_loss"),
    ]


def test_who_does_an_action_in_place_of_the_loop_has_written_what_it_returns(place):
    class Predicts(Callback):
        name = "predicts"

        def do_predict(self):
            return self.learn.model(*self.learn.xb) + 1

    traced(place, Predicts())

    assert writers(place, "pred", step=1)[-1] == ("predicts", "do_predict")


def test_the_loss_of_backward_is_told_without_being_touched(place):
    traced(place, Halves())

    with opened(place) as trace:
        writer = who_wrote(trace, "loss_grad", step=2).writers[0]
        loss = who_wrote(trace, "loss", step=2).writers[0]
    assert (writer.plugin, writer.event) == ("halves", "before_backward")
    assert writer.after["mean"] == pytest.approx(loss.after["mean"] / 2)


def test_batches_hyper_parameters_results_and_modules_are_told_of(place):
    class Changes(Callback):
        name = "changes"

        def before_batch(self):
            self.learn.xb = (self.learn.xb[0] * 2,)

        def after_batch(self):
            for group in self.learn.opt.param_groups:
                group["lr"] *= 0.5

        def after_epoch(self):
            self.learn.results["score"] = 0.25
            self.learn.model.eval()
            next(self.learn.model.parameters()).requires_grad_(False)
            self.learn.loss_func = torch.nn.L1Loss()

    traced(place, Changes())

    expected = {
        "xb": "before_batch",
        "lr": "after_batch",
        "results.score": "after_epoch",
        "score": "after_epoch",
        "model.frozen": "after_epoch",
        "loss_func": "after_epoch",
    }
    for attribute, event in expected.items():
        assert writers(place, attribute, step=3)[-1] == ("changes", event), attribute


def test_weights_gradients_and_the_optimizers_state_belong_to_who_changed_them(place):
    class Clips(Callback):
        name = "clips"

        def after_backward(self):
            for parameter in self.learn.model.parameters():
                parameter.grad.mul_(0.5)

    traced(place, Clips())

    assert writers(place, "gradients", step=2) == [
        ("the loop", "do_backward"),
        ("clips", "after_backward"),
        ("the loop", "do_zero_grad"),
    ]
    assert writers(place, "weights", step=2)[-1] == ("the loop", "do_step")
    assert writers(place, "opt.state", step=2) == [("the loop", "do_step")]


def test_each_weight_is_told_of_by_name_where_that_is_asked_for(place):
    class Nudges(Callback):
        name = "nudges"

        def after_step(self):
            with torch.no_grad():
                dict(self.learn.model.named_parameters())[self.wanted].add_(1)

    nudges = Nudges()
    nudges.wanted = next(iter(dict(tiny_learner().model.named_parameters())))

    traced(place, nudges, weights="each")

    one = f"weights.{nudges.wanted}"
    assert writers(place, one, step=1)[-1] == ("nudges", "after_step")
    assert writers(place, nudges.wanted, step=1)[-1][0] in ("nudges", "the loop")


def test_weights_are_left_out_where_that_is_asked_for(place):
    traced(place, weights="none")

    with opened(place) as trace, pytest.raises(TraceError, match="Nothing is named"):
        who_wrote(trace, "weights")


def test_what_a_nested_validation_changes_and_puts_back_is_told_apart(place):
    class Validates(Callback):
        name = "validates"

        def after_batch(self):
            if self.training and self.train_iter == 2:
                self.learn.validate()

    traced(place, Validates())

    with opened(place) as trace:
        found = who_wrote(trace, "xb", step=2).writers
    assert (found[0].plugin, found[0].is_put_back) == ("validates", True)
    assert found[1].stage == "validate"
    assert "put it back in after_batch" in ask(
        *("why", "xb", "--step", "2"), place=place
    )


def test_a_cancelled_batch_leaves_the_pieces_in_order_and_names_the_error(place):
    class Cancels(Callback):
        name = "cancels"

        def after_pred(self):
            raise CancelBatchException("enough")

    traced(place, Cancels())

    with opened(place) as trace:
        (_, _, found) = deeds(trace, step=2)
    by_event = {deed.event: deed for deed in found}
    assert by_event["after_pred"].error == "CancelBatchException"
    assert by_event["do_batch"].error is None
    assert "do_backward" not in by_event


def test_a_fit_that_fails_leaves_its_trace(place):
    class Fails(Callback):
        name = "fails"

        def after_loss(self):
            raise KeyError("gone")

    with pytest.raises(KeyError):
        traced(place, Fails())

    with opened(place) as trace:
        share = next(s for s in shares(trace) if s.plugin == "fails")
    assert share.errors == 1


# How much is kept


def test_only_the_steps_that_were_asked_for_are_recorded(place):
    traced(place, Looks(), epochs=3, steps="4:5")

    with sqlite3.connect(place) as connection:
        steps = connection.execute("SELECT DISTINCT step FROM calls ORDER BY 1")
        assert [step for (step,) in steps] == [4, 5]
    assert "holds steps 4 to 5" in str(_failure(place, step=9))


def _failure(place, **where):
    with opened(place) as trace, pytest.raises(TraceError) as failure:
        who_wrote(trace, "loss", **where)
    return failure.value


def test_of_a_long_run_the_latest_steps_are_kept_and_older_writes_still_answer(place):
    class Once(Callback):
        name = "once"

        def after_batch(self):
            if self.training and self.train_iter == 1:
                self.learn.opt.param_groups[0]["lr"] = 0.125

    traced(place, Once(), epochs=20, last=5)

    with sqlite3.connect(place) as connection:
        ((first, last),) = connection.execute("SELECT min(step), max(step) FROM calls")
    assert last == 60
    assert first > 60 - 8
    with opened(place) as trace:
        answer = who_wrote(trace, "lr")
    assert not answer.is_in_step
    assert [(w.plugin, w.step) for w in answer.writers] == [("once", 1)]


def test_the_trace_does_not_grow_with_the_length_of_the_run(place):
    counts = []
    for epochs in (8, 40):
        traced(place, Looks(), epochs=epochs, last=5)
        with sqlite3.connect(place) as connection:
            rows = connection.execute("SELECT count(*) FROM calls").fetchone()
            more = connection.execute("SELECT count(*) FROM writes").fetchone()
        counts.append((*rows, *more))

    assert counts[0][0] == pytest.approx(counts[1][0], abs=10)
    assert counts[0][1] == pytest.approx(counts[1][1], abs=10)
    assert place.stat().st_size < 300_000


def test_a_second_fit_of_a_learner_goes_on_in_the_same_trace(place):
    learner = tiny_learner(cbs=[Doubles(), TraceCallback(place)])
    learner.fit(1)
    learner.fit(1)

    assert writers(place, "loss", step=2, fit=1) == writers(place, "loss", step=2)
    with opened(place) as trace, pytest.raises(TraceError, match="of a fit 3"):
        who_wrote(trace, "loss", fit=3)


# Files


def test_an_older_trace_is_replaced_and_another_file_is_not(place, tmp_path):
    traced(place, epochs=3)
    traced(place, epochs=1)
    with sqlite3.connect(place) as connection:
        assert connection.execute("SELECT max(step) FROM calls").fetchone() == (3,)

    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(OptionError, match="is no trace"):
        TraceCallback(notes)
    with pytest.warns(ObserverWarning) as warned:
        tiny_learner(cbs=TraceCallback("notes.txt"), path=tmp_path).fit(1)
    assert "is no trace" in str(warned[0].message)
    assert notes.read_text() == "mine"


def test_a_file_of_a_relative_name_lies_in_the_learners_path(tmp_path):
    learner = tiny_learner(cbs=TraceCallback(), path=tmp_path)
    learner.fit(1)

    assert (tmp_path / "callboard-trace.sqlite").exists()


def test_a_disk_that_refuses_ends_the_trace_and_not_the_fit(place):
    class Breaks(Callback):
        def before_train(self):
            if place.is_file():
                place.unlink()
                place.mkdir()

    with pytest.warns(ObserverWarning, match="trace"):
        learner = traced(place, Breaks(), epochs=2)

    assert learner.train_iter == 6


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\x00 and no more", b"x" * 5000]
)
def test_what_is_no_trace_is_refused_in_a_sentence(place, content):
    place.write_bytes(content)

    with pytest.raises(TraceError, match="is no trace"), opened(place):
        pass


def test_a_damaged_trace_is_refused_in_a_sentence(place):
    traced(place, epochs=4)
    content = bytearray(place.read_bytes())
    content[4096:20000] = b"\xff" * (20000 - 4096)
    place.write_bytes(content)

    with pytest.raises(TraceError, match="damaged"), opened(place) as trace:
        who_wrote(trace, "loss")


KILLED_WHILE_IT_WRITES = """\
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")
spoilt = "UPDATE writes SET plugin = plugin || ' spoilt' || hex(zeroblob(99))"
connection.execute(spoilt)
os._exit(9)
"""


def test_a_trace_of_a_run_that_was_killed_while_it_wrote_is_whole(place):
    traced(place, Doubles(), epochs=10)
    killed = [sys.executable, "-c", KILLED_WHILE_IT_WRITES, str(place)]
    assert subprocess.run(killed, check=False).returncode == 9
    assert place.with_name(f"{place.name}-journal").exists()

    assert writers(place, "loss", step=2)[-1] == ("doubles", "do_loss")


def test_a_trace_with_a_view_of_somebody_elses_is_refused(place):
    traced(place)
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE VIEW mischief AS SELECT * FROM calls")

    with pytest.raises(TraceError, match="not those of a trace"), opened(place):
        pass


def test_names_in_a_trace_cannot_command_a_terminal(place):
    traced(place)
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE writes SET plugin = 'evil\x1b[2J'")

    output = ask("why", "loss", "--step", "1", place=place)

    assert "evil?[2J" in output
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": "5"}, "a range"),
        ({"steps": "7:5"}, "a range"),
        ({"steps": ":"}, "a range"),
        ({"last": 0}, "from 1 on"),
        ({"last": 3, "steps": "1:2"}, "exclude each other"),
        ({"weights": "all"}, '"each"'),
        ({"file": ""}, "name of a file"),
    ],
)
def test_a_wrong_option_is_refused_with_a_good_one(options, words):
    with pytest.raises(OptionError, match=words):
        TraceCallback(**options)


def test_a_learner_with_a_trace_can_be_copied(place):
    learner = traced(place)

    copied = copy.deepcopy(learner)
    copied.fit(1)

    assert copied.train_iter == 3


# The command line


def test_why_tells_the_last_writers_with_before_and_after(place):
    traced(place, Doubles())

    lines = ask("why", "loss", "--step", "2", place=place).splitlines()

    assert lines[0] == "loss in step 2 (epoch 0), the last write first:"
    assert lines[2] == "1. doubles (test_trace.py) wrote it in do_loss"
    assert lines[3].startswith("     before  float32 []  mean ")
    assert lines[4].startswith("     after   float32 []  mean ")
    assert "digest" in lines[4]
    assert lines[6] == "2. the loop wrote it in do_loss"


def test_why_tells_what_never_changed(place):
    traced(place)

    output = ask("why", "lr", place=place)

    assert "Nobody changed lr up to step 3. It was:" in output
    assert "opt[0].lr  0.01" in output


def test_a_learner_answers_as_the_command_line_does(place):
    run = traced(place, Doubles(), Looks())

    answer = run.trace.why("loss", step=2)

    assert f"{answer!r}\n" == ask("why", "loss", "--step", "2", place=place)
    assert f"{run.trace.summary()!r}\n" == ask("summary", place=place)
    assert answer.writers[0].plugin == "doubles"


def test_a_learner_answers_in_the_middle_of_a_fit(place):
    class Asks(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 1:
                told.append(self.learn.trace.why("loss").writers[0])

    told = []

    traced(place, Doubles(), Asks())

    assert [(writer.plugin, writer.step) for writer in told] == [("doubles", 1)]


def test_before_the_first_fit_there_is_nothing_to_ask(place):
    learner = tiny_learner(cbs=[TraceCallback(place)])

    with pytest.raises(TraceError, match="nothing is recorded yet"):
        learner.trace.why("loss")


def test_why_is_there_as_json(place):
    traced(place, Doubles())

    answer = json.loads(ask("why", "loss", "--step", "2", "--json", place=place))

    assert answer["is_in_step"]
    assert answer["writers"][0]["plugin"] == "doubles"
    assert answer["writers"][0]["after"]["shape"] == []


def test_a_wrong_attribute_gets_a_suggestion(place):
    traced(place)

    assert 'Did you mean "loss"?' in str(_unknown(place, "losss"))


def _unknown(place, name):
    with opened(place) as trace, pytest.raises(TraceError) as failure:
        who_wrote(trace, name)
    return failure.value


def test_show_lists_all_that_happened_in_a_step_in_order(place):
    traced(place, Doubles(), Looks())

    output = ask("show", "--step", "2", place=place)

    rows = [line.split() for line in output.splitlines()[3:]]
    assert [row[:2] for row in rows if row[0] != "the"] == [
        *(["doubles", "do_loss"], ["doubles", "do_loss"], ["looks", "after_loss"]),
    ]


def test_summary_tells_who_took_how_long_and_changed_what(place):
    class Sleeps(Callback):
        name = "sleeps"

        def after_batch(self):
            import time

            time.sleep(0.01)

    traced(place, Sleeps(), Doubles())

    found = json.loads(ask("summary", "--json", place=place))["shares"]

    by_name = {share["plugin"]: share for share in found}
    assert 50 <= by_name["sleeps"]["own_ms"] < 200
    assert by_name["sleeps"]["changes"] == {}
    assert by_name["doubles"]["changes"] == {"loss": 5}
    assert "sleeps" in ask("summary", "--events", place=place)


def test_the_export_for_chrome_is_what_the_format_asks_for(place, tmp_path):
    traced(place, Doubles(), Looks(), epochs=2)
    out = tmp_path / "out.json"

    assert "ui.perfetto.dev" in ask("export", str(out), "--chrome", place=place)

    content = json.loads(out.read_text())
    events = content["traceEvents"]
    metadata = [event for event in events if event["ph"] == "M"]
    pieces = [event for event in events if event["ph"] == "X"]
    assert {event["name"] for event in metadata} == {"process_name", "thread_name"}
    assert len(metadata) + len(pieces) == len(events)
    for event in pieces:
        assert isinstance(event["ts"], float)
        assert event["ts"] >= 0 <= event["dur"]
        assert (event["pid"], event["tid"]) == (1, 1)
    assert "doubles: do_loss" in {event["name"] for event in pieces}
    _check_nesting(pieces)


def test_an_export_replaces_an_export_and_no_other_file(place, tmp_path):
    traced(place)
    out, program = tmp_path / "out.json", tmp_path / "train.py"
    program.write_text("print('mine')\n")
    ask("export", str(out), "--chrome", place=place)
    first = out.read_text()

    ask("export", str(out), "--chrome", place=place)
    for other in (program, place, tmp_path, tmp_path / "no" / "folder.json"):
        assert _refused_export(other, place)

    assert out.read_text() == first
    assert program.read_text() == "print('mine')\n"
    assert {file.name for file in tmp_path.iterdir()} == {
        *("out.json", "train.py", "trace.sqlite"),
    }


def _refused_export(file, place):
    with opened(place) as trace, pytest.raises(OptionError) as failure:
        export(trace, file)
    return str(failure.value)


def _check_nesting(pieces):
    """On one thread a piece lies wholly within another, or wholly beside it."""
    open_ends = []
    for event in sorted(pieces, key=lambda e: (e["ts"], -e["dur"])):
        begin, end = event["ts"], event["ts"] + event["dur"]
        while open_ends and open_ends[-1] <= begin + 1e-6:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 1e-6, event
        open_ends.append(end)


def test_a_trace_of_steps_that_never_came_says_so(place):
    traced(place, steps="100:200")

    said = f"{place} is empty: it was to hold steps 100 to 200, and the fit has come to"

    assert ask("summary", place=place) == f"{said} step 3.\n"
    assert str(_unknown(place, "loss")) == f"{said} step 3."
    assert str(_failure(place, step=120)) == f"{said} step 3."


def test_a_step_behind_the_end_is_said_to_be(place):
    traced(place)

    assert str(_failure(place, step=900)).endswith(
        "holds steps 0 to 3 of fit 1, and not step 900: the fit has come to step 3."
    )


def test_of_several_processes_the_first_one_records(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    traced(place)
    assert not place.exists()

    monkeypatch.setenv("RANK", "0")
    traced(place)
    assert place.exists()


def test_without_a_trace_the_command_says_how_to_make_one(tmp_path):
    with pytest.raises(TraceError, match="--trace"), opened(Path(tmp_path / "none")):
        pass


TRAIN = """\
import torch
from callboard import Callback, DataLoaders, Learner

class Spoils(Callback):
    def after_loss(self):
        if self.training:
            self.learn.loss = self.learn.loss * 3

def learner():
    batches = [(torch.ones(2, 1), torch.zeros(2, 1))] * 6
    loss = torch.nn.MSELoss()
    dls = DataLoaders(batches, batches[:2])
    return Learner(dls, torch.nn.Linear(1, 1), loss, cbs=Spoils, device="cpu")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The plugin, as if it was installed, and a working folder with a target."""
    site = Site(tmp_path / "site")
    source = Path(callboard_trace.__file__).parents[1]
    entry_points = {"trace": "callboard_trace:TraceCallback"}
    site.install_editable("callboard-trace", source, callbacks=entry_points)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "callboard.toml").write_text("autoload = false\n")
    Path("traced_target.py").write_text(TRAIN)
    before = set(sys.modules)
    with site.on_path():
        yield
    for name in set(sys.modules) - before:
        if name == "traced_target":
            del sys.modules[name]


def fit(*arguments, code=0):
    command_line = ["fit", "traced_target.py", "--epochs", "1", *arguments]
    result = CliRunner().invoke(main, command_line, prog_name="callboard")
    assert result.exit_code == code, result.output
    return result.output


def test_fit_records_with_one_option_and_says_how_to_ask(installed):
    output = fit("--trace")

    assert "trace   observe" in output
    assert output.endswith("Who did what: callboard trace summary\n")
    place = Path("callboard-trace.sqlite")
    assert writers(place, "loss", step=4)[-1] == ("spoils", "after_loss")


def test_fit_records_the_steps_that_it_is_told_to_in_the_file_that_it_is_told(
    installed,
):
    output = fit("--trace", "a/b.sqlite", "--trace-steps", "2:3")

    assert output.endswith("callboard trace summary --trace a/b.sqlite\n")
    assert "holds steps 2 to 3" in str(_failure(Path("a/b.sqlite"), step=5))


def test_fit_refuses_what_cannot_be_meant(installed):
    def refused(*arguments):
        # One message, wrapped as the terminal is wide.
        return " ".join(fit(*arguments, code=2).split())

    assert "exclude each other" in refused("--trace-steps", "1:2", "--trace-last", "3")
    assert "give one of the two" in refused("--trace", "--with", "trace")
    assert "is no trace" in refused("--trace", "callboard.toml")
    assert "looks like the TARGET" in refused("--trace", "traced_target.py")
