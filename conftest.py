"""What every test of the repository gets, the plugins' own included."""

import os
import sys

import pytest

# For fixtures of whole modules, which come before those of one test.
os.environ["CALLBOARD_AUTOLOAD"] = "0"


@pytest.fixture(autouse=True)
def no_automatic_plugins(monkeypatch):
    """Keep what happens to be installed out: tests name what they need."""
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")


@pytest.fixture(autouse=True)
def forgotten_target(tmp_path_factory):
    """Forget a train.py that a test has run in this process, for the next one's own."""
    yield
    file = getattr(sys.modules.get("train"), "__file__", None) or ""
    if file.startswith(str(tmp_path_factory.getbasetemp())):
        del sys.modules["train"]
