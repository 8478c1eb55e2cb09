"""What the metadata of installed distributions says, read without importing them.

``folders`` finds the distributions. Of each, ``entry_points.txt`` is opened, and more
only where that text names one of Callboard's groups. Damaged metadata becomes a problem
to tell of; the other distributions are read all the same.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from callboard.errors import suggestion
from callboard.folders import Distribution, Distributions, distributions

if TYPE_CHECKING:
    from pathlib import Path

CORE = "callboard"
#: Entry point group -> the kind of thing that its entries name.
GROUPS = {
    "callboard.plugins": "plugin",
    "callboard.callbacks": "callback",
    "callboard.methods": "method",
    "callboard.commands": "command",
    "callboard.adapters": "adapter",
}


class Entry(NamedTuple):
    """One line of an ``entry_points.txt``, and whose it is."""

    group: str
    name: str
    value: str
    distribution: str
    version: str


def read_entries(
    present: Distributions | None = None,
) -> tuple[list[Entry], list[str]]:
    """All entries in Callboard's groups, and the problems met on the way.

    Args:
        present: The distributions to look through. Default: those of ``sys.path``.
    """
    survey = _Survey(distributions() if present is None else present)
    by_name = defaultdict(list)
    for distribution in survey.distributions.all():
        if candidate := survey.read(distribution):
            by_name[normalised(candidate.name)].append(candidate)
    for candidates in by_name.values():
        if winner := survey.first_on_path(candidates):
            survey.list_entries(winner)
    return survey.entries, survey.problems


def names_in_extras() -> tuple[str, ...]:
    """Plugins that the core's extras ask for: ``mixup`` for ``callboard-mixup``."""
    return _names_in_extras(tuple(sys.path))


