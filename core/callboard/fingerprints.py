"""The files that code consists of, each with its SHA-256.

Of an installed distribution they are those that its ``RECORD`` names, read as they lie
there now; of an editable one those of its packages where they are developed; of code
that no distribution ships the file alone that it stands in. Metadata and compiled
bytecode are left out. Nothing is imported.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

from callboard.folders import Distribution
from callboard.metadata import editable_folders, version_of

KINDS: Mapping[str, str] = {
    "installed": "from a wheel or a source distribution",
    "editable": "an editable install, whose files may change at any time",
    "file": "code of the user's own, which no distribution ships",
    "unknown": "code without a file, as in a notebook: nothing of it can be compared",
}


@dataclass(frozen=True)
class Code:
    """Where code comes from, and what it is.

    Attributes:
        kind: One of ``KINDS``.
        version: Of the distribution; None where there is none.
        files: SHA-256 by path, as ``"sha256:..."``; None where it is not known.
        edited: Files of an installed distribution that are not what was installed.
    """

    kind: str
    version: str | None = None
    files: Mapping[str, str] | None = None
    edited: tuple[str, ...] = ()


def code_of_distribution(distribution: Distribution, tops: Iterable[str]) -> Code:
    """The files of a distribution as they are now.

    Args:
        distribution: Which.
        tops: Its top-level modules, for where ``RECORD`` does not name its files.
    """
    version = version_of(distribution)
    recorded = dict(_recorded(distribution))
    if recorded:
        home = Path(str(distribution.locate_file("")))
        files = {path: _hash_of(home / path) for path in sorted(recorded)}
        edited = [p for p, was in recorded.items() if was and files[p] != was]
        return Code("installed", version, files, tuple(sorted(edited)))
    folders = editable_folders(distribution)
    places = [place for top in tops for place in _places_of(top, folders)]
    # pip writes this file for editable installs of every build backend.
    address = distribution.read_text("direct_url.json") or ""
    is_editable = bool(folders) or '"editable": true' in address
    found = {name: _hash_of(path) for name, path in _walked(places)}
    return Code("editable" if is_editable else "installed", version, found or None)


def code_of_module(module: ModuleType) -> tuple[str, Code]:
    """A name for code that no distribution ships, and its file."""
    file = getattr(module, "__file__", None)
    if not file or not Path(file).is_file():
        return module.__name__, Code("unknown")
    if module.__name__ == "__main__":
        name = Path(file).name
    else:
        name = module.__name__.replace(".", "/") + Path(file).suffix
    return name, Code("file", None, {name: _hash_of(Path(file))})


def _recorded(distribution: Distribution) -> Iterator[tuple[str, str | None]]:
    """Path and hash, where one is given, of every file of code in ``RECORD``."""
    record = distribution.read_text("RECORD") or ""
    for row in csv.reader(record.splitlines()):
        if not row or not row[0]:
            continue
        path = PurePosixPath(row[0])
        if path.is_absolute() or ".." in path.parts or _is_left_out(path):
            continue
        method, _, digest = row[1].partition("=") if len(row) > 1 else ("", "", "")
        yield row[0], _as_hex(digest) if method == "sha256" else None


def _is_left_out(path: PurePosixPath) -> bool:
    is_metadata = path.parts[0].endswith((".dist-info", ".egg-info", ".data"))
    is_link = path.suffix == ".pth" or path.name.startswith(
        ("__editable__", "_editable")
    )
    return is_metadata or is_link or path.suffix == ".pyc"


def _as_hex(digest: str) -> str | None:
    try:
        padded = digest + "=" * (-len(digest) % 4)
        return f"sha256:{base64.urlsafe_b64decode(padded).hex()}"
    except ValueError:
        return None  # not what a wheel writes: nothing to compare with


def _hash_of(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
    except OSError as error:
        return f"not readable ({type(error).__name__})"


def _places_of(top: str, folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for place in (folder / top, folder / f"{top}.py"):
            if place.exists():
                yield place
                return
    if not folders:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return
        if spec is not None and spec.submodule_search_locations:
            yield from map(Path, spec.submodule_search_locations)
        elif spec is not None and spec.origin:
            yield Path(spec.origin)


def _walked(places: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for place in places:
        if place.is_file():
            yield place.name, place
            continue
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place.parent)
            if path.is_file() and "__pycache__" not in name.parts:
                yield name.as_posix(), path
