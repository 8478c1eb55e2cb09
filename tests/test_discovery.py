"""What is installed is read from real dist-info folders, and nothing is imported."""

import os
import subprocess
import sys
import types
from pathlib import Path

import importlib_metadata
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard import callbacks, discovery
from callboard.discovery import (
    InstalledPlugin,
    distribution_of,
    doubled,
    find,
    installed,
    offered_by,
    problems,
    provenance,
    refresh,
)
from callboard.errors import (
    BrokenPluginError,
    CallboardError,
    DoubledPluginError,
    UnknownPluginError,
)
from callboard.testing import Site

VIOLET = {"violet": "cb_violet:Violet"}
VIOLET_SOURCE = "class Violet:\n    class Dark:\n        pass\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages, first on sys.path; what it makes us import is undone."""
    before = set(sys.modules)
    made = Site(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(made.folder)
    refresh()
    yield made
    for name in set(sys.modules) - before:
        if name.startswith("cb_"):
            del sys.modules[name]
    refresh()


def names_of(distribution):
    return [found.name for found in installed() if found.distribution == distribution]


def problems_in(text):
    return [problem for problem in problems() if text in problem]


def run_python(code, *paths):
    core = Path(discovery.__file__).parents[1]
    path = os.pathsep.join(map(str, [*paths, core]))
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


# Listing


def test_an_installed_callback_is_listed_with_its_source(site):
    site.install("callboard-violet", "2.1", callbacks=VIOLET)

    assert find("violet") == InstalledPlugin(
        name="violet",
        kind="callback",
        entry_point="cb_violet:Violet",
        distribution="callboard-violet",
        version="2.1",
    )


def test_each_of_the_four_groups_has_its_kind(site):
    site.install(
        "callboard-violet",
        plugins={"violet-watch": "cb_violet"},
        callbacks={"violet": "cb_violet:Violet"},
        methods={"violet_fit": "cb_violet:violet_fit"},
        commands={"violet-cmd": "cb_violet:command"},
    )

    found = {
        found.kind: (found.name, found.group)
        for found in installed()
        if found.distribution == "callboard-violet"
    }

    assert found == {
        "plugin": ("violet-watch", "callboard.plugins"),
        "callback": ("violet", "callboard.callbacks"),
        "method": ("violet_fit", "callboard.methods"),
        "command": ("violet-cmd", "callboard.commands"),
    }


def test_the_listing_is_sorted_by_kind_name_and_distribution(site):
    site.install("zz-violet", callbacks=VIOLET, methods={"aa": "cb_violet:aa"})
    site.install("aa-violet", callbacks={"violet": "cb_other:Violet", "indigo": "i:I"})

    keys = [(found.kind, found.name, found.distribution) for found in installed()]

    assert keys == sorted(keys)
    assert ("callback", "violet", "aa-violet") in keys
    assert ("callback", "violet", "zz-violet") in keys


def test_listing_imports_no_plugin(site, tmp_path):
    marker = tmp_path / "imported"
    source = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Violet: ..."
    site.install("callboard-violet", callbacks=VIOLET, modules={"cb_violet": source})

    installed()
    doubled()
    dir(callbacks)
    assert not marker.exists()

    find("violet").load()
    assert marker.exists()


def test_listing_imports_neither_torch_nor_anything_as_heavy(site):
    site.install("callboard-violet", callbacks=VIOLET)

    loaded = run_python(
        "import sys; from callboard.discovery import find; import callboard.callbacks\n"
        "print(find('violet').name, dir(callboard.callbacks).count('Violet'))\n"
        "print(*sys.modules)",
        site.folder,
    )

    assert loaded[:2] == ["violet", "1"]
    assert not {"torch", "rich", "pydantic", "pluggy", "email.parser"} & {*loaded}


def test_distributions_without_plugins_cost_no_metadata_read(site):
    dist_info = site.install("violet-console")
    (dist_info / "entry_points.txt").write_text("[console_scripts]\nviolet = v:main\n")
    (dist_info / "METADATA").write_bytes(b"\xff not utf-8")

    assert names_of("violet-console") == []
    assert problems_in("violet") == []


def test_an_editable_install_is_listed_and_loaded_from_its_source(
    site, tmp_path, monkeypatch
):
    source = Site(tmp_path / "checkout")
    (source.folder / "cb_violet.py").write_text(VIOLET_SOURCE)
    site.install_editable("callboard-violet", source.folder, callbacks=VIOLET)
    monkeypatch.syspath_prepend(source.folder)

    loaded = find("violet").load()

    assert loaded.__name__ == "Violet"
    assert provenance(loaded) == find("violet")
    assert distribution_of("cb_violet") == ("callboard-violet", "1.0")


def test_an_egg_info_folder_is_a_distribution_too(site):
    egg_info = site.folder / "callboard_violet.egg-info"
    egg_info.mkdir()
    (egg_info / "PKG-INFO").write_text("Name: callboard-violet\nVersion: 0.3\n")
    (egg_info / "entry_points.txt").write_text(
        "[callboard.callbacks]\nviolet = cb_violet:Violet\n"
    )

    assert find("violet").version == "0.3"


def test_what_is_installed_later_is_seen_after_refresh(site):
    assert names_of("callboard-violet") == []
    site.install("callboard-violet", callbacks=VIOLET)
    assert names_of("callboard-violet") == []

    refresh()

    assert names_of("callboard-violet") == ["violet"]


def test_another_sys_path_is_listed_anew(site, tmp_path, monkeypatch):
    assert names_of("callboard-violet") == []
    other = Site(tmp_path / "other")
    other.install("callboard-violet", callbacks=VIOLET)

    monkeypatch.syspath_prepend(other.folder)

    assert names_of("callboard-violet") == ["violet"]


# One name, one distribution


def test_the_first_distribution_of_a_name_on_the_path_hides_the_others(
    site, tmp_path, monkeypatch
):
    site.install("callboard-violet", "1.0", callbacks=VIOLET)
    nearer = Site(tmp_path / "nearer")
    nearer.install("Callboard.Violet", "2.0", callbacks={"violet": "cb_new:Violet"})
    monkeypatch.syspath_prepend(nearer.folder)

    assert find("violet").version == "2.0"
    assert names_of("callboard-violet") == []


def test_a_nearer_version_without_plugins_hides_one_with_plugins(
    site, tmp_path, monkeypatch
):
    site.install("callboard-violet", "1.0", callbacks=VIOLET)
    nearer = Site(tmp_path / "nearer")
    nearer.install("callboard-violet", "2.0")
    monkeypatch.syspath_prepend(nearer.folder)

    assert names_of("callboard-violet") == []
    assert problems_in("violet") == []


def test_a_folder_that_stands_twice_on_the_path_doubles_nothing(site, monkeypatch):
    site.install("callboard-violet", callbacks=VIOLET)
    monkeypatch.syspath_prepend(f"{site.folder}{os.sep}")

    assert names_of("callboard-violet") == ["violet"]
    assert ("plugin", "violet") not in doubled()


def test_an_empty_leftover_of_an_uninstall_hides_nothing(site):
    site.install("callboard-violet", "1.1", callbacks=VIOLET)
    for version in ("0.9", "2.0"):
        site.dist_info("callboard-violet", version).mkdir()

    assert find("violet").version == "1.1"


def test_a_leftover_that_pip_renamed_is_told_of_and_not_listed(site):
    dist_info = site.install("callboard-violet", callbacks=VIOLET)
    dist_info.rename(dist_info.with_name(f"~{dist_info.name[1:]}"))

    assert names_of("callboard-violet") == []
    assert problems_in("callboard-violet 1.0")


def test_a_leftover_beside_its_successor_changes_nothing(site):
    dist_info = site.install("callboard-violet", "0.9", callbacks={"old": "cb_old:Old"})
    dist_info.rename(dist_info.with_name(f"~{dist_info.name[1:]}"))
    site.install("callboard-violet", "1.0", callbacks=VIOLET)

    assert names_of("callboard-violet") == ["violet"]
    assert find("violet").version == "1.0"


def test_two_distributions_that_claim_one_name_are_both_named(site):
    site.install("callboard-violet", "1.0", callbacks=VIOLET)
    site.install("lilac", "3.2", callbacks={"violet": "cb_lilac:Violet"})

    rivals = doubled()["plugin", "violet"]
    assert [rival.distribution for rival in rivals] == ["callboard-violet", "lilac"]
    with pytest.raises(DoubledPluginError) as caught:
        find("violet", "callback")
    assert "callboard-violet 1.0 (cb_violet:Violet)" in str(caught.value)
    assert "lilac 3.2 (cb_lilac:Violet)" in str(caught.value)


def test_a_plugin_and_a_callback_share_their_names(site):
    site.install("callboard-violet", callbacks=VIOLET)
    site.install("lilac", plugins={"violet": "cb_lilac"})

    assert ("plugin", "violet") in doubled()
    with pytest.raises(DoubledPluginError, match="lilac"):
        find("violet", "callback")


def test_a_method_and_a_command_may_be_named_as_a_plugin_is(site):
    site.install("callboard-violet", callbacks=VIOLET)
    site.install("lilac", methods={"violet": "cb_lilac:fit"})
    site.install("mauve", commands={"violet": "cb_mauve:command"})

    assert not [name for _, name in doubled() if name == "violet"]
    assert find("violet", "callback").distribution == "callboard-violet"
    assert find("violet", "method").distribution == "lilac"
    assert find("violet", "command", "method").distribution == "mauve"


def test_one_distribution_may_offer_a_name_as_plugin_and_as_callback(site):
    site.install("callboard-violet", callbacks=VIOLET, plugins=VIOLET)

    assert ("plugin", "violet") not in doubled()
    assert find("violet", "callback", "plugin").kind == "callback"
    assert find("violet", "plugin").kind == "plugin"


# Unknown names


def test_an_unknown_name_is_refused_with_the_nearest_one(site):
    site.install("callboard-violet", callbacks=VIOLET)

    with pytest.raises(UnknownPluginError, match='Did you mean "violet"') as caught:
        find("voilet")

    assert str(caught.value).startswith('No installed plugin is named "voilet".')


def test_a_name_of_another_kind_is_said_to_be_of_that_kind(site):
    site.install("callboard-violet", methods={"fit_violet": "cb_violet:fit_violet"})

    with pytest.raises(UnknownPluginError, match="is a method, not a callback"):
        find("fit_violet", "callback")


@pytest.fixture
def core_with_extras(site):
    site.install(
        "callboard",
        requires=[
            "torch>=2.10",
            "callboard-extra-base>=1",
            "callboard-soft-lilac<1,>=0.1; extra == 'all'",
            'Callboard_Soft_Lilac<1,>=0.1; extra == "standard"',
            'callboard-mauve; python_version > "3" and extra=="all"',
            'tensorboard; extra == "all"',
        ],
    )
    return site


@pytest.mark.parametrize("name", ["soft-lilac", "SoftLilac", "SoftLilacCallback"])
def test_the_cores_extras_say_which_distribution_offers_a_plugin(
    core_with_extras, name
):
    assert offered_by(name) == "callboard-soft-lilac"


@pytest.mark.parametrize("name", ["violet", "tensorboard", "torch", "extra-base", ""])
def test_what_no_extra_asks_for_is_offered_by_nobody_known(core_with_extras, name):
    assert offered_by(name) is None


def test_a_missing_plugin_is_refused_with_the_distribution_to_install(
    core_with_extras,
):
    with pytest.raises(UnknownPluginError) as caught:
        find("mauve")

    assert str(caught.value) == (
        'No installed plugin is named "mauve". '
        "callboard-mauve offers it: python -m pip install callboard-mauve"
    )


def test_a_missing_plugin_is_suggested_by_its_near_name(core_with_extras):
    with pytest.raises(UnknownPluginError, match='Did you mean "soft-lilac"'):
        find("softlilak")


def test_a_damaged_install_of_an_offered_plugin_is_to_be_reinstalled(
    core_with_extras,
):
    core_with_extras.install("callboard-mauve")

    with pytest.raises(UnknownPluginError, match="--force-reinstall callboard-mauve"):
        find("mauve")


# Damaged metadata


def damage_text_of_entry_points(dist_info):
    (dist_info / "entry_points.txt").write_bytes(b"[callboard.callbacks]\n\xff = a:b")


def damage_text_of_metadata(dist_info):
    (dist_info / "METADATA").write_bytes(b"Name: \xff")


def remove_metadata(dist_info):
    (dist_info / "METADATA").unlink()


def remove_name(dist_info):
    (dist_info / "METADATA").write_text("Metadata-Version: 2.4\nVersion: 1.0\n")


def remove_version(dist_info):
    (dist_info / "METADATA").write_text("Name: broken-lilac\nVersion:\n")


def loop_metadata(dist_info):
    (dist_info / "METADATA").unlink()
    (dist_info / "METADATA").symlink_to(dist_info / "METADATA")


@pytest.mark.parametrize(
    "damage",
    [
        damage_text_of_entry_points,
        damage_text_of_metadata,
        remove_metadata,
        remove_name,
        remove_version,
        loop_metadata,
    ],
)
def test_damaged_metadata_is_told_of_and_harms_no_other(site, damage):
    damage(site.install("broken-lilac", callbacks={"lilac": "cb_lilac:Lilac"}))
    site.install("callboard-violet", callbacks=VIOLET)

    assert find("violet").distribution == "callboard-violet"
    assert names_of("broken-lilac") == []
    assert len(problems_in(str(site.folder))) == 1


def test_a_bad_line_costs_that_line_alone(site):
    dist_info = site.install("callboard-violet", callbacks=VIOLET)
    (dist_info / "entry_points.txt").write_text(
        "a line before any group\n"
        "[callboard.callbacks]\n"
        "# a comment\n"
        "no entry point\n"
        " = cb_violet:NoName\n"
        "no-value =\n"
        "violet = cb_violet:Violet\n"
        "violet = cb_violet:Second\n"
        "[callboard.callback]\n"
        "lilac = cb_violet:Lilac\n"
        "mauve = cb_violet:Mauve\n"
        "[callboard.somebody_elses]\n"
        "indigo = cb_violet:Indigo\n"
    )

    assert names_of("callboard-violet") == ["violet"]
    assert find("violet").attribute == "Violet"
    told = "\n".join(problems_in("callboard-violet 1.0"))
    assert told.count("\n") == 4
    for what in (
        "'no entry point'",
        "'= cb_violet:NoName'",
        "'no-value ='",
        'names "violet" twice',
        'nothing reads [callboard.callback]. Did you mean "callbacks"?',
    ):
        assert what in told


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "C:\\violet", "två färger", "a.b/c", "🎨", "-", "a b"]
)
def test_a_strange_name_is_just_a_name(site, name):
    site.install("callboard-violet", callbacks={name: "cb_violet:Violet"})

    assert find(name).name == name


