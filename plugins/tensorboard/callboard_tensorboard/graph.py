"""The model as a graph, traced without leaving a mark on it."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn

from callboard.state import untouched_random_state


def write_graph(writer: Any, model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Trace a model and write its graph.

    The model runs several times, in evaluation mode. Modes of all modules, buffers and
    the random streams are afterwards what they were.

    Args:
        writer: A ``SummaryWriter``.
        model: What to trace.
        inputs: What it takes, by position.

    Raises:
        RuntimeError: It cannot be traced.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with (
            untouched_random_state(),
            torch.no_grad(),
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),  # it prints an error besides raising it
        ):
            # Of tracing: what was turned into a constant does not matter to a picture.
            warnings.simplefilter("ignore")
            writer.add_graph(model, inputs)
    finally:
        for module, mode in modes:
            module.training = mode  # train() would reach into frozen submodules
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
