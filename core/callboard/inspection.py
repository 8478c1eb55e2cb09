"""What is wrong with an installed plugin, told from its source; nothing is imported.

    finding = inspect_plugin(installed)
    finding.reason  # "importing callboard_x raises ModuleNotFoundError: ...", or None

Found are the faults that show without running code: a module or an attribute that is
not there, a syntax error, an import of what is not installed, a ``raise`` that nothing
avoids, a method that is named like no event or asks for what its event does not pass,
an automatic plugin that is no observer. Whatever depends on a condition is given the
benefit of the doubt. ``callboard plugins check`` imports, and is the thorough one.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from callboard.callback import EVENT_PREFIXES, check_signature, unknown_event
from callboard.discovery import InstalledPlugin
from callboard.errors import (
    CallboardError,
    HookSignatureError,
    UnknownEventError,
    suggestion,
)
from callboard.events import EVENTS
from callboard.status import refused_role

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
ORIGINS = {"Callback": "callboard.callback", "hookimpl": "callboard.callback"}
# Raised in looking for a module that was made by hand, by a finder of another tool, or
# (KeyError) for a namespace package whose parent is not imported.
ODDITIES = (ImportError, ValueError, AttributeError, KeyError)
# Who calls one of these may make names that the source does not show.
NAME_MAKERS = ("exec", "eval", "globals", "locals", "vars", "setattr")
HINTS = ("global", "sys.modules")
MODULE_NAMES = ("__file__", "__path__", "__annotations__", "__builtins__", "__cached__")
BUILTINS = (*dir(builtins), *MODULE_NAMES)


class Finding(NamedTuple):
    """What the source of a plugin tells.

    Attributes:
        file: The source file, or None where there is none to be read.
        reason: Why the plugin is broken, or None where nothing speaks against it.
    """

    file: Path | None
    reason: str | None


def inspect_plugin(installed: InstalledPlugin) -> Finding:
    """Look for faults in the source of a plugin."""
    module = installed.module
    try:
        spec = find_module(module)
    except ODDITIES:
        return Finding(None, None)
    if spec is None:
        what = (
            f"importing {module} raises ModuleNotFoundError: No module named {module!r}"
        )
        return Finding(None, what)
    if spec.origin is None or not spec.origin.endswith(".py"):
        return Finding(None, None)
    file = Path(spec.origin)
    try:
        source = file.read_bytes()
    except OSError as error:
        return Finding(None, f"{file} cannot be read: {error.strerror}")
    return Finding(file, fault_in(source, installed, spec))


def find_module(name: str) -> ModuleSpec | None:
    """Where a module is; unlike ``importlib.util.find_spec`` no parent is imported."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    for end in range(2, len(rest) + 2):
        if spec is None or spec.submodule_search_locations is None:
            return None
        parts = name.split(".")[:end]
        spec = PathFinder.find_spec(".".join(parts), spec.submodule_search_locations)
    return spec


