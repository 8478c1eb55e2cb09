"""From `callboard new` to a plugin that takes part, by what it prints alone."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.command_line import run
from tests.test_third_party_wheel import Environment

from callboard.authoring import HEADINGS, KINDS, LICENSES, Project, list_faults
from callboard.errors import OptionError

ROOT = Path(__file__).parents[1]
THOROUGH = "CALLBOARD_THOROUGH" in os.environ
# A recorder that comes first in the list, and so runs last only where that is declared.
ORDERED = """
from callboard import Callback
from callboard.testing import tiny_learner

class Recorder(Callback):
    name = "recorder"

    def after_train(self):
        pass

def learner():
    return tiny_learner(cbs=[Recorder(), "{name}"])
"""


def write(folder, name, *options):
    return run("new", name, "--path", str(folder), "--author", "A. Stranger", *options)


# ---- what is written ----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_the_rules_of_our_own_plugins(kind, tmp_path):
    write(tmp_path, "loss-peak", "--kind", kind)

    assert list_faults(tmp_path / "callboard-loss-peak") == []


@pytest.mark.parametrize("license_", LICENSES)
def test_the_licence_is_the_one_that_was_chosen(license_, tmp_path):
    write(tmp_path, "loss-peak", "--license", license_)

    folder = tmp_path / "callboard-loss-peak"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["license"] == license_
    assert project["authors"] == [{"name": "A. Stranger"}]
    text = (folder / "LICENSE").read_text()
    assert license_.partition("-")[0] in text
    if license_ == "Apache-2.0":
        assert text == (ROOT / "LICENSE").read_text()
    else:
        assert "A. Stranger" in text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_to_be_filled_in(kind):
    for path, text in Project("loss-peak", kind, author="A").files().items():
        without_workflow = re.sub(r"\$\{\{ matrix\.\w+ \}\}", "", text)

        assert "$" not in without_workflow, path
        assert "TODO" not in text


def test_the_prefix_may_be_written_or_not(tmp_path):
    write(tmp_path, "callboard-loss-peak")

    assert (tmp_path / "callboard-loss-peak" / "callboard_loss_peak.py").is_file()


# ---- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        *(("LossPeak", "loss-peak"), ("loss_peak", "loss-peak"), ("../up", "up")),
        *(("9", ""), ("Überlänge", "uberlange")),
    ],
)
def test_a_name_that_is_none_is_refused_with_one_that_is(name, near, tmp_path):
    printed = run("new", name, "--path", str(tmp_path), code=2).stderr

    assert f"got '{name}'" in printed
    assert f"Write it as {near}" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_installed_or_callboards_own_is_refused(tmp_path):
    assert "callboard-mixup" in write_refused(tmp_path, "mixup")
    assert "callboard-schedule" in write_refused(
        tmp_path, "fit-one-cycle", "--kind", "method"
    )
    assert "Callboard itself" in write_refused(tmp_path, "model")
    assert "Callboard itself" in write_refused(tmp_path, "events", "--kind", "command")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("callback", ["callback", "tensor", "mapping", "none", "any", "option-error"]),
        ("method", ["class", "round", "digits", "learner", "pytest", "tiny-learner"]),
    ],
)
def test_a_name_that_the_written_code_needs_is_refused_with_another(kind, names):
    for name in names:
        with pytest.raises(OptionError, match=f"another name: {name}-{kind}"):
            Project(name, kind)


def test_a_method_that_pytest_would_take_for_a_test_is_refused():
    with pytest.raises(OptionError, match="pytest would take test_noise for a test"):
        Project("test-noise", "method")


def test_a_name_that_is_too_long_for_a_file_is_refused_in_a_sentence(tmp_path):
    assert "cannot be written" in write_refused(tmp_path, "x" * 300)


def test_the_folder_to_change_into_is_quoted_where_it_must_be(tmp_path):
    printed = write(tmp_path / "my ideas", "loss-peak").stdout

    (line,) = re.findall(r"^  (cd .+)$", printed, re.MULTILINE)
    assert Path(shlex.split(line)[1]) == tmp_path / "my ideas" / "callboard-loss-peak"


def write_refused(folder, *arguments):
    printed = run("new", *arguments, "--path", str(folder), code=2).stderr
    assert list(folder.iterdir()) == []
    return " ".join(printed.split())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    folder = tmp_path / "callboard-loss-peak"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")

    printed = run("new", "loss-peak", "--path", str(tmp_path), code=2).stderr

    assert "nothing was written" in " ".join(printed.split())
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("author", ['A "B', "A \\ B", "A\x01B", "A\x7fB"], ids=range(4))
def test_an_author_that_would_break_the_file_is_refused(author, tmp_path):
    assert "without quotes" in write_refused(tmp_path, "loss-peak", "--author", author)


@pytest.mark.parametrize("wrong", [{"kind": "idea"}, {"license": "none"}])
def test_a_project_of_an_unknown_kind_or_licence_is_refused(wrong):
    with pytest.raises(OptionError, match="must be one of"):
        Project("loss-peak", **wrong)


# ---- the rules ----------------------------------------------------------------


def test_every_rule_says_what_is_wrong(tmp_path):
    write(tmp_path, "loss-peak")
    folder = tmp_path / "callboard-loss-peak"
    project, readme = folder / "pyproject.toml", folder / "README.md"
    whole = project.read_text()

    readme.write_text(readme.read_text().replace("## Limits", "## Bounds"))
    assert list_faults(folder) == [
        f"README.md should have these sections, in order: {', '.join(HEADINGS)}."
    ]
    readme.unlink()
    assert "README.md cannot be read" in list_faults(folder)[0]
    project.write_text(whole.replace("callboard-loss-peak", "loss-peak"))
    assert "should be callboard-your-idea" in list_faults(folder)[0]
    project.write_text(whole.replace('"callboard>=0.1,<1"', '"torch"'))
    assert "should name the core" in list_faults(folder)[0]
    project.write_text(whole.replace("callboard.callbacks", "somebody.else"))
    assert "No entry point joins" in list_faults(folder)[0]
    project.write_text(whole.replace('"callboard_loss_peak:', '"elsewhere:'))
    assert "should be callboard_loss_peak" in list_faults(folder)[0]
    project.write_text("[project")
    assert "cannot be read" in list_faults(folder)[0]


# ---- from there to a plugin that takes part -----------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with the core's wheel, and what it needs."""
    made = Environment(tmp_path_factory.mktemp("author"))
    made.install_wheels()
    return made


