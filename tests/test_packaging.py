"""Every distribution of the repository is packaged alike and minds its own business."""

from __future__ import annotations

import ast
import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hatchling.build
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from callboard.authoring import GROUP_NAMES, list_faults

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core" / "callboard"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
ENTRY_POINT_GROUPS = {f"callboard.{name}" for name in GROUP_NAMES}
every_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)


def test_every_folder_of_plugins_is_a_distribution():
    folders = {path for path in ROOT.glob("plugins/*") if not path.name.startswith(".")}

    assert folders == set(PLUGINS)


def test_extra_all_names_every_plugin_of_the_repository():
    extras = project_table(ROOT)["optional-dependencies"]

    assert extras["all"] == sorted(f"{distribution(p)}>=0.1,<1" for p in PLUGINS)


def test_extra_standard_is_part_of_the_extra_all():
    extras = project_table(ROOT)["optional-dependencies"]

    assert extras["standard"] == sorted(extras["standard"])
    assert set(extras["standard"]) <= set(extras["all"])


def test_constraints_pin_only_torch_and_within_what_the_core_asks_for():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    asked = next(r for r in requirements(ROOT) if r.name == "torch")

    assert [pin.name for pin in pins] == ["torch"]
    assert all(spec.version in asked.specifier for spec in pins[0].specifier)


def test_clients_of_trackers_are_what_plugins_depend_on():
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {need for p in PLUGINS for need in project_table(p)["dependencies"]}

    assert set(root["dependency-groups"]["trackers"]) <= needed


def test_core_says_the_version_that_its_metadata_says():
    module = ast.parse((CORE / "__init__.py").read_text())
    assignments = [node for node in module.body if isinstance(node, ast.Assign)]
    values = {ast.unparse(node.targets[0]): node.value for node in assignments}

    assert ast.literal_eval(values["__version__"]) == project_table(ROOT)["version"]


@every_plugin
def test_pyproject_of_a_plugin_follows_the_template(plugin):
    content = tomllib.loads((plugin / "pyproject.toml").read_text())
    core = project_table(ROOT)
    template = {
        "name": distribution(plugin),
        "version": core["version"],
        "readme": "README.md",
        "license": core["license"],
        "requires-python": core["requires-python"],
    }
    own = {"description", "dependencies", "entry-points", "optional-dependencies"}

    project = content["project"]

    assert content.keys() == {"build-system", "project"}
    assert content["build-system"] == tomllib.loads(
        (ROOT / "pyproject.toml").read_text()
    ).get("build-system")
    assert {key: project.get(key) for key in template} == template
    assert project.keys() - template.keys() <= own
    assert re.fullmatch(r"[A-Z].{10,70}\.", project["description"])


@every_plugin
def test_plugin_asks_for_any_core_of_its_major_version(plugin):
    needed = project_table(plugin)["dependencies"]
    ours = {text for text in needed if text.startswith("callboard")}
    siblings = {f"{distribution(path)}>=0.1,<1" for path in PLUGINS if path != plugin}

    assert "callboard>=0.1,<1" in ours
    assert ours <= siblings | {"callboard>=0.1,<1"}


