"""What every test of the repository gets, the plugins' own included."""

import pytest


@pytest.fixture(autouse=True)
def no_automatic_plugins(monkeypatch):
    """Keep what happens to be installed out: tests name what they need."""
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")