@lru_cache(maxsize=8)
def _names_in_extras(path: tuple[str, ...]) -> tuple[str, ...]:
    try:
        core = distributions().first(CORE)
        header = _header(core) if core else ""  # a source tree has no metadata
    except (OSError, UnicodeError):
        return ()
    prefix = f"{CORE}-"
    required = [
        normalised(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        for requirement in _values(header, "Requires-Dist")
        if re.search(r"\bextra\s*==", requirement)
    ]
    ours = {name.removeprefix(prefix) for name in required if name.startswith(prefix)}
    return tuple(sorted(ours))


def is_installed(distribution_name: str) -> bool:
    """Whether any version of a distribution is on ``sys.path``."""
    return distributions().first(distribution_name) is not None


def version_of(distribution: Distribution | None) -> str | None:
    """The version that a distribution's metadata tells, or None."""
    if distribution is None:
        return None
    try:
        return _name_and_version(_header(distribution))[1]
    except (OSError, UnicodeError, LookupError):
        return None  # damaged metadata is told of elsewhere


def editable_folders(distribution: Distribution) -> list[Path]:
    """Where the code of an editable install lies, as its ``.pth`` files say."""
    record = distribution.read_text("RECORD") or ""
    pth_files = re.findall(r"^([^/,\n]+\.pth),", record, re.MULTILINE)
    found: list[Path] = []
    for name in pth_files:
        try:
            found += _folders_in(distribution, name)
        except (OSError, UnicodeError):
            continue  # it was taken away
    return found


def missing_requirements(distribution_name: str) -> tuple[str, ...]:
    """Distributions that one asks for in any case and that are not installed.

    pip sees to it that there are none, but for ``--no-deps``. Those that are asked for
    under a condition (an extra, a platform) are left out.
    """
    try:
        distribution = distributions().first(distribution_name)
        header = _header(distribution) if distribution else ""
    except (OSError, UnicodeError):
        return ()  # damaged metadata is told of elsewhere
    names = [
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        for requirement in _values(header, "Requires-Dist")
        if ";" not in requirement
    ]
    return tuple(name for name in names if not is_installed(name))


def distribution_of(
    module_name: str, file: str | None = None
) -> tuple[str, str] | None:
    """Name and version of the distribution that ships a module's top-level package.

    None for the standard library, for scripts and for modules that merely lie in a
    folder of ``sys.path``. Editable installs are known by their ``.pth`` files.

    Args:
        module_name: Its full name.
        file: Where it was imported from, which tells modules of one name apart: many a
            project has a folder of the name ``tests``.
    """
    top = module_name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "__main__":
        return None
    return _distribution_of(top, _root_of(module_name, file), tuple(sys.path))


def _root_of(module_name: str, file: str | None) -> str | None:
    """The folder that a module's top-level package lies in."""
    from pathlib import Path

    if file is None:
        return None
    path = Path(file)
    depth = module_name.count(".") + (path.stem == "__init__")
    return str(path.parents[depth]) if depth < len(path.parents) else None


@lru_cache(maxsize=256)
def _distribution_of(
    top: str, root: str | None, path: tuple[str, ...]
) -> tuple[str, str] | None:
    from pathlib import Path

    folder = _folder_of(top) if root is None else Path(root).resolve()
    if folder is None:
        return None
    for distribution in distributions().all():
        try:
            if _ships(distribution, top, folder):
                return _name_and_version(_header(distribution))
        except (OSError, UnicodeError, LookupError):
            continue  # damaged metadata claims nothing
    return None


def _folder_of(top: str) -> Path | None:
    """Where a top-level module lies; it is looked for and not imported."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module made by hand, no spec
        return None
    if spec is None:
        return None
    from pathlib import Path

    places = [*(spec.submodule_search_locations or ()), spec.origin]
    return Path(places[0]).resolve().parent if places[0] else None


def _ships(distribution: Distribution, top: str, folder: Path) -> bool:
    record = distribution.read_text("RECORD") or ""
    declared = top in (distribution.read_text("top_level.txt") or "").split()
    if _home(distribution) == folder:
        # A search in the text: parsing torch's 13,000 lines takes far longer.
        path = rf"^{re.escape(top)}(/|\.(?!pth,))"
        return declared or bool(re.search(path, record, re.MULTILINE))
    if declared and "__editable__" in record:  # setuptools: an import hook, no folder
        return True
    pth_files = re.findall(r"^([^/,\n]+\.pth),", record, re.MULTILINE)
    return any(folder in _folders_in(distribution, name) for name in pth_files)


def _home(distribution: Distribution) -> Path:
    from pathlib import Path

    return Path(str(distribution.locate_file(""))).resolve()


def _folders_in(distribution: Distribution, pth_file: str) -> list[Path]:
    home = _home(distribution)
    lines = map(str.strip, (home / pth_file).read_text("utf-8").splitlines())
    return [
        (home / line).resolve()
        for line in lines
        if line and not line.startswith(("#", "import "))
    ]


def forget() -> None:
    """Drop what this module remembers about ``sys.path``."""
    _names_in_extras.cache_clear()
    _distribution_of.cache_clear()


class _Candidate(NamedTuple):
    """A distribution that says it has plugins."""

    name: str
    version: str
    folder: object
    entry_points: str


class _Survey:
    """What one pass over all distributions brings together."""

    def __init__(self, distributions: Distributions) -> None:
        self.distributions = distributions
        self.entries: list[Entry] = []
        self.problems: list[str] = []

    def read(self, distribution: Distribution) -> _Candidate | None:
        """A candidate, if the distribution names a group and can be read."""
        folder = distribution.locate_file("")
        try:
            entry_points = distribution.read_text("entry_points.txt")
            if entry_points is None or f"[{CORE}." not in entry_points:
                return None
            name, version = _name_and_version(_header(distribution))
        except (OSError, UnicodeError, LookupError) as error:
            self.problems.append(
                f"A distribution in {folder} is left out, its metadata cannot be "
                f"read: {type(error).__name__}: {error}. Reinstall it."
            )
            return None
        return _Candidate(name, version, folder, entry_points)

    def first_on_path(self, candidates: list[_Candidate]) -> _Candidate | None:
        """The candidate that Python itself finds under this name, if any.

        Of one name, the first on ``sys.path`` is installed. That may be none of the
        candidates, where a version without plugins comes before them.
        """
        first = candidates[0]
        winner = self.distributions.first(first.name)
        if winner is None:
            self.problems.append(
                f"{first.name} {first.version} in {first.folder} is left out, its "
                "metadata folder has another name (an interrupted install?). "
                "Reinstall it."
            )
            return None
        if len(candidates) == 1 and first.folder == winner.locate_file(""):
            return first
        return self.read(winner)

    def list_entries(self, candidate: _Candidate) -> None:
        """Add the candidate's entries, and a problem for each bad line."""
        source = f"{candidate.name} {candidate.version}"
        seen: set[tuple[str, str]] = set()
        for group, line in _lines_by_group(candidate.entry_points):
            name, _, value = (part.strip() for part in line.partition("="))
            if group not in GROUPS:
                self._report_near_miss(group, source)
            elif not (name and value):
                self.problems.append(
                    f"{source} is not listed in full: {line!r} under [{group}] is no "
                    "entry point (name = module:attribute)."
                )
            elif (group, name) in seen:
                self.problems.append(
                    f'{source} names "{name}" twice under [{group}]; '
                    "the first is listed."
                )
            else:
                seen.add((group, name))
                self.entries.append(
                    Entry(group, name, value, candidate.name, candidate.version)
                )

    def _report_near_miss(self, group: str, source: str) -> None:
        """Tell of a misspelt group; other hosts may have groups of this prefix."""
        known = [group.removeprefix(f"{CORE}.") for group in GROUPS]
        near = suggestion(group.removeprefix(f"{CORE}."), known)
        problem = f"{source} is not listed in full: nothing reads [{group}].{near}"
        if near and problem not in self.problems:
            self.problems.append(problem)


def _lines_by_group(entry_points: str) -> Iterator[tuple[str, str]]:
    """(group, line) of Callboard's part of an ``entry_points.txt``.

    Spaces, comments and headings are taken as importlib-metadata takes them.
    """
    group = ""
    for line in map(str.strip, entry_points.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line.strip("[]")
        elif line and not line.startswith("#") and group.startswith(f"{CORE}."):
            yield group, line


def _header(distribution: Distribution) -> str:
    """The fields of METADATA or PKG-INFO, without the description below them.

    email's parser, which ``distribution.version`` starts anew each time, takes longer
    than all else here together.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    return (text or "").partition("\n\n")[0]


def _name_and_version(header: str) -> tuple[str, str]:
    name, version = _values(header, "Name"), _values(header, "Version")
    if not (name and version):
        raise LookupError("METADATA has no name or no version")
    return name[0], version[0]


def _values(header: str, name: str) -> list[str]:
    pattern = rf"^{name}:[ \t]*(\S.*?)[ \t]*$"
    return re.findall(pattern, header, re.MULTILINE | re.IGNORECASE)


def normalised(distribution_name: str) -> str:
    """The form in which two spellings of one distribution's name are equal."""
    return re.sub(r"[-_.]+", "-", distribution_name).lower()
