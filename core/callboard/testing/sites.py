"""Made-up installed distributions: real dist-info folders, written without pip.

    site = Site(tmp_path / "site-packages")
    site.install(
        "callboard-violet",
        callbacks={"violet": "callboard_violet:Violet"},
        modules={"callboard_violet": "class Violet: ..."},
    )
    with site.on_path():
        Learner(..., cbs="violet")

For a process of its own, put ``site.folder`` into its ``PYTHONPATH``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from callboard import discovery

METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: {version}
Summary: Made by a test.
{requires}
A description with a Name: that is none.

Version: 9.9.9 stands in the description, too.
"""


class Site:
    """A folder as pip leaves it, for distributions that a test makes up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_on_path = False
        folder.mkdir(parents=True, exist_ok=True)

    def install(
        self,
        name: str,
        version: str = "1.0",
        *,
        plugins: Mapping[str, str] | None = None,
        callbacks: Mapping[str, str] | None = None,
        methods: Mapping[str, str] | None = None,
        commands: Mapping[str, str] | None = None,
        adapters: Mapping[str, str] | None = None,
        modules: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
    ) -> Path:
        """Write modules and metadata of one distribution; gives its dist-info folder.

        Args:
            name: The distribution's name.
            version: Its version.
            plugins: Entry points in ``callboard.plugins``, by name.
            callbacks: The same in ``callboard.callbacks``.
            methods: The same in ``callboard.methods``.
            commands: The same in ``callboard.commands``.
            adapters: The same in ``callboard.adapters``.
            modules: Source text by module name; dots make packages.
            requires: Values of ``Requires-Dist``.
        """
        files = [self._write_module(*item) for item in (modules or {}).items()]
        groups = {
            "callboard.plugins": plugins,
            "callboard.callbacks": callbacks,
            "callboard.methods": methods,
            "callboard.commands": commands,
            "callboard.adapters": adapters,
        }
        sections = [
            "\n".join([f"[{group}]", *(f"{key} = {entries[key]}" for key in entries)])
            for group, entries in groups.items()
            if entries
        ]
        dist_info = self.dist_info(name, version)
        dist_info.mkdir()
        fields = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        metadata = METADATA.format(name=name, version=version, requires=fields)
        (dist_info / "METADATA").write_text(metadata, encoding="utf-8")
        if sections:
            text = "\n\n".join(sections) + "\n"
            (dist_info / "entry_points.txt").write_text(text, encoding="utf-8")
        written = [*files, *dist_info.iterdir(), dist_info / "RECORD"]
        record = [f"{file.relative_to(self.folder).as_posix()},," for file in written]
        (dist_info / "RECORD").write_text("\n".join(record) + "\n", encoding="utf-8")
        if self._is_on_path:
            discovery.refresh()
        return dist_info

    def install_editable(
        self, name: str, source: Path, *, callbacks: Mapping[str, str]
    ) -> Path:
        """Metadata here, code in ``source``: what ``pip install -e`` leaves."""
        dist_info = self.install(name, callbacks=callbacks)
        pth = self.folder / f"_editable_impl_{name.replace('-', '_')}.pth"
        pth.write_text(f"{source}\n", encoding="utf-8")
        with (dist_info / "RECORD").open("a", encoding="utf-8") as record:
            record.write(f"{pth.name},,\n")
        return dist_info

    @contextmanager
    def on_path(self) -> Iterator[Site]:
        """Let what is here count as installed inside the ``with`` block.

        Modules that were imported from here are forgotten at its end.
        """
        path, modules = sys.path, set(sys.modules)
        sys.path = [str(self.folder), *path]
        self._is_on_path = True
        discovery.refresh()
        try:
            yield self
        finally:
            sys.path, self._is_on_path = path, False
            for name in set(sys.modules) - modules:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if self.folder in Path(file).parents:
                    del sys.modules[name]
            discovery.refresh()

    def dist_info(self, name: str, version: str = "1.0") -> Path:
        """Where the metadata of a distribution is or will be."""
        return self.folder / f"{name.replace('-', '_')}-{version}.dist-info"

    def _write_module(self, name: str, source: str) -> Path:
        file = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        return file
