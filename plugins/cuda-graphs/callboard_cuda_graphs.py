"""Replay prediction, loss and backward on a GPU as graphs, not kernel by kernel.

Listens to  before_train, do_predict, do_loss, teardown
Changes     how prediction, loss and their gradients are worked out; not the model
Source      torch.cuda.make_graphed_callables; Nguyen et al. 2021, "Accelerating PyTorch
            with CUDA Graphs"
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from callboard import Callback
from callboard.errors import CallboardWarning, OptionError
from callboard_compile import plugins_between, shapes_of

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen

What = Literal["auto", "model", "step"]
# Each holds the memory of a whole step for as long as the fit lasts.
MOST_SHAPES = 2

Shape = tuple[Any, ...]
Graphed = Callable[..., Any]


class CudaGraphs(Callback):
    """Replays prediction, loss and backward of training batches as CUDA graphs.

    A GPU is then given one piece of work in place of hundreds of kernels, each of which
    takes the CPU some microseconds to launch. A shape is captured when it comes for the
    second time. What cannot be captured runs as ever, and ``reason`` says why.

    Args:
        what: ``"model"``; ``"step"`` for prediction and loss as one; ``"auto"`` for the
            step where no other plugin acts between prediction and loss, else the model.

    Attributes:
        reason: Why nothing is captured; empty where something is, or will be.
        captured: What is captured: ``"model"`` or ``"step"``.

    Raises:
        OptionError: An option has a value that it cannot have.
    """

    name = "cuda-graphs"
    role = "modify"
    conflicts_with: Mapping[str, str] = {
        "compile": "both would predict in place of the model"
    }
    stages = ("fit", "lr-find")
    run_valid = False

    def __init__(self, *, what: What = "auto") -> None:
        if what not in get_args(What):
            known = ", ".join(f'"{known}"' for known in get_args(What))
            message = f"{self.name}: what must be one of {known}, got {what!r}."
            raise OptionError(message)
        self.what = what
        self.reason = ""
        self.captured = "model"
        self._forget()

    def _forget(self) -> None:
        self._graphs: dict[Shape, Graphed | None] = {}
        self._captured_from: Shape = ()
        self._failure = ""
        self._weights: list[nn.Parameter] = []
        self._loss: Tensor | None = None

    def before_train(self) -> None:
        """See what can be captured, and drop graphs of what is no more as it was."""
        learner = self.learn
        reason = why_not(learner)
        if reason and reason != self.reason:
            self._tell(reason)
        self.captured = self._what_is_captured()
        captured_from = () if reason else (self.captured, *place_of(learner))
        if captured_from != self._captured_from:
            self._forget()
            self._captured_from = captured_from
        self.reason = reason or self._failure

    def _what_is_captured(self) -> str:
        learner = self.learn
        between = next(plugins_between(learner, self), "")
        if between and self.what == "step":
            raise OptionError(
                f'{self.name}: what="step" leaves no room for {between}, which acts '
                'between prediction and loss. Write what="auto" or what="model".'
            )
        is_model = self.what == "model" or between or learner.loss_func is None
        return "model" if is_model else "step"

    def do_predict(self) -> Any:
        """Predict by replaying a graph; None leaves it to the loop."""
        self._loss = None
        learner = self.learn
        if self.reason:
            return None
        is_step = self.captured == "step" and bool(learner.yb)
        batch = (learner.xb, learner.yb if is_step else ())
        tensors, form = tree_flatten(batch)
        shape = (is_step, *shapes_of(learner.xb), *shapes_of(batch[1]))
        graphed = self._graph(shape, tensors, form, is_step=is_step)
        if graphed is None:
            return None
        own_gradients(self._weights)
        # The graph writes into the same memory again in the next step.
        made = tree_map_only(Tensor, Tensor.clone, graphed(*tensors))
        if not is_step:
            return made
        prediction, self._loss = made
        return prediction

    def do_loss(self) -> Tensor | None:
        """Hand out the loss that was worked out with the prediction."""
        loss, self._loss = self._loss, None
        return loss

    def teardown(self) -> None:
        """Give the memory of the graphs back."""
        self._forget()

    def _graph(
        self, shape: Shape, tensors: list[Any], form: TreeSpec, *, is_step: bool
    ) -> Graphed | None:
        if shape not in self._graphs:
            if len(self._graphs) < MOST_SHAPES:
                self._graphs[shape] = None
            return None
        if self._graphs[shape] is None:
            self._graphs[shape] = self._captured(tensors, form, is_step=is_step)
        return self._graphs[shape]

    def _captured(
        self, tensors: list[Any], form: TreeSpec, *, is_step: bool
    ) -> Graphed | None:
        learner = self.learn
        failure = why_not_captured(learner, tensors)
        if not failure:
            step = Step(learner.model, learner.loss_func if is_step else None, form)
            try:
                with untouched(step, learner.device):
                    graphed = capture(step, tensors)
            except Exception as error:
                # Capturing runs the step: an error of the model comes again without.
                first = str(error).partition("\n")[0]
                failure = f"capturing failed with {type(error).__name__}: {first}"
            else:
                self._weights = [p for p in step.parameters() if p.requires_grad]
                return graphed
        self.reason = self._failure = failure
        self._tell(failure)
        return None

    def _tell(self, reason: str) -> None:
        warnings.warn(
            f"{self.name}: training runs without graphs, since {reason}",
            CallboardWarning,
            stacklevel=3,
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy captures anew."""
        state: dict[str, Any] = super().__getstate__()
        state |= {"_graphs": {}, "_captured_from": (), "_weights": [], "_loss": None}
        return state


