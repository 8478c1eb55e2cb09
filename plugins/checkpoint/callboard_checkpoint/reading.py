"""Reading a checkpoint: in one process, or in all that train together.

The main process reads what only one has written, for all: no other need see its disk.
Of the weights that each process has written a share of, each reads what it needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callboard.errors import CallboardWarning, StateError
from callboard.processes import Processes
from callboard_checkpoint.files import DamagedError, Stored, read_stored
from callboard_checkpoint.folder import RunFolder, is_checkpoint
from callboard_checkpoint.tree import SPREAD, join

if TYPE_CHECKING:
    from callboard import Learner


class Reader:
    """Reads checkpoints for a Learner; all of its processes must ask alike.

    Args:
        learner: Whose processes read. None reads in this process alone, all whole.
    """

    def __init__(self, learner: Learner | None = None) -> None:
        self._learner = learner
        self._processes = Processes() if learner is None else learner.processes

    def read(self, checkpoint: Path) -> Any:
        """The state that a checkpoint holds. Nothing that it may hold is run.

        Raises:
            DamagedError: It is not what was written.
        """
        path, stored = self._from_main(lambda: (checkpoint, read_stored(checkpoint)))
        tensors = dict(stored.tensors)
        if stored.spread:
            tensors |= self._spread(path, stored)
        try:
            return join(stored.plain, tensors)
        except (RecursionError, KeyError) as error:
            raise DamagedError(f"{path} holds no state: {error}") from error

    def _spread(self, checkpoint: Path, stored: Stored) -> dict[str, Tensor]:
        # It takes a second to import.
        from callboard_checkpoint.shards import damage, read_into

        processes = self._processes
        names = sorted(stored.digests)
        own = names[processes.rank :: processes.world_size]
        found = damage(checkpoint, {name: stored.digests[name] for name in own})
        faults = [fault for fault in processes.gather(found) if fault]
        if faults:
            raise DamagedError("; ".join(faults))
        room = {name: self._room(*one) for name, one in stored.spread.items()}
        read_into(room, checkpoint, is_alone=processes.world_size == 1)
        return {SPREAD + name: tensor for name, tensor in room.items()}

    def _room(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self._learner is None:
            return torch.empty(tuple(shape), dtype=dtype)
        return self._processes.empty(self._learner, shape, dtype)

    def newest_good(self, folder: Path) -> Any:
        """The state of the latest checkpoint that is not damaged; None without any.

        Raises:
            DamagedError: There are checkpoints, and all of them are damaged.
        """
        damaged = []
        for checkpoint in self._from_main(RunFolder(folder).checkpoints)[::-1]:
            try:
                state = self.read(checkpoint)
            except DamagedError as error:
                damaged.append(str(error))
                continue
            if damaged:
                listed = "\n  ".join(damaged)
                warnings.warn(
                    f"The run goes on from {checkpoint.name}, since what is newer is "
                    f"damaged:\n  {listed}",
                    CallboardWarning,
                    stacklevel=2,
                )
            return state
        if damaged:
            listed = "\n  ".join(damaged)
            raise DamagedError(f"No checkpoint in {folder} is good:\n  {listed}")
        return None

    def read_path(self, path: Path) -> Any:
        """The state of a checkpoint, or of the last good one in a folder of them.

        Raises:
            StateError: There is none, or all are damaged.
        """

        def is_one() -> bool:
            if not path.is_dir():
                raise StateError(f"There is no checkpoint at {path}.")
            return is_checkpoint(path)

        if self._from_main(is_one):
            return self.read(path)
        state = self.newest_good(path)
        if state is None:
            raise StateError(f"The folder {path} holds no checkpoint.")
        return state

    def _from_main(self, ask: Callable[[], Any]) -> Any:
        """What the main process finds, or the error that it meets, in all."""
        found, fault = None, None
        if self._processes.is_main or self._processes.world_size == 1:
            try:
                found = ask()
            except StateError as error:
                fault = error
        found, fault = self._processes.from_main((found, fault))
        if fault is not None:
            raise fault
        return found
