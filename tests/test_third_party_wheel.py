"""A stranger's distribution, built as a wheel and installed, is a plugin like ours.

Each wheel is built by hatchling as its author would build it, and installed by pip into
an environment made for this file. The core comes from a wheel, too; torch and the other
requirements are those of the environment that runs the tests.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = "Scripts" if os.name == "nt" else "bin"
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"
dependencies = ["callboard>=0.1,<1"]

[project.entry-points."{group}"]
{plugin} = "{module}:{cls}"
"""
GREETER = """\
from callboard import Callback


class Greeter(Callback):
    name = "greeter"
    role = "observe"
    run_after = "scribe"
    run_before = "closer"

    def after_epoch(self):
        print("greeter at epoch", self.epoch)
"""
CLOSER = GREETER.replace("Greeter", "Closer").replace("greeter", "closer")
CLOSER = CLOSER.replace('    run_before = "closer"\n', "").replace("scribe", "greeter")
TYPIST = CLOSER.replace("Closer", "Typist").replace("after_epoch", "after_epock")
TRAIN = """\
import torch
from callboard import Callback, DataLoaders, Learner

class Scribe(Callback):
    def after_epoch(self):
        print("scribe at epoch", self.epoch)

def learner(name: str = ""):
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    loss = torch.nn.MSELoss()
    cbs = [name] if name else ["closer", Scribe]
    return Learner(DataLoaders(batches), torch.nn.Linear(1, 1), loss, cbs=cbs)
"""


class Environment:
    """A virtual environment with the core and what strangers have packaged."""

    def __init__(self, folder):
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        (self.work / "train.py").write_text(TRAIN)
        venv.create(folder / "venv", symlinks=os.name != "nt")
        self.python = folder / "venv" / BIN / "python"
        self.build(ROOT)
        # What torch and the rest need, after the environment's own packages.
        rest = [path for path in sys.path if os.path.isdir(path) and path != str(ROOT)]
        (self.site_packages() / "requirements.pth").write_text("\n".join(rest))

    def site_packages(self):
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        return Path(self.run("-c", code).stdout.strip())

    def build(self, project):
        """Build a wheel of a project as its author would."""
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
        checked(*command, str(self.folder / "wheels"), cwd=project)

    def package(self, name, plugin, source, *, group, version="1.2"):
        """Write a stranger's project of one module and build it."""
        module = name.replace("-", "_")
        project = self.folder / name
        project.mkdir()
        (project / f"{module}.py").write_text(source)
        text = PROJECT.format(
            name=name,
            version=version,
            group=group,
            plugin=plugin,
            module=module,
            cls=plugin.capitalize(),
        )
        (project / "pyproject.toml").write_text(text)
        self.build(project)

    def install_wheels(self):
        """Let pip install all that was built."""
        wheels = map(str, (self.folder / "wheels").glob("*.whl"))
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
        checked(*pip, "--no-deps", "--no-index", "--no-compile", "--quiet", *wheels)

    def run(self, *arguments, code=0, **environment):
        """Run the environment's Python in a folder of its own."""
        ours = ("PYTHON", "CALLBOARD")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        clean |= {"OMP_NUM_THREADS": "1", **environment}
        command = [str(self.python), *arguments]
        return checked(*command, cwd=self.work, env=clean, code=code)

    def callboard(self, *arguments, code=0, **environment):
        """Run the command as installed."""
        return self.run("-m", "callboard", *arguments, code=code, **environment)

    def listed(self, *arguments, **environment):
        """Rows of ``plugins list``, by name."""
        listing = self.callboard("plugins", "list", "--json", *arguments, **environment)
        return {row["name"]: row for row in json.loads(listing.stdout)}

    def fitted(self, *arguments, **environment):
        """Who spoke at the end of the first epoch, in order."""
        command = ["fit", "train.py", "--epochs", "1", *arguments]
        text = self.callboard(*command, **environment).stdout
        return [line.split()[0] for line in text.splitlines() if "at epoch 0" in line]


def checked(*command, code=0, **settings):
    """Run a program; its exit status must be ``code``."""
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, **settings
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """An environment into which five strangers' wheels were installed."""
    made = Environment(tmp_path_factory.mktemp("strangers"))
    automatic, named = "callboard.plugins", "callboard.callbacks"
    made.package("stranger-greeter", "greeter", GREETER, group=automatic)
    made.package("strange-closer", "closer", CLOSER, group=named)
    made.package("strange-typist", "typist", TYPIST, group=named)
    made.package("strange-wreck", "wreck", "1 / 0", group=automatic)
    made.package("strange-heap", "heap", "import no_such_module_here", group=named)
    made.install_wheels()
    return made


