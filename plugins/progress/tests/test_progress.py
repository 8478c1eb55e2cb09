"""The progress of a fit can be read in a terminal, a file and a notebook."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import redirect_stdout
from types import ModuleType

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from callboard import Callback, DataLoaders, Learner
from callboard.errors import OptionError
from callboard_progress import ProgressCallback, callback
from callboard_progress.bars import Bar, lay_out, seconds_left
from callboard_progress.notebook import html_table
from callboard_progress.texts import (
    aligned,
    format_duration,
    format_number,
    format_value,
    joined_columns,
    one_line,
)

INPUTS = torch.linspace(-1, 1, 24).reshape(12, 2)
BATCHES = [(INPUTS[i : i + 2], INPUTS[i : i + 2].sum(1, True)) for i in (0, 2, 4, 6)]
CONTROL_CHARACTERS = re.compile(r"[^\n\x20-\x7e]")


@pytest.fixture(autouse=True)
def no_automatic_plugins(monkeypatch):
    """Only the plugins that a test gives take part, whatever is installed."""
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")
    for name in ("RANK", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class Measurements(Callback):
    """Publishes numbers that a test can foresee, as the recorder does."""

    name = "recorder"
    role = "observe"

    def __init__(self, **more):
        self.more = more

    def after_train(self):
        self.learn.results["train_loss"] = 1 / (self.epoch + 1)

    def after_validate(self):
        self.learn.results |= {"valid_loss": 2.0, **self.more, "time": 65.0}


def make_learner(*cbs, train=BATCHES, valid=BATCHES[:2]):
    return Learner(
        DataLoaders(train, valid),
        nn.Linear(2, 1),
        nn.functional.mse_loss,
        torch.optim.SGD,
        cbs=cbs,
        device="cpu",
        seed=0,
    )


class TerminalFile(io.TextIOWrapper):
    """A file that writes to a terminal; somebody reads along."""

    def __init__(self, raw: io.BufferedIOBase, terminal: Terminal) -> None:
        super().__init__(raw, encoding="utf-8")
        self.terminal = terminal

    def flush(self) -> None:
        super().flush()
        if not self.closed:
            self.terminal.drain()


class Terminal:
    """A real pseudo-terminal, and what a person would see on it."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.master, slave = os.openpty()
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        # Raw, so that a line break arrives as it was written.
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.set_blocking(self.master, False)
        self.file = TerminalFile(open(slave, "wb"), self)  # noqa: SIM115
        self.written = b""

    def fit(self, learner: Learner, n_epoch: int, *, start_epoch: int = 0) -> None:
        """Train with this terminal as stdout."""
        with redirect_stdout(self.file):
            learner.fit(n_epoch, start_epoch=start_epoch)

    def drain(self) -> None:
        """Take over what was written, before the terminal's buffer is full."""
        while True:
            try:
                self.written += os.read(self.master, 1 << 16)
            except BlockingIOError:
                return

    def read(self) -> str:
        """All that was written until now."""
        self.file.flush()
        return self.written.decode()

    @property
    def screen(self) -> list[str]:
        """The lines that are left on the screen, empty ones left out."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[^\x1b]", self.read()):
            if part == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif part == "\r":
                column = 0
            elif part == "\x1b[2K":
                lines[row] = ""
            elif part == "\x1b[1A":
                row -= 1
            elif not part.startswith("\x1b"):
                line = lines[row].ljust(column)
                lines[row] = line[:column] + part + line[column + 1 :]
                column += 1
        return [line.rstrip() for line in lines if line.strip()]

    @property
    def is_cursor_visible(self) -> bool:
        """Whether the last word on the cursor was to show it."""
        written = self.read()
        return written.rfind("\x1b[?25h") >= written.rfind("\x1b[?25l")

    def close(self) -> None:
        self.file.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Terminal]:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    yield terminal
    terminal.close()


@pytest.fixture
def a_second_a_look(monkeypatch):
    """A clock that is a second later at every look, so that every batch is drawn."""
    monkeypatch.setattr(callback, "MAX_DRAWING_SHARE", float("inf"))
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(callback, "monotonic", lambda: float(next(seconds)))


@pytest.fixture
def stopped_clock(monkeypatch):
    monkeypatch.setattr(callback, "monotonic", lambda: 7.0)


# ---- plain lines -----------------------------------------------------------


def test_file_gets_a_header_once_and_one_aligned_row_an_epoch(capsys):
    learner = make_learner(Measurements(accuracy=0.75), ProgressCallback())

    learner.fit(3)

    assert capsys.readouterr().out.splitlines() == [
        "epoch  train_loss  valid_loss    accuracy     time",
        "    0    1.000000    2.000000    0.750000     1:05",
        "    1    0.500000    2.000000    0.750000     1:05",
        "    2    0.333333    2.000000    0.750000     1:05",
    ]


def test_file_gets_no_control_characters_even_where_colour_is_forced(
    capsys, monkeypatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")

    make_learner(Measurements(), ProgressCallback()).fit(2)

    output = capsys.readouterr().out
    assert output
    assert CONTROL_CHARACTERS.findall(output) == []


def test_loss_and_time_are_shown_where_nobody_measures(capsys):
    make_learner(ProgressCallback()).fit(2)

    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "loss", "time"]
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert all(float(row.split()[1]) > 0 for row in rows)


def test_loss_that_is_shown_is_of_training_and_not_of_validation(capsys):
    class LossOfTwo(Callback):
        def after_loss(self):
            if self.learn.training:
                self.learn.loss = self.learn.loss * 0 + 2

    make_learner(LossOfTwo(), ProgressCallback()).fit(1)

    assert capsys.readouterr().out.splitlines()[1].split()[1] == "2.000000"


def test_column_that_comes_later_brings_a_new_header(capsys):
    class Late(Callback):
        role = "observe"

        def after_validate(self):
            if self.epoch == 1:
                self.learn.results["recall"] = 0.5

    make_learner(Measurements(), Late(), ProgressCallback()).fit(3)

    assert capsys.readouterr().out.splitlines() == [
        "epoch  train_loss  valid_loss     time",
        "    0    1.000000    2.000000     1:05",
        "epoch  train_loss  valid_loss      recall     time",
        "    1    0.500000    2.000000    0.500000     1:05",
        "    2    0.333333    2.000000           -     1:05",
    ]


def test_names_and_values_cannot_break_a_line(capsys):
    odd = Measurements(**{"two\nlines": "a\tb\x1b[31m", "é": None})

    make_learner(odd, ProgressCallback()).fit(1)

    output = capsys.readouterr().out
    assert len(output.splitlines()) == 2
    assert "two lines" in output
    assert "\x1b" not in output


def test_names_that_the_file_cannot_encode_are_written_with_question_marks():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress = ProgressCallback(console=Console(file=file))
    learner = make_learner(Measurements(précision=1.0), progress)

    learner.fit(1)

    assert b"pr?cision" in file.buffer.getvalue()
    assert learner.record.failures == []


def test_epochs_are_numbered_from_the_one_the_fit_starts_with(capsys):
    make_learner(Measurements(), ProgressCallback()).fit(5, start_epoch=3)

    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["3", "4"]


def test_every_fit_has_a_table_of_its_own(capsys):
    learner = make_learner(Measurements(), ProgressCallback())

    learner.fit(1)
    learner.fit(1)

    assert capsys.readouterr().out.count("train_loss") == 2


def test_validation_inside_a_fit_changes_nothing_of_what_is_shown(capsys):
    class Nosy(Callback):
        role = "observe"

        def after_batch(self):
            self.learn.validate()

    make_learner(Measurements(), ProgressCallback()).fit(2)
    alone = capsys.readouterr().out
    make_learner(Nosy(), Measurements(), ProgressCallback()).fit(2)

    assert capsys.readouterr().out == alone


def test_validation_outside_a_fit_shows_nothing(capsys):
    make_learner(Measurements(), ProgressCallback()).validate()

    assert capsys.readouterr().out == ""


def test_epoch_without_validation_data_has_a_row(capsys):
    make_learner(Measurements(), ProgressCallback(), valid=None).fit(1)

    assert capsys.readouterr().out.splitlines() == [
        "epoch  train_loss",
        "    0    1.000000",
    ]


def test_fit_of_no_epochs_shows_no_table(capsys, terminal):
    terminal.fit(make_learner(ProgressCallback()), 0)

    assert terminal.screen == []


# ---- what ended the fit ----------------------------------------------------


def test_reason_of_an_early_stop_is_the_last_line(capsys):
    class Stopper(Callback):
        role = "control"

        def after_epoch(self):
            if self.epoch == 1:
                self.learn.stop("valid_loss did\nnot improve")

    make_learner(Measurements(), Stopper(), ProgressCallback()).fit(5)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "Stopped in epoch 1 by stopper: valid_loss did not improve"


def test_observers_that_failed_are_named_at_the_end(capsys, caplog):
    class Clumsy(Callback):
        role = "observe"

        def after_epoch(self):
            raise ValueError("no such\ncolumn")

    make_learner(Clumsy(), Measurements(), ProgressCallback()).fit(2)

    assert capsys.readouterr().out.splitlines()[-1] == (
        "Switched off in epoch 0: clumsy failed in after_epoch: "
        "ValueError: no such column"
    )


def test_cancelled_batches_are_no_reason_to_be_shown(capsys):
    from callboard import CancelBatchException

    class Skipper(Callback):
        def before_batch(self):
            raise CancelBatchException("not today")

    make_learner(Measurements(), Skipper(), ProgressCallback()).fit(1)

    assert len(capsys.readouterr().out.splitlines()) == 2


# ---- a terminal ------------------------------------------------------------


def test_terminal_shows_bars_while_training_and_keeps_the_table(
    terminal, a_second_a_look
):
    shown = []

    class Looker(Callback):
        run_after = "progress"

        def after_batch(self):
            if self.learn.training and (self.epoch, self.iter) == (1, 1):
                shown.extend(terminal.screen)

    terminal.fit(make_learner(Measurements(), ProgressCallback(), Looker()), 2)

    table = [
        "epoch  train_loss  valid_loss     time",
        "    0    1.000000    2.000000     1:05",
    ]
    assert shown[:2] == table
    epochs, batches = (re.sub("[╺╸]", "━", line) for line in shown[2:])
    assert re.fullmatch(r"epoch     1/2 ━{36}  \d:\d\d left", epochs)
    assert re.fullmatch(r"train     2/4 ━{36}  \d:\d\d left  loss \d\.\d{6}", batches)
    assert terminal.screen == [*table, "    1    0.500000    2.000000     1:05"]


def test_first_epoch_of_a_resumed_fit_is_on_the_bar(terminal, a_second_a_look):
    terminal.fit(make_learner(Measurements(), ProgressCallback()), 5, start_epoch=3)

    bars = re.findall(r"epoch +(\d+/\d+)", terminal.read())
    assert bars[0] == "3/5"
    assert bars[-1] == "5/5"


def test_what_others_print_stands_above_the_bars(terminal, a_second_a_look):
    class Talker(Callback):
        def after_batch(self):
            if self.learn.training and self.iter == 1:
                print("hello from a plugin")

    terminal.fit(make_learner(Measurements(), ProgressCallback(), Talker()), 1)

    assert terminal.screen == [
        "hello from a plugin",
        "epoch  train_loss  valid_loss     time",
        "    0    1.000000    2.000000     1:05",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_terminal_is_as_before_when_an_error_ends_the_fit(
    terminal, a_second_a_look, error
):
    class Fails(Callback):
        def after_batch(self):
            if self.epoch == 1:
                raise error

    learner = make_learner(Measurements(), ProgressCallback(), Fails())

    with redirect_stdout(terminal.file):
        with pytest.raises(error):
            learner.fit(3)
        stdout_afterwards = sys.stdout

    assert stdout_afterwards is terminal.file
    assert terminal.is_cursor_visible
    assert terminal.screen == [
        "epoch  train_loss  valid_loss     time",
        "    0    1.000000    2.000000     1:05",
    ]


def test_cursor_is_never_hidden_for_long(terminal, a_second_a_look):
    visible = []

    class Looker(Callback):
        run_after = "progress"

        def after_batch(self):
            visible.append(terminal.is_cursor_visible)

    terminal.fit(make_learner(ProgressCallback(), Looker()), 1)

    assert set(visible) == {True}


@pytest.mark.parametrize("term", ["dumb", "unknown", None])
def test_terminal_that_cannot_move_the_cursor_gets_plain_lines(
    terminal, monkeypatch, term
):
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)

    terminal.fit(make_learner(Measurements(), ProgressCallback()), 1)

    assert CONTROL_CHARACTERS.findall(terminal.read()) == []
    assert terminal.screen[-1] == "    0    1.000000    2.000000     1:05"


@pytest.mark.parametrize("width", [1, 8, 20, 33])
def test_narrow_terminal_is_no_reason_to_fail(monkeypatch, a_second_a_look, width):
    terminal = Terminal(width)
    monkeypatch.setenv("TERM", "xterm")
    learner = make_learner(Measurements(accuracy=0.5), ProgressCallback())

    terminal.fit(learner, 2)

    assert learner.record.failures == []
    assert "0.500000" in "".join(terminal.screen)
    terminal.close()


def test_loader_without_a_length_is_counted_until_its_length_is_known(
    terminal, a_second_a_look
):
    class Stream:
        def __iter__(self):
            return iter(BATCHES)

    terminal.fit(make_learner(ProgressCallback(), train=Stream()), 2)

    counts = re.findall(r"train +(\d+(?:/\d+)?)", terminal.read())
    assert list(dict.fromkeys(counts)) == [
        *("0", "1", "2", "3", "4"),
        *("0/4", "1/4", "2/4", "3/4", "4/4"),
    ]


def test_validation_inside_a_fit_leaves_the_bars_alone(terminal, a_second_a_look):
    class Nosy(Callback):
        def after_batch(self):
            if self.learn.training:
                self.learn.validate()

    terminal.fit(make_learner(Measurements(), ProgressCallback(), Nosy()), 1)

    counts = re.findall(r"(train|valid) +(\d+)/", terminal.read())
    assert list(dict.fromkeys(counts)) == [
        *(("train", n) for n in "01234"),
        *(("valid", n) for n in "012"),
    ]
    assert len(terminal.screen) == 2


def test_fit_of_another_learner_inside_a_fit_does_no_harm(terminal, a_second_a_look):
    class Teacher(Callback):
        def before_fit(self):
            make_learner(ProgressCallback()).fit(1)

        def after_epoch(self):
            make_learner(ProgressCallback()).fit(1)

    learner = make_learner(Measurements(), ProgressCallback(), Teacher())

    terminal.fit(learner, 2)

    assert learner.record.failures == []
    assert "    1    0.500000    2.000000     1:05" in terminal.screen


def test_errors_that_go_to_a_file_stay_in_that_file(terminal, capsys):
    class Talker(Callback):
        def after_batch(self):
            print("careful", file=sys.stderr)

    terminal.fit(make_learner(ProgressCallback(), Talker()), 1)

    assert "careful" in capsys.readouterr().err
    assert "careful" not in terminal.read()


def test_asked_for_a_terminal_there_are_bars_in_any_file(a_second_a_look):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, _environ={})

    make_learner(ProgressCallback(console=console, mode="terminal")).fit(1)

    assert "━" in file.getvalue()


# ---- output that goes nowhere ----------------------------------------------


@pytest.mark.parametrize("has_stdout", [True, False])
def test_nothing_is_shown_where_stdout_is_closed(monkeypatch, has_stdout):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed if has_stdout else None)
    learner = make_learner(ProgressCallback())

    learner.fit(1)

    assert learner.record.failures == []
    assert learner.train_iter == len(BATCHES)


def test_output_that_breaks_is_reported_once_and_training_goes_on(caplog):
    file = io.StringIO()

    class Closer(Callback):
        def after_epoch(self):
            file.close()

    console = Console(file=file)
    learner = make_learner(ProgressCallback(console=console), Closer())

    learner.fit(3)

    assert [failure.plugin for failure in learner.record.failures] == ["progress"]
    assert learner.train_iter == 3 * len(BATCHES)


def test_broken_pipe_does_not_end_training():
    script = """
