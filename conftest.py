"""What every test of the repository gets, the plugins' own included."""

import os
import signal
import sys

import pytest
from hypothesis import settings

# For fixtures of whole modules, which come before those of one test.
os.environ["CALLBOARD_AUTOLOAD"] = "0"

# What a shell starts in the background ignores Ctrl-C, and so would what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, so that a change fails for what it does and not by luck;
# `nox -s explore` draws others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_automatic_plugins(monkeypatch):
    """Keep what happens to be installed out: tests name what they need."""
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")


@pytest.fixture(autouse=True)
def forgotten_target():
    """Forget a train.py that a test has run in this process, for the next one's own."""
    yield
    sys.modules.pop("train", None)
