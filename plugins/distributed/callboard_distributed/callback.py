"""The callback that brings processes together."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from callboard import Callback, hookimpl
from callboard.errors import OptionError
from callboard.losses import reduction_of
from callboard.processes import is_first_to_fail, num_started
from callboard_distributed.comparing import refuse_differences
from callboard_distributed.group import join, local_device, store_of
from callboard_distributed.hanging import Watchdog
from callboard_distributed.shares import Share, share_of

if TYPE_CHECKING:
    from callboard_distributed.strategies import Strategy
    from callboard_distributed.together import Together

STRATEGIES = ("ddp", "fsdp2")
PRECISIONS = ("bfloat16", "float16", "float32")


class EndedByAnother(SystemExit):
    """This process ends since another has failed, which tells why."""


class DistributedCallback(Callback):
    """Trains in all the processes that ``torchrun`` has started.

    A batch of the loader is the batch of all processes: each takes its part of it, and
    the run has the losses that one process would have. In one process DDP changes
    nothing, and FSDP2 shards over that one.

    Args:
        strategy: ``"ddp"``, the whole model in each process, or ``"fsdp2"``, a share.
        precision: What FSDP2 computes in: ``"bfloat16"``, ``"float16"``, ``"float32"``.
            Default: as the weights are. DDP has the plugin ``mixed-precision``.
        blocks: Names of the classes of the blocks that the model repeats, each sharded
            or computed again by itself. Default: what its containers repeat.
        activation_checkpointing: Compute blocks again in the backward pass, and keep
            less in memory.
        shard_size: Over how many processes FSDP2 spreads one copy of the model, where
            there are to be several copies (HSDP). Default: over all.
        sync_batchnorm: Normalise over the batches of all processes; on GPUs.
        find_unused: Let DDP cope with parameters that take no part in a batch.
        timeout_seconds: How long a process waits for the others before it gives up.
        hang_seconds: How long the run may stand still, with some waiting for others,
            until it is told where each process is and all of them end. None: never.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "distributed"
    role = "modify"
    ranks = "all"
    stages = ("fit", "validate", "predict", "lr-find")
    run_before = ("prefetch", "short-epoch")
    conflicts_with: Mapping[str, str] = {
        "compile": "what it predicts with does not sum gradients over processes",
        "cuda-graphs": "what it predicts with does not sum gradients over processes",
        "parallel-trainer": "every process has a GPU of its own",
    }

    def __init__(
        self,
        strategy: Literal["ddp", "fsdp2"] = "ddp",
        *,
        precision: Literal["bfloat16", "float16", "float32"] | None = None,
        blocks: str | Sequence[str] = (),
        activation_checkpointing: bool = False,
        shard_size: int | None = None,
        sync_batchnorm: bool = False,
        find_unused: bool = False,
        timeout_seconds: float = 1800.0,
        hang_seconds: float | None = 600.0,
    ) -> None:
        if strategy not in STRATEGIES:
            raise OptionError(
                f'distributed: strategy must be "ddp" or "fsdp2", got {strategy!r}.'
            )
        if precision is not None and precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise OptionError(
                f"distributed: precision must be one of {known}, got {precision!r}."
            )
        only = {"precision": precision, "shard_size": shard_size}
        for option, value in only.items():
            if value is not None and strategy != "fsdp2":
                raise OptionError(
                    f"distributed: {option} is for strategy='fsdp2', got {value!r}."
                )
        if shard_size is not None and shard_size < 1:
            raise OptionError(
                f"distributed: shard_size must be from 1 on, got {shard_size!r}. Use "
                "the number of GPUs of a machine."
            )
        if not timeout_seconds > 0:
            raise OptionError(
                f"distributed: timeout_seconds must be above 0, got "
                f"{timeout_seconds!r}. Use 1800."
            )
        if hang_seconds is not None and not hang_seconds > 0:
            raise OptionError(
                f"distributed: hang_seconds must be above 0, or None, got "
                f"{hang_seconds!r}. Use 600."
            )
        self.strategy = strategy
        self.precision = precision
        self.blocks = (blocks,) if isinstance(blocks, str) else tuple(blocks)
        self.activation_checkpointing = activation_checkpointing
        self.shard_size = shard_size
        self.sync_batchnorm = sync_batchnorm
        self.find_unused = find_unused
        self.timeout_seconds = timeout_seconds
        self.hang_seconds = hang_seconds
        self._watchdog: Watchdog | None = None
        self._together: Together | None = None
        self._shares: dict[tuple[int, str, bool], tuple[Any, Share]] = {}
        self._is_mean = True
        self._is_between_epochs = True

    def _make_strategy(self) -> Strategy:
        # FSDP2 takes a second to import.
        from callboard_distributed.strategies import Replicated, Sharded

        if self.strategy == "ddp":
            return Replicated(
                finds_unused=self.find_unused,
                blocks=self.blocks,
                recomputes=self.activation_checkpointing,
                sync_batchnorm=self.sync_batchnorm,
            )
        return Sharded(
            precision=self.precision,
            shard_size=self.shard_size,
            blocks=self.blocks,
            recomputes=self.activation_checkpointing,
            sync_batchnorm=self.sync_batchnorm,
        )

    # ---- coming together ------------------------------------------------------

    @hookimpl(tryfirst=True)
    def after_create(self) -> None:
        """Come together with the other processes, before anyone asks who they are."""
        learner = self.learn
        is_alone = num_started() == 1 and not dist.is_initialized()
        if is_alone and self.strategy == "ddp" and not self.activation_checkpointing:
            return
        learner.device = local_device(learner.device)
        if learner.device.type not in ("cpu", "meta"):
            torch.get_device_module(learner.device).set_device(learner.device)
        group = join(learner.device.type, self.timeout_seconds)
        from callboard_distributed.together import Together

        self._together = Together(self, group, self._make_strategy())
        learner.processes = self._together
        learner.seed = self._together.from_main(learner.seed)

    @hookimpl(tryfirst=True)
    def before_fit(self) -> None:
        """Refuse to begin where a process would train something else."""
        if self._together is not None:
            self._together.begin(self.learn)
            refuse_differences(self.learn)
            self._watch(self._together)

    def _watch(self, together: Together) -> None:
        is_watched = self.hang_seconds is not None and self._watchdog is None
        if not is_watched or together.world_size == 1 or self.learn.stage != "fit":
            return
        try:
            store = store_of(together.group)
        except (KeyError, OSError, RuntimeError, ValueError):
            return  # processes that something else than torchrun has started
        self._watchdog = Watchdog(
            self.learn,
            store,
            rank=together.rank,
            world_size=together.world_size,
            seconds=self.hang_seconds or 0.0,
        )
        self._watchdog.start()

    # ---- the data -------------------------------------------------------------

    def before_train(self) -> None:
        """Take this process's part of the data, and wrap the model."""
        together, learner = self._together, self.learn
        if together is None:
            return
        self._is_mean = _is_mean(learner.loss_func)
        self._is_between_epochs = False
        self._take_share(together)
        together.strategy.prepare(learner)
        together.agree(learner)

    def before_validate(self) -> None:
        """Take this process's part of the data; predictions are made of all of it."""
        together, learner = self._together, self.learn
        if together is None:
            return
        # What normalisation layers have gathered is each process's own.
        together.strategy.align_buffers(learner)
        if learner.stage == "predict":
            together.shares.pop((learner.stage, False), None)
        else:
            self._take_share(together)

    def _take_share(self, together: Together) -> None:
        learner = self.learn
        place = (learner.stage, learner.training)
        key = (id(learner.dl), *place)
        loader, share = self._shares.get(key, (None, None))
        if share is None or loader is not learner.dl:
            share = share_of(learner.dl, together)
            self._shares[key] = (learner.dl, share)
        together.shares[place] = share
        learner.dl = share.loader

    # ---- the steps ------------------------------------------------------------

    def do_predict(self) -> Any:
        """Predict so that the gradients will be summed; None leaves it to the loop."""
        together, learner = self._together, self.learn
        if together is None or not learner.training:
            return None
        strategy, xb = together.strategy, learner.xb
        if strategy.sums_gradients != together.sums_gradients:
            strategy.sum_gradients(together.sums_gradients)
        predicts = strategy.predicts
        return predicts(**xb) if isinstance(xb, dict) else predicts(*xb)

    def before_backward(self) -> None:
        """Weigh the loss by its share, since processes are averaged as equals."""
        together, learner = self._together, self.learn
        if together is None:
            return
        own, total = together.shares[learner.stage, True].sizes(learner.iter)
        weight = together.world_size * (own / total if self._is_mean else own > 0)
        if weight != 1:
            assert learner.loss_grad is not None
            learner.loss_grad = learner.loss_grad * weight

    @hookimpl(tryfirst=True)
    def checkpoint(self) -> None:
        """Answer what any process has asked for, in all of them alike."""
        together, learner = self._together, self.learn
        if together is None:
            return
        if self._is_between_epochs:
            together.agree(learner)
        else:
            together.tell_and_answer(learner)

    @hookimpl(wrapper=True)
    def after_train(self) -> Generator[None, Any, Any]:
        """Answer what was asked in training, before a validation begins."""
        done = yield
        if self._together is not None:
            self._together.agree(self.learn)
        return done

    @hookimpl(tryfirst=True)
    def after_epoch(self) -> None:
        """Give all processes the main one's results, for decisions to be alike."""
        self._is_between_epochs = True
        if self._together is not None:
            self.learn.results = self._together.from_main(self.learn.results)

    # ---- the end --------------------------------------------------------------

    def on_exception(self, exception: BaseException) -> None:
        """End quietly where another process has failed before, and tells why."""
        together = self._together
        if together is None or isinstance(exception, SystemExit):
            return
        if not is_first_to_fail():
            raise EndedByAnother(1)

    def teardown(self) -> None:
        """Hold no data between fits."""
        if self._together is not None and self.learn.stage == "fit":
            self._together.shares.clear()
            self._shares.clear()
            if self._watchdog is not None:
                self._watchdog.stop()
                self._watchdog = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy is of one process alone."""
        own: dict[str, Any] = {"_together": None, "_shares": {}, "_watchdog": None}
        return {**super().__getstate__(), **own}


def _is_mean(loss_func: Any) -> bool:
    return loss_func is None or reduction_of(loss_func) != "sum"
