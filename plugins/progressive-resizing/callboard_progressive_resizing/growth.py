"""How large things are at which share of the training."""

from __future__ import annotations

from dataclasses import dataclass

from callboard.errors import OptionError

# A share of the training is a sum of many parts, and 0.7999999999999999 is 0.8.
SLACK = 1e-9


@dataclass(frozen=True)
class Growth:
    """Sizes that grow in even steps, until they are whole.

    Few sizes, and round ones: kernels are chosen, and graphs compiled, for each.

    Attributes:
        owner: The plugin that has these options.
        start: First size, as a share of the whole, above 0 and below 1.
        full_from: Share of the training from which on it is whole, above 0, at most 1.
        num_sizes: How many sizes there are, the whole one included, from 2 on.
        multiple_of: What sizes but the whole one are rounded to.

    Raises:
        OptionError: One of them is out of its range.
    """

    owner: str
    start: float
    full_from: float
    num_sizes: int
    multiple_of: int

    def __post_init__(self) -> None:
        for option, is_right, needed in (
            ("start", 0 < self.start < 1, "above 0 and below 1; use 0.5"),
            ("full_from", 0 < self.full_from <= 1, "above 0, at most 1; use 0.8"),
            ("num_sizes", _is_count(self.num_sizes, 2), "2 or more; use 4"),
            ("multiple_of", _is_count(self.multiple_of, 1), "1 or more; use 8"),
        ):
            if not is_right:
                raise OptionError(
                    f"{self.owner}: {option} must be {needed}, got "
                    f"{getattr(self, option)!r}."
                )

    def share(self, pct: float) -> float:
        """Size as a share of the whole, at a share of the training.

        >>> growth = Growth("", start=0.4, full_from=0.8, num_sizes=3, multiple_of=1)
        >>> [growth.share(pct) for pct in (0, 0.39, 0.4, 0.79, 0.8, 1)]
        [0.4, 0.4, 0.7, 0.7, 1.0, 1.0]
        """
        steps = self.num_sizes - 1
        step = int(min(pct / self.full_from, 1) * steps + SLACK)
        return 1.0 if step == steps else self.start + (1 - self.start) * step / steps

    def size(self, whole: int, pct: float) -> int:
        """Size of something that is ``whole`` in the end."""
        share = self.share(pct)
        if share == 1:
            return whole
        size = round(whole * share / self.multiple_of) * self.multiple_of
        return min(max(size, self.multiple_of), whole)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
