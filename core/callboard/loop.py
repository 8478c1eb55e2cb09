"""The training loop and nothing else: fit, epoch, train, validate, batch.

Read it from top to bottom. ``plan`` holds, for every event, the calls of the plugins
that are active and implement it; where nobody does, the list is empty. An action is
None in the plan where the loop does its own work. A cancel closes its own level, and
only that: ``after_cancel_x``, ``after_x``, and on with the level outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from callboard.control import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from callboard.errors import DataError
from callboard.optim import needs_closure

if TYPE_CHECKING:
    from torch import Tensor

    from callboard.learner import Callbacks, Learner
    from callboard.optim import Rate
    from callboard.resume import Policy


def fit(
    learner: Learner,
    n_epoch: int,
    lr: Rate | None = None,
    *,
    cbs: Callbacks = None,
    start_epoch: int = 0,
    reset_opt: bool = False,
    resume: Any = None,
    resume_policy: Policy = "warn",
) -> None:
    """Train for ``n_epoch`` epochs.

    Args:
        n_epoch: Number of epochs of the whole run.
        lr: Learning rate; a number, one per parameter group, or ``slice(low, high)``.
            Default: the Learner's.
        cbs: Callbacks that take part in this fit only.
        start_epoch: First epoch to run; schedules go on as if those before had run.
        reset_opt: Make a new optimizer instead of keeping the state of the last fit.
        resume: Go on with a saved run: what ``state_dict`` returned, the path of a
            checkpoint, or ``"auto"`` for the last good one where there is any.
        resume_policy: What to do where plugins, their options or libraries are not
            those of the saved run: ``"strict"`` refuses, ``"warn"`` says so and goes
            on, ``"ignore"`` goes on.
    """
    if resume is None and learner._was_done_before():
        return
    setup = (n_epoch, lr, cbs, start_epoch, reset_opt, resume, resume_policy)
    with learner._fitting(*setup):
        try:
            for call in learner.plan.before_fit:
                call()
            for learner.epoch in learner._epochs():
                learner.plan.do_epoch()
        except CancelFitException as cancel:
            learner._note_cancel(cancel)
            for call in learner.plan.after_cancel_fit:
                call()
        for call in learner.plan.after_fit:
            call()


def epoch(learner: Learner) -> None:
    """One epoch: train, then validate where there is something to validate on."""
    learner.results, learner._is_epoch_over = {}, False
    try:
        for call in learner.plan.before_epoch:
            call()
        learner.plan.do_train()
        if learner.dls.valid is not None and learner.stop_reason is None:
            learner.plan.do_validate()
    except CancelEpochException as cancel:
        learner._note_cancel(cancel)
        for call in learner.plan.after_cancel_epoch:
            call()
    for call in learner.plan.after_epoch:
        call()
    learner._is_epoch_over = True
    for call in learner.plan.checkpoint:
        call()


def train(learner: Learner) -> None:
    """Go through the training data once."""
    learner._enter_phase(training=True)
    try:
        for call in learner.plan.before_train:
            call()
        for learner.iter, (learner.xb, learner.yb) in learner._batches():
            learner.plan.do_batch()
            for call in learner.plan.checkpoint:
                call()
            if learner.stop_reason is not None:
                break
    except CancelTrainException as cancel:
        learner._note_cancel(cancel)
        for call in learner.plan.after_cancel_train:
            call()
    for call in learner.plan.after_train:
        call()
    learner._refuse_non_finite_loss()


@torch.no_grad()
def validate(learner: Learner) -> None:
    """Go through the validation data once, without gradients."""
    learner._enter_phase(training=False)
    try:
        for call in learner.plan.before_validate:
            call()
        for learner.iter, (learner.xb, learner.yb) in learner._batches():
            learner.plan.do_batch()
    except CancelValidException as cancel:
        learner._note_cancel(cancel)
        for call in learner.plan.after_cancel_validate:
            call()
    for call in learner.plan.after_validate:
        call()


def batch(learner: Learner) -> None:
    """One batch: predict and work out the loss; in training, update the weights."""
    learner.pred = learner.loss = learner._loss_grad = None
    try:
        for call in learner.plan.before_batch:
            call()
        if learner.plan.do_predict is None:
            learner.pred = learner.model(*learner.xb)
        else:
            learner.pred = learner.plan.do_predict()
        for call in learner.plan.after_pred:
            call()
        do_loss = learner.plan.do_loss
        learner.loss = do_loss() if do_loss else compute_loss(learner)
        for call in learner.plan.after_loss:
            call()
        if learner.training and learner.loss is not None:
            update(learner)
    except CancelBatchException as cancel:
        learner._note_cancel(cancel)
        for call in learner.plan.after_cancel_batch:
            call()
    learner.train_iter += int(learner.training)
    learner.pct_train += learner._pct_per_batch
    for call in learner.plan.after_batch:
        call()


def update(learner: Learner) -> None:
    """Backward, optimizer step, gradients to zero."""
    try:
        for call in learner.plan.before_backward:
            call()
        loss: Any = learner.loss if learner._loss_grad is None else learner._loss_grad
        (learner.plan.do_backward or loss.backward)()
    except CancelBackwardException as cancel:
        learner._note_cancel(cancel)
        for call in learner.plan.after_cancel_backward:
            call()
    for call in learner.plan.after_backward:
        call()
    try:
        for call in learner.plan.before_step:
            call()
        (learner.plan.do_step or learner.opt.step)()
    except CancelStepException as cancel:
        learner._note_cancel(cancel)
        for call in learner.plan.after_cancel_step:
            call()
    for call in learner.plan.after_step:
        call()
    (learner.plan.do_zero_grad or learner.opt.zero_grad)()


def compute_loss(learner: Learner) -> Tensor | None:
    """The loop's own ``do_loss``: None where the batch has no labels."""
    if learner.loss_func is not None and len(learner.yb) > 0:
        return learner.loss_func(learner.pred, *learner.yb)
    return None if learner.loss_func is not None else models_own_loss(learner)


