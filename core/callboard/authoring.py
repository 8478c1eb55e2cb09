"""Distributions of plugins: how one is laid out, written anew and looked over.

Our own in ``plugins/`` are looked over by the same rules, and their layout is that of
what ``callboard new`` writes.
"""

from __future__ import annotations

import ast
import keyword
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any

from callboard.errors import OptionError

# What is written -> the entry-point group it joins by.
GROUPS: Mapping[str, str] = {
    "callback": "callbacks",
    "plugin": "plugins",
    "module": "callbacks",
    "method": "methods",
    "command": "commands",
}
KINDS: Mapping[str, str] = {
    "callback": "a class that takes part where it is named",
    "plugin": "a class that takes part wherever it is installed; it may only observe",
    "module": "functions in a module, that take part where it is named",
    "method": "a method that every Learner has",
    "command": "a command of the command line",
}
LICENSES = ("Apache-2.0", "BSD-3-Clause", "MIT")
GROUP_NAMES = ("adapters", "callbacks", "commands", "methods", "plugins")
HEADINGS = (
    *("What it does", "Install", "Use", "When it runs", "Options", "Limits"),
    "Source",
)
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PREFIX = "callboard-"
SUMMARIES: Mapping[str, str] = {
    **dict.fromkeys(GROUPS, "Publish the largest training loss of every epoch."),
    "module": "Publish the norm of the weights after every epoch.",
    "method": "Validate and round what is found, as a method.",
    "command": "Count the parameters of a model on the command line.",
}


@dataclass(frozen=True)
class Project:
    """A distribution to be written.

    Attributes:
        name: Of the plugin, in kebab case; the distribution is ``callboard-NAME``.
        kind: One of ``KINDS``.
        license: One of ``LICENSES``.
        author: Who it is by.
        year: Of the licence.
    """

    name: str
    kind: str = "callback"
    license: str = "MIT"
    author: str = ""
    year: int = 2026

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise OptionError(
                "A plugin's name is small letters and digits in words parted by -, "
                f"got {self.name!r}. Write it as {in_kebab_case(self.name)}."
            )
        if self.kind not in KINDS or self.license not in LICENSES:
            raise OptionError(
                f"kind must be one of {', '.join(KINDS)} and license one of "
                f"{', '.join(LICENSES)}, got {self.kind!r} and {self.license!r}."
            )
        identifier = self.identifier
        if keyword.iskeyword(identifier) or identifier in self._identifiers():
            raise OptionError(
                f"{self.name} would be {identifier} in Python, which its code needs "
                f"for something else. Give it another name: {self.name}-{self.kind}."
            )
        if self.kind == "method" and identifier.startswith("test"):
            raise OptionError(
                f"pytest would take {identifier} for a test. Give it another name: "
                f"do-{self.name}."
            )

    @property
    def module(self) -> str:
        """What the module is imported as."""
        return (PREFIX + self.name).replace("-", "_")

    @property
    def identifier(self) -> str:
        """What its class or function is called; of other kinds, its module."""
        if self.kind == "method":
            return self.entry
        if self.kind in ("callback", "plugin"):
            return "".join(word.capitalize() for word in self.name.split("-"))
        return self.module

    @property
    def entry(self) -> str:
        """The name of its entry point; that of a method is an attribute's."""
        return self.name.replace("-", "_") if self.kind == "method" else self.name

    def files(self) -> dict[str, str]:
        """Paths in the project's folder, and what is to stand there."""
        source = {
            "pyproject.toml": "pyproject.toml",
            ".gitignore": "gitignore",
            ".github/workflows/test.yml": "workflow.yml",
            "LICENSE": f"licenses/{self.license}",
            "README.md": f"{self.kind}/README.md",
            f"{self.module}.py": f"{self.kind}/module.py",
            f"tests/test_{self.name.replace('-', '_')}.py": f"{self.kind}/test.py",
            "train.py": "train.py",
        }
        return {path: self._written(template) for path, template in source.items()}

    def _identifiers(self) -> set[str]:
        """What the code calls things by, its own name apart."""
        found = {"self"}
        for template in ("module.py", "test.py"):
            text = _template(f"{self.kind}/{template}").read_text("utf-8")
            for node in ast.walk(ast.parse(text.replace("$", "_"))):
                for attribute in ("id", "arg", "name", "asname"):
                    found.add(getattr(node, attribute, None) or "")
        return found

    def _written(self, template: str) -> str:
        if template.startswith("licenses/Apache"):  # nothing is to be filled in
            return _template(template).read_text("utf-8")
        return Template(_template(template).read_text("utf-8")).substitute(
            name=self.name,
            module=self.module,
            cls=self.identifier,
            entry=self.entry,
            group=GROUPS[self.kind],
            target=self._target(),
            summary=SUMMARIES[self.kind],
            license=self.license,
            author=self.author,
            year=self.year,
            dependencies=", ".join(f'"{each}"' for each in self._dependencies()),
        )

    def _target(self) -> str:
        if self.kind == "module":
            return self.module
        if self.kind == "command":
            return f"{self.module}:command"
        return f"{self.module}:{self.identifier}"

    def _dependencies(self) -> list[str]:
        own = ["callboard>=0.1,<1"]
        return [*own, "click>=8.1"] if self.kind == "command" else own


