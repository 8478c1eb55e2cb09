"""The cancels: exceptions that close one level of the loop and go no further.

A plugin raises one to skip the rest of a level. The matching ``after_cancel_*`` event
fires, then the matching ``after_*``, and the loop goes on outside that level:

    class SkipFirstEpoch(Callback):
        def before_epoch(self):
            if self.epoch == 0:
                raise CancelEpochException("the first epoch is only a warm-up")

The text given is the reason; it is kept in ``learner.record``. To end training at the
next boundary without hiding the event from other plugins, call ``learner.stop``.
"""

from __future__ import annotations


class CancelException(Exception):
    """Base of the seven cancels.

    Attributes:
        level: Word used in event names (``"batch"`` in ``after_cancel_batch``).
        opens: Where the level is open, for the error that says so.
    """

    level: str = ""
    opens: str = ""

    @property
    def reason(self) -> str:
        """What the plugin gave as reason, or an empty string."""
        return " ".join(str(argument) for argument in self.args)


class CancelBatchException(CancelException):
    """Skip the rest of this batch."""

    level = "batch"
    opens = "from before_batch to do_zero_grad"


class CancelTrainException(CancelException):
    """Skip the rest of this epoch's training; validation still runs."""

    level = "train"
    opens = "from before_train to the last checkpoint event of a training phase"


class CancelValidException(CancelException):
    """Skip the rest of this validation."""

    level = "validate"
    opens = "from before_validate to the last after_batch of a validation"


class CancelEpochException(CancelException):
    """Skip the rest of this epoch."""

    level = "epoch"
    opens = "from before_epoch to after_validate of an epoch of a fit"


class CancelFitException(CancelException):
    """End the fit."""

    level = "fit"
    opens = "from before_fit to the last checkpoint event of a fit"


class CancelBackwardException(CancelException):
    """Skip the rest of the backward pass; the optimizer still steps."""

    level = "backward"
    opens = "in before_backward and do_backward"


class CancelStepException(CancelException):
    """Skip the rest of the optimizer step; gradients are still set to zero."""

    level = "step"
    opens = "in before_step and do_step"
