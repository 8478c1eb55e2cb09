"""The pages of public names; mkdocstrings writes them out from the docstrings.

Public are the names in ``__all__`` of `callboard` and `callboard.testing`, and whatever
the plugins of this repository import from modules of the core: what they need, a
stranger's plugin needs, too.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import callboard
from callboard import testing
from pages.catalogue import ROOT

FIRST = ("Learner", "DataLoaders", "Callback", "hookimpl")


def callboard_reference() -> str:
    """What programs that train import."""
    names = dict.fromkeys([*FIRST, *callboard.__all__])
    blocks = "\n\n".join(block(home_of("callboard", name)) for name in names)
    return f"""# callboard

`from callboard import Learner`: what a program that trains, or a plugin, starts from.
Importing the package imports neither torch nor any plugin.

{blocks}
"""


def testing_reference() -> str:
    """What tests of plugins import."""
    names = [n for n in testing.__all__ if has_docstring("callboard.testing", n)]
    blocks = "\n\n".join(block(home_of("callboard.testing", n)) for n in names)
    return f"""# callboard.testing

`from callboard.testing import tiny_learner`: the kit for tests of plugins.
[How to test a plugin](../guides/test-a-plugin.md) shows it at work.

{blocks}
"""


def authors_reference() -> str:
    """What plugins import beside that, module by module."""
    found = names_that_plugins_use()
    sections = "\n\n".join(
        f"## {module}\n\n" + "\n\n".join(block(f"{module}.{n}", 3) for n in names)
        for module, names in found.items()
    )
    return f"""# For authors of plugins

What plugins of this repository import from modules of the core, and yours may import
too. Everything else in the core is its own business.

{sections}
"""


def block(address: str, level: int = 2) -> str:
    """What tells mkdocstrings to write a name out."""
    return f"::: {address}\n    options:\n      heading_level: {level}"


def home_of(package: str, name: str) -> str:
    """The address of a name where it is defined."""
    found = getattr(import_module(package), name)
    module = getattr(found, "__module__", None) or package
    return f"{module}.{name}" if module.startswith("callboard") else f"{package}.{name}"


def has_docstring(package: str, name: str) -> bool:
    """Whether a name is a class or function that says what it is for."""
    return callable(getattr(import_module(package), name))


def names_that_plugins_use() -> dict[str, list[str]]:
    """By module, the documented names that some plugin imports."""
    modules = defaultdict(set)
    for file in sorted(ROOT.glob("plugins/*/callboard_*")):
        for source in [file] if file.is_file() else sorted(file.rglob("*.py")):
            for module, name in core_imports(source):
                modules[module].add(name)
    public = {m: sorted(documented(m, names)) for m, names in sorted(modules.items())}
    return {module: names for module, names in public.items() if names}


def core_imports(source: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every ``from callboard.module import name`` in a file."""
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if module.startswith("callboard.") and module != "callboard.callbacks":
                yield from ((module, alias.name) for alias in node.names)


def documented(module: str, names: Iterable[str]) -> Iterator[str]:
    """Those of the names that are defined there as classes or functions."""
    found = import_module(module)
    for name in names:
        thing = getattr(found, name, None)
        is_code = isinstance(thing, type) or hasattr(thing, "__code__")
        is_told_elsewhere = name in callboard.__all__ or name in testing.__all__
        if is_code and not is_told_elsewhere and thing.__module__ == module:
            yield name
