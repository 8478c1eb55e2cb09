"""What Tab completes, and the stubs that let type checkers know what is installed."""

import subprocess
import sys

import pytest
from click.testing import CliRunner
from tests.command_line import run

from callboard.cli import main
from callboard.cli.completion import SHELLS, VARIABLE
from callboard.cli.stubs import stub_of


def completed(*words):
    """What bash would be told, with the last word unfinished."""
    line = ["callboard", *words]
    environment = {
        VARIABLE: "bash_complete",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    ran = CliRunner().invoke(main, [], prog_name="callboard", env=environment)
    return [text.partition(",")[2] for text in ran.output.split()]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_every_shell_is_printed(shell):
    script = run("completion", shell).stdout

    assert VARIABLE in script
    assert f"{shell}_complete" in script


def test_an_unknown_shell_is_refused_with_those_there_are():
    assert "'bash', 'zsh', 'fish'" in run("completion", "cmd", code=2).output


def test_commands_and_options_are_completed():
    assert "order" in completed("or")
    assert "--with" in completed("fit", "train.py", "--wi")


def test_names_of_plugins_are_completed():
    assert completed("fit", "train.py", "--with", "mix") == ["mixed-precision", "mixup"]
    assert "csv-logger" in completed("fit", "train.py", "--without", "csv")
    assert "one-cycle" in completed("fit", "train.py", "--schedule", "one")
    assert "fit_one_cycle" in completed("plugins", "show", "fit_one")
    assert "mixup" in completed("plugins", "why", "mixu")


@pytest.mark.parametrize(
    "command", [["order", "train.py"], ["plugins", "why"], ["plugins", "lock"]], ids=str
)
def test_whatever_takes_plugins_as_fit_does_completes_them_too(command):
    assert "mixup" in completed(*command, "--with", "mix")
    assert "csv-logger" in completed(*command, "--without", "csv")


def test_names_of_events_and_of_both_plugins_to_explain_are_completed():
    assert completed("events", "after_ep") == ["after_epoch"]
    assert completed("order", "--event", "after_ep") == ["after_epoch"]
    assert "mixup" in completed("order", "--explain", "mixu")
    assert "mixup" in completed("order", "--explain", "recorder", "mixu")


def test_stubs_give_names_of_plugins_a_type(tmp_path):
    pytest.importorskip("mypy")
    run("stubs", "--path", str(tmp_path))
    stubs = tmp_path / "callboard-stubs"
    assert (stubs / "py.typed").read_text() == "partial\n"
    # Checkers look for it among installed packages; here, as a module of its own.
    (tmp_path / "plugins.pyi").write_text((stubs / "callbacks.pyi").read_text())
    (tmp_path / "uses.py").write_text(
        "from plugins import MixUp\nreveal_type(MixUp(0.4))\nMixUp('much')\n"
    )

    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "uses.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 'Revealed type is "plugins.MixUp"' in ran.stdout, ran.stdout
    assert 'has incompatible type "str"; expected "float"' in ran.stdout
    assert "Found 1 error in 1 file" in ran.stdout
    assert "Took" in run("stubs", "--path", str(tmp_path), "--remove").stdout
    assert not stubs.exists()
    assert "There is no" in run("stubs", "--path", str(tmp_path), "--remove").stdout


def test_a_function_that_makes_a_plugin_is_a_function_in_the_stubs():
    class Making:
        attribute = "make_noise"

        def load(self):
            def make_noise(scale: "float", *, seed: "int | None" = None):
                """Make one."""

            return make_noise

    (line,) = stub_of([Making()]).splitlines()[-1:]

    assert line == "def make_noise(scale: float, *, seed: int | None = ...) -> Any: ..."


def test_stubs_that_cannot_be_written_are_one_message(tmp_path):
    (tmp_path / "file").write_text("")

    printed = run("stubs", "--path", str(tmp_path / "file" / "in"), code=2).stderr

    assert "cannot be written" in printed
