"""What a plugin needs to be tried out, as its author says it.

Most plugins need nothing: they are made with the defaults of their options and tried in
a tiny Learner. One that needs more says so in the module that its entry point names, by
a function without arguments that is called ``callboard_specimens``:

    def callboard_specimens():
        from callboard.testing import Specimen

        return {"cutmix": Specimen(learner="images")}

Keys are names of entry points. The kit is imported inside the function, so that it is
needed by nobody who trains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from callboard import Learner
from callboard.discovery import InstalledPlugin
from callboard.errors import BrokenPluginError
from callboard.testing.learners import KINDS

HOOK = "callboard_specimens"


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """What a plugin needs to be tried out.

    Attributes:
        make: Makes a new instance. Default: the class, with its options' defaults.
        learner: The Learner that it is tried in: a kind of ``tiny_learner``, or a
            function that takes ``cbs`` and ``path`` and makes one that is the same in
            every call and fits in milliseconds.
        companions: Names of plugins that take part too, in the plain run as well.
        run: What is done with the Learner. Default: ``learner.fit(2)``; for a method,
            the method, with 2 for every whole number that it asks for.
        needs: Modules without which it cannot be tried, such as the client of a service
            that only its users install.
        is_slow: Whether a run takes long, since it draws or waits for the disk; then
            only some of the mishaps are tried.
        ignore: Keys in its state that are never the same twice, such as the name of a
            run; times are left out by themselves (``time``, ``seconds``).
        leaves: What of the process the client of a service changes for good, in the
            words of the rule ``removable``: ``the environment``, ``sys.excepthook``.
        exempt: Name of a rule -> why the plugin does not keep it. The reason is shown.
    """

    make: Callable[[], Any] | None = None
    learner: str | Callable[..., Learner] = "classification"
    companions: Sequence[str] = ()
    run: Callable[[Learner], object] | None = None
    needs: Sequence[str] = ()
    is_slow: bool = False
    ignore: Sequence[str] = ()
    leaves: Sequence[str] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.learner, str) and self.learner not in KINDS:
            known = ", ".join(KINDS)
            raise BrokenPluginError(
                f"Specimen: learner must be one of {known}, or a function that makes "
                f"a Learner, got {self.learner!r}."
            )


def specimen_of(installed: InstalledPlugin) -> Specimen:
    """What an installed plugin says that it needs; the usual where it says nothing.

    Raises:
        BrokenPluginError: It says it in a way that nobody understands.
    """
    loaded = installed.load()
    told = getattr(sys.modules[installed.module], HOOK, None)
    if told is None and isinstance(home := getattr(loaded, "__module__", None), str):
        # A package may hand on a class of its submodule.
        told = getattr(sys.modules.get(home), HOOK, None)
    if told is None:
        return Specimen()
    try:
        specimens = told() if callable(told) else told
    except Exception as error:
        raise BrokenPluginError(
            f"{HOOK} of {installed.module} raised {type(error).__name__}: {error}."
        ) from error
    if not isinstance(specimens, Mapping):
        raise BrokenPluginError(
            f"{HOOK} of {installed.module} must return a mapping of plugin names to "
            f"Specimen, got {type(specimens).__name__}."
        )
    specimen = specimens.get(installed.name, Specimen())
    if not isinstance(specimen, Specimen):
        raise BrokenPluginError(
            f"{HOOK} of {installed.module} gives {type(specimen).__name__} for "
            f'"{installed.name}" where a Specimen belongs.'
        )
    return specimen
