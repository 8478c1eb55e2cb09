"""How much memory a step takes, and how much there is.

A GPU's allocator counts by itself. Elsewhere every operation's result is counted from
when it is made until nobody holds it any more: the same number in every run, which the
size of the process is not.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BYTES_PER_KIB = 1024
ALLOCATION_ERRORS = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, inside its ``with`` block, the bytes of tensors that are made and held.

    Attributes:
        now: Bytes of what was made inside the block and is held now.
        peak: The most that ``now`` has been.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._held: dict[int, Callable[[], object]] = {}

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        options = options or {}
        known = {None, *map(_identity, tree_leaves((arguments, options)))}
        made = function(*arguments, **options)
        for tensor in tree_leaves(made):
            if _identity(tensor) not in known:
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        # A view shares the storage of what it looks at.
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self._held[key] = weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._held.pop(key, None)
        self.now -= size


def _identity(value: object) -> int | None:
    """What tells one storage from another; a sparse tensor has none of its own."""
    has_storage = isinstance(value, Tensor) and value.layout is torch.strided
    return value.untyped_storage()._cdata if has_storage else None  # type: ignore[attr-defined]


def free_bytes(device: torch.device) -> int | None:
    """Memory that may be taken on a device; None where nobody knows."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )
        return int(free + unused)
    limits = [limit for limit in (_available_here(), _left_to_group()) if limit]
    return min(limits, default=None)


def _available_here() -> int | None:
    """What Linux says could be taken without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _physical_bytes()
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * BYTES_PER_KIB
    return _physical_bytes()


def _physical_bytes() -> int | None:
    """What is installed, halved, since others use it too; None on Windows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _left_to_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still take; None where it has no limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = (folder / "memory.current").read_text().strip()
    except OSError:
        return None
    return max(int(limit) - int(used), 1) if limit.isdigit() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    is_torchs = isinstance(error, RuntimeError)
    return is_torchs and any(words in text for words in ALLOCATION_ERRORS)
