"""Run the model through torch.compile, and the loss with it where nobody is between.

Listens to  before_train, before_validate, do_predict, do_loss, after_train,
            after_validate
Changes     how prediction, loss and their gradients are worked out; not the model
            itself, whose weights keep their names
Source      torch.compile
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from callboard import Callback
from callboard.errors import CallboardWarning, OptionError
from callboard.hookimpls import hookimpls_of

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen

What = Literal["auto", "model", "step"]
# Each takes seconds to compile; a batch of yet another shape goes through the model.
MOST_SHAPES = 4
CPP_COMPILERS = ("g++", "clang++", "c++", "cl")

Shape = tuple[Any, ...]


class Compile(Callback):
    """Runs the model through ``torch.compile``.

    Batches of a shape are compiled for when the shape comes for the second time in an
    epoch, so that a last, smaller batch is not. What cannot be compiled goes through
    the model as ever, and ``reason`` says why.

    Args:
        what: ``"model"``; ``"step"`` for prediction and loss as one, with the backward
            pass that belongs to them; ``"auto"`` for the step where no other plugin
            acts between prediction and loss, else the model.
        backend: A backend of ``torch.compile``.

    Attributes:
        reason: Why nothing is compiled; empty where something is, or will be.
        compiled: What is compiled for the phase that runs: ``"model"`` or ``"step"``.
        seen: How often each shape came in the fit: 1, or 2 for twice and more.

    Raises:
        OptionError: An option has a value that it cannot have.
    """

    name = "compile"
    role = "modify"
    stages = ("fit", "validate", "predict", "lr-find")

    def __init__(self, *, what: What = "auto", backend: str = "inductor") -> None:
        if what not in get_args(What):
            known = ", ".join(f'"{known}"' for known in get_args(What))
            raise OptionError(f"compile: what must be one of {known}, got {what!r}.")
        self.what = what
        self.backend = backend
        self.reason = ""
        self.compiled = "model"
        self.seen: dict[Shape, int] = {}
        # An evaluation in the midst of a fit changes nothing of it.
        self._seen_elsewhere: dict[Shape, int] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._model: torch.nn.Module | None = None
        self._loss: Tensor | None = None

    def before_train(self) -> None:
        """See what can be compiled."""
        self._prepare()

    def before_validate(self) -> None:
        """See what can be compiled."""
        self._prepare()

    def _prepare(self) -> None:
        learner = self.learn
        if self._model is not learner.model:
            self._model, self._functions = learner.model, {}
            self.reason = why_not(self.backend, learner.device)
        between = next(plugins_between(learner, self), "")
        has_own_loss = learner.loss_func is None
        if self.what == "model" or has_own_loss or (between and self.what == "auto"):
            self.compiled = "model"
        elif between:
            raise OptionError(
                f'compile: what="step" leaves no room for {between}, which acts '
                'between prediction and loss. Write what="auto" or what="model".'
            )
        else:
            self.compiled = "step"

    def do_predict(self) -> Any:
        """Predict with what is compiled; None leaves it to the loop."""
        self._loss = None
        learner = self.learn
        if self.reason or not self._is_known(learner.xb, learner.yb):
            return None
        try:
            return self._predict()
        except Exception as error:
            if not _is_of_the_compiler(error):
                raise
            self._fall_back(error)
            return None

    def do_loss(self) -> Tensor | None:
        """Hand out the loss that was worked out with the prediction."""
        loss, self._loss = self._loss, None
        return loss

    def _is_known(self, xb: Any, yb: Any) -> bool:
        shape = (self.learn.training, *shapes_of(xb), *shapes_of(yb))
        seen = self._seen_in_stage()
        number = seen.get(shape, 0)
        if not number and len(seen) >= MOST_SHAPES:
            return False
        seen[shape] = min(number + 1, 2)
        return number > 0

    def _seen_in_stage(self) -> dict[Shape, int]:
        return self.seen if self.learn.stage == "fit" else self._seen_elsewhere

    def after_train(self) -> None:
        """Forget shapes that came once: the last, smaller batch of every epoch."""
        self._forget_single_shapes(is_training=True)

    def after_validate(self) -> None:
        """Forget shapes that came once."""
        self._forget_single_shapes(is_training=False)

    def _forget_single_shapes(self, *, is_training: bool) -> None:
        seen = self._seen_in_stage()
        for shape in [shape for shape, number in seen.items() if number == 1]:
            if shape[0] is is_training:
                del seen[shape]

    def _predict(self) -> Any:
        learner = self.learn
        named = learner.xb if isinstance(learner.xb, dict) else {}
        unnamed = () if named else learner.xb
        if self.compiled == "step" and learner.yb:
            function = self._function("step", predict_and_lose)
            made, self._loss = function(
                learner.model, learner.loss_func, unnamed, named, learner.yb
            )
            return made
        return self._function("model", predict)(learner.model, unnamed, named)

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name not in self._functions:
            # Else dropout would draw other numbers than it does uncompiled.
            options: dict[str, Any] = {"fallback_random": True}
            self._functions[name] = torch.compile(
                _with_code_of_its_own(function),
                backend=self.backend,
                dynamic=False,
                options=options if self.backend == "inductor" else None,
            )
        return self._functions[name]

    def _fall_back(self, error: Exception) -> None:
        # The first line names the backend, the second what went wrong in it.
        text = " ".join(str(error).split("\n")[:2])
        self.reason = f"{type(error).__name__}: {text}"
        self._functions = {}
        warnings.warn(
            f"compile: the model goes uncompiled, since torch.compile failed with "
            f"{self.reason}",
            CallboardWarning,
            stacklevel=2,
        )

    def state_dict(self) -> dict[str, Any]:
        """The shapes that came, so that a run that goes on compiles for the same."""
        # As text, since shapes are keys of numbers and tuples, which is no plain data.
        return {"seen": {repr(shape): number for shape, number in self.seen.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        # A run that goes on compiles where the saved one did, bit for bit.
        self.seen = {literal_eval(shape): n for shape, n in state["seen"].items()}

    def __getstate__(self) -> dict[str, Any]:
        """A copy compiles anew."""
        state = super().__getstate__()
        return {**state, "_functions": {}, "_model": None, "_loss": None}


def _with_code_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    # torch counts how often it has compiled a code object, whoever asked, and at some
    # number no longer does.
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__)


def predict(model: Any, unnamed: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The prediction for a batch."""
    return model(*unnamed, **named)


