"""What the loop adds to a bare PyTorch loop: calls counted, and time as a ratio.

    python benchmarks/overhead.py

Counts hold on any machine. Times are a ratio to the bare loop, both run in turn in this
process, and are given with their spread: machines are noisy.
"""

import contextlib
import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from callboard import Callback, Learner
from callboard.testing import cost_per_step

NUM_STEPS = 300
REPEATS = 9


def batches(num_batches: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs = torch.randn(64, 64)
    return [(inputs, inputs.sum(1, keepdim=True))] * num_batches


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1))


def bare_loop(num_batches: int) -> None:
    net = model()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    for inputs, labels in batches(num_batches):
        loss = nn.functional.mse_loss(net(inputs), labels)
        loss.backward()
        opt.step()
        opt.zero_grad()


class Watcher(Callback):
    """An observer that implements one event and does nothing there."""

    role = "observe"

    def after_batch(self) -> None:
        pass


def fit(num_batches: int, cbs: object = None, method: str = "fit") -> None:
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            batches(num_batches),
            model(),
            nn.functional.mse_loss,
            torch.optim.SGD,
            0.01,
            cbs=cbs,
            path=folder,
        )
        getattr(learner, method)(1)


def everyday(num_batches: int) -> None:
    """The set that most runs have, each with its defaults."""
    from callboard.callbacks import EarlyStoppingCallback, SaveModelCallback

    monitors = [EarlyStoppingCallback("train_loss"), SaveModelCallback("train_loss")]
    with contextlib.redirect_stdout(io.StringIO()):
        cbs = ["recorder", "progress", "csv-logger", *monitors]
        fit(num_batches, cbs, "fit_one_cycle")


def nothing_added(num_batches: int) -> None:
    fit(num_batches)


def twenty_observers(num_batches: int) -> None:
    fit(num_batches, [Watcher() for _ in range(20)])


CASES: dict[str, Callable[[int], None]] = {
    "the loop alone": nothing_added,
    "the everyday set": everyday,
    "20 observers of one event": twenty_observers,
}


def seconds(run: Callable[[int], None]) -> float:
    start = time.perf_counter()
    run(NUM_STEPS)
    return time.perf_counter() - start


def ratios(run: Callable[[int], None]) -> list[float]:
    """Time of a run by time of the bare loop, pair by pair."""
    run(NUM_STEPS)
    return [seconds(run) / seconds(bare_loop) for _ in range(REPEATS)]


def main() -> None:
    os.environ["CALLBOARD_AUTOLOAD"] = "0"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bare_loop(NUM_STEPS)
    bare = cost_per_step(bare_loop)
    head = f"{'above a bare loop, per step':28}{'calls':>7}{'tensor ops':>12}"
    print(head + f"{'host reads':>12}{'time ratio: median (min to max)':>36}")
    for name, run in CASES.items():
        cost = cost_per_step(run) - bare
        spread = ratios(run)
        ratio = (
            f"{statistics.median(spread):.3f} ({min(spread):.3f} to {max(spread):.3f})"
        )
        print(
            f"{name:28}{cost.python_calls:7.2f}{cost.tensor_operations:12.2f}"
            f"{cost.host_reads:12.3f}{ratio:>36}"
        )


if __name__ == "__main__":
    main()
