"""Distributions are found in folders as importlib-metadata finds them, but faster."""

import sys
import zipfile

import importlib_metadata
import pytest

from callboard import discovery, folders
from callboard.folders import ImportlibDistributions, PlainDistributions
from callboard.testing import Site


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages, first on sys.path."""
    made = Site(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(made.folder)
    discovery.refresh()
    yield made
    discovery.refresh()


def metadata_of(found):
    return [(str(d.locate_file("")), d.read_text("METADATA")) for d in found]


def test_the_same_distributions_are_found_as_by_importlib_metadata(site):
    site.install("Shop.Violet", "1.0")
    site.install("shop-lilac", "0.1+local")
    (site.folder / "shop_old.egg-info").write_text("Name: shop-old\nVersion: 1\n")

    ours = metadata_of(PlainDistributions(sys.path).all())
    theirs = metadata_of(importlib_metadata.distributions())

    assert sorted(ours, key=str) == sorted(theirs, key=str)


@pytest.mark.parametrize("name", ["Shop.Violet", "shop-violet", "SHOP__VIOLET", "nil"])
def test_a_name_leads_to_the_same_distribution_as_by_importlib_metadata(site, name):
    site.dist_info("shop-violet", "0.9").mkdir()  # what is left of an uninstall
    site.install("Shop.Violet", "1.0")

    found = [
        source.first(name)
        for source in (PlainDistributions(sys.path), ImportlibDistributions())
    ]

    assert metadata_of(filter(None, found[:1])) == metadata_of(filter(None, found[1:]))


def test_a_zip_file_on_the_path_is_read_by_importlib_metadata(
    site, tmp_path, monkeypatch
):
    dist_info = site.install("shop-violet", callbacks={"violet": "shop_violet:Violet"})
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in dist_info.iterdir():
            packed.write(file, f"{dist_info.name}/{file.name}")
            file.unlink()
    dist_info.rmdir()
    monkeypatch.syspath_prepend(archive)

    assert isinstance(folders.distributions(), ImportlibDistributions)
    assert discovery.find("violet").distribution == "shop-violet"


def test_the_finder_of_another_tool_is_asked_through_importlib_metadata(monkeypatch):
    class Finder:
        def find_distributions(self, context=None):
            return []

    assert isinstance(folders.distributions(), PlainDistributions)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])

    assert isinstance(folders.distributions(), ImportlibDistributions)


def test_a_place_that_is_not_there_holds_nothing(site, tmp_path):
    missing = str(tmp_path / "missing")

    assert list(PlainDistributions([missing]).all()) == []
