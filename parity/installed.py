"""The callback classes that the installed fastai has, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def callback_classes() -> list[str]:
    """Names of all classes that derive from fastai's Callback, by their source.

    Importing them would need torchvision and the clients of every logger.
    """
    found = {"Callback"}
    known = list(classes())
    while more := {name for name, bases in known if found & set(bases)} - found:
        found |= more
    return sorted(found - {"Callback"})


def classes() -> Iterator[tuple[str, list[str]]]:
    """Every class in fastai's source, with the names of its bases."""
    spec = find_spec("fastai")
    assert spec is not None
    assert spec.origin is not None
    for file in sorted(Path(spec.origin).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield (
                    node.name,
                    [ast.unparse(base).split(".")[-1] for base in node.bases],
                )
