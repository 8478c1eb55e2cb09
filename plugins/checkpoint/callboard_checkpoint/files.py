"""One checkpoint on the disk: a folder that is there whole or not at all.

    000012-epoch-1-step-40/
        tensors.safetensors
        shard-....safetensors  what is spread over processes, one by each of them
        checkpoint.json        its first line is the SHA-256 of all that follows

``checkpoint.json`` holds the SHA-256 of the other files, so that a single flipped bit
in any is found before it is used. All are written into a folder of another name, which
gets its own only when all is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from callboard.errors import StateError
from callboard_checkpoint.tree import DTYPES

if TYPE_CHECKING:
    from callboard_checkpoint.shards import Shards

# The second has shards.
FORMATS = (1, 2)
DTYPES_BY_NAME = {str(dtype): dtype for dtype in DTYPES}
TENSORS, HEAD = "tensors.safetensors", "checkpoint.json"
UNFINISHED = ".unfinished"


class DamagedError(StateError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Snapshot:
    """A state as it was at one moment, ready to be written.

    Attributes:
        plain: What JSON can hold of it.
        tensors: Its tensors, in the memory of the CPU.
        summary: What the checkpoint is called by: run, epoch, batch, step, results.
        spread: Tensors that are spread over processes, in the memory of the CPU.
    """

    plain: Any
    tensors: Mapping[str, Tensor]
    summary: Mapping[str, Any]
    spread: Mapping[str, Tensor] = field(default_factory=dict)


class Kind(NamedTuple):
    """What a tensor is that is spread over processes."""

    shape: Sequence[int]
    dtype: torch.dtype


@dataclass(frozen=True)
class Stored:
    """What one process has written of a checkpoint, and what it says of the others.

    Attributes:
        plain: As of ``Snapshot``.
        tensors: As of ``Snapshot``.
        digests: SHA-256 of the files with shares of what is spread, by name.
        spread: What is in them.
    """

    plain: Any
    tensors: Mapping[str, Tensor]
    digests: Mapping[str, str]
    spread: Mapping[str, Kind]


def write(
    folder: Path,
    next_name: Callable[[], str],
    snapshot: Snapshot,
    shards: Shards | None = None,
) -> Path:
    """Write a checkpoint; it is on the disk when this returns.

    However it ends, the folder that it returns is whole or not there.

    Args:
        folder: Where.
        next_name: Gives its name; what it raises, all processes are told.
        snapshot: What it holds.
        shards: The processes that write what is spread, all others of which call
            ``write_share``.

    Raises:
        OSError: The disk is full, or refuses for another reason.
    """
    unfinished: Path | None = None

    def begin() -> tuple[str, Path]:
        nonlocal unfinished
        name = next_name()
        unfinished = folder / f".{name}{UNFINISHED}"
        unfinished.mkdir(parents=True)
        try:
            save_file(dict(snapshot.tensors), unfinished / TENSORS)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        _flush(unfinished / TENSORS)
        return name, unfinished

    try:
        format_, shared = FORMATS[0], {}
        if shards is None:
            name, place = begin()
        else:
            name, place = shards.from_main(begin)
            digests = shards.write(place, snapshot.spread)
            format_ = FORMATS[1]
            shared = {
                "shards_sha256": digests,
                "spread": {
                    name: [list(tensor.shape), str(tensor.dtype)]
                    for name, tensor in snapshot.spread.items()
                },
            }
        text = json.dumps(
            {
                "format": format_,
                "tensors_sha256": digest_of(place / TENSORS),
                **shared,
                "summary": dict(snapshot.summary),
                "state": snapshot.plain,
            },
            allow_nan=False,
        ).encode()
        with (place / HEAD).open("wb") as head:
            head.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            head.flush()
            os.fsync(head.fileno())
        _flush(place)
        os.rename(place, folder / name)
        _flush(folder)
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder / name


def write_share(snapshot: Snapshot, shards: Shards) -> None:
    """Write what this process has of a checkpoint that the main one writes.

    Raises:
        OSError: One of the processes cannot write.
    """
    _, place = shards.from_main()
    shards.write(place, snapshot.spread)


def read_summary(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; the tensors are not looked at.

    Raises:
        DamagedError: It is not what was written.
    """
    summary: dict[str, Any] = _read_head(checkpoint)["summary"]
    return summary


def read_stored(checkpoint: Path) -> Stored:
    """What one process has written of a checkpoint.

    Raises:
        DamagedError: It is not what was written.
    """
    head = _read_head(checkpoint)
    try:
        content = (checkpoint / TENSORS).read_bytes()
        if hashlib.sha256(content).hexdigest() != head["tensors_sha256"]:
            raise DamagedError(f"{checkpoint / TENSORS} is not what was written.")
        spread = {
            name: Kind([int(size) for size in shape], DTYPES_BY_NAME[dtype])
            for name, (shape, dtype) in head.get("spread", {}).items()
        }
        digests = {str(n): str(d) for n, d in head.get("shards_sha256", {}).items()}
        return Stored(head["state"], load(content), digests, spread)
    except OSError as error:
        raise DamagedError(f"{checkpoint / TENSORS} cannot be read: {error}") from error
    except (
        SafetensorError,
        AttributeError,
        TypeError,
        LookupError,
        ValueError,
    ) as error:
        raise DamagedError(f"{checkpoint} holds no state: {error}") from error


def _read_head(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / HEAD
    try:
        digest, _, text = file.read_bytes().partition(b"\n")
    except OSError as error:
        raise DamagedError(f"{file} cannot be read: {error}") from error
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise DamagedError(f"{file} is not what was written.")
    try:
        head = json.loads(text)
        if head["format"] not in FORMATS:
            readable = " and ".join(map(str, FORMATS))
            raise StateError(
                f"{checkpoint} has format {head['format']!r}; this version of "
                f"callboard-checkpoint reads {readable}."
            )
        _ = head["summary"]["run"], head["tensors_sha256"], head["state"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{file} is no checkpoint: {error!r}") from error
    known: dict[str, Any] = head
    return known


def write_text(file: Path, text: str) -> None:
    """Put a text in the place of another one, at once and on the disk."""
    fresh = file.with_name(f".{file.name}{UNFINISHED}")
    with fresh.open("w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    os.replace(fresh, file)
    _flush(file.parent)


def digest_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders, and keeps their names by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
