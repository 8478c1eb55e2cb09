"""All that a run must remember: random streams, and the record of what happened.

Random numbers in training are a function of (seed, fit, epoch, batch): the global
generator is set anew before every batch, so a plugin that draws from it, a nested
validation or a resumed run moves nobody else's draws. Every plugin has a stream of its
own besides.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard.errors import StateError

if TYPE_CHECKING:
    from callboard.learner import Learner

STATE_VERSION = 1
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


def state_of(learner: Learner) -> dict[str, Any]:
    """Model, optimizer, position and every plugin's state, as ``state_dict``."""
    plugins = {}
    for key, member in learner._board.members.items():
        own = member.plugin.state_dict() if _has_state(member.plugin) else {}
        if own:  # one without state need not be there when this comes back
            plugins[key] = own
    return {
        "version": STATE_VERSION,
        "model": learner.model.state_dict(),
        "opt": None if learner.opt is None else learner.opt.state_dict(),
        "loop": {
            "seed": learner.seed,
            "fit_number": learner._fit_number,
            "epoch": learner.epoch,
            "iter": learner.iter,
            "train_iter": learner.train_iter,
            "pct_train": learner.pct_train,
        },
        "plugins": plugins,
        "streams": {key: s.get_state() for key, s in learner._streams.items()},
    }


def restore(learner: Learner, state: Mapping[str, Any]) -> None:
    """Take back what ``state_of`` returned.

    Raises:
        StateError: It is of another version, or a part does not fit.
    """
    version = state.get("version")
    if version != STATE_VERSION:
        raise StateError(
            f"This state is of version {version!r}; this Callboard reads version "
            f"{STATE_VERSION}."
        )
    unknown = sorted(set(state["plugins"]) - set(learner._board.members))
    if unknown:
        raise StateError(
            f"The state holds plugins that are not active: {', '.join(unknown)}. "
            "Add them, or take them out of state['plugins']."
        )
    try:
        learner.model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise StateError(f"The model does not fit this state: {error}") from error
    if state["opt"] is None:
        learner.opt = None  # type: ignore[assignment]
    else:
        _restore_optimizer(learner, state["opt"])
    position = state["loop"]
    learner.seed, learner._fit_number = position["seed"], position["fit_number"]
    learner.epoch, learner.iter = position["epoch"], position["iter"]
    learner.train_iter = position["train_iter"]
    learner.pct_train = position["pct_train"]
    for key, plugin_state in state["plugins"].items():
        learner._board.members[key].plugin.load_state_dict(plugin_state)
    for key, stream_state in state["streams"].items():
        stream = learner._streams.setdefault(key, RandomStream())
        stream.set_state(stream_state)


def _has_state(plugin: object) -> bool:
    return callable(getattr(plugin, "state_dict", None))


def _restore_optimizer(learner: Learner, state: dict[str, Any]) -> None:
    if learner.opt is None:
        learner.create_opt()
    try:
        learner.opt.load_state_dict(state)
    except ValueError as error:
        raise StateError(f"The optimizer does not fit this state: {error}") from error
