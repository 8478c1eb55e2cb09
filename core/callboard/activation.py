"""From names, classes, instances and configuration to the active plugins of a Learner.

Automatic plugins come first, then what the configuration enables, then the Learner's
``cbs``, then ``--with``. A plugin that somebody gave replaces the automatic one of the
same name, one in ``cbs`` that of the configuration, one of the command line both. What
is disabled stays out, by whatever way it was asked for.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from callboard import discovery
from callboard.adapters import Adapter, adapted
from callboard.callback import (
    ROLES,
    STAGES,
    Callback,
    Ranks,
    kebab_case,
    ranks_of,
)
from callboard.configuration import Configuration
from callboard.discovery import InstalledPlugin
from callboard.errors import (
    ActivationError,
    BrokenPluginError,
    CallboardError,
    CallboardWarning,
    OptionError,
    suggestion,
)
from callboard.hookimpls import hookimpls_of
from callboard.options import check_options, options_of
from callboard.ordering import Constraint, Node, Order, solve
from callboard.status import refused_role, status_of
from callboard.verdicts import remember_failure

DECLARATIONS = ("run_before", "run_after", "requires", "conflicts_with")


@dataclass(eq=False)
class ActivePlugin:
    """A plugin that takes part in one Learner.

    Attributes:
        plugin: The callback, module or object with hookimpls.
        name: What it is called; several instances of one plugin share it.
        key: What it alone is called in this Learner: the name, or ``name-2``.
        reason: Why it is active: who asked for it.
        installed: The entry point it comes from, or None for code of the user's own.
        sequence: Its place in the sequence in which plugins were given.
        is_automatic: Whether it joined by being installed.
        is_command_line: Whether the command line named it.
        is_here: Whether it runs in this process, one of several.
        has_failed: Whether it is an observer that was switched off in this fit.
        has_taken_part: Whether it was switched on at any moment of this fit.
    """

    plugin: Any
    name: str
    key: str
    reason: str
    installed: InstalledPlugin | None
    sequence: int = 0
    is_automatic: bool = False
    is_command_line: bool = False
    is_here: bool = True
    has_failed: bool = False
    has_taken_part: bool = False

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if isinstance(self.plugin, ModuleType):  # goes by its name
            state["plugin"], state["module"] = None, self.plugin.__name__
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        own = {key: value for key, value in state.items() if key != "module"}
        vars(self).update(own)
        if "module" in state:
            self.plugin = import_module(state["module"])

    @property
    def subject(self) -> Any:
        """What the user gave: the plugin, or the object that it is an adapter of."""
        is_adapter = isinstance(self.plugin, Adapter)
        return self.plugin.subject if is_adapter else self.plugin

    @property
    def role(self) -> str:
        return str(getattr(self.plugin, "role", "modify"))

    @property
    def order(self) -> float:
        order = getattr(self.plugin, "order", 0)
        if not isinstance(order, int | float):
            raise ActivationError(
                f"{self.label}: order must be a number, got {order!r}."
            )
        return float(order)

    @property
    def stages(self) -> tuple[str, ...]:
        stages = getattr(self.plugin, "stages", ("fit",))
        return (stages,) if isinstance(stages, str) else tuple(stages)

    @property
    def ranks(self) -> Ranks:
        """In which of several processes it runs: ``"main"`` or ``"all"``."""
        return ranks_of(self.plugin, self.role)

    def switch(self, name: str) -> bool:
        """``run``, ``run_train`` or ``run_valid``; none is on where it is not here."""
        return self.is_here and bool(getattr(self.plugin, name, True))

    def targets(self, declaration: str) -> tuple[str | type, ...]:
        """What ``run_before``, ``run_after``, ``requires`` or ``conflicts_with`` name.

        Raises:
            ActivationError: It names something else than names and classes.
        """
        declared = getattr(self.plugin, declaration, ()) or ()
        if isinstance(declared, str | type):
            return (declared,)
        targets = tuple(declared) if isinstance(declared, Iterable) else (declared,)
        for target in targets:
            if not isinstance(target, str | type):
                raise ActivationError(
                    f"{self.label}: {declaration} must name plugins or their classes, "
                    f"got {target!r}."
                )
        return targets

    def why_not_with(self, target: str | type) -> str:
        """Why it conflicts with what it names; empty where it does not say."""
        declared = getattr(self.plugin, "conflicts_with", ())
        return str(declared[target]) if isinstance(declared, Mapping) else ""

    def check_declarations(self) -> None:
        """Raise ActivationError where a constraint, a stage or ``order`` is none."""
        for declaration in DECLARATIONS:
            self.targets(declaration)
        for stage in self.stages:
            if stage not in STAGES:
                known = ", ".join(f'"{each}"' for each in STAGES)
                raise ActivationError(
                    f"{self.label}: stages may name {known}, and names {stage!r}."
                    + suggestion(str(stage), STAGES)
                )
        _ = self.order

    @property
    def origin(self) -> tuple[str, str]:
        """Distribution and version, or where the user's own code stands, and ""."""
        if self.installed is not None:
            return self.installed.distribution, self.installed.version
        subject = self.subject
        if not isinstance(subject, ModuleType):
            subject = sys.modules.get(type(subject).__module__)
        name = getattr(subject, "__name__", "")
        file = getattr(subject, "__file__", None)
        shipped = discovery.distribution_of(name, file)
        if shipped is not None:
            return shipped
        return (Path(file).name if file else "your code", "")

    @property
    def label(self) -> str:
        """Key, distribution and version, for messages."""
        return f"{self.key} ({' '.join(part for part in self.origin if part)})"