import sys, torch
from callboard import Learner
from callboard_progress import ProgressCallback
batches = [(torch.ones(1, 1), torch.ones(1, 1))]
progress = ProgressCallback(mode="terminal")
loss = torch.nn.functional.mse_loss
learner = Learner(batches, torch.nn.Linear(1, 1), loss, cbs=progress)
learner.fit(3)
print("trained", learner.train_iter, file=sys.stderr)
"""
    read_end, write_end = os.pipe()
    os.close(read_end)

    run = subprocess.run(
        [sys.executable, "-c", script],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    os.close(write_end)
    assert "trained 3" in run.stderr
    assert "progress" in run.stderr


def test_only_the_first_of_several_processes_shows_anything(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    progress = ProgressCallback()

    make_learner(Measurements(), progress).fit(1)

    assert capsys.readouterr().out == ""
    assert progress.run


# ---- a notebook ------------------------------------------------------------


class Place:
    """One output of a notebook's cell, as IPython's DisplayHandle."""

    def __init__(self, data):
        self.data = data

    def update(self, data, *, raw):
        assert raw
        self.data = data


@pytest.fixture
def notebook(monkeypatch) -> list[Place]:
    """A notebook front-end; the browser is left out."""
    places = []

    class ZMQInteractiveShell:
        pass

    def display(data, *, raw, display_id):
        assert raw
        assert display_id
        places.append(Place(data))
        return places[-1]

    ipython, ipython_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = ZMQInteractiveShell
    ipython_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython_display)
    return places


def test_notebook_shows_a_table_and_bars_in_html(notebook, a_second_a_look):
    bars = []

    class Looker(Callback):
        run_after = "progress"

        def after_batch(self):
            bars.append(notebook[1].data["text/html"])

    make_learner(Measurements(), ProgressCallback(), Looker()).fit(2)

    table, _ = notebook
    assert table.data["text/html"].count("<tr>") == 3
    assert "<td>0.333333</td>" not in table.data["text/html"]
    assert "<td>0.500000</td>" in table.data["text/html"]
    assert table.data["text/plain"].splitlines()[0].split()[0] == "epoch"
    assert all(html.count("<progress") == 2 for html in bars)


def test_bars_of_a_notebook_go_and_the_table_stays_after_an_error(
    notebook, a_second_a_look
):
    class Fails(Callback):
        def before_train(self):
            if self.epoch == 1:
                raise KeyboardInterrupt

    learner = make_learner(Measurements(), ProgressCallback(), Fails())

    with pytest.raises(KeyboardInterrupt):
        learner.fit(2)

    table, bars = notebook
    assert "<td>0</td>" in table.data["text/html"]
    assert bars.data["text/html"] == ""


def test_ipython_in_a_terminal_is_no_notebook(notebook, monkeypatch, capsys):
    class TerminalInteractiveShell:
        pass

    sys.modules["IPython"].get_ipython = TerminalInteractiveShell

    make_learner(Measurements(), ProgressCallback()).fit(1)

    assert notebook == []
    assert "train_loss" in capsys.readouterr().out


def test_names_in_a_notebook_are_escaped():
    assert "<th>&lt;lambda&gt;</th>" in html_table(["<lambda>"], [["1"]])


# ---- what it costs ---------------------------------------------------------


def is_of_progress(frame):
    return frame.f_globals["__name__"].startswith("callboard_progress")


def test_batch_costs_one_call_and_one_look_at_the_clock(terminal, stopped_clock):
    calls = []

    def note(frame, event, argument):
        if event == "call" and frame.f_globals["__name__"].startswith(
            "callboard_progress"
        ):
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        terminal.fit(
            make_learner(ProgressCallback(), train=BATCHES * 25, valid=None), 1
        )
    finally:
        sys.setprofile(None)

    assert calls.count("after_batch") == 100
    assert calls.count("_draw") == 1


def test_batch_costs_nothing_without_bars(capsys):
    calls = []

    def note(frame, event, argument):
        if event == "call" and frame.f_globals["__name__"].startswith(
            "callboard_progress"
        ):
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        make_learner(ProgressCallback()).fit(1)
    finally:
        sys.setprofile(None)

    assert "after_batch" not in calls


def test_loss_is_read_once_in_32_batches_however_often_the_bars_are_drawn(
    terminal, monkeypatch
):
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            self.count += "_local_scalar_dense" in str(operation)
            return operation(*args, **(kwargs or {}))

    # A thousandth of a second a look, and bars at every look: 96 batches are over
    # before two seconds have gone by.
    looks = iter(range(1_000_000))
    monkeypatch.setattr(callback, "monotonic", lambda: next(looks) / 1000)
    monkeypatch.setattr(callback, "MAX_DRAWING_SHARE", float("inf"))
    progress = ProgressCallback(refresh_per_second=1e6)
    learner = make_learner(Measurements(), progress, train=BATCHES * 24, valid=None)

    with Reads() as reads:
        terminal.fit(learner, 1)

    # After the first batch, and then every 32 batches: 1, 33, 65. And the loop itself
    # looks once an epoch whether the loss is a number.
    assert reads.count == 3 + 1


def test_slow_terminal_is_drawn_less_often(terminal, monkeypatch):
    now = 0.0
    drawings = []

    class SlowFile(io.StringIO):
        def flush(self):
            nonlocal now
            now += 1.0
            drawings.append(now)

    class TickingBatches:
        def __iter__(self):
            nonlocal now
            for batch in BATCHES * 50:
                now += 1.0
                yield batch

    monkeypatch.setattr(callback, "monotonic", lambda: now)
    console = Console(file=SlowFile(), force_terminal=True, _environ={}, width=80)
    progress = ProgressCallback(console=console, mode="terminal")

    terminal.fit(make_learner(progress, train=TickingBatches(), valid=None), 1)

    # 200 seconds of training, and pauses of 50 seconds after a second of drawing.
    assert len(drawings) < 20


# ---- options ---------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), "10", None])
def test_refresh_rate_must_be_a_number_above_0(number):
    with pytest.raises(OptionError, match="progress: refresh_per_second must be"):
        ProgressCallback(refresh_per_second=number)


def test_wrong_mode_is_refused_with_the_nearest_one_suggested():
    with pytest.raises(OptionError, match='Did you mean "terminal"'):
        ProgressCallback(mode="terminel")


def test_console_must_be_one_of_rich():
    with pytest.raises(OptionError, match=r"console must be a rich\.console\.Console"):
        ProgressCallback(console=7)


# ---- text ------------------------------------------------------------------


def test_time_left_is_judged_by_what_is_done():
    assert seconds_left(30.0, 0.25, 0.5) == pytest.approx(60.0)
    assert seconds_left(30.0, 0.0, 1.0) is None


def test_durations_are_minutes_and_seconds():
    assert [format_duration(s) for s in (0, 7.4, 59.6, 65, 3600, 100_000)] == [
        *("0:00", "0:07", "1:00", "1:05", "1:00:00", "27:46:40")
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.000000"),
        (0.5, "0.500000"),
        (-12.25, "-12.250000"),
        (1234.5, "1234.50"),
        (1e-5, "1.000e-05"),
        (-3e9, "-3.000e+09"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_numbers_fit_into_ten_characters(number, text):
    assert format_number(number) == text
    assert len(text) <= 10


def test_values_of_any_kind_have_a_text():
    values = {"a": 3, "b": None, "c": "up", "d": torch.tensor(0.5), "time": 65.0}

    texts = [format_value(name, value) for name, value in values.items()]

    assert texts == ["3", "-", "up", "0.500000", "1:05"]


def test_new_columns_stand_before_the_time():
    columns = joined_columns(["epoch", "train_loss", "time"], {"f1": 1, "time": 2})

    assert columns == ("epoch", "train_loss", "f1", "time")


def test_columns_are_as_wide_as_their_names():
    assert (
        aligned(["epoch", "a_very_long_name"], ["3", "1"]) == "    3" + " " * 17 + "1"
    )


def test_one_line_leaves_no_control_character():
    assert one_line("a\n b\x1b[1A\tc ") == "a b [1A c"


BARS = [
    Bar("epoch", 3, 10, 0.3, 12.0, 28.0),
    Bar("train", 120, 400, 0.3, 3.0, 7.0, 0.5),
]


def test_lines_of_the_bars_fit_at_every_width():
    for width in range(20, 200):
        heads, bar_width, tails = lay_out(BARS, width)
        for head, tail in zip(heads, tails, strict=True):
            assert len(head) + 1 + bar_width + 2 + len(tail) <= width


def test_what_does_not_fit_is_left_out_bars_first_and_counts_never():
    layouts = {width: lay_out(BARS, width) for width in (80, 40, 30, 16)}

    assert [bar_width for _, bar_width, _ in layouts.values()] == [36, 0, 0, 0]
    assert layouts[80][2] == ["0:28 left", "0:07 left  loss 0.500000"]
    assert layouts[30][2] == ["0:28 left", "loss 0.500000"]
    assert layouts[16][2] == ["", ""]
    assert all(heads[1] == "train 120/400" for heads, _, _ in layouts.values())
