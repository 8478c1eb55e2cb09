"""What the tests of the core share."""

import sys

import pytest

from callboard.testing import Site


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """Keep remembered verdicts of one test from the next, and from the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(folder))
    return folder


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """An empty site-packages, first on sys.path, and an empty working folder.

    Of what is automatic, only what the distribution ``shop-lamps`` offers joins.
    """
    made = Site(tmp_path / "site-packages")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for variable in ("CALLBOARD_DISABLE", "CALLBOARD_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)
    (work / "callboard.toml").write_text('allow = ["shop-lamps"]\n')
    before = set(sys.modules)
    with made.on_path():
        yield made
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]