words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
entry_lines = st.one_of(
    st.builds("{} = {}".format, words, words),
    st.builds("# {}".format, words),
    st.sampled_from(["", "[callboard.callbacks]", "[callboard.methods]", "[other]"]),
)


@given(lines=st.lists(entry_lines))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_entry_points_are_listed_as_importlib_metadata_reads_them(site, lines):
    dist_info = site.dist_info("callboard-violet")
    if not dist_info.exists():
        site.install("callboard-violet")
    text = "\n".join(["[callboard.callbacks]", *lines])
    (dist_info / "entry_points.txt").write_text(text, encoding="utf-8")
    refresh()

    ours = {
        (found.group, found.name): found.entry_point
        for found in installed()
        if found.distribution == "callboard-violet"
    }

    theirs = {}
    for entry in importlib_metadata.Distribution.at(dist_info).entry_points:
        if entry.group in discovery.GROUPS and entry.name and entry.value:
            theirs.setdefault((entry.group, entry.name), entry.value)
    assert ours == theirs


# Loading


def test_a_class_and_a_module_are_loaded(site):
    site.install(
        "callboard-violet",
        plugins={"watch": "cb_violet"},
        callbacks={"violet": "cb_violet:Violet", "dark": "cb_violet : Violet.Dark [x]"},
        modules={"cb_violet": VIOLET_SOURCE},
    )

    assert isinstance(find("watch").load(), types.ModuleType)
    assert find("violet").load().__qualname__ == "Violet"
    assert find("dark").load().__qualname__ == "Violet.Dark"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import cb_no_such_module", "ModuleNotFoundError: No module named 'cb_no_suc"),
        ("raise ValueError('one\\n  two')", "raised ValueError: one two."),
        ("raise RuntimeError", "raised RuntimeError."),
        ("import sys; sys.exit(3)", "raised SystemExit: 3."),
        ("class Violet(:", "raised SyntaxError: invalid syntax"),
        ("class Odd(BaseException): ...\nraise Odd('x')", "raised Odd: x."),
        ("def __getattr__(name): raise OSError('disk')", "raised OSError: disk."),
    ],
)
def test_a_plugin_that_fails_to_load_is_named_with_its_source(site, source, said):
    site.install("callboard-violet", callbacks=VIOLET, modules={"cb_violet": source})

    with pytest.raises(BrokenPluginError) as caught:
        find("violet").load()

    message = str(caught.value)
    assert isinstance(caught.value, CallboardError)
    assert 'callback "violet" of callboard-violet 1.0 (cb_violet:Violet)' in message
    assert said in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_a_missing_attribute_is_named_with_the_nearest_one(site):
    site.install(
        "callboard-violet",
        callbacks={"violet": "cb_violet:Voilet"},
        modules={"cb_violet": VIOLET_SOURCE},
    )

    with pytest.raises(BrokenPluginError) as caught:
        find("violet").load()

    assert 'cb_violet has no "Voilet". Did you mean "Violet"?' in str(caught.value)