class Step(nn.Module):
    """Prediction, and loss where there is a function for it, of a batch laid out flat.

    Attributes:
        model: What predicts.
        loss_func: What is lost; None for the prediction alone.
        form: What puts inputs and labels together again.
    """

    def __init__(
        self, model: nn.Module, loss_func: Callable[..., Tensor] | None, form: TreeSpec
    ) -> None:
        super().__init__()
        self.model = model
        self.loss_func = loss_func
        self.form = form

    def forward(self, *tensors: Tensor) -> Any:
        xb, yb = tree_unflatten(tensors, self.form)
        made = self.model(**xb) if isinstance(xb, dict) else self.model(*xb)
        if self.loss_func is None:
            return made
        return made, self.loss_func(made, *yb)


def capture(step: Step, tensors: list[Tensor]) -> Graphed:
    """A function that replays a step, and its backward pass, as CUDA graphs.

    Args:
        step: What is captured. It runs some times, with all that it does.
        tensors: What it takes: samples of shapes and types, whose memory is not kept.
    """
    samples = tuple(tensor.detach().clone() for tensor in tensors)
    has_cache = torch.is_autocast_cache_enabled()
    # Weights that were cast before a capture would not be cast anew in a replay.
    torch.set_autocast_cache_enabled(False)
    try:
        graphed: Graphed = torch.cuda.make_graphed_callables(
            step, samples, allow_unused_input=True
        )
    finally:
        torch.set_autocast_cache_enabled(has_cache)
    return graphed


def own_gradients(weights: list[nn.Parameter]) -> None:
    """Copy the gradients that are there, as where they are accumulated.

    They lie in the memory of a graph, which is about to write the next ones there.
    """
    for weight in weights:
        if weight.grad is not None:
            weight.grad = weight.grad.clone()


@contextmanager
def untouched(step: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave buffers and random streams as they were: running means, dropout."""
    buffers = [(buffer, buffer.clone()) for buffer in step.buffers()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def place_of(learner: Learner) -> Shape:
    """What graphs hold on to: where weights and buffers lie, and which are trained."""
    parts: list[nn.Module] = [learner.model]
    if isinstance(learner.loss_func, nn.Module):
        parts.append(learner.loss_func)
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    modes = [module.training for module in learner.model.modules()]
    return (
        *(id(part) for part in parts),
        *((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors),
        *modes,
    )


def why_not(learner: Learner) -> str:
    """Why nothing can be captured where a Learner trains; empty where it can."""
    device = learner.device
    if device.type != "cuda":
        return f"CUDA graphs need a GPU of NVIDIA, and this is trained on {device.type}"
    if torch.version.hip is not None:
        return "torch is built for ROCm here"
    if learner.world_size > 1:
        return "several processes train together, which wait for each other in a step"
    return ""


def why_not_captured(learner: Learner, tensors: list[Any]) -> str:
    """Why a step of these inputs and labels cannot be captured; empty where it can."""
    for part in tensors:
        if not isinstance(part, Tensor):
            return f"a batch holds {type(part).__name__}, not tensors alone"
        if part.device != learner.device:
            return f"a part of the batch lies on {part.device}"
        if part.requires_grad:
            return "a part of the batch wants a gradient itself"
    for name, module in learner.model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks)
        if any((*hooks, module._backward_hooks, module._backward_pre_hooks)):
            return f"{name or 'the model'} has hooks, which a graph would not call"
    return ""


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs: nothing is captured without a GPU."""
    from callboard.testing import Specimen

    return {"cuda-graphs": Specimen()}