def fault_in(source: bytes, installed: InstalledPlugin, spec: ModuleSpec) -> str | None:
    """The first fault that using a plugin of this source would meet, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is no fault of import
            tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        kind = type(error).__name__
        return f"importing {installed.module} raises {kind}: {text}{line}"
    module = _Module(tree, spec, source)
    for line_number, what in module.faults():
        return f"importing {installed.module} raises {what} (line {line_number})"
    return (
        _missing_attribute(module, installed)
        or _wrong_hookimpl(module, installed)
        or _wrong_role(module, installed)
    )


class _Module:
    """The top level of a module, as its source shows it."""

    def __init__(self, tree: ast.Module, spec: ModuleSpec, source: bytes) -> None:
        self.tree = tree
        self.spec = spec
        top = [
            n for s in tree.body if not isinstance(s, DEFINITIONS) for n in ast.walk(s)
        ]
        # What a function does to its module is looked for only where a word hints at
        # it: walking the whole tree is what takes the time in listing many plugins.
        is_hinted = any(word.encode() in source for word in (*NAME_MAKERS, *HINTS))
        nodes = list(ast.walk(tree)) if is_hinted else top
        self.names = {*_names_bound_by(tree.body), *_names_of_globals(nodes)}
        self.is_open = "__getattr__" in self.names or any(map(_makes_names, nodes))
        self.known = self.names.union(BUILTINS)
        self.addresses = dict(_imported_addresses(top))
        self.classes = {
            node.name: node for node in tree.body if isinstance(node, ast.ClassDef)
        }

    def faults(self) -> Iterator[tuple[int, str]]:
        """Line and error of every statement that is sure to raise, from the top."""
        for statement in self.tree.body:
            for what in self._faults_of(statement):
                yield statement.lineno, what

    def _faults_of(self, statement: ast.stmt) -> Iterator[str]:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from self._missing_imports(statement)
        elif isinstance(statement, ast.Raise):
            yield "RuntimeError" if statement.exc is None else _raised(statement.exc)
        elif isinstance(statement, ast.Assert) and _is_false(statement.test):
            yield "AssertionError"
        for node in _evaluated_in(statement):
            if isinstance(node, ast.BinOp) and _divides_by_zero(node):
                yield "ZeroDivisionError: division by zero"
            if isinstance(node, ast.Name) and self._is_unknown(node.id):
                near = suggestion(node.id, self.known)
                yield f"NameError: name {node.id!r} is not defined.{near}"
        if isinstance(statement, ast.ClassDef) and self.is_callback(statement):
            yield from map(_in_words, _wrong_methods(statement, self))

    def _is_unknown(self, name: str) -> bool:
        return name not in self.known and not self.is_open

    def _missing_imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            wanted = [alias.name.partition(".")[0] for alias in node.names]
        elif node.level:
            wanted = [self._absolute(node)] if node.module else []
        else:
            wanted = [(node.module or "").partition(".")[0]]
        for name in wanted:
            if not _can_be_found(name):
                yield f"ModuleNotFoundError: No module named {name!r}"

    def _absolute(self, node: ast.ImportFrom) -> str:
        package = self.spec.name
        if self.spec.submodule_search_locations is None:
            package = package.rpartition(".")[0]
        return importlib.util.resolve_name("." * node.level + str(node.module), package)

    def is_callback(self, node: ast.ClassDef) -> bool:
        """Whether a class is a Callback, as far as this module's source tells."""
        seen: set[str] = set()
        names = [_dotted(base) for base in node.bases]
        while names:
            name = names.pop()
            if self.means(name, "Callback"):
                return True
            if name in self.classes and name not in seen:
                seen.add(name)
                names += [_dotted(base) for base in self.classes[name].bases]
        return False

    def means(self, name: str, ours: str) -> bool:
        """Whether ``name`` is Callboard's ``Callback`` or ``hookimpl`` here."""
        head, dot, tail = name.partition(".")
        address = self.addresses.get(head, head) + dot + tail
        return address in (f"callboard.{ours}", f"{ORIGINS[ours]}.{ours}")

    def marker(self, node: FunctionNode) -> dict[str, object] | None:
        """The options of a function's ``@hookimpl``, or None where it has none."""
        for decorator in node.decorator_list:
            is_call = isinstance(decorator, ast.Call)
            marker = decorator.func if isinstance(decorator, ast.Call) else decorator
            if not self.means(_dotted(marker), "hookimpl"):
                continue
            keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
            return {"is_call": is_call} | {
                str(k.arg): _constant(k.value) for k in keywords
            }
        return None


def _names_bound_by(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Every name that a module's top level may bind, whatever the conditions."""
    for statement in statements:
        if isinstance(statement, DEFINITIONS):
            yield statement.name
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.alias):
                    yield node.asname or node.name.partition(".")[0]
                elif isinstance(node, DEFINITIONS):
                    yield node.name
                elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
                    yield node.name or ""


def _names_of_globals(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Global):
            yield from node.names


def _makes_names(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "*" for alias in node.names)
    if isinstance(node, ast.Attribute):
        return _dotted(node) == "sys.modules"
    return isinstance(node, ast.Name) and node.id in NAME_MAKERS


def _imported_addresses(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _can_be_found(name: str) -> bool:
    try:
        return find_module(name) is not None
    except ODDITIES:
        return True


def _raised(exception: ast.expr) -> str:
    if isinstance(exception, ast.Call):
        texts = [_constant(argument) for argument in exception.args]
        words = ", ".join(text for text in texts if isinstance(text, str))
        kind = _dotted(exception.func)
        return f"{kind}: {words}" if words else kind
    return _dotted(exception)


def _is_false(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and not test.value


def _divides_by_zero(node: ast.BinOp) -> bool:
    divides = isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod)
    left, right = _constant(node.left), _constant(node.right)
    is_number = isinstance(left, int | float)
    return divides and is_number and isinstance(right, int | float) and right == 0


def _evaluated_in(statement: ast.stmt) -> Iterator[ast.expr]:
    """Expressions of a statement that are evaluated whatever the conditions."""
    todo: list[ast.expr | None] = []
    if isinstance(statement, ast.ClassDef):
        todo = [*statement.decorator_list, *statement.bases]
    elif isinstance(statement, FunctionNode):
        todo = [*statement.decorator_list]
    elif isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.AugAssign):
        todo = [statement.value]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name | ast.BinOp):
            yield node
        if isinstance(node, ast.BinOp):
            todo += [node.left, node.right]
        elif isinstance(node, ast.Attribute | ast.Starred | ast.Subscript):
            todo.append(node.value)
        elif isinstance(node, ast.Call):
            todo += [node.func, *node.args, *(k.value for k in node.keywords)]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            todo += node.elts
        elif isinstance(node, ast.Dict):
            todo += node.values