@pytest.mark.parametrize("value", ["not a module!", "..up:Violet", ":Violet", "a/b"])
def test_an_entry_point_that_names_no_module_is_broken_when_loaded(site, value):
    site.install("callboard-violet", callbacks={"violet": value})

    with pytest.raises(BrokenPluginError, match="callboard-violet"):
        find("violet").load()


def test_ctrl_c_during_an_import_is_not_taken_for_a_broken_plugin(site):
    source = "raise KeyboardInterrupt"
    site.install("callboard-violet", callbacks=VIOLET, modules={"cb_violet": source})

    with pytest.raises(KeyboardInterrupt):
        find("violet").load()


# Where a thing comes from


def test_a_class_an_instance_and_a_module_lead_back_to_their_entry_points(site):
    site.install(
        "callboard-violet",
        plugins={"watch": "cb_violet"},
        callbacks=VIOLET,
        modules={"cb_violet": VIOLET_SOURCE},
    )
    Violet = find("violet").load()

    assert provenance(Violet) == find("violet")
    assert provenance(Violet()) == find("violet")
    assert provenance(sys.modules["cb_violet"]) == find("watch")


def test_a_class_that_a_package_hands_on_leads_back_too(site):
    site.install(
        "callboard-violet",
        callbacks={"violet": "cb_pack:Violet"},
        modules={
            "cb_pack.__init__": "from cb_pack.inner import Violet",
            "cb_pack.inner": VIOLET_SOURCE,
        },
    )

    assert provenance(find("violet").load()) == find("violet")