@pytest.mark.parametrize("kind", KINDS if THOROUGH else ["callback"])
def test_the_printed_steps_lead_to_a_plugin_that_takes_part(kind, environment):
    name = f"peak-of-{kind}"
    env = {k: v for k, v in os.environ.items() if not k.startswith("CALLBOARD")}
    env["OMP_NUM_THREADS"] = "1"

    def do(line, folder):
        # Whose tools build is not what is tried; these need no network.
        line = line.replace("pip install", "pip install --no-build-isolation")
        line = line.replace("pip wheel", "pip wheel --no-build-isolation")
        program, *arguments = shlex.split(line)
        if program == "callboard":
            arguments = ["-m", "callboard", *arguments]
        ran = subprocess.run(
            [str(environment.python), *arguments],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    printed = do(f"callboard new {name} --kind {kind} --author Me", environment.work)
    steps = re.findall(r"^  ((?:cd|python|callboard) .+)$", printed, re.MULTILINE)
    folder = environment.work / shlex.split(steps[0])[1]
    said = {step: do(step, folder) for step in steps[1:]}

    assert len(steps) == 6
    assert "nothing wrong" in said[steps[3]]
    assert len(list(folder.glob("dist/*.whl"))) == 1
    if kind in ("callback", "module", "plugin"):
        assert name in said[steps[4]]
        (folder / "ordered.py").write_text(ORDERED.format(name=name))
        order = json.loads(do("callboard order ordered.py --json", folder))
        together = [key for key in order["order"] if key in (name, "recorder")]
        assert together == [name, "recorder"]
    do(f"python -m pip uninstall --yes callboard-{name}", folder)


def test_the_folder_of_the_test_environment_is_not_used_by_chance(environment):
    code = "import callboard; print(callboard.__file__)"
    ran = subprocess.run(
        [str(environment.python), "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=environment.work,
    )

    assert str(environment.folder) in ran.stdout
    assert sys.prefix not in ran.stdout