pytestmark = pytest.mark.slow


def test_the_core_itself_comes_from_its_wheel(strangers):
    code = "import callboard; print(callboard.__file__)"

    assert str(strangers.folder / "venv") in strangers.run("-c", code).stdout


def test_a_strangers_plugins_are_listed_with_their_source(strangers):
    rows = strangers.listed()

    assert rows["greeter"] | {"reason": ""} == {
        "name": "greeter",
        "kind": "plugin",
        "status": "active",
        "reason": "",
        "distribution": "stranger-greeter",
        "version": "1.2",
        "entry_point": "stranger_greeter:Greeter",
        "origin": "stranger-greeter 1.2",
    }
    assert (rows["closer"]["kind"], rows["closer"]["status"]) == (
        *("callback", "available"),
    )


def test_a_strangers_plugins_join_the_loop_in_the_declared_order(strangers):
    assert strangers.fitted() == ["scribe", "greeter", "closer"]

    rows = strangers.listed("train.py")
    ours = [name for name in rows if name in ("scribe", "greeter", "closer")]
    assert ours == ["scribe", "greeter", "closer"]


def test_a_strangers_plugin_can_be_disabled(strangers):
    assert strangers.fitted("--without", "greeter") == ["closer", "scribe"]
    assert strangers.fitted(CALLBOARD_DISABLE="greeter,closer") == ["scribe"]
    assert strangers.fitted(CALLBOARD_AUTOLOAD="0") == ["closer", "scribe"]

    row = strangers.listed(CALLBOARD_DISABLE="greeter")["greeter"]
    assert (row["status"], row["reason"]) == ("disabled", "CALLBOARD_DISABLE")


def test_what_fails_to_import_is_listed_as_broken_and_nothing_else_suffers(strangers):
    rows = strangers.listed()

    assert rows["wreck"]["status"] == rows["heap"]["status"] == "broken"
    assert "ZeroDivisionError" in rows["wreck"]["reason"]
    assert "No module named 'no_such_module_here'" in rows["heap"]["reason"]
    assert rows["greeter"]["status"] == "active"

    fit = strangers.callboard("fit", "train.py", "--epochs", "1")
    assert "greeter at epoch 0" in fit.stdout
    assert "wreck (strange-wreck 1.2) is installed but takes no part" in fit.stderr


def test_what_fails_to_import_is_refused_by_name_when_it_is_asked_for(strangers):
    command = ["fit", "train.py", "--epochs", "1", "--with", "heap"]

    refused = strangers.callboard(*command, code=2)

    assert "strange-heap 1.2" in refused.stderr
    assert "no_such_module_here" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_misspelt_event_is_refused_with_the_right_name(strangers):
    meant = 'Did you mean "after_epoch"?'

    assert meant in strangers.listed()["typist"]["reason"]
    command = ["fit", "train.py", "--epochs", "1", "-o", "name=typist"]
    assert meant in strangers.callboard(*command, code=2).stderr
    assert meant in strangers.callboard("plugins", "check", "typist", code=1).stdout


def test_a_strangers_plugin_keeps_the_rules_that_ours_keep(strangers):
    told = strangers.callboard("plugins", "check", "greeter").stdout

    assert "keeps 19 rules: declared, imports, made" in told
    assert "1 checked, nothing wrong" in told


def test_a_stranger_can_check_their_plugin_by_pytest(strangers):
    told = strangers.run("-m", "pytest", "-q", "--callboard", "greeter").stdout

    assert "20 passed" in told


def test_check_names_all_that_is_broken_and_nothing_that_is_not(strangers):
    lines = strangers.callboard("plugins", "check", code=1).stdout.splitlines()

    state = {
        line.split()[1]: line.split()[0] for line in lines if len(line.split()) > 3
    }
    assert {name: state[name] for name in ("wreck", "heap", "typist")} == dict.fromkeys(
        ("wreck", "heap", "typist"), "wrong"
    )
    assert (state["greeter"], state["closer"]) == ("ok", "ok")
