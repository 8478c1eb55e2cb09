"""What becomes of an installed plugin, and who decided it.

Told from metadata, configuration, environment and command line; no plugin is imported.
"""

from __future__ import annotations

from callboard import discovery
from callboard.configuration import Configuration, normalized
from callboard.discovery import InstalledPlugin

STATUSES = {
    "active": "takes part in every Learner",
    "available": "takes part, or is called, when it is named",
    "disabled": "takes no part",
    "broken": "cannot be used",
}


def status_of(
    installed: InstalledPlugin, configuration: Configuration
) -> tuple[str, str]:
    """Status and reason of an installed plugin, as far as its metadata tells.

    The status is ``active`` (takes part in every Learner), ``available`` (when named),
    ``disabled`` or ``broken``.
    """
    rivals = _rivals(installed)
    if rivals:
        claims = " and ".join(f"{r.distribution} {r.version}" for r in rivals)
        return "broken", f"{claims} claim this name; uninstall all but one"
    if installed.kind == "method":
        return "available", f"learner.{installed.name}()"
    if installed.kind == "command":
        return "available", f"callboard {installed.name}"
    if installed.kind == "adapter":
        return "available", "when such an object is given"
    disabler = configuration.disabler(installed.name)
    if disabler:
        return "disabled", disabler
    if installed.name in dict(configuration.line.with_plugins):
        return "active", f"--with {installed.name}"
    if installed.name in configuration.enabled:
        return "active", configuration.enabled[installed.name]
    if installed.kind == "callback":
        return "available", "when it is named"
    if configuration.autoload_off:
        return "disabled", configuration.autoload_off
    is_allowed = (
        configuration.allow is None
        or normalized(installed.distribution) in configuration.allow
    )
    if not is_allowed:
        return "disabled", f"{configuration.allow_source} does not name it"
    return "active", "installed"


def _rivals(installed: InstalledPlugin) -> tuple[InstalledPlugin, ...]:
    namespace = "plugin" if installed.kind == "callback" else installed.kind
    return discovery.doubled().get((namespace, installed.name), ())


def refused_role(role: str) -> str:
    """Why a plugin of this role may not join by being installed."""
    return (
        f'its role is "{role}"; only observers may join by being installed. '
        "Offer it in the group callboard.callbacks."
    )