def is_plugin(candidate: object) -> bool:
    """Whether this object could take part: a callback, or one with hookimpls."""
    return isinstance(candidate, Callback) or bool(hookimpls_of(candidate, "plugin"))


def as_sequence(cbs: Any) -> list[Any]:
    """One callback or many, as a list."""
    if cbs is None:
        return []
    is_one = isinstance(cbs, str | type | Callback | Mapping)
    is_many = isinstance(cbs, Iterable) and not is_one
    return list(cbs) if is_many else [cbs]


def resolve(request: Any, reason: str, configuration: Configuration) -> ActivePlugin:
    """The plugin that an instance, class, module or name asks for.

    Raises:
        UnknownPluginError, DoubledPluginError, BrokenPluginError: No such name, two of
            it, or one that cannot be imported.
        OptionError: It cannot be made with the options that it was given.
        ActivationError: The request is nothing that could be a plugin.
    """
    if isinstance(request, str):
        return _from_name(request, reason, configuration, {})
    if isinstance(request, type):
        installed = discovery.provenance(request)
        plugin = _make(request, _name_of_class(request, installed), configuration)
    else:
        plugin = request
        installed = discovery.provenance(request)
    return member_of(adapted(plugin), reason, installed)


def _name_of_class(cls: type, installed: InstalledPlugin | None) -> str:
    name = installed.name if installed else getattr(cls, "name", "")
    return name if isinstance(name, str) and name else kebab_case(cls.__name__)


def member_of(
    plugin: Any, reason: str, installed: InstalledPlugin | None
) -> ActivePlugin:
    """An active plugin, not yet added to a Learner."""
    if not isinstance(plugin, Callback) and not hookimpls_of(plugin, _name_of(plugin)):
        raise ActivationError(
            f"{reason}: {_described(plugin)} is no plugin: it is neither a Callback "
            "nor has it a function marked @hookimpl. Give a callback, its class, a "
            "module with hookimpls or the name of an installed plugin."
        )
    role = getattr(plugin, "role", "modify")
    if role not in ROLES:
        raise ActivationError(
            f"{_described(plugin)}: role must be one of {', '.join(ROLES)}, "
            f"got {role!r}."
        )
    name = installed.name if installed else _name_of(plugin)
    if isinstance(plugin, Callback) and installed and plugin.name != name:
        plugin.name = name
    member = ActivePlugin(plugin, name, name, reason, installed)
    member.check_declarations()
    return member


