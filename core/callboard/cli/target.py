"""TARGET: the Learner that a file or a module makes.

``file.py``, ``file.py:factory`` or ``package.module:factory``. The factory is a
function that returns a Learner, by default the one named ``learner``; its parameters
are what ``callboard fit -o`` sets.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from callboard.errors import OptionError, TargetError, suggestion

if TYPE_CHECKING:
    from callboard.learner import Learner

DEFAULT_FACTORY = "learner"


class Target(NamedTuple):
    """A target, taken apart: a file or the name of a module, and a function in it."""

    place: str
    factory: str
    is_file: bool


def load_learner(text: str, options: Mapping[str, str] | None = None) -> Learner:
    """Make the Learner of a target.

    Args:
        text: The target as the user wrote it.
        options: Arguments of the factory, as text.

    Raises:
        TargetError: It leads to no Learner.
        OptionError: The factory has no such parameter, or a value does not fit.
    """
    target = parse_target(text)
    try:
        module = _run_file(target.place) if target.is_file else _import(target.place)
        factory = _factory(module, target)
        made = factory(**_arguments(factory, target, options or {}))
    except (TargetError, OptionError):
        raise
    except SyntaxError as error:
        raise TargetError(_unreadable(error)) from error
    except Exception as error:
        error.add_note(f"callboard: while making the Learner of {text}")
        raise
    return _checked(made, target)


def _unreadable(error: SyntaxError) -> str:
    """File, line and place of a syntax error, as Python itself shows it."""
    shown = "".join(traceback.format_exception_only(error)).rstrip()
    return f"A syntax error keeps the target from being read.\n{shown}"


def parse_target(text: str) -> Target:
    """Take a target apart; it is not looked at yet.

    >>> parse_target("train.py"), parse_target("package.train:small")
    (Target(place='train.py', factory='learner', is_file=True), \
Target(place='package.train', factory='small', is_file=False))
    """
    head, colon, tail = text.rpartition(":")
    if colon and (tail.isidentifier() or not tail) and head:
        place, factory = head, tail or DEFAULT_FACTORY
    else:  # C:\train.py has a colon, too
        place, factory = text, DEFAULT_FACTORY
    return Target(place, factory, place.endswith(".py") or os.path.isfile(place))


def _run_file(place: str) -> ModuleType:
    """Run a file as a module of its name, so that what it defines can be pickled."""
    file = Path(place).absolute()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise TargetError(f"{place} {what}.{suggestion(file.name, _neighbours(file))}")
    name = file.stem
    taken = sys.modules.get(name)
    if taken is not None:
        if getattr(taken, "__file__", None) == str(file):
            return taken
        raise TargetError(
            f'{place} would hide the module "{name}" that is imported already. Rename '
            "the file."
        )
    _put_first_on_path(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TargetError(f"{place} is no Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _neighbours(file: Path) -> list[str]:
    if not file.parent.is_dir():
        return []
    return [path.name for path in file.parent.glob("*.py") if path.is_file()]


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f'"{name}" is neither a file nor the name of a module.')
    _put_first_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            raise  # the module is there, what it imports is not
        hint = suggestion(f"{name}.py", _neighbours(Path.cwd() / name))
        raise TargetError(
            f'There is no module "{missing}" to make a Learner with. A target is '
            f"file.py, file.py:factory or package.module:factory.{hint}"
        ) from error


def _put_first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _factory(module: ModuleType, target: Target) -> Callable[..., Any]:
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isroutine(value) and not name.startswith("_")
    }
    own = [n for n, f in functions.items() if f.__module__ == module.__name__]
    found = getattr(module, target.factory, None)
    if callable(found):
        factory: Callable[..., Any] = found
        return factory
    if found is not None:
        raise TargetError(
            f"{target.factory} in {target.place} is a {type(found).__name__} and no "
            f"function: write `def {target.factory}(): return Learner(...)`."
        )
    has = f" Its functions: {', '.join(own)}." if own else ""
    raise TargetError(
        f'{target.place} has no function "{target.factory}".{has}'
        f"{suggestion(target.factory, own)} Write `def {target.factory}(): return "
        f"Learner(...)`, or name another function: {target.place}:NAME"
    )


def _arguments(
    factory: Callable[..., Any], target: Target, given: Mapping[str, str]
) -> dict[str, Any]:
    from callboard.options import check_options, parameters_of

    owner = f"{target.factory}() in {target.place}"
    return check_options(owner, parameters_of(factory), given, "-o")


def _checked(made: object, target: Target) -> Learner:
    from callboard.learner import Learner

    if not isinstance(made, Learner):
        raise TargetError(
            f"{target.factory}() in {target.place} returned {type(made).__name__}, not "
            "a Learner: end it with `return Learner(...)`."
        )
    return made
