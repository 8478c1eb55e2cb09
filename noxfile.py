"""The one door to every chore: ``nox -l`` lists them, ``nox -s tests`` runs one.

One virtual environment, made by the session ``dev``, holds the core and every folder of
plugins/ as editable installs; the sessions that run our code share it. It is filled
once, and again when a pyproject.toml or constraints.txt changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
PROOFS = (
    *("kill", "every_event", "crash_points", "fuzz", "full_disk", "long_run"),
    *("restarts", "nodes"),
)
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
FASTAI = "fastai==2.8.12"
EVERYDAY = (
    *("csv-logger", "early-stopping", "progress", "recorder", "save-model"),
    *("schedule", "tracker"),
)
CONSTRAINTS = ("--constraint", "constraints.txt")
BIN = "Scripts" if os.name == "nt" else "bin"

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def dev(session: nox.Session) -> None:
    """Make the shared environment: the core and every plugin, editable."""
    install_everything(session)


@nox.session(venv_backend="none", requires=["dev"])
def demo(session: nox.Session) -> None:
    """Train on real data with separately packaged plugins, and show the board."""
    run_in_dev(session, "callboard", "plugins", "list")
    run_in_dev(session, "python", "examples/digits.py")
    run_in_dev(session, "python", "examples/tabular.py")
    run_in_dev(session, "callboard", "order", "examples/digits.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff; ``nox -s lint -- fix`` mends what it can."""
    session.install(*dependency_group("lint"))
    if session.posargs == ["fix"]:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
    else:
        session.run("ruff", "check", ".")
        session.run("ruff", "format", "--check", ".")


@nox.session(venv_backend="none", requires=["dev"])
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly."""
    run_in_dev(session, "mypy", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def tests(session: nox.Session) -> None:
    """Run every test of the core, the plugins and the examples."""
    # One file stays in one process, so that costly fixtures are made once.
    parallel = () if session.posargs else ("--numprocesses=2", "--dist=loadfile")
    run_in_dev(session, "pytest", "-q", *parallel, *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
@nox.parametrize("name", [nox.param(name, id=name) for name in PLUGINS])
def plugin(session: nox.Session, name: str) -> None:
    """Run one plugin's own tests."""
    run_in_dev(session, "pytest", "-q", f"plugins/{name}", *session.posargs)


@nox.session
def trackers(session: nox.Session) -> None:
    """Test the plugins for trackers against their clients, which the rest does without.

    The clients are large, so other sessions lack them, and these tests skip there.
    """
    session.install(*dependency_group("build"))
    plugins = tracker_plugins()
    session.install(
        *("--no-build-isolation", *CONSTRAINTS, "hypothesis>=6.100", "pytest>=8.3"),
        *(*dependency_group("trackers"), *editables(with_siblings(plugins))),
    )
    session.run("python", "-m", "pip", "check")
    conformance = [part for name in plugins for part in ("--callboard", name)]
    # The clients leave sockets and files to be closed with the process.
    leaks = ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
    session.run(
        *("python", "-m", "pytest", "-q", *(f"plugins/{name}" for name in plugins)),
        *(f"-Wignore::{leak}" for leak in leaks),
        *(*conformance, *session.posargs),
        env={"OMP_NUM_THREADS": "1"},
    )


@nox.session(venv_backend="none", requires=["dev"])
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; ``nox -s docs -- serve`` shows it live."""
    # Pages are written from the core and the plugins, so it needs them all.
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    run_in_dev(session, "mkdocs", *(session.posargs or ["build"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure beside other loops; ``-- write`` writes docs/benchmarks.md anew.

    Who cannot be installed is left out and said to be. It takes half an hour, on a
    machine that does nothing else; ``-- --quick`` a quarter of that.
    """
    session.install(
        *(*CONSTRAINTS, *dependency_group("build"), *dependency_group("parity")),
        *("matplotlib>=3.8", *everyday_requirements()),
    )
    session.install("--no-deps", FASTAI)
    for peer in dependency_group("peers"):
        session.install(*CONSTRAINTS, peer, success_codes=[0, 1])
    # As copies: an editable puts a folder on sys.path, and accelerate looks through all
    # folders, at every step, for a module that is not there.
    copies = ["--no-build-isolation", "--no-deps", "--force-reinstall", "."]
    session.install(*copies, *(f"./plugins/{name}" for name in EVERYDAY))
    session.run(
        *("python", "-m", "benchmarks", *session.posargs),
        env={"OMP_NUM_THREADS": "1", "CALLBOARD_AUTOLOAD": "0"},
    )


