"""What a run carries along: random streams, and the record of what happened.

Random numbers in training are a function of (seed, fit, epoch, batch): the global
generator is set anew before every batch, so a plugin that draws from it, a nested
validation or a resumed run moves nobody else's draws. Every plugin has a stream of its
own besides.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

MAX_SEED = (1 << 63) - 1
MAX_REASONS = 1000


def derive_seed(*parts: int | str) -> int:
    """A seed that hangs on all parts and on nothing else, 0 <= seed < 2**63.

    The first eight bytes of a BLAKE2 digest: near seeds give unrelated streams, and the
    CPU generator, which only uses the low 32 bits of a seed, gets well-mixed ones.
    """
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & MAX_SEED


class RandomStream(torch.Generator):
    """A generator of random numbers that belongs to one plugin, on the CPU.

    Give it to whatever torch function takes ``generator=``. ``random`` and ``beta`` are
    here because torch offers them on the global generator only.
    """

    def random(self) -> float:
        """A number drawn evenly from [0, 1)."""
        return float(torch.rand((), generator=self, dtype=torch.float64))

    def beta(self, a: float, b: float, size: tuple[int, ...] | int = ()) -> Tensor:
        """Draw from Beta(a, b), as float32 on the CPU.

        The ratio of two Gamma draws (Devroye 1986, chapter IX.4).

        Args:
            a: First shape parameter, above 0.
            b: Second shape parameter, above 0.
            size: Shape of the result; a number gives one dimension.
        """
        shape = (size,) if isinstance(size, int) else tuple(size)
        # In float64: for small shapes a float32 gamma draw can underflow to 0, and 0/0
        # is NaN.
        concentration = torch.tensor([a, b], dtype=torch.float64).expand(*shape, 2)
        draws = torch._standard_gamma(concentration, generator=self)
        return (draws[..., 0] / draws.sum(-1)).to(torch.float32)


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """Leave torch's, numpy's and Python's global random streams as they were."""
    # torch works without numpy, and so does the core.
    numpy = import_module("numpy") if find_spec("numpy") else None
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy.random.get_state() if numpy else None
    has_cuda = torch.cuda.is_available()
    cuda_states = torch.cuda.get_rng_state_all() if has_cuda else []
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


@dataclass(frozen=True)
class Reason:
    """Why something ended, and who said so.

    Attributes:
        what: ``"stop"`` or the level that was cancelled (``"batch"``, ``"fit"``, ...).
        reason: The words of the plugin.
        plugin: Key of the plugin, or an empty string when it was the user.
        epoch: Number of the epoch, from 0.
        batch: Number of the batch in its phase, from 0.
    """

    what: str
    reason: str
    plugin: str
    epoch: int
    batch: int


@dataclass(frozen=True)
class Failure:
    """An observer that raised and was switched off for the rest of the fit."""

    plugin: str
    distribution: str
    event: str
    error: str
    epoch: int
    batch: int


@dataclass
class RunRecord:
    """What happened in a fit beside numbers: stops, cancels, failed observers.

    Attributes:
        reasons: The stops and cancels, in their order. Of a fit that cancels most of
            its batches, as accumulation of gradients does, the first and the latest.
        failures: The observers that failed.
    """

    reasons: list[Reason] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add_reason(self, reason: Reason) -> None:
        """Keep a reason; one from the middle makes room when there are many."""
        if len(self.reasons) >= MAX_REASONS:
            del self.reasons[MAX_REASONS // 2]
        self.reasons.append(reason)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for logs and JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        from callboard.notebook import record_html

        return record_html(self)