@every_plugin
def test_entry_points_of_a_plugin_name_what_its_module_defines(plugin):
    groups = project_table(plugin)["entry-points"]
    module = ast.parse(module_path(plugin).read_text())
    defined = {
        node.name
        for node in module.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }
    if module_path(plugin).name == "__init__.py":
        defined |= {
            alias.name
            for node in module.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    values = [value for names in groups.values() for value in names.values()]

    assert groups.keys() <= ENTRY_POINT_GROUPS
    assert values
    for value in values:
        module_name, _, attribute = value.partition(":")
        assert module_name == module_name_of(plugin)
        assert attribute in defined


@every_plugin
def test_plugin_keeps_the_rules_of_what_callboard_new_writes(plugin):
    assert list_faults(plugin) == []


@every_plugin
def test_wheel_of_a_plugin_holds_its_module_alone(plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(plugin)

    wheel = zipfile.ZipFile(tmp_path / hatchling.build.build_wheel(str(tmp_path)))

    outside_metadata = [n for n in wheel.namelist() if ".dist-info/" not in n]
    module = module_path(plugin)
    sources = [module] if module.parent == plugin else module.parent.rglob("*.py")
    names = {path.relative_to(plugin).as_posix() for path in sources}
    assert set(outside_metadata) - {f"{module_name_of(plugin)}/py.typed"} == names


def test_wheel_of_the_core_holds_the_package_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sources = {
        path.relative_to(CORE.parent).as_posix()
        for path in CORE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    wheel = zipfile.ZipFile(tmp_path / hatchling.build.build_wheel(str(tmp_path)))

    assert {n for n in wheel.namelist() if ".dist-info/" not in n} == sources
    assert "callboard/py.typed" in sources


def test_sdist_of_the_core_leaves_the_plugins_out(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    file_name = hatchling.build.build_sdist(str(tmp_path))

    with tarfile.open(tmp_path / file_name) as sdist:
        tops = {name.split("/")[1] for name in sdist.getnames()}
    assert tops == {
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "core",
        "pyproject.toml",
    }


def test_core_imports_no_plugin():
    names = {name for path in CORE.rglob("*.py") for name in imported_modules(path)}

    assert [name for name in names if name.startswith("callboard_")] == []


def test_core_declares_all_that_it_imports():
    declared = import_names(requirements(ROOT)) | {"callboard"}
    # The test kit runs inside pytest, which has then been installed by its user.
    paths = [path for path in CORE.rglob("*.py") if "testing" not in path.parts]

    names = {name for path in paths for name in imported_modules(path)}

    assert {top(name) for name in names} - declared - sys.stdlib_module_names == set()


@every_plugin
def test_module_of_a_plugin_imports_at_once_only_what_it_declares(plugin):
    declared = import_names(requirements(plugin)) | {"callboard", "torch"}

    own = module_path(plugin)
    paths = [own] if own.parent == plugin else own.parent.rglob("*.py")
    names = {n for path in paths for n in imported_modules(path, only_at_once=True)}
    declared |= {module_name_of(plugin)}

    assert {top(name) for name in names} - declared - sys.stdlib_module_names == set()


@every_plugin
def test_plugin_uses_only_public_names_of_the_core(plugin):
    private = {
        name
        for path in plugin.rglob("*.py")
        for name in names_of_the_core(path)
        if any(re.match(r"_(?!_)", part) for part in name.split("."))
    }

    assert private == set()


def test_nothing_imports_the_folder_core():
    folders = ["benchmarks", "core", "docs", "examples", "plugins", "tests"]
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]

    guilty = [path for path in paths if "core" in map(top, imported_modules(path))]

    assert guilty == []


def project_table(folder: Path) -> dict[str, Any]:
    """The ``[project]`` table of a folder's pyproject.toml."""
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def requirements(folder: Path) -> list[Requirement]:
    """What a distribution needs besides its extras."""
    return [Requirement(text) for text in project_table(folder)["dependencies"]]


def import_names(needed: list[Requirement]) -> set[str]:
    """The modules that requirements bring; all of ours are named like their module."""
    return {canonicalize_name(need.name).replace("-", "_") for need in needed}


def distribution(plugin: Path) -> str:
    """The name of a plugin's distribution."""
    return f"callboard-{plugin.name}"


def module_name_of(plugin: Path) -> str:
    """What a plugin's module is imported as."""
    return distribution(plugin).replace("-", "_")


def module_path(plugin: Path) -> Path:
    """The one module of a plugin, or the ``__init__.py`` of its package."""
    module = plugin / f"{module_name_of(plugin)}.py"
    return module if module.exists() else module.with_suffix("") / "__init__.py"


def imported_modules(path: Path, *, only_at_once: bool = False) -> set[str]:
    """Modules that a file imports, but for ``if TYPE_CHECKING`` and ``try`` blocks.

    Args:
        path: The file.
        only_at_once: Leave out what is imported inside functions.
    """
    return {
        module
        for node in statements(
            ast.parse(path.read_text()), into_functions=not only_at_once
        )
        for module in modules_of(node)
    }


def statements(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    """All nodes that run unconditionally when a module, or its functions, run."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(
            child.test
        )
        if isinstance(child, ast.Try) or is_for_types:
            continue
        if is_function and not into_functions:
            continue
        yield child
        yield from statements(child, into_functions=into_functions)


def modules_of(node: ast.AST) -> list[str]:
    """Modules that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def names_of_the_core(path: Path) -> Iterator[str]:
    """Names of the core that a file imports, and attributes of the Learner it reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and top(node.module or "") == "callboard":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if top(a.name) == "callboard")
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner.split(".")[-1] in {"learn", "learner"} or owner == "callboard":
                yield f"{owner}.{node.attr}"


def top(module: str) -> str:
    """The first part of a dotted name."""
    return module.partition(".")[0]