def models_own_loss(learner: Learner) -> Tensor | None:
    """The loss in what a model returned: ``pred.loss``, ``pred["loss"]``, a scalar.

    None where the model says so, and outside of training where it says nothing.

    Raises:
        DataError: There is none to train with.
    """
    pred = learner.pred
    if isinstance(pred, Mapping) and "loss" in pred:
        return cast("Tensor | None", pred["loss"])
    if hasattr(pred, "loss"):
        return cast("Tensor | None", pred.loss)
    loss = pred[0] if isinstance(pred, tuple | list) and pred else pred
    is_scalar = isinstance(loss, torch.Tensor) and loss.ndim == 0
    if learner.training and not is_scalar:
        raise DataError(
            f"There is no loss: the Learner has no loss_func, and the model returned "
            f"{type(pred).__name__} without one. Give Learner(loss_func=...), or let "
            "the model return its loss as `.loss`, as `['loss']` or as a scalar."
        )
    return loss if is_scalar else None


def predict(learner: Learner) -> Any:
    """The loop's own ``do_predict``, for mapping batches and for plugins to wrap."""
    xb = learner.xb
    return learner.model(**xb) if isinstance(xb, dict) else learner.model(*xb)


def backward(learner: Learner) -> None:
    """The loop's own ``do_backward``, for where a plugin wraps it."""
    loss: Any = learner.loss if learner._loss_grad is None else learner._loss_grad
    loss.backward()


def step(learner: Learner) -> None:
    """The loop's own ``do_step``, for where a plugin wraps it."""
    if needs_closure(learner.opt):
        step_with_closure(learner)
    else:
        learner.opt.step()


def step_with_closure(learner: Learner) -> None:
    """``do_step`` for an optimizer that works the loss out again, as LBFGS does.

    The actions run again, the events do not. ``pred`` and ``loss`` stay those of the
    weights before the step, as with any other optimizer.
    """
    first = learner.pred, learner.loss, learner._loss_grad
    is_first = True

    def closure() -> Tensor | None:
        nonlocal is_first
        if not is_first:
            learner.opt.zero_grad()
            do_predict, do_loss = learner.plan.do_predict, learner.plan.do_loss
            learner.pred = do_predict() if do_predict else predict(learner)
            learner.loss = do_loss() if do_loss else compute_loss(learner)
            learner._loss_grad = None
            backward(learner)
        is_first = False
        return learner.loss if learner._loss_grad is None else learner._loss_grad

    with torch.enable_grad():
        learner.opt.step(closure)  # type: ignore[arg-type]
    learner.pred, learner.loss, learner._loss_grad = first


def zero_grad(learner: Learner) -> None:
    """The loop's own ``do_zero_grad``, for where a plugin wraps it."""
    learner.opt.zero_grad()
