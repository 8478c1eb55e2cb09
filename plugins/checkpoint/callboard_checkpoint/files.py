"""One checkpoint on the disk: a folder that is there whole or not at all.

    000012-epoch-1-step-40/
        tensors.safetensors
        checkpoint.json       its first line is the SHA-256 of all that follows

``checkpoint.json`` holds the SHA-256 of the other file, so that a single flipped bit in
either is found before anything is used. Both are written into a folder of another name,
which gets its own only when all is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from callboard.errors import StateError
from callboard_checkpoint.tree import join

FORMAT = 1
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
    """

    plain: Any
    tensors: Mapping[str, Tensor]
    summary: Mapping[str, Any]


def write(folder: Path, name: str, snapshot: Snapshot) -> Path:
    """Write a checkpoint; it is on the disk when this returns.

    However it ends, ``folder/name`` is whole or not there.

    Raises:
        OSError: The disk is full, or refuses for another reason.
    """
    unfinished = folder / f".{name}{UNFINISHED}"
    try:
        unfinished.mkdir(parents=True)
        save_file(dict(snapshot.tensors), unfinished / TENSORS)
        _flush(unfinished / TENSORS)
        text = json.dumps(
            {
                "format": FORMAT,
                "tensors_sha256": _digest_of(unfinished / TENSORS),
                "summary": dict(snapshot.summary),
                "state": snapshot.plain,
            },
            allow_nan=False,
        ).encode()
        with (unfinished / HEAD).open("wb") as head:
            head.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            head.flush()
            os.fsync(head.fileno())
        _flush(unfinished)
        os.rename(unfinished, folder / name)
        _flush(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / name


def read_summary(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; the tensors are not looked at.

    Raises:
        DamagedError: It is not what was written.
    """
    summary: dict[str, Any] = _read_head(checkpoint)["summary"]
    return summary


def read(checkpoint: Path) -> Any:
    """The state that a checkpoint holds. Nothing that it may hold is run.

    Raises:
        DamagedError: It is not what was written.
    """
    head = _read_head(checkpoint)
    try:
        content = (checkpoint / TENSORS).read_bytes()
        if hashlib.sha256(content).hexdigest() != head["tensors_sha256"]:
            raise DamagedError(f"{checkpoint / TENSORS} is not what was written.")
        return join(head["state"], load(content))
    except OSError as error:
        raise DamagedError(f"{checkpoint / TENSORS} cannot be read: {error}") from error
    except (SafetensorError, RecursionError, KeyError) as error:
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
        if head["format"] != FORMAT:
            raise StateError(
                f"{checkpoint} has format {head['format']!r}; this version of "
                f"callboard-checkpoint reads format {FORMAT}."
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


def _digest_of(file: Path) -> str:
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