def _missing_attribute(module: _Module, installed: InstalledPlugin) -> str | None:
    name = installed.attribute.partition(".")[0]
    if not name or name in module.names or module.is_open:
        return None
    if _can_be_found(f"{installed.module}.{name}"):
        return None  # a submodule; an import elsewhere may make it an attribute
    near = suggestion(name, module.names)
    return f'{installed.module} has no "{installed.attribute}".{near}'


def _wrong_methods(node: ast.ClassDef, module: _Module) -> Iterator[CallboardError]:
    """What defining a Callback of this source would refuse."""
    for method in node.body:
        if not isinstance(method, FUNCTIONS):
            continue
        marker = module.marker(method)
        if len(method.decorator_list) > (marker is not None):
            continue  # another decorator may make anything of it
        if marker is None and not method.name.startswith(EVENT_PREFIXES):
            continue
        error = _wrong_function(node.name, method, marker or {}, skip_first=True)
        if error is not None:
            yield error


def _wrong_function(
    owner: str, node: FunctionNode, marker: dict[str, object], *, skip_first: bool
) -> CallboardError | None:
    event = marker.get("specname") or node.name
    if not isinstance(event, str) or marker.get("optionalhook", False) is not False:
        return None
    if event not in EVENTS:
        return UnknownEventError(unknown_event(owner, event))
    try:
        where = f"{owner}.{node.name}"
        check_signature(where, _stand_in(node), event, skip_first=skip_first)
    except HookSignatureError as error:
        return error
    return None


def _stand_in(node: FunctionNode) -> Callable[[], None]:
    """A function that ``inspect.signature`` takes for the one in the source."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    num_without = len(positional) - len(given.defaults)
    defaults = [inspect.Parameter.empty] * num_without + [None] * len(given.defaults)
    parameters = [
        inspect.Parameter(
            a.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default
        )
        for a, default in zip(positional, defaults, strict=True)
    ]
    parameters += [
        inspect.Parameter(
            argument.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is None else None,
        )
        for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]

    def stand_in() -> None: ...

    stand_in.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return stand_in


def _wrong_hookimpl(module: _Module, installed: InstalledPlugin) -> str | None:
    """What the hookimpls of a module plugin would be refused for."""
    if installed.attribute:
        return None
    for node in module.tree.body:
        if isinstance(node, FUNCTIONS) and (marker := module.marker(node)) is not None:
            error = _wrong_function(installed.name, node, marker, skip_first=False)
            if error is not None:
                return str(error)
    return None


def _wrong_role(module: _Module, installed: InstalledPlugin) -> str | None:
    """Why an automatic plugin may not join by being installed, if it is sure."""
    if installed.kind != "plugin" or module.is_open:
        return None
    if not installed.attribute:
        role = _assigned(module.tree.body, "role")
    else:
        node = module.classes.get(installed.attribute)
        if node is None or not _is_plain_callback(node, module):
            return None
        role = _assigned(node.body, "role")
    if isinstance(role, str) and role != "observe":
        return refused_role(role)
    return None


def _is_plain_callback(node: ast.ClassDef, module: _Module) -> bool:
    """Whether nothing but Callback and its own body decides about a class."""
    is_plain = not node.decorator_list and not node.keywords and len(node.bases) == 1
    return is_plain and module.means(_dotted(node.bases[0]), "Callback")


def _assigned(body: list[ast.stmt], name: str) -> object:
    """What a name is set to; the default role where nothing sets it."""
    value: object = "modify"
    for statement in body:
        if name not in _names_bound_by([statement]):
            continue
        value = None
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
            value = _constant(statement.value)
    return value


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return "?"


def _in_words(error: CallboardError) -> str:
    return f"{type(error).__name__}: {str(error).rstrip('.')}"
