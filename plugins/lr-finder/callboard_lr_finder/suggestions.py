"""What rate a curve of losses over rising rates suggests: four functions.

Each takes the rates, the smoothed losses and the number of batches that were asked for,
and returns the rate that it suggests and the point of the curve that it looked at. Any
function of that kind may stand beside them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from callboard.errors import OptionError

Point = tuple[float, float]
Suggestion = tuple[float, Point]
SuggestFunc = Callable[[Sequence[float], Sequence[float], int], Suggestion | float]


def valley(
    lrs: Sequence[float], losses: Sequence[float], num_it: int = 0
) -> Suggestion:
    """The rate at half of the longest valley that the losses go down.

    The valley is the longest strictly decreasing subsequence. One third of it is left
    out, and from there half a third goes on.
    """
    length, last = longest_decrease(losses)
    first = last - length if length > 1 else 0
    third = (last - first) / 3
    index = first + int(third) + int(third / 2)
    return lrs[index], (lrs[index], losses[index])


def longest_decrease(losses: Sequence[float]) -> tuple[int, int]:
    """Length of the longest strictly decreasing subsequence, and where it ends.

    Of several the one that ends first. Points may be left out in between.
    """
    lengths: list[int] = []
    for loss in losses:
        before = zip(losses, lengths, strict=False)  # those known so far
        lengths.append(1 + max((n for other, n in before if loss < other), default=0))
    longest = max(lengths)
    return longest, lengths.index(longest)


def slide(
    lrs: Sequence[float],
    losses: Sequence[float],
    num_it: int = 0,
    lr_diff: int = 15,
    thresh: float = 0.005,
    adjust_value: float = 1.0,
) -> Suggestion:
    """The rate where an interval that slides down from the right finds even slopes.

    Args:
        lrs: Learning rates, rising.
        losses: Smoothed loss at each.
        num_it: Not used.
        lr_diff: Width of the interval, in points, from 1 on.
        thresh: Difference of the slopes at its ends, per point, that counts as even.
        adjust_value: What the rate is multiplied with in the end.

    Raises:
        OptionError: The curve has no more points than the interval is wide.
    """
    if len(lrs) <= lr_diff:
        raise OptionError(
            f"lr-finder: slide looks at {lr_diff + 1} points, and the curve has "
            f"{len(lrs)}; use valley, a larger num_it or a smaller lr_diff."
        )
    slopes = slopes_between(losses)
    right, left = len(lrs) - 1, len(lrs) - 1 - lr_diff
    found = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > thresh:
        found = left
        right, left = right - 1, left - 1
    lr = lrs[found] * adjust_value
    return lr, (lr, loss_at(lr, lrs, losses))


def slopes_between(losses: Sequence[float]) -> list[float]:
    """Change of the loss per point: half of that between its neighbours."""
    last = len(losses) - 1
    pairs = [(max(i - 1, 0), min(i + 1, last)) for i in range(len(losses))]
    return [(losses[b] - losses[a]) / max(b - a, 1) for a, b in pairs]


def loss_at(lr: float, lrs: Sequence[float], losses: Sequence[float]) -> float:
    """The loss at a rate between two points, on a line over the rate's logarithm."""
    if lr <= lrs[0]:
        return losses[0]
    if lr >= lrs[-1]:
        return losses[-1]
    right = bisect_right(lrs, lr)
    low, high = lrs[right - 1], lrs[right]
    share = math.log(lr / low) / math.log(high / low)
    return losses[right - 1] + share * (losses[right] - losses[right - 1])


def minimum(
    lrs: Sequence[float], losses: Sequence[float], num_it: int = 0
) -> Suggestion:
    """A tenth of the rate with the lowest loss."""
    index = min(range(len(losses)), key=losses.__getitem__)
    return lrs[index] / 10, (lrs[index], losses[index])


def steep(lrs: Sequence[float], losses: Sequence[float], num_it: int = 0) -> Suggestion:
    """The rate where the loss falls most, per logarithm of the rate."""
    if len(lrs) < 2:
        raise OptionError(
            "lr-finder: steep compares neighbouring points, and the curve has one; use "
            "a larger num_it."
        )
    slopes = [
        (losses[i + 1] - losses[i]) / math.log(lrs[i + 1] / lrs[i])
        for i in range(len(lrs) - 1)
    ]
    index = min(range(len(slopes)), key=slopes.__getitem__)
    return lrs[index], (lrs[index], losses[index])


SUGGESTIONS: dict[str, SuggestFunc] = {
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
    "steep": steep,
}