def predict_and_lose(
    model: Any,
    loss_func: Any,
    unnamed: tuple[Any, ...],
    named: dict[str, Any],
    labels: tuple[Any, ...],
) -> tuple[Any, Any]:
    """The prediction for a batch, and its loss."""
    made = model(*unnamed, **named)
    return made, loss_func(made, *labels)


def shapes_of(batch: Any) -> Iterator[Any]:
    """What a graph is compiled for: shapes and types of all tensors in a batch."""
    parts = batch.values() if isinstance(batch, dict) else batch
    for part in parts:
        if isinstance(part, Tensor):
            yield (*part.shape, str(part.dtype))
        elif isinstance(part, dict | tuple | list):
            yield tuple(shapes_of(part))
        else:
            yield type(part).__name__


def why_not(backend: str, device: torch.device) -> str:
    """Why a backend cannot compile here; empty where it can, as far as one can tell."""
    if backend != "inductor":
        return ""
    if device.type == "cuda":
        has_triton = importlib.util.find_spec("triton") is not None
        return "" if has_triton else "triton is not installed, which makes GPU code"
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else CPP_COMPILERS)):
        return f"there is no C++ compiler here; looked for {', '.join(CPP_COMPILERS)}"
    return ""


def plugins_between(learner: Learner, own: Callback) -> Iterator[str]:
    """Keys of the plugins that act between the prediction and the loss."""
    for member in learner.cbs.members:
        if member.plugin is own or learner.stage not in member.stages:
            continue
        for impl in hookimpls_of(member.plugin, member.key):
            # An observer sees the prediction as ever, and changes nothing.
            is_looking = impl.event == "after_pred" and member.role == "observe"
            if impl.event in ("do_predict", "after_pred", "do_loss") and not is_looking:
                yield member.key


def _is_of_the_compiler(error: Exception) -> bool:
    homes = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx")
    return any(kind.__module__.startswith(homes) for kind in type(error).__mro__)


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs: a backend that compiles within milliseconds."""
    from callboard.testing import Specimen

    return {"compile": Specimen(make=lambda: Compile(backend="eager"), is_slow=True)}
