"""Reading what others wrote without running what it may hold.

The one place where pickles are opened: by torch's reader for tensors and plain data
alone. What else a file holds is refused in words that name the file.
"""

from __future__ import annotations

import pickle
from os import PathLike
from typing import IO, Any

import torch

from callboard.errors import StateError


def read_plain(
    file: str | PathLike[str] | IO[bytes], device: str | torch.device | None = "cpu"
) -> Any:
    """Tensors and plain data that ``torch.save`` wrote; nothing in the file is run.

    Args:
        file: What ``torch.save`` wrote: its path, or a stream of it.
        device: Where the tensors go. None: where they were.

    Raises:
        StateError: It holds anything else, or is damaged.
        FileNotFoundError: There is no such file.
    """
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise StateError(
            f"{_name(file)} holds more than tensors and plain data, or is damaged; it "
            "was not loaded, since loading it could run code. Save a state_dict "
            f"instead. ({_in_short(error)})"
        ) from error
    except Exception as error:  # damage shows in whatever the bytes happen to say
        raise StateError(
            f"{_name(file)} cannot be read: it is damaged, or torch.save did not write "
            f"it. ({_in_short(error)})"
        ) from error


def _name(file: object) -> str:
    return str(getattr(file, "name", file))


def _in_short(error: Exception) -> str:
    """The part of torch's message that says what it met."""
    text = str(error)
    told = text.partition("WeightsUnpickler error:")[2] or text
    told = told.partition(" Please use")[0]  # its advice is to allow more
    first = next(iter(told.strip().splitlines()), "")
    return f"{type(error).__name__}: {first.strip()}"