@nox.session(venv_backend="none", requires=["dev"])
def by_hand(session: nox.Session) -> None:
    """Time ``fit --fast`` beside a loop by hand; ``-- write`` writes its page anew."""
    run_in_dev(session, "python", "-m", "benchmarks.by_hand", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def distributed(session: nox.Session) -> None:
    """Train in 1, 2 and 4 processes and compare; ``-- write`` writes its page anew.

    The tests of the plugin start two processes; here they start four.
    """
    tests = ("pytest", "-q", "plugins/distributed/tests")
    run_in_dev(session, *tests, CALLBOARD_PROCESSES="4")
    run_in_dev(session, "python", "-m", "benchmarks.processes", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
@nox.parametrize("proof", [nox.param(name, id=name) for name in PROOFS])
def reliability(session: nox.Session, proof: str) -> None:
    """Prove that runs survive; ``nox -s reliability`` runs all, in 15 minutes."""
    run_in_dev(session, "python", "-m", f"reliability.{proof}", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def explore(session: nox.Session) -> None:
    """Try the properties on new random examples, 10 rounds; ``-- 100`` that many."""
    using = sorted(
        str(path.relative_to(ROOT))
        for folder in (ROOT / "tests", *(ROOT / "plugins").glob("*/tests"))
        for path in folder.glob("test_*.py")
        if "from hypothesis import" in path.read_text(encoding="utf-8")
    )
    for _ in range(int(session.posargs[0]) if session.posargs else 10):
        run_in_dev(session, "pytest", "-q", "--hypothesis-profile=default", *using)


@nox.session(venv_backend="none", requires=["dev"])
def pairs(session: nox.Session) -> None:
    """Train with every two plugins together; ``-- mixup`` with mixup and each other."""
    run_in_dev(session, "python", "-m", "tests.pairing", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare with fastai; ``-- write`` writes docs/fastai-parity.md anew."""
    install_everything(session)
    session.install(*CONSTRAINTS, *dependency_group("parity"))
    # It asks for torchvision and spaCy, which none of its callbacks needs.
    session.install("--no-deps", FASTAI)
    session.run(
        *("python", "-m", "parity", *session.posargs), env={"OMP_NUM_THREADS": "1"}
    )


@nox.session(reuse_venv=False)
def build(session: nox.Session) -> None:
    """Build all distributions into dist/ and test the wheels in a fresh environment."""
    session.install(*dependency_group("build"))
    shutil.rmtree(DIST, ignore_errors=True)
    for project in (ROOT, *(ROOT / "plugins" / name for name in PLUGINS)):
        with session.chdir(project):
            session.run("python", "-m", "hatchling", "build", "-d", str(DIST))
    wheels = sorted(str(path) for path in DIST.glob("*.whl"))
    session.install(*CONSTRAINTS, *wheels)
    # Away from the repository, whose folders could stand in for what a wheel lacks, and
    # before the tests' own requirements, which could stand in for an undeclared one.
    with session.chdir(session.create_tmp()):
        session.run("python", "-m", "pip", "check")
        session.run("callboard", "plugins", "list")
        session.run("callboard", "plugins", "check")
    session.install(*CONSTRAINTS, *dependency_group("tests"))
    session.run("pytest", "-q", *(f"plugins/{name}" for name in PLUGINS))


def install_everything(session: nox.Session) -> None:
    """Install the core and all plugins as editables, unless that is already done."""
    stamp = Path(session.virtualenv.location) / "installed.sha256"
    digest = fingerprint()
    if stamp.exists() and stamp.read_text() == digest:
        session.log("Nothing to install: no pyproject.toml has changed.")
        return
    stamp.unlink(missing_ok=True)
    uninstall_editables(session)
    session.install(*CONSTRAINTS, *dependency_group("dev"), *everyday_requirements())
    # One call without build isolation: pip would otherwise make an environment with
    # hatchling for each plugin, at 5 seconds apiece. What they need is there already,
    # but for the clients of trackers, which have a session of their own.
    session.install("--no-build-isolation", "--no-deps", *editables(PLUGINS))
    stamp.write_text(digest)


def editables(names: Iterable[str]) -> list[str]:
    """What tells pip to install the core and these plugins as editables."""
    projects = [".", *(f"./plugins/{name}" for name in names)]
    return [part for project in projects for part in ("--editable", project)]


def everyday_requirements() -> list[str]:
    """What the core and the plugins need of others, without the clients of trackers."""
    left_out = clients() - set(map(name_of, dependency_group("tests")))
    needed = {
        need
        for project in (PYPROJECT, *map(pyproject_of, PLUGINS))
        for need in project["project"]["dependencies"]
    }
    return sorted(
        need
        for need in needed
        if name_of(need) not in left_out and not name_of(need).startswith("callboard")
    )


def clients() -> set[str]:
    """The distributions in the dependency group ``trackers``."""
    return set(map(name_of, dependency_group("trackers")))


def tracker_plugins() -> list[str]:
    """The plugins that need one of these."""
    return [name for name in PLUGINS if clients() & needs_of(name)]


def needs_of(name: str) -> set[str]:
    """The distributions that a plugin needs."""
    return set(map(name_of, pyproject_of(name)["project"]["dependencies"]))


def with_siblings(names: Iterable[str]) -> list[str]:
    """These plugins, and those of this repository that they need."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        found |= waiting
        needed = {need for name in waiting for need in needs_of(name)}
        waiting = {name for name in PLUGINS if f"callboard-{name}" in needed} - found
    return sorted(found)


def pyproject_of(name: str) -> dict[str, Any]:
    """The pyproject.toml of a plugin."""
    return nox.project.load_toml(ROOT / "plugins" / name / "pyproject.toml")


def name_of(requirement: str) -> str:
    """The distribution that a requirement asks for."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def uninstall_editables(session: nox.Session) -> None:
    """Remove our own distributions, so that no deleted plugin stays installed."""
    listing = session.run(
        *("python", "-m", "pip", "list", "--editable", "--format=freeze"), silent=True
    )
    names = [line.partition("==")[0] for line in str(listing).split()]
    if names:
        session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", *names)


def fingerprint() -> str:
    """Say in one hash what the shared environment must hold."""
    files = [ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    files += [ROOT / "plugins" / name / "pyproject.toml" for name in PLUGINS]
    digest = hashlib.sha256(str(ROOT).encode())  # editables point into the checkout
    for path in files:
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def dependency_group(name: str) -> tuple[str, ...]:
    """Requirements of one of the root pyproject.toml's ``[dependency-groups]``."""
    return nox.project.dependency_groups(PYPROJECT, name)


def run_in_dev(
    session: nox.Session, program: str, *arguments: str, **variables: str
) -> None:
    """Run a program of the shared environment, with variables besides."""
    environment = session.env_dir.parent.absolute() / "dev"
    programs = environment / BIN
    session.run(
        str(programs / program),
        *arguments,
        external=True,
        env={
            "PATH": os.pathsep.join((str(programs), os.environ["PATH"])),
            "VIRTUAL_ENV": str(environment),
            # The models are small: more threads would only get in each other's way.
            "OMP_NUM_THREADS": "1",
            **variables,
        },
    )
