"""Mean, spread and histogram of what every layer gives out, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from callboard.errors import OptionError, suggestion
from callboard_hooks.callback import HookCallback, Modules
from callboard_hooks.plots import draw_color_dim, draw_layer_stats

NAMES = ("mean", "std", "near_zero")
NEAR_ZERO = 0.05
NUM_BINS, HIST_END = 40, 10.0
# One copy to the host in so many batches.
FLUSH_EVERY = 64


@torch.no_grad()
def activation_stats(activation: Tensor, *, with_hist: bool) -> Tensor:
    """Statistics of a tensor in one tensor, where it is.

    Mean, standard deviation, the share of values up to 0.05; and the counts of 40 equal
    bins from 0 to 10. All NaN for a tensor without elements.

    Args:
        activation: Any shape and dtype.
        with_hist: Count the bins too.

    Returns:
        Shape (3,) or (43,), float32.
    """
    num_numbers = len(NAMES) + (NUM_BINS if with_hist else 0)
    if activation.numel() == 0:
        return torch.full((num_numbers,), torch.nan, device=activation.device)
    values = activation.float().flatten()
    std, mean = torch.std_mean(values, correction=min(1, values.numel() - 1))
    near_zero = (values <= NEAR_ZERO).float().mean()
    stats = torch.stack([mean, std, near_zero])
    if with_hist:
        counts = torch.histc(values, bins=NUM_BINS, min=0, max=HIST_END)
        stats = torch.cat([stats, counts])
    return stats


def tensors_in(data: Any) -> Iterator[Tensor]:
    """All tensors in tuples, lists and mappings."""
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, Mapping):
        for part in data.values():
            yield from tensors_in(part)
    elif isinstance(data, tuple | list):
        for part in data:
            yield from tensors_in(part)


class ActivationStats(HookCallback):
    """Notes mean, spread and share near zero of every layer's output in training.

    Numbers stay on the device and are copied to the host once in 64 batches, or when
    somebody asks.

    Args:
        with_hist: Count 40 bins from 0 to 10 too, for ``color_dim``.
        modules: Layers to look at. Default: all with parameters of their own.
        every: Look at every so many training batches only, the first one among them.
        include_paramless: By default also layers without parameters.
        max_points: Most batches that are held, from 2 on. Beyond that every second one
            is dropped, and from then on left out.

    Attributes:
        layer_names: Name of each row of numbers; a layer that gives several tensors
            has several rows.
        steps: Number of the training batch of each entry, from 0.
    """

    name = "activation-stats"
    role = "observe"
    run_valid = False

    def __init__(
        self,
        with_hist: bool = False,
        *,
        modules: Modules | None = None,
        every: int | None = None,
        include_paramless: bool = False,
        max_points: int = 10_000,
    ) -> None:
        super().__init__(modules, every, include_paramless=include_paramless)
        if not isinstance(max_points, int) or max_points < 2:
            raise OptionError(
                f"{self.name}: max_points must be a whole number from 2 on, got "
                f"{max_points!r}. Use 10_000."
            )
        self.with_hist, self.max_points = with_hist, max_points
        self._forget()

    def _forget(self) -> None:
        self.steps: list[int] = []
        self._kept: list[Tensor] = []  # one of shape (rows, numbers) an entry
        self._waiting: list[Tensor] = []
        self._sizes: list[int] | None = None
        self._stride, self._num_seen = 1, 0
        self._of_batch: dict[int, list[Tensor]] = {}
        self._is_predicted = False
        self._error: Exception | None = None

    def hook(self, m: nn.Module, i: Any, o: Any) -> None:
        """Note the statistics of each tensor of an output, in training only."""
        learner = self.learn
        # Hooks also see a validation inside a callback, and whoever calls the model
        # behind the prediction, as a tracer does.
        if self._is_predicted or not learner.training or learner.stage != "fit":
            return
        try:
            tensors = tensors_in(o)
            stats = [activation_stats(t, with_hist=self.with_hist) for t in tensors]
            self._of_batch[id(m)] = stats
        except Exception as error:
            # Out of here it would end the fit as an error of the model.
            self._error = self._error or error

    def before_fit(self) -> None:
        """Forget the last fit; find the layers and put hooks on."""
        self._forget()
        super().before_fit()

    def before_batch(self) -> None:
        """Wait for the prediction."""
        super().before_batch()
        self._is_predicted = False

    def after_pred(self) -> None:
        """Look away from here on."""
        self._is_predicted = True

    def after_batch(self) -> None:
        """Keep the numbers of this batch, on the device."""
        super().after_batch()
        # Taken, so that a batch that is cancelled before ours does not find it.
        of_batch, self._of_batch = self._of_batch, {}
        if self._error is not None:
            self._unhook()
            error, self._error = self._error, None
            raise error
        if not of_batch:
            return  # left out, or cancelled before the model was called
        self._num_seen += 1
        if (self._num_seen - 1) % self._stride == 0:
            stats = [of_batch.get(id(module), []) for module in self.modules]
            self._waiting.append(self._rows(stats))
            self.steps.append(self.learn.train_iter - 1)
            if len(self._waiting) >= FLUSH_EVERY:
                self._flush()

    def _rows(self, stats_of_layers: Sequence[list[Tensor]]) -> Tensor:
        """The numbers of all layers, one row for every tensor that a layer gives."""
        if self._sizes is None:
            self._sizes = [max(1, len(stats)) for stats in stats_of_layers]
            self.layer_names = _names_of_rows(self.layer_names, self._sizes)
        num_numbers = len(NAMES) + (NUM_BINS if self.with_hist else 0)
        device = next(stats[0].device for stats in stats_of_layers if stats)
        absent = torch.full((num_numbers,), torch.nan, device=device)
        rows: list[Tensor] = []
        for stats, size in zip(stats_of_layers, self._sizes, strict=True):
            given = [each.to(device, non_blocking=True) for each in stats]
            rows += (given + [absent] * size)[:size]
        return torch.stack(rows)

    def _flush(self) -> None:
        if self._waiting:
            self._kept += torch.stack(self._waiting).cpu().unbind()
            self._waiting = []
        while len(self.steps) > self.max_points:
            self._kept, self.steps = self._kept[::2], self.steps[::2]
            self._stride *= 2

    # ---- reading --------------------------------------------------------------

    @property
    def numbers(self) -> Tensor:
        """All numbers, shape (batches, layers, 3 or 43), on the CPU."""
        self._flush()
        if not self._kept:
            num_numbers = len(NAMES) + (NUM_BINS if self.with_hist else 0)
            return torch.empty(0, len(self.layer_names), num_numbers)
        return torch.stack(self._kept)

    @property
    def stats(self) -> list[list[dict[str, Any]]]:
        """By batch and layer: ``mean``, ``std``, ``near_zero``, perhaps ``hist``."""
        return [[self._as_dict(row) for row in rows] for rows in self.numbers]

    def _as_dict(self, row: Tensor) -> dict[str, Any]:
        values = row[: len(NAMES)].tolist()
        named: dict[str, Any] = dict(zip(NAMES, values, strict=True))
        if self.with_hist:
            named["hist"] = row[len(NAMES) :]
        return named

    def layer_stats(self, idx: int | str) -> list[list[float]]:
        """Means, standard deviations and shares near zero of a layer, batch by batch.

        Args:
            idx: Number of the layer, negative from the end, or its name.
        """
        numbers = self.numbers[:, self._row(idx), : len(NAMES)]
        return [column.tolist() for column in numbers.T]

    def hist(self, idx: int | str) -> Tensor:
        """Counts of a layer, ``log(1 + count)``; shape (40, batches)."""
        if not self.with_hist:
            raise OptionError(
                f"{self.name}: histograms were not counted; give "
                "ActivationStats(with_hist=True)."
            )
        return self.numbers[:, self._row(idx), len(NAMES) :].T.log1p()

    def color_dim(
        self,
        idx: int | str,
        figsize: tuple[float, float] = (10, 5),
        ax: Any = None,
    ) -> Any:
        """Draw the histograms of a layer side by side, bright where there are many.

        Args:
            idx: Number of the layer, negative from the end, or its name.
            figsize: Width and height in inches.
            ax: Axes of matplotlib to draw in; new ones by default.
        """
        row = self._row(idx)
        return draw_color_dim(
            self.hist(idx), self.steps, self.layer_names[row], HIST_END, figsize, ax
        )

    def plot_layer_stats(self, idx: int | str) -> Any:
        """Draw mean, standard deviation and share near zero of a layer."""
        row = self._row(idx)
        return draw_layer_stats(
            self.layer_stats(idx), self.steps, self.layer_names[row], NEAR_ZERO
        )

    def _row(self, idx: int | str) -> int:
        names = self.layer_names
        if isinstance(idx, int) and -len(names) <= idx < len(names):
            return idx % len(names)
        if isinstance(idx, str) and idx in names:
            return names.index(idx)
        hint = suggestion(idx, names) if isinstance(idx, str) else ""
        raise OptionError(
            f"{self.name}: there is no layer {idx!r}; there are {len(names)}: "
            f"{', '.join(names)}.{hint}"
        )

    # ---- state ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was noted so far."""
        if self._sizes is None:
            return {}
        return {
            "numbers": self.numbers,
            "steps": list(self.steps),
            "layer_names": list(self.layer_names),
            "sizes": list(self._sizes),
            "stride": self._stride,
            "num_seen": self._num_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self._forget()
        if state:
            self._kept, self.steps = (
                list(state["numbers"].unbind()),
                list(state["steps"]),
            )
            self.layer_names = list(state["layer_names"])
            self._sizes = list(state["sizes"])
            self._stride, self._num_seen = state["stride"], state["num_seen"]


def _names_of_rows(names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    rows: list[str] = []
    for name, size in zip(names, sizes, strict=True):
        rows += [f"{name}[{i}]" for i in range(size)] if size > 1 else [name]
    return rows
