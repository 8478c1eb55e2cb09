"""``pytest --callboard NAME``, as an author uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import callboard
from callboard.testing import Site

CORE = Path(callboard.__file__).parents[1]
GOOD = """\
from callboard import Callback

class Good(Callback):
    name = "good"

    def after_batch(self): ...
"""
BAD = GOOD.replace("Good", "Bad").replace("good", "bad")
BAD = BAD.replace(
    "def after_batch(self): ...", "def after_batch(self): self.learn.oops"
)


@pytest.fixture(scope="module")
def an_authors_pytest(tmp_path_factory):
    """Run pytest in a folder of its own, where two made-up plugins are installed."""
    folder = tmp_path_factory.mktemp("author")
    site = Site(folder / "site-packages")
    for name, source in (("good", GOOD), ("bad", BAD)):
        site.install(
            f"strange-{name}",
            callbacks={name: f"strange_{name}:{name.capitalize()}"},
            modules={f"strange_{name}": source},
        )
    work = folder / "work"
    work.mkdir()
    (work / "test_own.py").write_text("def test_own(): pass\n")

    def run(*arguments, code):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
        ran = subprocess.run(
            [*command, *arguments],
            cwd=work,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (site.folder, CORE))),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    return run


def test_the_rules_are_added_to_the_authors_own_tests(an_authors_pytest):
    text = an_authors_pytest("-vv", "--callboard", "good", code=0)

    assert "test_own PASSED" in text
    assert "callboard/good::resume PASSED" in text
    assert "good: 1.0 Python calls, 0.0 tensor operations" in text


def test_a_broken_rule_fails_with_what_to_do_and_those_that_rest_on_it_are_skipped(
    an_authors_pytest,
):
    text = an_authors_pytest("-rs", "--callboard", "bad", code=1)

    assert "expected: a run with it ends without an error." in text
    assert "happened: AttributeError: 'Learner' has no attribute 'oops'" in text
    assert "1 failed, 4 passed, 16 skipped" in text
    assert "Traceback" not in text


def test_a_name_that_nobody_has_is_a_mistake_in_the_command(an_authors_pytest):
    text = an_authors_pytest("--callboard", "goood", code=4)

    assert 'No installed plugin is named "goood". Did you mean "good"?' in text


def test_without_the_option_nothing_is_added(an_authors_pytest):
    assert "1 passed" in an_authors_pytest(code=0)
