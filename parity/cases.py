"""What a case is, and how the difference between two runs is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Both frameworks calculate in float32, in sequences of their own.
TOLERANCE = 1e-5
Measure = Callable[[Path], float]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        subject: Name of the class or function of fastai.
        compared: What is compared, in words.
        measure: Makes both runs in an empty folder; the largest relative difference.
    """

    subject: str
    compared: str
    measure: Measure


CASES: list[Case] = []


def case(subject: str, compared: str) -> Callable[[Measure], Measure]:
    """Add a function to the cases."""

    def add(measure: Measure) -> Measure:
        CASES.append(Case(subject, compared, measure))
        return measure

    return add


def difference(ours: Any, theirs: Any) -> float:
    """The largest relative difference between two structures of numbers.

    Numbers that belong together (a tensor, a list of numbers) are compared relative to
    the largest of them in size, since float32 is no more exact than that. Everything
    else is equal (0) or not (infinite), and so are infinities and NaN.

    >>> difference([1.0, 4.0], [1.0, 4.0002])
    4.99975...e-05
    >>> difference({"best": 1}, {"best": 1, "worst": 2})
    inf
    """
    ours, theirs = plain(ours), plain(theirs)
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return _between_tensors(ours, theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if list(ours) != list(theirs):
            return math.inf
        return max((difference(ours[key], theirs[key]) for key in ours), default=0.0)
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return math.inf
        parts = zip(ours, theirs, strict=True)
        return max((difference(*pair) for pair in parts), default=0.0)
    return 0.0 if ours == theirs else math.inf


def plain(data: Any) -> Any:
    """Numbers as one tensor where they are of one kind; sequences as lists."""
    if isinstance(data, Tensor):
        return torch.Tensor.as_subclass(data, torch.Tensor).detach().cpu().double()
    if isinstance(data, np.ndarray):
        return torch.as_tensor(data).double()
    if isinstance(data, bool | str | bytes | type(None) | Mapping):
        return data
    if isinstance(data, int | float) or hasattr(data, "__float__"):
        return torch.tensor([float(data)], dtype=torch.float64)
    parts = [plain(part) for part in data]
    if parts and all(isinstance(part, Tensor) and part.numel() == 1 for part in parts):
        return torch.cat([part.reshape(1) for part in parts])
    return parts


def _between_tensors(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    is_finite = ours.isfinite()
    if not torch.equal(is_finite, theirs.isfinite()):
        return math.inf
    special = torch.nan_to_num(ours, 7.0), torch.nan_to_num(theirs, 7.0)
    if not torch.equal(special[0][~is_finite], special[1][~is_finite]):
        return math.inf
    ours, theirs = ours[is_finite], theirs[is_finite]
    if not len(ours) or torch.equal(ours, theirs):
        return 0.0
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))
