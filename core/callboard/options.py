"""Options of a plugin: the arguments of its class, with types and defaults.

Values from files and the command line are checked against the annotations by pydantic
before the class sees them, so that a wrong one is refused with the plugin's and the
option's name.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from callboard.errors import OptionError, suggestion

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option of a plugin.

    Attributes:
        name: Its name.
        annotation: Its type, or ``inspect.Parameter.empty``.
        default: Its default, or ``inspect.Parameter.empty`` where it must be given.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED

    @property
    def type_in_words(self) -> str:
        """The annotation as people write it, ``any`` without one."""
        if self.annotation is REQUIRED:
            return "any"
        return _in_words(self.annotation)

    def __str__(self) -> str:
        default = "" if self.is_required else f" = {self.default!r}"
        return f"{self.name}: {self.type_in_words}{default}"


def _in_words(annotation: Any) -> str:
    """``'min' | None`` where Python says ``typing.Optional[Literal['min']]``."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return " | ".join(map(_in_words, get_args(annotation)))
    if origin is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if annotation is NoneType:
        return "None"
    if isinstance(annotation, str):
        return annotation
    text = inspect.formatannotation(annotation)
    return re.sub(r"\b(typing|collections\.abc)\.", "", text)


def options_of(plugin: Any) -> tuple[Option, ...]:
    """The options of a plugin class; a module or an instance has none."""
    if not isinstance(plugin, type):
        return ()
    initializer: Any = vars(plugin).get("__init__", plugin.__init__)  # type: ignore[misc]
    return _parameters(initializer, skip_first=True)


def parameters_of(function: Any, *, skip_first: bool = False) -> tuple[Option, ...]:
    """The named parameters of a function, as options."""
    return _parameters(function, skip_first=skip_first)


def _parameters(function: Any, *, skip_first: bool) -> tuple[Option, ...]:
    parameters = list(inspect.signature(function).parameters.values())
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # an annotation may name what is only there for a type checker
        hints = {}
    return tuple(
        Option(p.name, hints.get(p.name, p.annotation), p.default)
        for p in parameters[1 if skip_first else 0 :]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )


def check_options(
    owner: str,
    options: tuple[Option, ...],
    given: Mapping[str, Any],
    source: str,
    *,
    is_complete: bool = True,
) -> dict[str, Any]:
    """The given options with their values as their types want them.

    Text is read as the type asks: ``"0.3"`` for a float, ``"true"`` for a bool,
    ``"[1, 2]"`` for a list.

    Args:
        owner: Whose options these are, for messages.
        options: The options that there are.
        given: Values by name.
        source: Who gave them, for messages.
        is_complete: Whether a required option that is not given is an error; False
            where another source may give it.

    Raises:
        OptionError: An option that there is not, a wrong value, or one that is missing.
    """
    by_name = {option.name: option for option in options}
    for name in given:
        if name not in by_name:
            has = ", ".join(by_name) or "none"
            raise OptionError(
                f"{source}: {owner} has no option {name!r}; its options: {has}."
                + suggestion(name, by_name)
            )
    checked = {n: _convert(owner, by_name[n], v, source) for n, v in given.items()}
    missing = [o.name for o in options if o.is_required and o.name not in checked]
    if missing and is_complete:
        wanted = "; ".join(str(by_name[name]) for name in missing)
        raise OptionError(f"{source}: {owner} needs {wanted}.")
    return checked


def _convert(owner: str, option: Option, value: Any, source: str) -> Any:
    if option.annotation is REQUIRED or isinstance(option.annotation, str):
        return _literal(value)
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        config = ConfigDict(arbitrary_types_allowed=True)
        adapter = TypeAdapter(option.annotation, config=config)
    except (PydanticUserError, TypeError):
        # pydantic takes no config beside a model's or dataclass's own.
        try:
            adapter = TypeAdapter(option.annotation)
        except PydanticUserError:
            return _literal(value)
    attempts = [value]
    if isinstance(value, str) and (literal := _literal(value)) is not value:
        attempts.append(literal)
    problem = ""
    for attempt in attempts:
        try:
            return adapter.validate_python(attempt)
        except ValidationError as error:
            problem = problem or error.errors()[0]["msg"]
    default = "" if option.is_required else f" (default {option.default!r})"
    raise OptionError(
        f"{source}: {owner}: option {option.name} must be {option.type_in_words}"
        f"{default}, got {value!r}: {problem}."
    )


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(value.lower(), value)


def parse_assignments(text: str) -> dict[str, str]:
    """Read ``alpha=0.3,sizes=[1,2]``; commas inside brackets and quotes do not part.

    Raises:
        OptionError: A part is no assignment.
    """
    assignments = {}
    for part in _split_outside_brackets(text):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise OptionError(f"{part!r} is no option; write name=value,name=value.")
        assignments[name.strip().replace("-", "_")] = value.strip()
    return assignments


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth, quote, start = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [part for part in [*parts, text[start:]] if part.strip()]
