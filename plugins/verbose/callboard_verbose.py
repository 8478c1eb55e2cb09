"""Print the name of every event as it fires, to see the loop at work.

Listens to  every event
Changes     nothing
Source      fastai's ``VerboseCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

from callboard import Callback


class VerboseCallback(Callback):
    """Prints the name of every event, one a line, in every stage."""

    name = "verbose"
    role = "observe"
    stages = ("fit", "validate", "predict", "lr-find")

    # Written out, so that whoever lists the events of a plugin finds them here.

    def after_create(self) -> None:
        print("after_create")

    def before_fit(self) -> None:
        print("before_fit")

    def before_epoch(self) -> None:
        print("before_epoch")

    def before_train(self) -> None:
        print("before_train")

    def before_batch(self) -> None:
        print("before_batch")

    def after_pred(self) -> None:
        print("after_pred")

    def after_loss(self) -> None:
        print("after_loss")

    def before_backward(self) -> None:
        print("before_backward")

    def after_cancel_backward(self) -> None:
        print("after_cancel_backward")

    def after_backward(self) -> None:
        print("after_backward")

    def before_step(self) -> None:
        print("before_step")

    def after_cancel_step(self) -> None:
        print("after_cancel_step")

    def after_step(self) -> None:
        print("after_step")

    def after_cancel_batch(self) -> None:
        print("after_cancel_batch")

    def after_batch(self) -> None:
        print("after_batch")

    def checkpoint(self) -> None:
        print("checkpoint")

    def after_cancel_train(self) -> None:
        print("after_cancel_train")

    def after_train(self) -> None:
        print("after_train")

    def before_validate(self) -> None:
        print("before_validate")

    def after_cancel_validate(self) -> None:
        print("after_cancel_validate")

    def after_validate(self) -> None:
        print("after_validate")

    def after_cancel_epoch(self) -> None:
        print("after_cancel_epoch")

    def after_epoch(self) -> None:
        print("after_epoch")

    def after_cancel_fit(self) -> None:
        print("after_cancel_fit")

    def after_fit(self) -> None:
        print("after_fit")

    def on_exception(self) -> None:
        print("on_exception")

    def teardown(self) -> None:
        print("teardown")
