"""Build an architecture, by function or name, with the weights that were asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from callboard.errors import OptionError, StateError, suggestion
from callboard.plain import read_plain

Architecture = Callable[..., nn.Module]
PACKAGES = ("torchvision", "timm")
# What torchvision, timm and most others call the last child.
CLASSIFIER_NAMES = ("fc", "classifier", "head", "heads", "last_linear")
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
# Where files of weights that hold more than weights have them.
INNER_KEYS = ("state_dict", "model", "model_state_dict")


def build_architecture(
    arch: Architecture | str, *, pretrained: bool = True, weights: Any = None
) -> nn.Module:
    """A whole architecture, classifier included.

    Args:
        arch: A function that returns a module, as those of torchvision and timm, or a
            name that one of these packages knows. Where both know it, it is told apart
            by ``torchvision:`` or ``timm:`` in front.
        pretrained: Whether it comes with weights: those that the function itself has,
            unless ``weights`` says which.
        weights: A file of weights of the whole architecture (``.pth``,
            ``.safetensors``), or what the function's own argument ``weights`` takes.

    Raises:
        OptionError: There is no such architecture, or it has no weights of its own.
        StateError: The weights do not fit the architecture.
    """
    if weights is not None and not pretrained:
        raise OptionError(
            f"vision: weights={weights!r} was given, and pretrained=False says that "
            "none are wanted. Leave one of them out."
        )
    function = found_architecture(arch)
    path = _as_file(weights)
    if path is not None:
        model = _called(function, {"weights": None, "pretrained": False})
        load_weights(model, path)
        return model
    if weights is not None:
        return _called_with(function, "weights", weights)
    if not pretrained:
        return _called(function, {"weights": None, "pretrained": False})
    has_weights = "weights" in _parameters(function)
    name = "weights" if has_weights else "pretrained"
    return _called_with(function, name, "DEFAULT" if has_weights else True)


def _called(function: Architecture, options: Mapping[str, Any]) -> nn.Module:
    """What the function makes of those of the options that it has."""
    known = _parameters(function)
    model = function(**{name: v for name, v in options.items() if name in known})
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"vision: arch must return a torch.nn.Module; {name_of(function)} returned "
            f"{type(model).__name__}."
        )
    return model


def _called_with(function: Architecture, name: str, value: Any) -> nn.Module:
    if name not in _parameters(function):
        raise OptionError(
            f"vision: {name_of(function)} has no argument `{name}`, so it comes with "
            "no weights. Give pretrained=False, or weights=PATH of a file of them."
        )
    return _called(function, {name: value})


def _parameters(function: Architecture) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a built-in that does not tell
        return {}


def name_of(function: Any) -> str:
    """The name of a function, also of a partial of it."""
    plain = getattr(function, "func", function)
    return str(getattr(plain, "__name__", type(plain).__name__))


def origin_of(function: Any) -> str:
    """The package that a function is from, also of a partial of it."""
    plain = getattr(function, "func", function)
    return str(getattr(plain, "__module__", "")).partition(".")[0]


# ---- by name ------------------------------------------------------------------


def found_architecture(arch: Architecture | str) -> Architecture:
    """The function that builds an architecture.

    Raises:
        OptionError: It is no function, no installed package knows the name, or both do.
    """
    if isinstance(arch, str):
        return _by_name(arch)
    if isinstance(arch, nn.Module) or not callable(arch):
        raise OptionError(
            "vision: arch must be a function that builds a model, or the name of one, "
            f"got {type(arch).__name__}. Give the function, as resnet34, not what it "
            "returns."
        )
    return arch


def _by_name(name: str) -> Architecture:
    package, _, bare = name.rpartition(":")
    if package and package not in PACKAGES:
        raise OptionError(
            f"vision: arch={name!r}: before the colon stands the package, torchvision "
            "or timm."
        )
    sought = [package] if package else list(PACKAGES)
    installed = [each for each in sought if find_spec(each) is not None]
    if not installed:
        raise OptionError(
            f"vision: arch={name!r} is a name, and {' and '.join(sought)} that could "
            "know it are not installed. Install one (callboard-vision[torchvision]), "
            "or give the function that builds the model."
        )
    known = {each: _names_in(each) for each in installed}
    holders = [each for each in installed if bare in known[each]]
    if len(holders) > 1:
        raise OptionError(
            f"vision: torchvision and timm both know {name!r}, with other weights. "
            f'Write "torchvision:{name}" or "timm:{name}".'
        )
    if not holders:
        every = [each for names in known.values() for each in names]
        raise OptionError(
            f"vision: {' and '.join(installed)} know no architecture {bare!r}."
            + suggestion(bare, every)
        )
    return _function_in(holders[0], bare)


def _names_in(package: str) -> list[str]:
    if package == "torchvision":
        models = import_module("torchvision.models")
        return list(models.list_models(module=models))
    return list(import_module("timm").list_models())


def _function_in(package: str, name: str) -> Architecture:
    if package == "torchvision":
        builder: Architecture = import_module("torchvision.models").get_model_builder(
            name
        )
        return builder
    entrypoint: Architecture = import_module("timm").model_entrypoint(name)
    return entrypoint


# ---- weights in files ---------------------------------------------------------


def _as_file(weights: Any) -> Path | None:
    if isinstance(weights, Path):
        return weights
    if isinstance(weights, str) and weights.endswith(FILE_ENDINGS):
        return Path(weights)
    return None


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights of a whole architecture into a model, in place.

    The classifier may be one for another number of classes, or be missing: what does
    not fit is left as it is. Nothing but plain data is read.

    Raises:
        OptionError: There is no such file, or it cannot be read.
        StateError: Weights of any other layer are missing or of another shape.
    """
    path = Path(path)
    given = _without_prefix(_read(path))
    own = model.state_dict()
    fitting = {n: t for n, t in given.items() if n in own and t.shape == own[n].shape}
    # Made anew by old versions of torch, and no weights.
    missing = [n for n in own if n not in fitting and not n.endswith("_tracked")]
    classifier = _classifier_of(model)
    needed = [name for name in missing if not name.startswith(classifier)]
    problems = [_problem(name, own, given) for name in needed]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise StateError(
            f"vision: {path} does not fit {type(model).__name__}: {shown}. Give the "
            "weights of this architecture."
        )
    model.load_state_dict(fitting, strict=False)


