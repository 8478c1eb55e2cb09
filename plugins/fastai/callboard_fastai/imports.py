"""The names of ``fastai.imports``."""

from typing import Any

from callboard_fastai.exports import exporting

string_classes = (str, bytes)


def one_is_instance(a: Any, b: Any, t: Any) -> bool:
    """Whether either of two objects is of a type."""
    return isinstance(a, t) or isinstance(b, t)


__getattr__, __dir__ = exporting(__name__)
