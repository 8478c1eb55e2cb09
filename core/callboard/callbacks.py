"""Installed callbacks by class name: ``from callboard.callbacks import MixUp``.

Whatever distribution a callback comes from, it is imported from here, at the moment
when it is asked for. ``dir(callboard.callbacks)`` lists the installed ones.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from callboard.discovery import (
    InstalledPlugin,
    install_hint,
    installed,
    refuse_rivals,
)
from callboard.errors import suggestion


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    claims = [plugin for plugin in _classes() if plugin.attribute == name]
    if not claims:
        raise _unknown(name, sys._getframe(1))
    refuse_rivals(name, claims)
    return claims[0].load()


def __dir__() -> list[str]:
    return sorted({plugin.attribute for plugin in _classes()})


def _classes() -> list[InstalledPlugin]:
    kinds = ("callback", "plugin")
    return [
        plugin for plugin in installed() if plugin.kind in kinds and plugin.attribute
    ]


def _unknown(name: str, asker: FrameType) -> Exception:
    hint = install_hint(name) or suggestion(name, __dir__())
    message = f'No installed callback has a class named "{name}".{hint}'
    if _is_from_import(asker):
        return ImportError(message, name=__name__)
    return AttributeError(message, name=name)


def _is_from_import(asker: FrameType) -> bool:
    """Whether ``asker`` is at ``from callboard.callbacks import ...``.

    Python replaces an AttributeError there by an ImportError without our text, so
    there, and only there, ours has to be an ImportError already.
    """
    import dis

    instruction = asker.f_code.co_code[asker.f_lasti]
    return dis.opname[instruction] == "IMPORT_FROM"
