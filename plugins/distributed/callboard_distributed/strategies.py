"""How a model is spread over processes: a copy in each, or a share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import empty as spread_empty
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from callboard.errors import OptionError

if TYPE_CHECKING:
    from callboard import Learner


class Strategy(ABC):
    """How the model of a Learner is spread over processes.

    Args:
        blocks: Names of the classes of the blocks that a large model repeats; none for
            what containers repeat.
        recomputes: Whether blocks are computed again in the backward pass, in place of
            keeping what they computed.
        sync_batchnorm: Whether batch normalisation is over the batches of all.

    Attributes:
        predicts: What is called in training; there from ``prepare`` on.
        sums_gradients: Whether its gradients are summed over all processes.
        spreads_weights: Whether each process holds a share of the weights only.
    """

    predicts: nn.Module
    spreads_weights = False

    def __init__(
        self,
        *,
        blocks: Sequence[str] = (),
        recomputes: bool = False,
        sync_batchnorm: bool = False,
    ) -> None:
        self.blocks = blocks
        self.recomputes = recomputes
        self.sync_batchnorm = sync_batchnorm
        self.sums_gradients = True
        self._known: nn.Module | None = None

    def place(self, learner: Learner) -> None:
        """Put the model on the device; the first time, alike in all processes."""
        model = learner.model
        if model is self._known:
            model.to(learner.device)
            return
        model.to(learner.device)
        if self.sync_batchnorm:
            self._synchronize_batchnorm(learner)
        send_from_main(model)
        if self.recomputes:
            for block in repeated_blocks(model, self.blocks):
                recompute(block)
        self.spread(learner)
        self._known = model

    def _synchronize_batchnorm(self, learner: Learner) -> None:
        if learner.device.type == "cpu":
            raise OptionError(
                "distributed: sync_batchnorm needs GPUs; PyTorch's SyncBatchNorm does "
                "not run on the CPU. Leave it out, or use nn.GroupNorm."
            )
        synchronized: Any = nn.SyncBatchNorm
        learner.model = synchronized.convert_sync_batchnorm(learner.model)

    @abstractmethod
    def spread(self, learner: Learner) -> None:
        """Spread a model that is the same in all processes."""

    def align_buffers(self, learner: Learner) -> None:
        """Give all processes what the main one's layers have gathered from its part."""
        send_from_main(*learner.model.buffers())

    @abstractmethod
    def prepare(self, learner: Learner) -> None:
        """Get ready for an epoch of training; parameters may have been frozen."""

    def sum_gradients(self, sums_gradients: bool) -> None:
        """Sum gradients over all processes from the next batch on, or do not."""
        self.sums_gradients = sums_gradients

    @abstractmethod
    def model_state(self, learner: Learner, *, whole: bool = True) -> dict[str, Any]:
        """The model's ``state_dict``: whole, or as it is spread."""

    @abstractmethod
    def load_model_state(self, learner: Learner, state: Mapping[str, Any]) -> None:
        """Take back what ``model_state`` returned."""

    @abstractmethod
    def optimizer_state(
        self, learner: Learner, *, whole: bool = True
    ) -> dict[str, Any]:
        """The optimizer's ``state_dict``: whole, or as it is spread."""

    @abstractmethod
    def load_optimizer_state(self, learner: Learner, state: dict[str, Any]) -> None:
        """Take back what ``optimizer_state`` returned."""

    def empty(
        self, learner: Learner, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Room for a saved weight, or what the optimizer keeps of one."""
        return torch.empty(tuple(shape), dtype=dtype)


class Replicated(Strategy):
    """The whole model in every process; gradients are averaged (DDP).

    Args:
        finds_unused: Whether some parameters may take no part in a batch.
        common: As of ``Strategy``.
    """

    def __init__(
        self,
        *,
        finds_unused: bool = False,
        blocks: Sequence[str] = (),
        recomputes: bool = False,
        sync_batchnorm: bool = False,
    ) -> None:
        super().__init__(
            blocks=blocks, recomputes=recomputes, sync_batchnorm=sync_batchnorm
        )
        self.finds_unused = finds_unused
        self._wrapped: DistributedDataParallel | None = None
        self._trained: list[int] = []

    def spread(self, learner: Learner) -> None:
        self._wrapped, self._trained = None, []

    def prepare(self, learner: Learner) -> None:
        """Wrap the model anew where other parameters are trained than before."""
        trained = [id(p) for p in learner.model.parameters() if p.requires_grad]
        if trained == self._trained:
            return
        stand_in = ZeroOfAll(learner.model)
        # It is alike in all processes already.
        self.predicts = self._wrapped = DistributedDataParallel(
            stand_in, find_unused_parameters=self.finds_unused, init_sync=False
        )
        if not self.finds_unused and not has_sparse_gradients(learner.model):
            settle_buckets(self._wrapped, learner.model)
        self._wrapped.module = learner.model
        self.sums_gradients = True
        self._trained = trained

    def sum_gradients(self, sums_gradients: bool) -> None:
        super().sum_gradients(sums_gradients)
        # What its no_sync() sets; a context would cost each step some calls more.
        assert self._wrapped is not None
        self._wrapped.require_backward_grad_sync = sums_gradients

    def model_state(self, learner: Learner, *, whole: bool = True) -> dict[str, Any]:
        self.align_buffers(learner)
        return learner.model.state_dict()

    def load_model_state(self, learner: Learner, state: Mapping[str, Any]) -> None:
        learner.model.load_state_dict(state)

    def optimizer_state(
        self, learner: Learner, *, whole: bool = True
    ) -> dict[str, Any]:
        return learner.opt.state_dict()

    def load_optimizer_state(self, learner: Learner, state: dict[str, Any]) -> None:
        learner.opt.load_state_dict(state)


class ZeroOfAll(nn.Module):
    """A zero that every trained parameter of a model has its part in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        first, *others = (p.sum().abs().float() * 0 for p in trained)
        return sum((other.to(first.device) for other in others), start=first)


def settle_buckets(wrapped: DistributedDataParallel, model: nn.Module) -> None:
    """Let DDP choose now in which order it sums gradients, and not after a step.

    It puts them together anew behind its first backward pass. The order of a sum
    decides over its last bit: the first step of a run that goes on would differ.
    """
    held = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in held:
        parameter.grad = None
    wrapped().backward()
    for parameter, grad in held:
        parameter.grad = grad


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether a layer has gradients that DDP sums in a way of their own."""
    return any(getattr(module, "sparse", False) for module in model.modules())


class Sharded(Strategy):
    """A share of every weight in each process; whole only while in use (FSDP2).

    Gradients are summed always, since whole ones need memory.

    Args:
        precision: Name of the dtype that is computed in, gradients being summed in
            float32; None as the weights are.
        shard_size: Over how many processes one copy of the model is spread; None for
            all. Below that there are several copies (HSDP).
        common: As of ``Strategy``.
    """

    spreads_weights = True

    def __init__(
        self,
        *,
        precision: str | None = None,
        shard_size: int | None = None,
        blocks: Sequence[str] = (),
        recomputes: bool = False,
        sync_batchnorm: bool = False,
    ) -> None:
        super().__init__(
            blocks=blocks, recomputes=recomputes, sync_batchnorm=sync_batchnorm
        )
        self.precision = precision
        self.shard_size = shard_size

    def spread(self, learner: Learner) -> None:
        """Shard each block by itself, then what is left."""
        model = learner.model
        if isinstance(model, FSDPModule):
            return
        mesh, policy = self._mesh(learner.device.type), MixedPrecisionPolicy()
        if self.precision is not None:
            policy = MixedPrecisionPolicy(
                param_dtype=getattr(torch, self.precision), reduce_dtype=torch.float32
            )
        for block in repeated_blocks(model, self.blocks):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)

    def prepare(self, learner: Learner) -> None:
        """The model predicts itself: shares know what is frozen."""
        self.predicts = learner.model

    def _mesh(self, device_type: str) -> DeviceMesh:
        world_size = dist.get_world_size()
        if self.shard_size in (None, world_size):
            return init_device_mesh(device_type, (world_size,))
        if world_size % (self.shard_size or 1):
            raise OptionError(
                f"distributed: shard_size must divide the number of processes, "
                f"{world_size}, got {self.shard_size}."
            )
        shape = (world_size // (self.shard_size or 1), self.shard_size or 1)
        return init_device_mesh(device_type, shape, mesh_dim_names=("copy", "shard"))

    def model_state(self, learner: Learner, *, whole: bool = True) -> dict[str, Any]:
        self.align_buffers(learner)
        state: dict[str, Any] = learner.model.state_dict()
        return gathered(state) if whole else state

    @torch.no_grad()
    def load_model_state(self, learner: Learner, state: Mapping[str, Any]) -> None:
        held = learner.model.state_dict()
        shared = {
            name: sharded_like(held[name], value) if name in held else value
            for name, value in state.items()
        }
        learner.model.load_state_dict(shared)

    def optimizer_state(
        self, learner: Learner, *, whole: bool = True
    ) -> dict[str, Any]:
        state = learner.opt.state_dict()
        return gathered(state) if whole else state

    def load_optimizer_state(self, learner: Learner, state: dict[str, Any]) -> None:
        groups = learner.opt.param_groups
        parameters = [p for group in groups for p in group["params"]]
        numbers = [n for group in state["param_groups"] for n in group["params"]]
        by_number = dict(zip(numbers, parameters, strict=True))
        entries = {
            number: {
                name: sharded_like(by_number[number], value)
                for name, value in entry.items()
            }
            for number, entry in state["state"].items()
        }
        learner.opt.load_state_dict({**state, "state": entries})

    def empty(
        self, learner: Learner, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Room for a saved weight, spread as the weights are."""
        self.place(learner)
        weights = learner.model.parameters()
        like = next(w for w in weights if isinstance(w, DTensor))
        return spread_empty(
            tuple(shape),
            dtype=dtype,
            device_mesh=like.device_mesh,
            placements=like.placements,
        )


def gathered(state: Any) -> Any:
    """Plain tensors for those that are spread: with values in the main process only."""
    if isinstance(state, DTensor):
        full = state.full_tensor()  # every process takes part
        if dist.get_rank() == 0:
            return full.cpu()
        return torch.empty(full.shape, dtype=full.dtype, device="meta")
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    return state


def sharded_like(held: Any, value: Any) -> Any:
    """A tensor that every process, or the main one, has whole: spread as another is."""
    is_spread = isinstance(held, DTensor) and isinstance(value, Tensor)
    if not is_spread or value.shape != held.shape or isinstance(value, DTensor):
        return value
    full = torch.empty(value.shape, dtype=value.dtype, device=held.device)
    if not value.is_meta:
        full.copy_(value)
    return distribute_tensor(full, held.device_mesh, held.placements)


@torch.no_grad()
def send_from_main(*sources: nn.Module | Tensor) -> None:
    """Give all processes tensors, or those of modules, as the main one has them."""
    for source in sources:
        if isinstance(source, nn.Module):
            send_from_main(*source.parameters(), *source.buffers())
        elif not isinstance(source, DTensor):
            dist.broadcast(source.detach(), src=0)


def repeated_blocks(model: nn.Module, names: Sequence[str] = ()) -> list[nn.Module]:
    """The blocks that a model is built of, the innermost first.

    Args:
        model: Any module.
        names: Names of their classes. None: those children of a ``ModuleList`` or
            ``Sequential`` that are made of further modules and come at least twice.

    Raises:
        OptionError: The model has no block of a class that is named.
    """
    classes = [type(module).__name__ for module in model.modules()]
    missing = [name for name in names if name not in classes]
    if missing:
        raise OptionError(f"distributed: blocks: the model has no {missing[0]}.")
    if names:
        found = [m for m in model.modules() if type(m).__name__ in names]
        return [block for block in reversed(found) if block is not model]
    found = []
    for container in model.modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            children = [c for c in container.children() if any(c.children())]
            kinds = [type(child) for child in children]
            found += [c for c in children if kinds.count(type(c)) > 1]
    unique = dict.fromkeys(reversed(found))
    return [block for block in unique if any(True for _ in block.parameters())]


def recompute(block: nn.Module) -> None:
    """Let a block be computed again in the backward pass (Chen et al. 2016).

    It becomes of a class of its own, so that names of parameters stay as they are, and
    copies of it do the same.
    """
    kind: Any = type(block)
    block.__class__ = _recomputed(kind)


@cache
def _recomputed(kind: Any) -> Any:
    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        own = partial(kind.forward, self)
        if self.training and torch.is_grad_enabled():
            return checkpoint(own, *args, use_reentrant=False, **options)
        return own(*args, **options)

    return type(kind.__name__, (kind,), {"forward": forward})