def _template(name: str) -> Traversable:
    """A template; a plugin is written as a callback where nothing else is said."""
    folder = files("callboard") / "templates"
    found = folder / f"{name}.txt"
    if not found.is_file():
        found = folder / f"callback/{name.rpartition('/')[2]}.txt"
    return found


def in_kebab_case(text: str) -> str:
    """A name that comes near to a text: ``"My Idea"`` gives ``"my-idea"``."""
    text = text.removeprefix(PREFIX).removeprefix("callboard_")
    text = unicodedata.normalize("NFKD", text)  # accents become signs of their own
    text = "".join(sign for sign in text if not unicodedata.combining(sign))
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", text)
    name = "-".join(word.lower() for word in words)
    return name if NAME.fullmatch(name) else "my-idea"


def list_faults(folder: Path) -> list[str]:
    """What is not as it should be in the folder of a distribution, a sentence each."""
    try:
        text = (folder / "pyproject.toml").read_text("utf-8")
        project: Mapping[str, Any] = tomllib.loads(text)["project"]
    except (OSError, KeyError, ValueError) as error:
        return [f"pyproject.toml cannot be read: {type(error).__name__}: {error}"]
    return [*_faults_of_project(project), *_faults_of_files(folder, project)]


def _faults_of_project(project: Mapping[str, Any]) -> Iterator[str]:
    name = str(project.get("name", ""))
    if not NAME.fullmatch(name) or not name.startswith(PREFIX):
        yield f"The distribution's name is {name!r}; it should be callboard-your-idea."
    for key in ("version", "license", "readme", "requires-python"):
        if key not in project:
            yield f"pyproject.toml lacks project.{key}."
    description = str(project.get("description", ""))
    if not re.fullmatch(r"[A-Z].{10,70}\.", description):
        yield (
            "project.description should be one short sentence that begins with a "
            f"capital letter and ends with a full stop, and is {description!r}."
        )
    needed = [str(each) for each in project.get("dependencies", ())]
    if not any(re.match(r"callboard\b(?!-)", each) for each in needed):
        yield 'project.dependencies should name the core: "callboard>=0.1,<1".'
    groups = project.get("entry-points", {})
    known = {f"callboard.{group}" for group in GROUP_NAMES}
    if not known & set(groups):
        yield (
            "No entry point joins Callboard: add "
            '[project.entry-points."callboard.callbacks"].'
        )
    module = name.replace("-", "_")
    for group in sorted(known & set(groups)):
        for entry, target in groups[group].items():
            if str(target).partition(":")[0] != module:
                yield f"{entry} of {group} is {target}; its module should be {module}."


def _faults_of_files(folder: Path, project: Mapping[str, Any]) -> Iterator[str]:
    name = str(project.get("name", ""))
    module = folder / name.replace("-", "_")
    if not module.with_suffix(".py").is_file() and not module.is_dir():
        yield f"There is no module {module.name}.py."
    if not list(folder.glob("tests/test_*.py")):
        yield "There are no tests in tests/test_*.py."
    try:
        readme = (folder / "README.md").read_text("utf-8")
    except (OSError, ValueError) as error:
        yield f"README.md cannot be read: {type(error).__name__}."
        return
    prose = re.sub(r"^```.*?^```", "", readme, flags=re.DOTALL | re.MULTILINE)
    if re.findall(r"^# (.+)$", prose, re.MULTILINE) != [name]:
        yield f"README.md should have one title, # {name}."
    if tuple(re.findall(r"^## (.+)$", prose, re.MULTILINE)) != HEADINGS:
        yield f"README.md should have these sections, in order: {', '.join(HEADINGS)}."
