"""Show the layers of a model, their shapes and parameters: ``learn.summary()``.

Listens to  before_batch and after_pred, of one batch in the stage ``predict``
Changes     nothing; the batch is cancelled once the model was called
Source      the table of fastai's ``summary``; its parts are counted here

The model sees one batch in eval mode and without gradients, on the way that predictions
take: as keywords where batches are mappings, under autocast where that is active.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callboard import Callback, CancelValidException
from callboard.board import table
from callboard.errors import CallboardError, DataError
from callboard_hooks import Hooks, layers_of

if TYPE_CHECKING:
    from callboard import Learner

BYTES_PER_MEGABYTE = 1e6


@dataclass(frozen=True)
class LayerRow:
    """One layer of a model.

    Attributes:
        name: Its name in the model; empty for the model itself.
        kind: Name of its class.
        output: Shape of what it gave, in words; of its last call.
        num_params: Number of its own parameters, those of layers inside it left out.
        num_trained: How many of them are trained.
        num_calls: How often the model called it.
    """

    name: str
    kind: str
    output: str
    num_params: int
    num_trained: int
    num_calls: int


@dataclass(frozen=True)
class ModelSummary:
    """The layers of a model in the order in which they were called; prints as a table.

    Attributes:
        title: Name of the model's class.
        inputs: Shapes of the inputs, in words.
        layers: Its layers; those that were not called come last.
        num_params: Number of parameters, each counted once however often it is used.
        num_trained: How many of them are trained.
        megabytes: Size of parameters and buffers, in units of 10**6 bytes.
        training: What the Learner says besides, by heading.
    """

    title: str
    inputs: str
    layers: Sequence[LayerRow]
    num_params: int
    num_trained: int
    megabytes: float
    training: Mapping[str, str]

    def __str__(self) -> str:
        headings = ("layer", "type", "output shape", "parameters", "trained")
        parts = [
            f"{self.title} (input shape: {self.inputs})",
            table([headings, *map(_cells, self.layers)]),
            f"Parameters: {self.num_params:,} ({self.num_trained:,} trained, "
            f"{self.num_params - self.num_trained:,} not); {self.megabytes:.2f} MB",
        ]
        if self.training:
            parts.append("\n".join(f"{k}: {v}" for k, v in self.training.items()))
        return "\n\n".join(parts)

    __repr__ = __str__


def _cells(row: LayerRow) -> tuple[str, ...]:
    times = f" (called {row.num_calls} times)" if row.num_calls > 1 else ""
    trained = "" if not row.num_params else "yes" if row.num_trained else "no"
    if 0 < row.num_trained < row.num_params:
        trained = f"{row.num_trained:,} of them"
    output = row.output + times if row.num_calls else "(not called)"
    params = f"{row.num_params:,}" if row.num_params else ""
    return row.name or "(model)", row.kind, output, params, trained


def model_summary(model: nn.Module, *inputs: Any, **named_inputs: Any) -> ModelSummary:
    """The layers of a model, called once on these inputs.

    It is called in eval mode and without gradients; modes, buffers and random streams
    are put back.

    Args:
        model: The model.
        inputs: What it is called with, on its device.
        named_inputs: What it is called with by keyword.
    """
    given: Any = (inputs, named_inputs) if inputs and named_inputs else None
    given = given or (named_inputs if named_inputs else inputs)
    modes = [(module, module.training) for module in model.modules()]
    with _watched(model) as calls, torch.random.fork_rng(), torch.no_grad():
        try:
            model.eval()(*inputs, **named_inputs)
        finally:
            for module, mode in modes:
                module.training = mode
    return _summary_of(model, given, calls, {})


def summary(learner: Learner, batch: Any = None) -> ModelSummary:
    """The layers of the Learner's model on one batch, and what trains it.

    Works at any moment, in a fit too, and leaves all as it was.

    Args:
        learner: Whose model it is.
        batch: What to call the model on, as a loader gives it. Default: the first of
            the training data.

    Raises:
        DataError: The training data has no batch, or could not be gone through again.
        CallboardError: The model was not called.
    """
    one_batch = _OneBatch()
    with (
        learner.added_cbs(one_batch),
        learner.evaluating("predict"),
        _watched(learner.model) as calls,
    ):
        learner.run_validation(_checked_loader(learner) if batch is None else [batch])
    if one_batch.inputs is None:
        raise CallboardError(
            "model-summary: the model was not called, since another plugin cancelled "
            "the batch; give learn.summary(batch=...) one that it lets through."
        )
    return _summary_of(learner.model, one_batch.inputs, calls, _training_of(learner))


def _checked_loader(learner: Learner) -> Any:
    loader: Any = learner.dls.train
    if iter_is_itself(loader):
        raise DataError(
            f"model-summary: the training data is a {type(loader).__name__}, which can "
            "be gone through once only, and this would take its first batch; give "
            "learn.summary(batch=...)."
        )
    return loader


def iter_is_itself(loader: Any) -> bool:
    """Whether data is an iterator, which has no batch again that it once gave."""
    return isinstance(loader, Iterator)


class _OneBatch(Callback):
    """Ends a validation once the model was called."""

    name = "one-batch"
    role = "control"
    stages = ("predict",)

    def __init__(self) -> None:
        self.inputs: Any = None

    def before_batch(self) -> None:
        self._seen = self.learn.xb

    def after_pred(self) -> None:
        self.inputs = self._seen
        raise CancelValidException("model-summary: one batch is enough")


@dataclass
class _Call:
    """What is known of the calls of a layer."""

    name: str
    module: nn.Module
    output: str = ""
    count: int = 0


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, _Call]]:
    """Collects, by name, the calls of a model's layers; those called first come first.

    Buffers are put back afterwards.
    """
    layers = layers_of(model, include_paramless=True)
    names: dict[int, str] = {id(module): name for name, module in layers.items()}
    calls: dict[str, _Call] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        name = names[id(module)]
        call = calls.setdefault(name, _Call(name, module))
        call.output, call.count = shape_in_words(output), call.count + 1

    buffers = [(b, b.detach().clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        with Hooks(layers.values(), note):
            yield calls
    finally:
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
        for name, module in layers.items():
            calls.setdefault(name, _Call(name, module))


def shape_in_words(data: Any) -> str:
    """The shapes of tensors in tuples, lists and mappings; of anything else its type.

    >>> shape_in_words((torch.zeros(8, 3), {"mask": torch.zeros(())}))
    '(8 x 3, {mask: number})'
    """
    if isinstance(data, Tensor):
        return " x ".join(map(str, data.shape)) or "number"
    if isinstance(data, Mapping):
        return f"{{{', '.join(f'{k}: {shape_in_words(v)}' for k, v in data.items())}}}"
    if isinstance(data, tuple | list):
        return f"({', '.join(map(shape_in_words, data))})"
    return "None" if data is None else type(data).__name__


def _summary_of(
    model: nn.Module, inputs: Any, calls: Mapping[str, _Call], training: dict[str, str]
) -> ModelSummary:
    if isinstance(inputs, tuple) and len(inputs) == 1:
        inputs = inputs[0]
    parameters = list(model.parameters())  # each once, shared or not
    tensors = [*parameters, *model.buffers()]
    return ModelSummary(
        title=type(model).__name__,
        inputs=shape_in_words(inputs),
        layers=[_row_of(call) for call in calls.values()],
        num_params=sum(map(_num_elements, parameters)),
        num_trained=sum(_num_elements(p) for p in parameters if p.requires_grad),
        megabytes=sum(_num_elements(t) * t.element_size() for t in tensors)
        / BYTES_PER_MEGABYTE,
        training=training,
    )


def _row_of(call: _Call) -> LayerRow:
    own = list(call.module.parameters(recurse=False))
    return LayerRow(
        name=call.name,
        kind=type(call.module).__name__,
        output=call.output,
        num_params=sum(map(_num_elements, own)),
        num_trained=sum(_num_elements(p) for p in own if p.requires_grad),
        num_calls=call.count,
    )


def _num_elements(tensor: Tensor) -> int:
    return 0 if is_lazy(tensor) else tensor.numel()


def _training_of(learner: Learner) -> dict[str, str]:
    """Optimizer, loss, freezing and plugins, in words."""
    said = {
        "Optimizer": _optimizer_in_words(learner),
        "Loss": "the model's own" if learner.loss_func is None else "",
    }
    said["Loss"] = said["Loss"] or _name_of(learner.loss_func)
    if learner.opt is not None:
        said["Parameter groups"] = _groups_in_words(learner.opt)
    keys = learner.cbs.keys()
    said["Callbacks"] = ", ".join(keys) or "none"
    return said


def _optimizer_in_words(learner: Learner) -> str:
    if learner.opt is None:
        return f"{_name_of(learner.opt_func)}, made by the first fit"
    return type(learner.opt).__name__


def _groups_in_words(opt: torch.optim.Optimizer) -> str:
    """How many groups there are, and up to which one they are frozen."""
    trained = [
        any(p.requires_grad for p in group["params"]) for group in opt.param_groups
    ]
    if all(trained):
        return f"{len(trained)}, none frozen"
    first = trained.index(True) if any(trained) else len(trained)
    return f"{len(trained)}, frozen up to number {first}"


def _name_of(function: Any) -> str:
    if isinstance(function, nn.Module):
        return repr(function)
    inner = getattr(function, "func", function)  # of a partial
    return getattr(inner, "__name__", type(inner).__name__)
