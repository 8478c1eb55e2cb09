"""Sequences that grow in the course of the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

from torch import Tensor

from callboard import Callback
from callboard.errors import DataError, OptionError
from callboard_progressive_resizing.growth import Growth

How = Literal["cut", "split"]


class SequenceLength(Callback):
    """Shortens the sequences of training batches, less and less.

    Sequences are tensors (N, L) of whole numbers, as tokens, or (N, L, ...) of any; L
    is the length of the first one. All else in a batch that has L positions, as masks
    and labels, is shortened with them.

    Args:
        start: First length, as a share of the whole, above 0 and below 1.
        full_from: Share of the training from which on sequences are whole.
        num_sizes: How many lengths there are, the whole one included, from 2 on.
        multiple_of: What lengths are rounded to, in positions.
        how: ``"cut"`` leaves out what is behind; ``"split"`` makes several short
            sequences of a long one, and leaves out what is left over.

    Attributes:
        length: Length of the last training batch that was shortened; None for whole.

    Raises:
        OptionError: An option has a value that it cannot have.
    """

    name = "sequence-length"
    role = "modify"
    run_before = "mixup"
    run_valid = False

    def __init__(
        self,
        *,
        start: float = 0.25,
        full_from: float = 0.5,
        num_sizes: int = 4,
        multiple_of: int = 8,
        how: How = "cut",
    ) -> None:
        if how not in get_args(How):
            message = f'{self.name}: how must be "cut" or "split", got {how!r}.'
            raise OptionError(message)
        self.growth = Growth(self.name, start, full_from, num_sizes, multiple_of)
        self.how = how
        self.length: int | None = None

    def before_batch(self) -> None:
        """Shorten the sequences, as long as it is not yet time for whole ones."""
        learner = self.learn
        self.length = None
        if self.growth.share(learner.pct_train) == 1:
            return
        xb: Any = learner.xb
        parts = xb.values() if isinstance(xb, dict) else xb
        whole = next(lengths_of(parts), None)
        if whole is None:
            raise DataError(
                f"{self.name}: a batch has no sequence, a tensor (N, L) of whole "
                "numbers or (N, L, channels). Numbers (N, L) are features: give "
                "x[:, :, None] if they are a sequence."
            )
        length = self.growth.size(whole, learner.pct_train)
        if length == whole:
            return
        self.length = length
        if self.how == "split":
            self._check_can_be_split([*parts, *learner.yb], whole)
        if isinstance(xb, dict):
            learner.xb = {key: self._short(part, whole) for key, part in xb.items()}
        else:
            learner.xb = tuple(self._short(part, whole) for part in xb)
        learner.yb = tuple(self._short(part, whole) for part in learner.yb)

    def _short(self, part: Any, whole: int) -> Any:
        assert self.length is not None
        is_sequence = isinstance(part, Tensor) and part.ndim > 1
        if not is_sequence or part.shape[1] != whole:
            return part
        return shortened(part, self.length, self.how)

    def _check_can_be_split(self, parts: Iterable[Any], whole: int) -> None:
        for part in parts:
            if isinstance(part, Tensor) and (part.ndim < 2 or part.shape[1] != whole):
                raise DataError(
                    f'{self.name}: how="split" makes several samples of one, and a '
                    f"part of the batch, of shape {tuple(part.shape)}, has no "
                    f'position for each of its {whole}. Use how="cut".'
                )


def lengths_of(parts: Iterable[Any]) -> Iterator[int]:
    """The lengths of all sequences among the parts of a batch."""
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim < 2:
            continue
        if part.ndim > 2 or not part.is_floating_point():
            yield part.shape[1]


def shortened(sequences: Tensor, length: int, how: How) -> Tensor:
    """Sequences (N, L, ...) of another length.

    Args:
        sequences: What is shortened; a view of it is returned where torch can make one.
        length: New length, at most L.
        how: ``"cut"`` gives (N, length, ...); ``"split"`` (N * k, length, ...) with the
            largest k for which there are positions.
    """
    if how == "cut":
        return sequences[:, :length]
    number = sequences.shape[1] // length
    kept = sequences[:, : number * length]
    return kept.reshape(-1, length, *sequences.shape[2:])
