"""What surrounds a fit: set up before, put back after, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from callboard import checks, faults, membership, optim, resume
from callboard.data import num_batches
from callboard.optim import Rate
from callboard.plan import Plan
from callboard.state import RunRecord

if TYPE_CHECKING:
    from callboard.learner import Learner


@contextmanager
def fitting(
    learner: Learner,
    n_epoch: int,
    lr: Rate | None,
    cbs: Any,
    start_epoch: int,
    reset_opt: bool,
    given: Any,
    policy: resume.Policy,
) -> Iterator[None]:
    """What surrounds a fit: set up before, put back after, however it ends."""
    checks.check_fit(learner, n_epoch, start_epoch)
    rate = learner.lr if lr is None else lr
    optim.spread_rate(rate, len(learner._parameter_groups()))
    with (
        membership.added(learner, cbs),
        running(learner, "fit" if not learner._depth else learner.stage),
    ):
        move_to_device(learner)
        if reset_opt or not optim.is_about(learner.opt, learner.model):
            learner.create_opt()
        # Who has just joined may have set another.
        optim.set_hyper(learner.opt, "lr", learner.lr if lr is None else lr)
        # What an interrupted fit has left there is no gradient of this one.
        learner.opt.zero_grad()
        if start_epoch == 0 or learner._fit_number == 0:
            learner._fit_number += 1  # else it goes on with the one that was left
        learner.n_epoch, learner.epoch, learner.iter = n_epoch, start_epoch, 0
        learner.train_iter = start_epoch * (num_batches(learner.dls.train) or 0)
        learner.pct_train = start_epoch / n_epoch if n_epoch else 0.0
        learner._first_train_iter = learner.train_iter
        learner._is_epoch_over = False
        learner.stop_reason = learner._non_finite = None
        learner.record = RunRecord()
        going_on = learner._what_to_resume(given, policy)
        if going_on is not None:
            resume.check(learner, going_on)
            going_on.restore(learner, is_early=True)
        learner._resume = going_on
        learner._replan()
        leaving: BaseException | None = None
        try:
            with learner._board.around_fit(learner):
                yield
        except BaseException as error:
            leaving = faults.explained(learner, error)
            faults.announce(learner, leaving)
            raise leaving from leaving.__cause__
        finally:
            faults.tear_down(learner, leaving)
            del leaving  # its traceback holds this frame: a cycle


@contextmanager
def running(learner: Learner, stage: str) -> Iterator[None]:
    """Hold the plugins' references strongly and undo what lasts one fit only."""
    learner.stage = stage
    learner._depth += 1
    outside, learner._switches_before = learner._switches_before, []
    membership.note_switches(learner, learner._board.members.values())
    try:
        for member in learner._board.members.values():
            if learner._depth == 1:
                member.has_failed = member.has_taken_part = False
            membership.hold(member.plugin, learner)
        learner._board.forget_plans()
        yield
    finally:
        learner._depth -= 1
        # The earliest note of one that left and joined again comes last.
        for callback, before in reversed(learner._switches_before):
            callback._set_switches(before)
        noted = {id(callback) for callback, _ in outside}
        late = [each for each in learner._switches_before if id(each[0]) not in noted]
        learner._switches_before = [*outside, *late] if learner._depth else []
        learner._board.forget_plans()
        if not learner._depth:
            come_to_rest(learner)


def come_to_rest(learner: Learner) -> None:
    """Hold no batch, no graph and no cycle of references between fits."""
    for member in learner._board.members.values():
        membership.hold(member.plugin, None)
    learner.plan = Plan()
    learner.dl = None
    learner.xb, learner.yb, learner.pred, learner._loss_grad = (), (), None, None
    if isinstance(learner.loss, Tensor):
        learner.loss = learner.loss.detach()


def move_to_device(learner: Learner) -> None:
    """Put model and loss where they are trained."""
    checks.refuse_meta(learner.model, learner.device)
    learner._processes.place(learner)
    if isinstance(learner.loss_func, nn.Module):
        learner.loss_func.to(learner.device)
