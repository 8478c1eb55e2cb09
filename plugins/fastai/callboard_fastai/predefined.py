"""fastai's own callbacks: plugins when they are made, fastai's when derived from.

``EarlyStoppingCallback(patience=3)`` makes the plugin of that name. A class derived
from it is written against fastai's attributes and methods, so its base is a class that
has these.
"""

from __future__ import annotations

import inspect
from typing import Any

from callboard_fastai import exports


class Predefined(type):
    """The class of a fastai callback that a plugin of Callboard is the counterpart of.

    Args:
        plugin: The class of the plugin, by its name.
    """

    _plugin_class: str | None

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        plugin: str | None = None,
    ) -> Predefined:
        made = super().__new__(mcs, name, bases, namespace)
        made._plugin_class = plugin
        return made

    def __init__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        plugin: str | None = None,
    ) -> None:
        super().__init__(name, bases, namespace)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls._plugin_class is None:
            return super().__call__(*args, **kwargs)
        native = installed_class(cls._plugin_class)
        if native is None:
            hint = exports.install_hint(cls._plugin_class)
            raise ImportError(f"{cls.__name__} cannot be made: {hint}")
        initialiser: Any = cls.__init__  # type: ignore[misc]
        given = inspect.signature(initialiser).bind(None, *args, **kwargs).arguments
        options = {name: v for name, v in list(given.items())[1:] if name != "kwargs"}
        options |= given.get("kwargs", {})
        if not options.keys() <= inspect.signature(native).parameters.keys():
            return super().__call__(*args, **kwargs)
        return native(**options)

    def __instancecheck__(cls, instance: object) -> bool:
        if super().__instancecheck__(instance):
            return True
        native = (
            None if cls._plugin_class is None else installed_class(cls._plugin_class)
        )
        return native is not None and isinstance(instance, native)


def installed_class(name: str) -> Any:
    """The class of this name that an installed plugin offers, or None."""
    plugin = exports.installed_plugin(name)
    return None if plugin is None else plugin.load()
