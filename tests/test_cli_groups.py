"""The command line as a whole: help, commands of plugins, errors, exit statuses."""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.command_line import CORE, run, run_python

from callboard.cli import HOMES, main
from callboard.cli.text import columns, wrapped

MODULE = '''\
import click
from callboard.errors import OptionError

@click.command()
@click.option("--mistaken", is_flag=True)
@click.option("--buggy", is_flag=True)
@click.option("--interrupted", is_flag=True)
def command(mistaken, buggy, interrupted):
    """Count the lights."""
    if mistaken:
        raise OptionError("no such light")
    if buggy:
        raise ZeroDivisionError("a bug")
    if interrupted:
        raise KeyboardInterrupt
    click.echo("four lights")
'''


@pytest.fixture
def lights(shop):
    shop.install(
        "shop-lights",
        "1.5",
        commands={"lights": "shop_lights:command"},
        modules={"shop_lights": MODULE},
    )
    return shop


def install_command(shop, source):
    shop.install(
        "shop-dark", commands={"dark": "shop_dark:dark"}, modules={"shop_dark": source}
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_our_own_commands_and_how_to_begin(arguments):
    text = CliRunner().invoke(main, arguments).output

    for name, home in HOMES.items():
        assert f"  {name}" in text
        assert home.summary in text
    assert "callboard fit train.py --epochs 5" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["events"],
        ["fit"],
        ["order"],
        ["plugins"],
        ["plugins", "check"],
        ["plugins", "list"],
        ["plugins", "show"],
    ],
)
def test_every_help_has_an_example_and_fits_80_columns(arguments):
    text = run(*arguments, "--help").stdout

    assert f"\n  callboard {' '.join(arguments)}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_version_is_told():
    assert run("--version").stdout.startswith("callboard, version 0.")


def test_python_dash_m_is_the_same_command():
    text = run_python("-m", "callboard", "--help").stdout

    assert text.startswith("Usage: callboard [OPTIONS]")


def test_a_wrong_command_gets_a_suggestion(lights):
    assert 'Did you mean "fit"?' in run("fitt", code=2).stderr
    assert 'Did you mean "list"?' in run("plugins", "lst", code=2).stderr
    assert 'Did you mean "lights"?' in run("light", code=2).stderr


def test_a_command_that_is_not_installed_says_where_to_get_it(monkeypatch):
    monkeypatch.setattr("callboard.metadata.names_in_extras", lambda: ["tide"])

    error = " ".join(run("tide", code=2).stderr.split())

    assert error.endswith(
        'There is no command "callboard tide". callboard-tide offers it: '
        "python -m pip install callboard-tide"
    )


def test_a_command_of_a_plugin_is_in_the_help_without_being_imported(lights):
    text = run("--help").stdout

    assert "lights  From shop-lights 1.5." in text
    assert "shop_lights" not in sys.modules


def test_a_command_of_a_plugin_is_loaded_when_it_is_called(lights):
    assert run("lights").stdout == "four lights\n"
    assert "Count the lights." in run("lights", "--help").stdout


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise RuntimeError('not today')", "importing shop_dark raised RuntimeError"),
        ("import sys; sys.exit(5)", "SystemExit: 5"),
        ("light = 1", 'shop_dark has no "dark"'),
        ("dark = 1", "it is no click command but int"),
    ],
)
def test_a_broken_command_says_so_with_its_distribution_and_harms_no_other(
    lights, source, told
):
    install_command(lights, source)

    result = run("dark", code=2)

    assert told in result.stderr
    assert "shop-dark 1.0" in result.stderr
    assert "Traceback" not in result.output
    assert "dark" in run("--help").stdout
    assert run("lights").stdout == "four lights\n"


def test_a_command_that_two_distributions_claim_names_both(lights):
    lights.install("shop-rival", commands={"lights": "shop_rival:command"})

    result = run("lights", code=2)

    assert "shop-lights 1.5" in result.stderr
    assert "shop-rival 1.0" in result.stderr


def test_a_plugin_cannot_take_the_place_of_our_own_command(lights):
    lights.install("shop-thief", commands={"events": "shop_lights:command"})

    assert "after_epoch" in run("events").stdout
    assert "hides it" in run("plugins", "check", "events", code=1).stdout
    assert "hides it" in run("plugins", "list", "--all").stdout