def test_provenance_imports_nothing_and_knows_nothing_of_the_users_own(site):
    site.install(
        "callboard-violet", callbacks=VIOLET, modules={"cb_violet": VIOLET_SOURCE}
    )

    class Violet: ...

    assert provenance(Violet) is None
    assert provenance(Violet()) is None
    assert provenance(os) is None
    assert provenance("violet") is None
    assert "cb_violet" not in sys.modules


def test_a_module_leads_to_the_distribution_that_ships_it(site):
    site.install("a-lab", "0.4", modules={"cb_lab.__init__": "", "cb_lab.inner": ""})
    site.install("a-tool", "0.5", modules={"cb_tool": ""})

    assert distribution_of("cb_lab.inner") == ("a-lab", "0.4")
    assert distribution_of("cb_tool") == ("a-tool", "0.5")
    assert distribution_of("pytest")[0] == "pytest"
    assert "cb_lab" not in sys.modules


@pytest.mark.parametrize("name", ["os.path", "__main__", "sys", "cb_nowhere", ""])
def test_what_no_distribution_ships_has_none(site, name):
    assert distribution_of(name) is None


def test_a_users_file_is_not_taken_for_a_distributions_module_of_that_name(
    site, tmp_path, monkeypatch
):
    site.install("a-lab", modules={"cb_lab": ""})
    (tmp_path / "cb_lab.py").touch()

    monkeypatch.syspath_prepend(tmp_path)

    assert distribution_of("cb_lab") is None