def _described(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return f"the module {plugin.__name__}"
    return f"{type(plugin).__name__} {plugin!r}"


def _name_of(plugin: Any) -> str:
    if isinstance(plugin, ModuleType):
        file = getattr(plugin, "__file__", None) or ""
        is_script = plugin.__name__ == "__main__"
        stem = Path(file).stem if is_script else plugin.__name__.rpartition(".")[2]
        return str(vars(plugin).get("name") or kebab_case(stem or "main"))
    name = getattr(plugin, "name", None)
    return name if isinstance(name, str) and name else kebab_case(type(plugin).__name__)


def _from_name(
    name: str, reason: str, configuration: Configuration, options: Mapping[str, Any]
) -> ActivePlugin:
    installed = discovery.find(name, "callback", "plugin")
    loaded = installed.load()
    if isinstance(loaded, type):
        loaded = _make(loaded, name, configuration, options, reason)
    elif options:
        raise OptionError(f"{reason}: {name} is a module and takes no options.")
    return member_of(loaded, reason, installed)


def _make(
    cls: type,
    name: str,
    configuration: Configuration,
    options: Mapping[str, Any] | None = None,
    reason: str = "",
) -> Any:
    configured = configuration.options.get(name, {})
    known = options_of(cls)
    checked: dict[str, Any] = {}
    sources = ((configuration.options_source, configured), (reason, options or {}))
    for source, given in sources:
        if given:
            checked |= check_options(name, known, given, source, is_complete=False)
    missing = [str(o) for o in known if o.is_required and o.name not in checked]
    if missing:
        raise OptionError(
            f"{name} cannot be made without {'; '.join(missing)}: give "
            f"cbs=[{cls.__name__}({missing[0].partition(':')[0]}=...)], or the option "
            f"as --with {name}:{missing[0].partition(':')[0]}=..."
        )
    return cls(**checked)


def automatic(configuration: Configuration) -> Iterator[ActivePlugin]:
    """The installed plugins that take part in every Learner.

    One that is broken is warned about and left out; it never stops the others.
    """
    for installed in discovery.installed():
        if installed.kind != "plugin":
            continue
        status, reason = status_of(installed, configuration)
        if status == "broken":
            _warn_of_absence(installed, reason)
        if status != "active":
            continue
        try:
            yield automatic_member(installed, configuration)
        except CallboardError as error:
            remember_failure(installed, error)
            _warn_of_absence(installed, getattr(error, "reason", str(error)))


def _warn_of_absence(installed: InstalledPlugin, why: str) -> None:
    warnings.warn(
        f"{installed.name} ({installed.distribution} {installed.version}) is "
        f"installed but takes no part: {why.rstrip('.')}. Repair or uninstall "
        f"{installed.distribution}.",
        CallboardWarning,
        stacklevel=5,
    )


def automatic_member(
    installed: InstalledPlugin, configuration: Configuration
) -> ActivePlugin:
    """An automatic plugin, made and checked, not yet added to a Learner.

    Raises:
        BrokenPluginError: It cannot be used, or is no observer.
        CallboardError: Its hookimpls or its configured options are wrong.
    """
    loaded: Any = installed.load()
    try:
        if isinstance(loaded, type):
            loaded = _make(loaded, installed.name, configuration)
        member = member_of(loaded, "installed", installed)
        hookimpls_of(loaded, installed.name)
    except CallboardError:
        raise
    except Exception as error:
        message = f"making it raised {type(error).__name__}: {error}"
        raise BrokenPluginError(message) from error
    if member.role != "observe":
        raise BrokenPluginError(refused_role(member.role))
    member.is_automatic = True
    return member


def activate(cbs: Any, configuration: Configuration) -> list[ActivePlugin]:
    """The active plugins of a new Learner, with keys, in the sequence they were given.

    Raises:
        CallboardError: One that was asked for cannot take part.
    """
    members = list(automatic(configuration))
    given = [
        resolve(cb, "cbs", configuration)
        for cb in as_sequence(cbs)
        if not (isinstance(cb, str) and configuration.disabler(cb))
    ]
    by_program = {member.name for member in given}
    requested = [
        _enabled(name, source, configuration)
        for name, source in configuration.enabled.items()
        if name not in by_program and not configuration.disabler(name)
    ]
    requested += given
    line = []
    for name, options in configuration.line.with_plugins:
        member = _from_name(name, f"--with {name}", configuration, options)
        member.is_command_line = True
        line.append(member)
    by_line = {member.name for member in line}
    requested = [m for m in requested if m.name not in by_line] + line
    return joined(members, requested, configuration)


def _enabled(name: str, source: str, configuration: Configuration) -> ActivePlugin:
    """The plugin that a file enables."""
    try:
        return _from_name(name, source, configuration, {})
    except CallboardError as error:
        error.add_note(f"callboard: {source} names {name}")
        raise


def joined(
    members: Sequence[ActivePlugin],
    added: Sequence[ActivePlugin],
    configuration: Configuration,
) -> list[ActivePlugin]:
    """Members with others added.

    They get keys; automatic ones are replaced, disabled ones left out.

    Raises:
        ActivationError: One object twice, a plugin that another conflicts with, or one
            whose requirement is not active.
    """
    added = [m for m in added if not configuration.disabler(m.key, m.name)]
    kept = [m for m in members if not _is_replaced(m, added)]
    subjects = {id(member.subject) for member in kept}
    keys = {member.key for member in kept}
    first_free = 1 + max((member.sequence for member in kept), default=-1)
    for sequence, member in enumerate(added, first_free):
        if id(member.subject) in subjects:
            raise ActivationError(
                f"{member.label} was added twice: one object can take part once. Make "
                "a second instance where you want two."
            )
        member.sequence = sequence
        member.key = _free_key(member.name, keys)
        subjects.add(id(member.subject))
        keys.add(member.key)
        kept.append(member)
    kept = list(_without_unmet_automatic(kept))
    check_requirements(kept, configuration)
    return kept


def rejoined(
    members: Sequence[ActivePlugin], returning: Sequence[ActivePlugin]
) -> list[ActivePlugin]:
    """Members and some that were out for a while, in the sequence they were given.

    One whose key was taken meanwhile gets another.
    """
    together = list(members)
    for member in returning:
        member.key = _free_key(member.key, {other.key for other in together})
        together.append(member)
    return sorted(together, key=lambda m: m.sequence)


def _is_replaced(member: ActivePlugin, added: Iterable[ActivePlugin]) -> bool:
    if not member.is_automatic:
        return False
    is_class = isinstance(member.plugin, Callback)
    return any(
        other.name == member.name
        or (is_class and isinstance(other.plugin, type(member.plugin)))
        for other in added
    )


def _free_key(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def _without_unmet_automatic(members: list[ActivePlugin]) -> list[ActivePlugin]:
    """Leave out automatic plugins whose requirement is not active."""
    while True:
        unmet = [
            m
            for m in members
            if m.is_automatic
            and any(not matching(members, t) for t in m.targets("requires"))
        ]
        if not unmet:
            return members
        members = [m for m in members if m not in unmet]


def check_requirements(
    members: Sequence[ActivePlugin], configuration: Configuration
) -> None:
    """Check ``requires`` and ``conflicts_with`` of plugins that take part together.

    Raises:
        ActivationError: A requirement is not active, or two conflict.
    """
    for member in members:
        for target in member.targets("requires"):
            if not matching(members, target):
                raise ActivationError(_unmet(member, target, configuration))
        for target in member.targets("conflicts_with"):
            for other in matching(members, target):
                if other is not member:
                    raise ActivationError(_clash(member, target, other))


def _clash(member: ActivePlugin, target: str | type, other: ActivePlugin) -> str:
    why = member.why_not_with(target).rstrip(".")
    return (
        f"{member.label} declares that it conflicts with {other.label}"
        f"{why and f', since {why}'}, and both were asked for ({member.reason}; "
        f"{other.reason}). Leave one of them out."
    )


def _unmet(
    member: ActivePlugin, target: str | type, configuration: Configuration
) -> str:
    name = target if isinstance(target, str) else kebab_case(target.__name__)
    what = f"{member.label} requires {name!r}, which is not active"
    disabler = configuration.disabler(name)
    if disabler:
        return f"{what}: it is disabled by {disabler}."
    found = [p for p in discovery.installed() if p.name == name]
    if not found:
        hint = discovery.install_hint(name)
        return f"{what} and not installed.{hint}"
    status, reason = status_of(found[0], configuration)
    why = f": {reason}" if status == "disabled" else ""
    return f'{what}{why}. Name it too: cbs=["{name}", ...].'


def order_of(members: Iterable[ActivePlugin]) -> Order:
    """Solve the constraints of these plugins."""
    members = list(members)
    nodes = [Node(m.key, m.order, m.sequence) for m in members]
    return solve(nodes, constraints_of(members))


def constraints_of(members: Iterable[ActivePlugin]) -> Iterator[Constraint]:
    """The edges that these plugins declare towards each other."""
    members = list(members)
    index = _Index(members)
    for member in members:
        for target in member.targets("run_before"):
            for other in index.matching(target):
                if other is not member:
                    yield Constraint(member.key, other.key, member.key, "run_before")
        for target in member.targets("run_after"):
            for other in index.matching(target):
                if other is not member:
                    yield Constraint(other.key, member.key, member.key, "run_after")


@dataclass
class _Index:
    """Finds the active plugins that a name or class means."""

    members: list[ActivePlugin]
    by_name: dict[str, list[ActivePlugin]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for member in self.members:
            for name in {member.key, member.name}:
                self.by_name.setdefault(name, []).append(member)

    def matching(self, target: str | type) -> list[ActivePlugin]:
        if isinstance(target, str):
            return self.by_name.get(target, [])
        return [m for m in self.members if isinstance(m.subject, target)]


def matching(members: Iterable[ActivePlugin], target: str | type) -> list[ActivePlugin]:
    """The active plugins that a name or class in a declaration means."""
    return _Index(list(members)).matching(target)
