"""Many processes that train as one: what they add up, and what they agree on."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from callboard.processes import Processes
from callboard_distributed.group import Group
from callboard_distributed.shares import Share
from callboard_distributed.strategies import Strategy

if TYPE_CHECKING:
    from callboard import Callback, Learner

# Gloo passes the word on from process to process: among 64 it is there in a few
# milliseconds, which a step takes anyhow. Among more it is passed on every few steps.
PROCESSES_A_STEP = 64


class Together(Processes):
    """The processes of a group, as one of them sees it.

    What one process asks for is told to the others with the next step and answered one
    step later, in all of them at the same batch: no step waits for it. Between epochs
    it is answered at once. Above 64 processes, it is every n-th step that tells.

    Attributes:
        group: Who belongs to it.
        strategy: How the model is spread over them.
        shares: The part of the data, by stage and whether it is training.
    """

    def __init__(self, owner: Callback, group: Group, strategy: Strategy) -> None:
        super().__init__(group.rank, group.world_size)
        self.owner = owner
        self.part = group.rank
        self.group = group
        self.strategy = strategy
        self.shares: dict[tuple[str, bool], Share] = {}
        self._wanted_signal: int | None = None
        self._wanted_stop: str | None = None
        self._told_non_finite: tuple[int, float] | None = None
        self._is_deciding = False
        # Whether anybody asks for something, and the main process's clock: as numbers
        # and as a tensor of the same memory, since each of its reads would cost a step
        # more than all the rest.
        self._said = array("d", [0.0, 0.0])
        self._steps_between = -(-group.world_size // PROCESSES_A_STEP)
        self._word = torch.frombuffer(self._said, dtype=torch.float64)
        self._options = dist.AllreduceOptions()
        self._options.reduceOp = dist.ReduceOp(dist.ReduceOp.MAX)
        self._underway: Any = None
        self._clock = 0.0

    # ---- what every process calls alike ----------------------------------------

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """These numbers, each summed over all processes."""
        if not numbers:
            return []
        summed = torch.tensor(list(numbers), dtype=torch.float64)
        dist.all_reduce(summed, group=self.group.control)
        return summed.tolist()

    def gather(self, value: Any) -> list[Any]:
        """This value of every process, by rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group.control)
        return values

    def from_main(self, value: Any) -> Any:
        """The value that the main process gives."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group.control)
        return values[0]

    # ---- what one process may ask, and all answer together ---------------------

    def begin(self, learner: Learner) -> None:
        """Forget what was asked in an earlier fit, and take the main one's time."""
        if self._underway is not None:
            self._heard()
        if learner.stage == "fit":
            self.signal = self._wanted_signal = None
        self._wanted_stop = self._told_non_finite = None
        self.sums_gradients = True
        self._clock = self.from_main(time.monotonic())

    def stop(self, learner: Learner, reason: str) -> None:
        """Ask all to end the fit; ``learner.stop`` is what plugins call."""
        if self._is_deciding or learner.stage in ("validate", "predict"):
            super().stop(learner, reason)
        else:
            self._wanted_stop = self._wanted_stop or reason

    def leave(self, number: int) -> None:
        """Ask all to end at a signal of this number; may be called by its handler."""
        self._wanted_signal = number

    def tell_and_answer(self, learner: Learner) -> None:
        """Answer what was asked a step ago; tell what is asked now, without waiting."""
        # As `agree` does, with what that calls written out: this is in every step.
        if learner.train_iter % self._steps_between:
            return
        said = self._said
        if self._underway is not None:
            self._underway.wait()
            self._clock = said[1]
            if said[0]:
                self._decide(learner)
        is_asked = self._wanted_stop is not None or self._wanted_signal is not None
        said[0] = is_asked or learner.non_finite != self._told_non_finite
        said[1] = time.monotonic() if self.rank == 0 else 0.0
        self._underway = self.group.control.allreduce([self._word], self._options)

    def agree(self, learner: Learner) -> None:
        """Answer all that is asked up to now."""
        left = self._underway is not None and self._heard()
        self._tell(learner, left)
        if self._heard():
            self._decide(learner)

    def _tell(self, learner: Learner, left: bool) -> None:
        is_asked = self._wanted_stop is not None or self._wanted_signal is not None
        has_new_loss = learner.non_finite != self._told_non_finite
        self._said[0] = left or is_asked or has_new_loss
        self._said[1] = time.monotonic() if self.is_main else 0.0
        self._underway = self.group.control.allreduce([self._word], self._options)

    def _heard(self) -> bool:
        """Wait for the network (and never for the device); whether anybody asks."""
        self._underway.wait()
        self._underway = None
        self._clock = self._said[1]
        return bool(self._said[0])

    def _decide(self, learner: Learner) -> None:
        """Take the wish of the first process that has one; all do the same."""
        own = (self._wanted_stop, self._wanted_signal, learner.non_finite)
        stops, signals, lost = zip(*self.gather(own), strict=True)
        self._wanted_stop = self._wanted_signal = None
        self.signal = self.signal or next(filter(None, signals), None)
        self._is_deciding = True
        try:
            first_lost = next(filter(None, lost), None)
            if first_lost is not None:
                learner.note_non_finite(*first_lost)
            reason = next(filter(None, stops), None)
            if reason is not None:
                super().stop(learner, reason)
        finally:
            self._is_deciding = False
        self._told_non_finite = learner.non_finite

    def seconds(self) -> float:
        """The main process's clock, as it was heard last."""
        return self._clock

    # ---- what is theirs together ------------------------------------------------

    def sizes(self, learner: Learner) -> tuple[int, int]:
        """Number of samples in the batch: this process's own, and that of all."""
        share = self.shares.get((learner.stage, learner.training))
        if share is None:  # every process has the whole batch
            return super().sizes(learner)
        return share.sizes(learner.iter)

    def place(self, learner: Learner) -> None:
        """Put the model where it is trained; called before every fit and evaluation."""
        self.strategy.place(learner)

    @property
    def spreads_weights(self) -> bool:  # type: ignore[override]
        """Whether each process holds a share of the weights only."""
        return self.strategy.spreads_weights

    def model_state(self, learner: Learner, *, whole: bool = True) -> dict[str, Any]:
        """The model's ``state_dict``; what is spread has values in the main process."""
        return self.strategy.model_state(learner, whole=whole)

    def load_model_state(self, learner: Learner, state: Mapping[str, Any]) -> None:
        """Take back what ``model_state`` returned, as the main process has it."""
        self.strategy.load_model_state(learner, state)

    def optimizer_state(
        self, learner: Learner, *, whole: bool = True
    ) -> dict[str, Any]:
        """The optimizer's ``state_dict``, as ``model_state``."""
        return self.strategy.optimizer_state(learner, whole=whole)

    def load_optimizer_state(self, learner: Learner, state: dict[str, Any]) -> None:
        """Take back what ``optimizer_state`` returned."""
        self.strategy.load_optimizer_state(learner, state)

    def empty(
        self, learner: Learner, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Room for a saved weight, spread as the weights are; all must ask for it."""
        return self.strategy.empty(learner, shape, dtype)