def test_damaged_records_do_not_stop_the_search(site):
    (site.install("a-lab", modules={"cb_lab": ""}) / "RECORD").write_bytes(b"\xff")
    site.install("z-lab", modules={"cb_lab": ""})

    assert distribution_of("cb_lab") == ("z-lab", "1.0")


# from callboard.callbacks import ...


def test_a_callback_is_imported_by_its_class_name(site):
    site.install(
        "callboard-violet", callbacks=VIOLET, modules={"cb_violet": VIOLET_SOURCE}
    )

    from callboard.callbacks import Violet

    assert Violet is sys.modules["cb_violet"].Violet
    assert "Violet" in dir(callbacks)


def test_a_wrong_class_name_fails_the_import_with_the_nearest_one(site):
    site.install("callboard-violet", callbacks=VIOLET)

    with pytest.raises(ImportError) as caught:
        from callboard.callbacks import Voilet  # noqa: F401

    assert str(caught.value) == (
        'No installed callback has a class named "Voilet". Did you mean "Violet"?'
    )


def test_a_missing_class_fails_the_import_with_what_to_install(core_with_extras):
    with pytest.raises(ImportError, match="pip install callboard-soft-lilac"):
        from callboard.callbacks import SoftLilacCallback  # noqa: F401


def test_a_wrong_attribute_of_the_module_is_an_attribute_error(site):
    site.install("callboard-violet", callbacks=VIOLET)

    with pytest.raises(AttributeError, match='Did you mean "Violet"'):
        callbacks.Voilet  # noqa: B018
    assert not hasattr(callbacks, "Voilet")
    assert not hasattr(callbacks, "__wrapped__")


def test_a_class_that_two_distributions_offer_fails_the_import_naming_both(site):
    site.install("callboard-violet", callbacks=VIOLET)
    site.install("lilac", callbacks={"other": "cb_lilac:Violet"})

    with pytest.raises(DoubledPluginError, match=r"callboard-violet .* and lilac"):
        from callboard.callbacks import Violet  # noqa: F401


def test_a_broken_callback_fails_the_import_naming_its_distribution(site):
    site.install("callboard-violet", callbacks=VIOLET, modules={"cb_violet": "1 / 0"})

    with pytest.raises(BrokenPluginError, match=r"callboard-violet.*ZeroDivisionError"):
        from callboard.callbacks import Violet  # noqa: F401


def test_a_module_is_not_taken_for_one_of_the_same_name_elsewhere(tmp_path):
    of_pytest = distribution_of("pytest", pytest.__file__)
    mine = tmp_path / "pytest" / "mine.py"

    assert of_pytest == distribution_of("pytest")
    assert distribution_of("pytest.mine", str(mine)) is None