def test_a_mistake_of_the_user_is_a_message_and_exit_status_2(lights):
    result = run("lights", "--mistaken", code=2)

    assert result.stderr == "Error: no such light\n"
    assert result.stdout == ""


def test_a_bug_keeps_its_traceback_and_exits_with_1(lights):
    ran = run_python(
        "-m", "callboard", "lights", "--buggy", paths=[lights.folder], code=1
    )

    assert "Traceback" in ran.stderr
    assert ran.stderr.endswith("ZeroDivisionError: a bug\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is full")
def test_what_cannot_be_printed_is_an_error_of_one_line(lights):
    command = [sys.executable, "-m", "callboard", "events"]

    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)

    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: OSError: [Errno 28]")
    assert "Traceback" not in ran.stderr


def test_ctrl_c_exits_with_130_and_no_traceback(lights):
    result = run("lights", "--interrupted", code=130)

    assert "interrupted" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a child")
def test_ctrl_c_in_a_fit_tears_it_down_and_exits_with_130(shop):
    Path("slow.py").write_text(
        "import time, torch\n"
        "from callboard import Callback, DataLoaders, Learner\n"
        "class Slow(Callback):\n"
        "    def after_batch(self):\n"
        "        print('running', flush=True)\n"
        "        time.sleep(30)\n"
        "    def teardown(self):\n"
        "        print('torn down', flush=True)\n"
        "def learner():\n"
        "    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]\n"
        "    model, loss = torch.nn.Linear(1, 1), torch.nn.MSELoss()\n"
        "    return Learner(DataLoaders(batches), model, loss, cbs=Slow)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "callboard", "fit", "slow.py", "--epochs", "1"],
        env={**os.environ, "PYTHONPATH": str(CORE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "running" not in process.stdout.readline():
        assert process.poll() is None

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "torn down" in out
    assert "interrupted" in err
    assert "Traceback" not in err


class Terminal:
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_text_is_wrapped_for_a_terminal_and_left_whole_for_a_pipe(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = "several words that are in all too long\n  and an indented line that is too"
    rows = [("mixup", "broken", "several words that are in all too long for a line")]

    for made in (wrapped(text, Terminal()), columns(rows, Terminal())):
        assert max(map(len, made.splitlines())) <= 30
        assert len(made.splitlines()) > 2
    assert wrapped(text, None) == text
    assert columns(rows, None) == "  ".join(rows[0])


def median_seconds(*commands, path, bytecode, rounds=15):
    """Median time of each command; they take turns, so that all see the same load.

    What pip has installed is compiled already, and so is all here after the first run.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONPYCACHEPREFIX": str(bytecode),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    seconds = {command: [] for command in commands}
    for _ in range(rounds):
        for command in commands:
            begin = time.perf_counter()
            subprocess.run(command, env=environment, capture_output=True, check=True)
            seconds[command].append(time.perf_counter() - begin)
    return [statistics.median(times) for times in seconds.values()]


@pytest.mark.slow
def test_listing_300_plugins_takes_hardly_longer_than_importing_click(shop, tmp_path):
    Path("callboard.toml").unlink()
    for number in range(300):
        name = f"light{number}"
        source = (
            "from callboard import Callback\n\n"
            f"class Light(Callback):\n    name = '{name}'\n\n"
            "    def after_epoch(self):\n        print(self.epoch)\n"
        )
        shop.install(
            f"shop-{name}",
            callbacks={name: f"shop_{name}:Light"},
            modules={f"shop_{name}": source},
        )
    listing = (sys.executable, "-m", "callboard", "plugins", "list")
    bare = (sys.executable, "-c", "import click, importlib_metadata")
    first = run_python(*listing[1:], paths=[shop.folder])
    assert first.stdout.count("shop-light") == 300

    path = os.pathsep.join([str(shop.folder), str(CORE)])
    listed, imported = median_seconds(
        *(listing, bare), path=path, bytecode=tmp_path / "bytecode"
    )

    # Measured: 56 ms and 48 ms, a ratio of 1.16; 1.36 where all is compiled each time.
    assert listed <= 1.5 * imported
