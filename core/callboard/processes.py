"""The processes that train one Learner together: here, the one that there is.

``learner.processes`` is what plugins ask where they run, and what they let numbers be
summed by. The plugin ``distributed`` puts one in its place that speaks for many.

    total, count = self.learn.processes.sum([total, count])

In one process all of this gives back what it was given, so a plugin needs no second
way. What speaks with the other processes must be called by all of them, in one order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard.data import batch_size

if TYPE_CHECKING:
    from callboard.learner import Learner

FAILED = "callboard/failed"
SECONDS_TO_REACH_STORE = 5


class Processes:
    """The processes that train together, as one of them sees it; by itself, one.

    Attributes:
        owner: The plugin that has brought them together, None without one.
        part: Which part of every batch is this process's own.
        sums_gradients: Whether the gradients of the batch at hand are summed over all
            processes. Who knows before the forward pass that no step follows it may
            set False, for that batch, and save what the sum costs.
        spreads_weights: Whether each process holds a share of the weights only.
        signal: Number of the signal at which all processes end, None without one; the
            same in every process at every moment of the loop.
    """

    owner: object = None
    spreads_weights = False

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self.part = 0
        self.sums_gradients = True
        self.signal: int | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and talks to people."""
        return self.rank == 0

    # ---- what every process calls alike ----------------------------------------

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """These numbers, each summed over all processes."""
        return list(numbers)

    def gather(self, value: Any) -> list[Any]:
        """This value of every process, by rank."""
        return [value]

    def from_main(self, value: Any) -> Any:
        """The value that the main process gives."""
        return value

    # ---- what one process may ask, and all answer together ---------------------

    def stop(self, learner: Learner, reason: str) -> None:
        """Ask all to end the fit; ``learner.stop`` is what plugins call."""
        learner.stop_reason = learner.stop_reason or reason

    def leave(self, number: int) -> None:
        """Ask all to end at a signal of this number; may be called by its handler."""
        self.signal = number

    def seconds(self) -> float:
        """A clock that is the same in every process at every moment of the loop."""
        return time.monotonic()

    # ---- what is theirs together ------------------------------------------------

    def sizes(self, learner: Learner) -> tuple[int, int]:
        """Number of samples in the batch: this process's own, and that of all.

        Its own is 0 where it has none and only keeps in step with the others.
        """
        size = batch_size(learner.xb)
        return size, size

    def place(self, learner: Learner) -> None:
        """Put the model where it is trained; called before every fit and evaluation."""
        learner.model.to(learner.device)

    def model_state(self, learner: Learner, *, whole: bool = True) -> dict[str, Any]:
        """The model's ``state_dict``: whole, or what is spread left spread."""
        return learner.model.state_dict()

    def load_model_state(self, learner: Learner, state: Mapping[str, Any]) -> None:
        """Take back what ``model_state`` returned."""
        learner.model.load_state_dict(state)

    def optimizer_state(
        self, learner: Learner, *, whole: bool = True
    ) -> dict[str, Any]:
        """The optimizer's ``state_dict``: whole, or what is spread left spread."""
        return learner.opt.state_dict()

    def load_optimizer_state(self, learner: Learner, state: dict[str, Any]) -> None:
        """Take back what ``optimizer_state`` returned."""
        learner.opt.load_state_dict(state)

    def empty(
        self, learner: Learner, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Room for a saved weight, or what the optimizer keeps of one.

        It is spread as the weights are, and in the memory of the CPU where they are
        not.
        """
        return torch.empty(tuple(shape), dtype=dtype)


def alone() -> Processes:
    """This process by itself; its rank is what ``torchrun`` says.

    It has one where several were started that nobody has brought together yet: only
    the first of them then writes files.
    """
    rank = os.environ.get("RANK", "")
    return Processes(int(rank) if rank.isdigit() and num_started() > 1 else 0)


def is_first_to_fail() -> bool:
    """Whether no other of the processes that ``torchrun`` started has failed before.

    The first to ask is the one that tells of the error which ends them all. Asked
    again, it is told so again.
    """
    rank, key = os.environ.get("RANK", "0"), FAILED
    if num_started() == 1:
        return True
    try:
        return bool(_store().compare_set(key, "", rank).decode() == rank)
    except (OSError, RuntimeError, KeyError, ValueError):
        return rank == "0"  # nobody keeps a store: the main one tells


def forget_failures() -> None:
    """Let the processes of a new attempt fail anew; the first of them calls it."""
    with suppress(OSError, RuntimeError, KeyError, ValueError):
        _store().delete_key(FAILED)


def _store() -> Any:
    """What torchrun keeps for its processes to leave word in."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=SECONDS_TO_REACH_STORE)
    return TCPStore(*place, is_master=False, timeout=timeout)


def num_started() -> int:
    """How many processes were started together, as ``torchrun`` says; 1 without it."""
    number = os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdigit() else 1
