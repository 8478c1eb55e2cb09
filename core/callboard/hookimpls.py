"""The hookimpls of a plugin: found, validated, and bound to a Learner."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from callboard.callback import Callback, check_signature, unknown_event
from callboard.errors import HookSignatureError, UnknownEventError
from callboard.events import EVENTS, PROJECT

if TYPE_CHECKING:
    from callboard.learner import Learner

Call = Callable[[], Any]
# Events that end or begin things: an error in one plugin must not skip the others.
FIRED_ONE_BY_ONE = ("after_create", "on_exception", "teardown")
OPTIONS = ("wrapper", "hookwrapper", "optionalhook", "tryfirst", "trylast", "specname")


@dataclass(eq=False)
class Hookimpl:
    """One hookimpl of a plugin: the event, the function and pluggy's options.

    Attributes:
        event: The event that it implements.
        function: The plugin's own function.
        options: pluggy's options.
        arguments: What it asks for.
        is_wrapper: Whether it runs around the others.
        watched: What is called in its place by who looks on; None where nobody does.
    """

    event: str
    function: Callable[..., Any]
    options: dict[str, Any]
    arguments: tuple[str, ...]
    watched: Callable[..., Any] | None = None
    is_wrapper: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_wrapper = bool(self.options["wrapper"] or self.options["hookwrapper"])

    @property
    def called(self) -> Callable[..., Any]:
        """What the loop calls."""
        return self.function if self.watched is None else self.watched

    def bind(self, learner: Learner) -> Call:
        """A call without arguments; no Python frame is added to the hookimpl's own."""
        if not self.arguments:
            return self.called
        if isinstance(self.called, FunctionType):  # Python calls it without a detour
            return MethodType(self.called, learner)
        return partial(self.called, learner)


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
        where = f"{key}.{attribute}"
        arguments = _checked_arguments(where, event_name, function, options)
        found.append(Hookimpl(event_name, function, options, arguments))
    return found


# What each function asks for, by what it was found valid as: to look into a signature
# takes longer than all else about a plugin. Weak, so that no function is kept.
_valid: WeakKeyDictionary[FunctionType, dict[tuple[object, ...], tuple[str, ...]]]
_valid = WeakKeyDictionary()


def _checked_arguments(
    where: str,
    event_name: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
) -> tuple[str, ...]:
    """What a hookimpl asks for, once it is known to be a good one."""
    plain: Any = getattr(function, "__func__", function)
    is_bound = plain is not function
    known = _valid.setdefault(plain, {}) if isinstance(plain, FunctionType) else {}
    valid_as = event_name, is_bound, options["wrapper"], options["hookwrapper"]
    if valid_as not in known:
        check_signature(where, plain, event_name, skip_first=is_bound)
        _check_kind(where, event_name, plain, options)
        known[valid_as] = tuple(
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD
        )
    return known[valid_as]


def _check_kind(
    where: str, event_name: str, function: Any, options: Mapping[str, Any]
) -> None:
    """Check that what is marked as a wrapper is one, where there can be one."""
    is_wrapper = options["wrapper"] or options["hookwrapper"]
    has_yield = inspect.isgeneratorfunction(inspect.unwrap(function))
    problem = ""
    if is_wrapper and not has_yield:
        problem = (
            "is a wrapper and has no `yield`: a wrapper runs the work at its one "
            "`yield` and returns the result."
        )
    elif has_yield and not is_wrapper:
        problem = (
            "has a `yield` and would never run: mark it @hookimpl(wrapper=True) to "
            "wrap what happens, or return instead."
        )
    elif event_name == "do_fit" and not options["wrapper"]:
        problem = (
            "would replace the whole fit; do_fit can only be wrapped: mark it "
            "@hookimpl(wrapper=True) and `yield`."
        )
    elif is_wrapper and event_name in FIRED_ONE_BY_ONE:
        problem = (
            "is a wrapper, but this event is fired for one plugin after the other; "
            "write it without `wrapper`."
        )
    elif inspect.iscoroutinefunction(inspect.unwrap(function)):
        problem = "is `async`, and nobody awaits it: write it as a plain function."
    if problem:
        raise HookSignatureError(f"{where} {problem}")


# Weak, so that a class made inside a function is not kept with all it closes over.
_marked_methods: WeakKeyDictionary[type, list[tuple[str, dict[str, Any]]]]
_marked_methods = WeakKeyDictionary()


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