def _problem(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    if name not in given:
        return f"{name} is missing"
    return f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"


def _classifier_of(model: nn.Module) -> str:
    """How the names of a classifier's weights begin.

    That is the child with the last weights, where it is named like a classifier; else
    the layer with the last weights.
    """
    layer = ""
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            layer = name
    child = layer.partition(".")[0]
    return (child if child in CLASSIFIER_NAMES else layer) + "."


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise OptionError(
            f"vision: there is no file of weights {path}. Files end in "
            f"{', '.join(FILE_ENDINGS)}."
        )
    if path.suffix == ".safetensors":
        if find_spec("safetensors") is None:
            raise OptionError(
                f"vision: reading {path} needs safetensors: python -m pip install "
                "'callboard-vision[safetensors]'."
            )
        return _read_safetensors(path)
    data = read_plain(path)
    for key in INNER_KEYS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data:
        raise StateError(f"vision: {path} holds no weights by name.")
    return {name: each for name, each in data.items() if isinstance(each, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    damaged: type[Exception] = import_module("safetensors").SafetensorError
    try:
        tensors: dict[str, Tensor] = import_module("safetensors.torch").load_file(path)
    except damaged as error:
        raise StateError(
            f"vision: {path} is damaged, or no safetensors file: {error}"
        ) from error
    return tensors


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as they were before ``DataParallel`` or DDP wrapped the model."""
    prefix = "module."
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): each for name, each in state.items()}
    return state
