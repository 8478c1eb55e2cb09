"""Train in many processes, with the losses that one process would have.

Each process takes its part of every batch; gradients, losses, metrics and decisions are
those of the whole batch. DDP keeps the whole model in every process, FSDP2 a share.

Listens to  after_create, before_fit, before_train, before_batch, do_predict,
            before_backward, checkpoint, after_train, before_validate, after_epoch,
            after_fit, on_exception, teardown
Changes     the loaders (to parts of their batches), ``loss_grad`` (to its share where
            parts differ in size), the model (copied or sharded), ``device``, ``seed``
Source      PyTorch's own: torch.distributed, DistributedDataParallel (Li et al. 2020,
            arXiv:2006.15704), fully_shard (Zhao et al. 2023, arXiv:2304.11277)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_distributed.callback import DistributedCallback

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = ["DistributedCallback"]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try this out, in one process."""
    from callboard.testing import Specimen

    return {"distributed": Specimen(make=DistributedCallback)}
