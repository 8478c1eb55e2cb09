"""The score: every event and action of the loop, in the order in which they fire.

An *event* is a moment. A plugin implements it to act then; nothing is returned.
An *action* (``do_...``) is a replaceable piece of work. The first implementation that
returns something other than ``None`` has done it; the loop's own comes last.
A *span* (``do_fit``, ``do_epoch``, ``do_train``, ``do_validate``, ``do_batch``) is a
piece of the loop with all that happens in it; plugins put wrappers around it.

Both actions and spans take wrappers, which run around the work and are undone
whatever happens inside:

    @hookimpl(wrapper=True)
    def do_predict(learner):
        with torch.autocast("cpu", torch.bfloat16):
            return (yield)

Every hookimpl may ask for ``learner``, or for nothing.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from callboard.learner import Learner

PROJECT = "callboard"
hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def after_create(learner: Learner) -> None:
    """A Learner has just been made.

    Fires once, at the end of ``Learner(...)``, for the plugins that it was made with;
    a plugin that is added later gets it when it is added.
    Readable: ``dls``, ``model``, ``loss_func``, ``opt_func``, ``lr``, ``metrics``,
    ``path``, ``device``, ``seed``; ``opt`` is None until the first fit.
    Assignable: all of these, and ``learner.add_cb``.
    """


@hookspec(firstresult=True)
def do_fit(learner: Learner) -> object:
    """The whole of a fit, from ``before_fit`` to ``after_fit``: a span.

    Happens once in a fit. For wrappers: what comes before ``yield`` runs before
    ``before_fit``; what comes after it runs before ``on_exception`` and ``teardown``,
    and in a ``finally`` it runs however the fit ends. It cannot be replaced.
    """


@hookspec
def before_fit(learner: Learner) -> None:
    """A fit begins.

    Fires once in a fit, after the optimizer was made and the model moved.
    Readable: ``n_epoch``, ``epoch`` (the first to run), ``opt``, ``train_iter`` and
    ``pct_train`` (both 0 unless the fit starts later).
    Assignable: ``model``, ``dls``, ``loss_func``, ``opt`` and its hyper-parameters;
    ``self.run = False`` keeps a plugin out of this fit.
    May raise ``CancelFitException``.
    """


@hookspec(firstresult=True)
def do_epoch(learner: Learner) -> object:
    """One epoch, from ``before_epoch`` to ``after_epoch``: a span.

    Happens once an epoch; ``learner.epoch`` is its number, from 0.
    """


@hookspec
def before_epoch(learner: Learner) -> None:
    """An epoch begins.

    Fires once an epoch. Readable: ``epoch``; ``results`` is empty.
    May raise ``CancelEpochException`` (``after_epoch`` follows) or the one of the fit.
    """


@hookspec(firstresult=True)
def do_train(learner: Learner) -> object:
    """The training phase of an epoch, from ``before_train`` to ``after_train``: a span.

    Happens once an epoch, before validation.
    """


@hookspec
def before_train(learner: Learner) -> None:
    """The training phase of an epoch begins.

    Fires once an epoch. ``learner.training`` is True and the model is in train mode.
    Readable: ``dl`` (the loader about to run), ``n_iter`` (its number of batches, or
    None when it has no length).
    Assignable: ``dl``, ``loss_func``, the mode of single modules (``.eval()``).
    May raise ``CancelTrainException``: validation still runs.
    """


@hookspec(firstresult=True)
def do_batch(learner: Learner) -> object:
    """One batch, from ``before_batch`` to ``after_batch``: a span.

    Happens for every batch of training and of validation.
    """


@hookspec
def before_batch(learner: Learner) -> None:
    """A batch is on the device and about to be used.

    Fires for every batch, in training and in validation.
    Readable: ``iter`` (number of the batch in this phase), ``xb`` (a tuple, or a dict
    where the batch is a mapping), ``yb`` (a tuple, empty without labels), ``x``, ``y``.
    Assignable: ``xb``, ``yb``, hyper-parameters of ``opt``.
    May raise ``CancelBatchException``: ``after_batch`` follows.
    """


@hookspec(firstresult=True)
def do_predict(learner: Learner) -> object:
    """Run the model on the batch: an action. Return the prediction.

    Happens for every batch. What is returned becomes ``learner.pred``. The loop's own
    calls ``model(*xb)``, or ``model(**xb)`` where ``xb`` is a dict.
    """


@hookspec
def after_pred(learner: Learner) -> None:
    """The model has answered.

    Fires for every batch. Readable and assignable: ``pred``, ``yb``.
    """


@hookspec(firstresult=True)
def do_loss(learner: Learner) -> Tensor | None:
    """Work out the loss of the batch: an action. Return the loss.

    Happens for every batch that has labels, or whose model returns its loss. What is
    returned becomes ``learner.loss``. The loop's own calls ``loss_func(pred, *yb)``;
    without a ``loss_func`` it takes the loss that the model returned. Where there are
    no labels the loss is None and the batch ends after ``after_loss``.
    """


@hookspec
def after_loss(learner: Learner) -> None:
    """The loss of the batch is known.

    Fires for every batch; in validation and without labels the batch ends here.
    Readable and assignable: ``loss`` (None without labels) and ``loss_grad``, on which
    backward runs: the same value, a tensor of its own from the first time it is read
    or assigned, so that a penalty can be added that is not recorded.
    """


@hookspec
def before_backward(learner: Learner) -> None:
    """Gradients are about to be computed.

    Fires for every training batch with a loss. Assignable: ``loss_grad``, ``loss``.
    May raise ``CancelBackwardException``: the optimizer still steps.
    """


@hookspec(firstresult=True)
def do_backward(learner: Learner) -> object:
    """Compute gradients: an action. Return anything but None when done.

    Happens for every training batch with a loss. The loop's own calls
    ``loss_grad.backward()``.
    """


@hookspec
def after_cancel_backward(learner: Learner) -> None:
    """The backward pass was cancelled by ``CancelBackwardException``.

    ``after_backward`` and the optimizer step follow.
    """


@hookspec
def after_backward(learner: Learner) -> None:
    """Gradients of this batch are in the ``.grad`` of the parameters.

    Fires for every training batch with a loss, also after a cancelled backward.
    Assignable: gradients, in place. May raise ``CancelBatchException``, which keeps the
    gradients for the next batch: that is how accumulation is written.
    """


@hookspec
def before_step(learner: Learner) -> None:
    """The optimizer is about to step.

    Fires for every training batch with a loss. Gradients are those the optimizer will
    see. Assignable: gradients, in place (clipping), hyper-parameters of ``opt``.
    May raise ``CancelStepException`` (gradients are still set to zero) or
    ``CancelBatchException`` (they are kept).
    """


@hookspec(firstresult=True)
def do_step(learner: Learner) -> object:
    """Let the optimizer step: an action. Return anything but None when done.

    Happens for every training batch with a loss. The loop's own calls ``opt.step()``.
    """


@hookspec
def after_cancel_step(learner: Learner) -> None:
    """The optimizer step was cancelled by ``CancelStepException``.

    ``after_step`` and ``do_zero_grad`` follow.
    """


@hookspec
def after_step(learner: Learner) -> None:
    """The optimizer has stepped; gradients are not yet set to zero.

    Fires for every training batch with a loss, also after a cancelled step.
    Assignable: weights, under ``torch.no_grad()``.
    """


@hookspec(firstresult=True)
def do_zero_grad(learner: Learner) -> object:
    """Set gradients to zero: an action. Return anything but None when done.

    Happens after every optimizer step. The loop's own calls ``opt.zero_grad()``.
    """


@hookspec
def after_cancel_batch(learner: Learner) -> None:
    """The batch was cancelled by ``CancelBatchException``.

    ``after_batch`` follows. ``pred`` and ``loss`` are None where the batch did not get
    so far.
    """


@hookspec
def after_batch(learner: Learner) -> None:
    """A batch is over.

    Fires for every batch, also after a cancelled one. ``train_iter`` and ``pct_train``
    already count a training batch. Readable: ``xb``, ``yb``, ``pred``, ``loss``.
    May raise the cancel of the phase, the epoch or the fit; or call ``learner.stop``.
    """


@hookspec
def checkpoint(learner: Learner) -> None:
    """A consistent moment: every hookimpl of this boundary has run.

    Fires after ``after_batch`` of every training batch and after ``after_epoch`` of
    every epoch. The state of the Learner and of every plugin may be saved here.
    """


@hookspec
def after_cancel_train(learner: Learner) -> None:
    """The training phase was cancelled by ``CancelTrainException``.

    ``after_train`` and validation follow.
    """


@hookspec
def after_train(learner: Learner) -> None:
    """The training phase of an epoch is over.

    Fires once an epoch. Plugins publish what they measured: ``results["train_loss"]``.
    """


@hookspec(firstresult=True)
def do_validate(learner: Learner) -> object:
    """A validation, from ``before_validate`` to ``after_validate``: a span.

    Happens once an epoch where there is a validation loader, and in
    ``learner.validate()``. Gradients are off inside.
    """


@hookspec
def before_validate(learner: Learner) -> None:
    """A validation begins.

    Fires once an epoch and in ``learner.validate()`` (``learner.stage`` tells).
    ``learner.training`` is False and the model is in eval mode.
    Readable: ``dl``, ``n_iter``. Assignable: ``dl``, the mode of single modules.
    May raise ``CancelValidException``. The batch events that follow stop at
    ``after_loss``.
    """


@hookspec
def after_cancel_validate(learner: Learner) -> None:
    """The validation was cancelled by ``CancelValidException``.

    ``after_validate`` follows.
    """


@hookspec
def after_validate(learner: Learner) -> None:
    """A validation is over.

    Plugins publish what they measured: ``results["valid_loss"]``. What is published
    here is there for every plugin in ``after_epoch``.
    """


@hookspec
def after_cancel_epoch(learner: Learner) -> None:
    """The epoch was cancelled by ``CancelEpochException``; ``after_epoch`` follows."""


@hookspec
def after_epoch(learner: Learner) -> None:
    """An epoch is over and its ``results`` are complete.

    Fires once an epoch, also after a cancelled one. Trackers compare, loggers write.
    Assignable: hyper-parameters of ``opt``; ``learner.stop(reason)`` ends the fit after
    this epoch; May raise ``CancelFitException``.
    """


@hookspec
def after_cancel_fit(learner: Learner) -> None:
    """The fit was cancelled by ``CancelFitException``; ``after_fit`` follows."""


@hookspec
def after_fit(learner: Learner) -> None:
    """The fit is over, by its own end, a stop or a cancel (not by an error).

    Fires once in a fit. Everything is still as the last epoch left it.
    """


@hookspec
def on_exception(learner: Learner, exception: BaseException) -> None:
    """An error is leaving the fit, Ctrl-C included; it goes on after this event.

    Fires at most once in a fit. A plugin cannot swallow the error.
    """


@hookspec
def teardown(learner: Learner) -> None:
    """Always the last event of a fit, however it ended.

    Fires once in a fit, for every plugin, last-opened first: in reverse running order.
    Close files and undo what must not outlive the fit; an error here does not keep the
    other plugins from being torn down.
    """


@dataclass(frozen=True, slots=True)
class Event:
    """One event, action or span.

    Attributes:
        name: Its name, which is the name of the method that implements it.
        kind: ``"event"``, ``"action"`` or ``"span"``.
        level: The level of the loop it belongs to: ``create``, ``fit``, ``epoch``,
            ``train``, ``validate`` or ``batch``.
        summary: First line of its documentation.
        documentation: All of it.
        parameters: What a hookimpl may ask for.
    """

    name: str
    kind: str
    level: str
    summary: str
    documentation: str
    parameters: tuple[str, ...]

    @property
    def is_per_batch(self) -> bool:
        """Whether ``run_train`` and ``run_valid`` decide about it."""
        return self.level == "batch"


SPANS = ("do_fit", "do_epoch", "do_train", "do_validate", "do_batch")
OUTER_LEVELS = {
    "after_create": "create",
    **dict.fromkeys(("do_fit", "before_fit", "after_cancel_fit", "after_fit"), "fit"),
    **dict.fromkeys(("on_exception", "teardown"), "fit"),
    **dict.fromkeys(
        ("do_epoch", "before_epoch", "after_cancel_epoch", "after_epoch"), "epoch"
    ),
    **dict.fromkeys(
        ("do_train", "before_train", "after_cancel_train", "after_train", "checkpoint"),
        "train",
    ),
    **dict.fromkeys(
        ("do_validate", "before_validate", "after_cancel_validate", "after_validate"),
        "validate",
    ),
}


def _read_score() -> dict[str, Event]:
    score: dict[str, Event] = {}
    for name, function in list(globals().items()):
        options: dict[str, Any] | None = getattr(function, f"{PROJECT}_spec", None)
        if options is None:
            continue
        kind = "event"
        if options["firstresult"]:
            kind = "span" if name in SPANS else "action"
        documentation = inspect.getdoc(function) or ""
        score[name] = Event(
            name=name,
            kind=kind,
            level=OUTER_LEVELS.get(name, "batch"),
            summary=documentation.partition("\n")[0],
            documentation=documentation,
            parameters=tuple(inspect.signature(function).parameters),
        )
    return score


EVENTS: dict[str, Event] = _read_score()
