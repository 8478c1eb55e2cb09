"""Models and optimizers in files, as fastai writes them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from callboard.plain import read_plain
from callboard_fastai.torch_core import get_model, rank_distrib


def save_model(
    file: Any,
    model: nn.Module,
    opt: Any,
    with_opt: bool = True,
    pickle_protocol: int = 2,
) -> None:
    """Save a model, and its optimizer where asked to, as fastai does."""
    if rank_distrib():
        return
    state: Any = get_model(model).state_dict()
    if with_opt and opt is not None:
        state = {"model": state, "opt": opt.state_dict()}
    torch.save(state, file, pickle_protocol=pickle_protocol)


def load_model(
    file: Any,
    model: nn.Module,
    opt: Any,
    with_opt: bool = True,
    device: Any = None,
    strict: bool = True,
) -> None:
    """Load a model, and its optimizer where asked to; loading runs no code."""
    device = torch.device("cuda", device) if isinstance(device, int) else device
    state = read_plain(file, device or "cpu")
    has_opt = set(state) == {"model", "opt"}
    get_model(model).load_state_dict(
        state["model"] if has_opt else state, strict=strict
    )
    if has_opt and with_opt:
        opt.load_state_dict(state["opt"])
    elif with_opt:
        warnings.warn(
            "Saved file doesn't contain an optimizer state.", UserWarning, stacklevel=3
        )
