"""The process group: who belongs to it, what it speaks over, and where each runs."""

from __future__ import annotations

import atexit
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]
    HashStore,
    PrefixStore,
    Store,
    TCPStore,
)
from torch.distributed.rendezvous import rendezvous

from callboard.errors import CallboardError
from callboard.processes import forget_failures, num_started

POLL_SECONDS = 0.02
SECONDS_TO_LET_GO = 0.2


@dataclass(frozen=True)
class Group:
    """The processes that have come together, as one of them sees it.

    Attributes:
        rank: Number of this process among all.
        world_size: How many there are.
        control: What decisions are agreed over: gloo, apart from the gradients, so that
            no decision waits for a device.
        attempt: What this start of the processes is called in the store.
    """

    rank: int
    world_size: int
    control: dist.ProcessGroup
    attempt: str = ""


def local_device(device: torch.device) -> torch.device:
    """This process's own device, of the kind that the Learner has chosen."""
    if device.type in ("cpu", "meta") or num_started() == 1:
        return device
    if device.type == "mps":  # torch.distributed does not know it
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.get_device_module(device).device_count()
    if index >= count:
        raise CallboardError(
            f"distributed: process {index} of this machine has no {device.type} device "
            f"of its own, there are {count}. Start as many: --nproc-per-node {count}."
        )
    return torch.device(device.type, index)


def join(device_type: str, timeout_seconds: float) -> Group:
    """Come together with the other processes that torchrun has started.

    The group stays until the process ends, or somebody destroys torch's; asked for
    again, it is the same one.
    """
    if not dist.is_initialized():
        _joined.cache_clear()
    return _joined(device_type, timeout_seconds)


@cache
def _joined(device_type: str, timeout_seconds: float) -> Group:
    timeout, attempt = timedelta(seconds=timeout_seconds), ""
    is_own = not dist.is_initialized()
    if is_own:
        rank, world_size = int(os.environ.get("RANK", "0")), num_started()
        store, attempt = _store(rank, world_size, timeout)
        dist.init_process_group(
            _backend(device_type),
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    _leave_at_exit(is_own)
    control = dist.new_group(backend="gloo", timeout=timeout)
    return Group(dist.get_rank(), dist.get_world_size(), control, attempt)


def store_of(group: Group) -> Store:
    """What the processes leave word in, for a thread of its own to use.

    Raises:
        RuntimeError, KeyError: torchrun keeps none, or it is gone.
    """
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(group.attempt, TCPStore(*place, is_master=False))


def _backend(device_type: str) -> str:
    if device_type == "cpu":
        return "gloo"
    fast = dist.get_default_backend_for_device(device_type)
    return f"cpu:gloo,{device_type}:{fast}"


@cache
def _leave_at_exit(is_own: bool) -> None:
    atexit.register(_leave, is_own)


def _leave(is_own: bool) -> None:
    if is_own and dist.is_initialized():
        dist.destroy_process_group()
    # Gloo's threads let go of tensors after the wait for them has returned. They need
    # the interpreter for it, and abort the process when that is gone.
    time.sleep(SECONDS_TO_LET_GO)


def _store(rank: int, world_size: int, timeout: timedelta) -> tuple[Store, str]:
    """The store to meet in, and the name of this start of the processes."""
    if world_size == 1:
        return HashStore(), ""
    found: Iterator[tuple[Store, int, int]]
    found = rendezvous("env://", rank, world_size, timeout=timeout)
    store, _, _ = next(found)
    attempt = _attempt(store, rank, world_size, timeout)
    return PrefixStore(attempt, store), attempt


def _attempt(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name for this start of the processes, the same in all of them.

    torchrun keeps one store for all its restarts. In it lie the addresses of processes
    that are gone (pytorch#135712), and its count of restarts is one of each machine. So
    the first process names the start, each other one answers with a name of its own,
    and goes on when it finds that among those that the first one has heard.
    """
    own, ends = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("callboard/first", own)
        heard: dict[int, str] = {}
        while len(heard) < world_size - 1:
            for other in set(range(1, world_size)) - heard.keys():
                answer = _found(store, f"callboard/answer/{other}")
                if answer.startswith(own):
                    heard[other] = answer.removeprefix(own)
            _wait(ends, world_size - 1 - len(heard))
        forget_failures()
        store.set(f"callboard/heard/{own}", " ".join(heard.values()))
        return own
    while True:
        first = _found(store, "callboard/first")
        store.set(f"callboard/answer/{rank}", first + own)
        if first and own in _found(store, f"callboard/heard/{first}"):
            return first
        _wait(ends, 1)


def _found(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _wait(ends: float, num_missing: int) -> None:
    if num_missing and time.monotonic() > ends:
        raise CallboardError(
            f"distributed: {num_missing} of the processes did not come in time. Were "
            "as many started as torchrun was told, and is `distributed` active in all?"
        )
    time.sleep(POLL_SECONDS if num_missing else 0.0)
