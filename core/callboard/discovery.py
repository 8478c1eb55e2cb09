"""What is installed: every plugin, read from metadata and not imported.

A distribution offers plugins in five entry point groups. Listing them opens
``entry_points.txt`` of each distribution, and more of a distribution only where that
text names one of the groups; code is imported by ``InstalledPlugin.load`` alone.

    for plugin in installed():
        print(plugin.kind, plugin.name, plugin.distribution, plugin.version)

A distribution whose metadata is damaged is left out and told of in ``problems()``.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import NamedTuple

from callboard import metadata
from callboard.errors import (
    BrokenPluginError,
    DoubledPluginError,
    UnknownPluginError,
    suggestion,
)
from callboard.metadata import GROUPS, distribution_of

__all__ = [
    "GROUPS",
    "InstalledPlugin",
    "distribution_of",
    "doubled",
    "find",
    "install_hint",
    "installed",
    "offered_by",
    "problems",
    "provenance",
    "refresh",
    "refuse_rivals",
]


class InstalledPlugin(NamedTuple):
    """One entry point of one installed distribution.

    Attributes:
        name: What users write: ``mixup``.
        kind: ``plugin``, ``callback``, ``method``, ``command`` or ``adapter``.
        entry_point: Where the code is: ``callboard_mixup:MixUp``.
        distribution: What pip installed: ``callboard-mixup``.
        version: Of that distribution.
    """

    name: str
    kind: str
    entry_point: str
    distribution: str
    version: str

    @property
    def group(self) -> str:
        """The entry point group that it stands in."""
        return next(group for group, kind in GROUPS.items() if kind == self.kind)

    @property
    def module(self) -> str:
        """What ``load`` imports: the part of the entry point before the colon."""
        return self._address[0]

    @property
    def attribute(self) -> str:
        """The name in that module, or an empty string for the module itself."""
        return self._address[1]

    @property
    def _address(self) -> tuple[str, str]:
        module, _, attribute = self.entry_point.partition("[")[0].partition(":")
        return module.strip(), attribute.strip()

    def load(self) -> object:
        """Import what the entry point names.

        Raises:
            BrokenPluginError: Whatever went wrong in the import, with that as cause.
        """
        try:
            found: object = importlib.import_module(self.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may also call sys.exit()
            what = f"importing {self.module} raised {_one_line(error)}"
            raise self._broken(what) from error
        for part in filter(None, self.attribute.split(".")):
            found = self._attribute_of(found, part)
        return found

    def _attribute_of(self, owner: object, name: str) -> object:
        try:
            return getattr(owner, name)
        except AttributeError as error:
            what = f'{self.module} has no "{self.attribute}"'
            near = suggestion(name, dir(owner))
            raise self._broken(what, near) from error
        except Exception as error:  # a module's own __getattr__ may import more
            what = f"loading {self.entry_point} raised {_one_line(error)}"
            raise self._broken(what) from error

    def _broken(self, what: str, near: str = "") -> BrokenPluginError:
        return BrokenPluginError(
            f'The {self.kind} "{self.name}" of {self.distribution} {self.version} '
            f"({self.entry_point}) is broken: {what}.{near} "
            f"Repair or uninstall {self.distribution}.",
            f"{what}.{near}",
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def installed() -> tuple[InstalledPlugin, ...]:
    """Every entry point in Callboard's groups, by kind, name and distribution.

    Names that two distributions claim are in it twice; see ``doubled``.
    """
    return _inventory().plugins


def problems() -> tuple[str, ...]:
    """Damaged metadata found while listing, a sentence or two for each place."""
    return _inventory().problems


def doubled() -> Mapping[tuple[str, str], tuple[InstalledPlugin, ...]]:
    """Names that more than one distribution claims, with all who claim them.

    The key is (kind, name). Plugins and callbacks are both plugins of a Learner and
    share their names, so ``("plugin", name)`` stands for the two together.
    """
    return _inventory().doubled


def find(name: str, *kinds: str) -> InstalledPlugin:
    """The installed plugin of this name, of one of ``kinds`` (default: of any).

    Where several kinds have the name, the first of ``kinds`` is meant.

    Raises:
        UnknownPluginError: Nothing of that name is installed; says what is near, and
            which distribution offers it.
        DoubledPluginError: Two distributions claim the name.
    """
    wanted = kinds or tuple(GROUPS.values())
    for kind in wanted:
        claims = _inventory().claims.get((_namespace(kind), name), ())
        if any(plugin.kind == kind for plugin in claims):
            refuse_rivals(name, claims)
            return next(plugin for plugin in claims if plugin.kind == kind)
    raise UnknownPluginError(_why_unknown(name, wanted))


def refuse_rivals(name: str, claims: Sequence[InstalledPlugin]) -> None:
    """Raise DoubledPluginError if ``claims`` come from different distributions."""
    if _are_rivals(claims):
        rivals = " and ".join(
            f"{plugin.distribution} {plugin.version} ({plugin.entry_point})"
            for plugin in sorted(claims, key=lambda claim: claim.distribution)
        )
        raise DoubledPluginError(
            f'Several distributions claim the name "{name}": {rivals}. '
            "Uninstall all but one of them."
        )


def _are_rivals(claims: Sequence[InstalledPlugin]) -> bool:
    return len({plugin.distribution for plugin in claims}) > 1


def _namespace(kind: str) -> str:
    return "plugin" if kind == "callback" else kind


def _why_unknown(name: str, wanted: Sequence[str]) -> str:
    kinds = " or ".join(wanted) if len(wanted) < len(GROUPS) else "plugin"
    for plugin in installed():
        if plugin.name == name:
            source = f"{plugin.distribution} {plugin.version}"
            return f'"{name}" of {source} is a {plugin.kind}, not a {kinds}.'
    known = [plugin.name for plugin in installed() if plugin.kind in wanted]
    hint = install_hint(name) or suggestion(name, [*known, *metadata.names_in_extras()])
    return f'No installed {kinds} is named "{name}".{hint}'


def install_hint(name: str) -> str:
    """A sentence on how to get the plugin or class ``name``, or nothing.

    >>> install_hint("no-such-plugin")
    ''
    """
    distribution = offered_by(name)
    if distribution is None:
        return ""
    if metadata.is_installed(distribution):
        return (
            f" {distribution} is installed and should offer it: "
            f"python -m pip install --force-reinstall {distribution}"
        )
    return f" {distribution} offers it: python -m pip install {distribution}"


def offered_by(name: str) -> str | None:
    """The distribution that offers a plugin, if the core knows one.

    The core knows what its own extras ask for. ``name`` may be the plugin's or its
    class's: ``early-stopping`` and ``EarlyStoppingCallback`` are both found.
    """
    for plugin_name in metadata.names_in_extras():
        if _squeezed(plugin_name) == _squeezed(name):
            return f"{metadata.CORE}-{plugin_name}"
    return None


def _squeezed(name: str) -> str:
    return re.sub(r"[-_.]", "", name).lower().removesuffix("callback")


def provenance(subject: object) -> InstalledPlugin | None:
    """The installed plugin that a class, an instance of it or a module is.

    Nothing is imported: what the user holds is already there, so its name, or the
    place where an imported plugin module keeps it, is enough.
    """
    if isinstance(subject, ModuleType):
        address = (subject.__name__, "")
    else:
        if not isinstance(subject, (type, FunctionType)):
            subject = type(subject)
        address = (subject.__module__, subject.__qualname__)
    offers = _offers(tuple(sys.path))
    for attribute, plugin in offers.get(address[0], ()):
        if attribute == address[1]:
            return plugin
    for name, offered in offers.items():  # a package may hand on its submodule's class
        if (module := sys.modules.get(name)) is not None:
            kept = vars(module)
            for attribute, plugin in offered:
                if attribute and kept.get(attribute) is subject:
                    return plugin
    return None


@lru_cache(maxsize=8)
def _offers(path: tuple[str, ...]) -> dict[str, list[tuple[str, InstalledPlugin]]]:
    """By module, what plugins are in it: their attributes there, and themselves."""
    offers = defaultdict(list)
    for plugin in _inventory_of(path).plugins:
        offers[plugin.module].append((plugin.attribute, plugin))
    return dict(offers)


def refresh() -> None:
    """Forget what was found: something has been installed or removed since."""
    importlib.invalidate_caches()
    metadata.forget()
    _inventory_of.cache_clear()
    _offers.cache_clear()


class _Inventory(NamedTuple):
    """What one ``sys.path`` holds."""

    plugins: tuple[InstalledPlugin, ...]
    problems: tuple[str, ...]
    claims: Mapping[tuple[str, str], tuple[InstalledPlugin, ...]]
    doubled: Mapping[tuple[str, str], tuple[InstalledPlugin, ...]]


def _inventory() -> _Inventory:
    return _inventory_of(tuple(sys.path))


@lru_cache(maxsize=8)
def _inventory_of(path: tuple[str, ...]) -> _Inventory:
    entries, problems = metadata.read_entries()
    plugins = [
        InstalledPlugin(
            name=entry.name,
            kind=GROUPS[entry.group],
            entry_point=entry.value,
            distribution=entry.distribution,
            version=entry.version,
        )
        for entry in entries
    ]
    plugins.sort(key=lambda found: (found.kind, found.name, found.distribution))
    claims = defaultdict(list)
    for plugin in plugins:
        claims[_namespace(plugin.kind), plugin.name].append(plugin)
    return _Inventory(
        plugins=tuple(plugins),
        problems=tuple(problems),
        claims={key: tuple(claim) for key, claim in claims.items()},
        doubled={
            key: tuple(claim) for key, claim in claims.items() if _are_rivals(claim)
        },
    )
