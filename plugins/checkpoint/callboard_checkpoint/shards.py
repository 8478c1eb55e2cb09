"""What is spread over processes: each writes its share, each reads what it needs.

PyTorch's distributed checkpoints say who writes what and find it again for another
number of processes. They are kept in safetensors, whose headers say what is where:
nothing is unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from callboard_checkpoint.files import DamagedError, digest_of


class Shards:
    """The processes that write their shares of a checkpoint together, in threads.

    They speak over a group of their own, so that training can go on over its own.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")

    def close(self) -> None:
        """Give the group back."""
        dist.destroy_process_group(self._group)

    def from_main(self, make: Callable[[], Any] | None = None) -> Any:
        """What the main process makes, for all.

        Raises:
            OSError: It cannot make it; or the processes cannot be reached.
        """
        made, fault = None, None
        if make is not None:
            try:
                made = make()
            except Exception as error:
                fault = error
        told = [made, fault and str(fault)]
        self._exchange(dist.broadcast_object_list, told, src=0)
        if told[1] is not None:
            raise fault or OSError(told[1])
        return told[0]

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Write all shares into a folder, and wait until they are on the disk.

        Args:
            folder: Where; all processes see it.
            tensors: What ``staged`` returned, by names that are the same in all.

        Returns:
            The SHA-256 of every file, by its name.

        Raises:
            OSError: One of the processes cannot write.
        """
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            save(dict(tensors), storage_writer=writer, process_group=self._group)
        except CheckpointException as error:
            faults = error.failures.items()
            said = (f"process {rank}: {fault[0]}" for rank, fault in faults)
            raise OSError("; ".join(said)) from error
        except RuntimeError as error:
            raise OSError(f"the other processes cannot be reached: {error}") from error
        return self._digests(folder)

    def _digests(self, folder: Path) -> dict[str, str]:
        """The digest of every file; each process reads the one that it has written."""
        own: dict[str, str] | str = {}
        number = dist.get_rank(self._group) + 1
        try:
            files = folder.glob(f"shard-{number:05d}-*")
            own = {file.name: digest_of(file) for file in files}
        except OSError as error:
            own = f"process {number - 1}: {error}"
        found: list[Any] = [None] * dist.get_world_size(self._group)
        self._exchange(dist.all_gather_object, found, own)
        faults = [one for one in found if isinstance(one, str)]
        if faults:
            raise OSError("; ".join(faults))
        return {name: digest for one in found for name, digest in one.items()}

    def _exchange(
        self, collective: Callable[..., Any], *given: Any, **how: Any
    ) -> None:
        try:
            collective(*given, group=self._group, **how)
        except RuntimeError as error:
            raise OSError(f"the other processes cannot be reached: {error}") from error


def staged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the memory of the CPU, which training cannot change; spread alike."""
    copies: dict[str, Tensor] = BlockingAsyncStager().stage(dict(tensors))
    return copies


def read_into(
    tensors: Mapping[str, Tensor], checkpoint: Path, *, is_alone: bool
) -> None:
    """Read tensors, or of each the share that this process has.

    Args:
        tensors: What to fill, by name; spread in any way, or whole.
        checkpoint: A folder that ``Shards`` has written into.
        is_alone: Whether no other process reads with this one.

    Raises:
        DamagedError: One of them is not there as it should be.
    """
    reader = HuggingFaceStorageReader(str(checkpoint))
    with warnings.catch_warnings():
        # It warns of what it was asked for: reading in a single process.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            load(dict(tensors), storage_reader=reader, no_dist=is_alone)
        except (CheckpointException, OSError, ValueError, KeyError) as error:
            raise DamagedError(f"{checkpoint} holds no state: {error}") from error


def damage(checkpoint: Path, digests: Mapping[str, str]) -> str:
    """What is wrong with the files of some shares; empty when nothing is."""
    for name, digest in digests.items():
        try:
            if digest_of(checkpoint / name) != digest:
                return f"{checkpoint / name} is not what was written."
        except OSError as error:
            return f"{checkpoint / name} cannot be read: {error}"
    return ""
