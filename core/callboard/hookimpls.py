"""The hookimpls of a plugin: found, validated, and bound to a Learner."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from callboard.callback import Callback, check_signature, unknown_event
from callboard.errors import HookSignatureError, UnknownEventError
from callboard.events import EVENTS, PROJECT

if TYPE_CHECKING:
    from callboard.learner import Learner

Call = Callable[[], Any]
OPTIONS = ("wrapper", "hookwrapper", "optionalhook", "tryfirst", "trylast", "specname")


@dataclass(eq=False)
class Hookimpl:
    """One hookimpl of a plugin: the event, the function and pluggy's options."""

    event: str
    function: Callable[..., Any]
    options: dict[str, Any]
    arguments: tuple[str, ...]

    @property
    def is_wrapper(self) -> bool:
        return bool(self.options["wrapper"] or self.options["hookwrapper"])

    def bind(self, learner: Learner) -> Call:
        """A call without arguments; no Python frame is added to the hookimpl's own."""
        if not self.arguments:
            return self.function
        return partial(self.function, learner)


def hookimpls_of(plugin: object, key: str) -> list[Hookimpl]:
    """The hookimpls of a plugin, validated against the hookspecs.

    Raises:
        UnknownEventError: A marked hookimpl has the name of no event.
        HookSignatureError: One asks for what its event does not pass.
    """
    found = []
    for attribute, marker in _candidates(plugin):
        options = dict.fromkeys(OPTIONS, False) | {"specname": None} | marker
        event_name = options["specname"] or attribute
        function = getattr(plugin, attribute)
        if event_name not in EVENTS:
            if options["optionalhook"]:
                continue
            raise UnknownEventError(unknown_event(key, event_name))
        if not inspect.isroutine(function):
            continue
        is_bound = inspect.ismethod(function)
        plain: Any = getattr(function, "__func__", function)
        check_signature(f"{key}.{attribute}", plain, event_name, skip_first=is_bound)
        is_wrapper = options["wrapper"] or options["hookwrapper"]
        if is_wrapper and not inspect.isgeneratorfunction(inspect.unwrap(plain)):
            message = (
                f"{key}.{attribute} is a wrapper and has no `yield`: a wrapper runs "
                "the work at its one `yield` and returns the result."
            )
            raise HookSignatureError(message)
        if event_name == "do_fit" and not is_wrapper:
            message = (
                f"{key}.{attribute} would replace the whole fit; do_fit can only be "
                "wrapped: mark it @hookimpl(wrapper=True) and `yield`."
            )
            raise HookSignatureError(message)
        parameters = tuple(inspect.signature(function).parameters)
        found.append(Hookimpl(event_name, function, options, parameters))
    return found


_marked_methods: dict[type, list[tuple[str, dict[str, Any]]]] = {}


def _candidates(plugin: object) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(plugin, ModuleType):
        return list(_marked(vars(plugin).items()))
    cls = type(plugin)
    if cls not in _marked_methods:
        by_name: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            by_name.update(vars(base))
        is_callback = issubclass(cls, Callback)
        _marked_methods[cls] = list(_marked(by_name.items(), by_name=is_callback))
    own = getattr(plugin, "__dict__", {})
    mine = list(_marked(own.items(), by_name=isinstance(plugin, Callback)))
    replaced = {name for name, _ in mine}
    return [*(c for c in _marked_methods[cls] if c[0] not in replaced), *mine]


def _marked(
    attributes: Iterable[tuple[str, Any]], *, by_name: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in list(attributes):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if not isinstance(value, FunctionType) and not inspect.ismethod(value):
            continue
        marker = getattr(value, f"{PROJECT}_impl", None)
        if marker is not None:
            yield name, dict(marker)
        elif by_name and name in EVENTS:
            yield name, {}
