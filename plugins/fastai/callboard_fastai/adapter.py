"""The plugin that lets a callback written for fastai take part in Callboard's loop.

Every event of Callboard's is delivered to the callback through its own ``__call__``,
which decides by ``run``, ``run_train`` and ``run_valid``. It takes part in every stage,
as in fastai. Among plugins of Callboard's it stands where its ``order`` would put it
among the callbacks of fastai that they are the counterparts of.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from callboard import control, hookimpl
from callboard.adapters import Adapter
from callboard_fastai.orders import ORDERS, neighbours

if TYPE_CHECKING:
    from callboard import Learner as NativeLearner

EVENTS = (
    *("before_fit", "before_epoch", "before_train", "before_batch", "after_pred"),
    *("after_loss", "before_backward", "after_cancel_backward", "after_backward"),
    *("before_step", "after_cancel_step", "after_step", "after_cancel_batch"),
    *("after_batch", "after_cancel_train", "after_train", "before_validate"),
    *("after_cancel_validate", "after_validate", "after_cancel_epoch", "after_epoch"),
    *("after_cancel_fit", "after_fit"),
)
CANCELS: dict[str, type[Exception]] = {
    cls.__name__: cls for cls in control.CancelException.__subclasses__()
}
# What fastai calls before its own TrainEvalCallback, which counts batches.
COUNTING = -10


def adapted(callback: Any) -> FastaiAdapter:
    """The plugin for a callback of ``callboard_fastai``, or of an installed fastai."""
    from callboard_fastai.callback.core import warn_of_dead_declarations

    warn_of_dead_declarations(type(callback), stacklevel=6)
    return FastaiAdapter(callback)


class FastaiAdapter(Adapter):
    """Delivers the events of Callboard's loop to a callback written for fastai.

    Args:
        subject: The callback.
    """

    name = "fastai-callback"
    stages = ("fit", "validate", "predict", "lr-find")

    def __init__(self, subject: Any) -> None:
        super().__init__(subject)
        order = getattr(subject, "order", 0)
        self.order = order if isinstance(order, int | float) else 0
        self.name = _name_of(subject, self.order)
        self.run_after, self.run_before = neighbours(self.order)
        self._leave_out_what_is_not_there()

    def _leave_out_what_is_not_there(self) -> None:
        """Let events that the callback does not implement cost nothing."""
        cls = type(self.subject)
        if getattr(self.subject, "name", None) != RECORDER:
            vars(self).update(do_backward=None, do_step=None)  # once a Learner
        base = _base_of(cls)
        if base is not None and cls.__call__ is not base.__call__:
            return  # it does something of its own at every event
        for event in EVENTS:
            is_own = event in vars(self.subject) or hasattr(cls, event)
            if not is_own and event not in KEPT:
                vars(self)[event] = None

    def joined(self, learner: NativeLearner) -> None:
        """Show the callback the Learner as fastai has it."""
        front = _front(learner)
        front._adapters.append(self)
        self.subject.learn = front

    def left(self, learner: NativeLearner) -> None:
        """The callback has no Learner any more."""
        front = _front(learner)
        front._adapters = [a for a in front._adapters if a is not self]
        self.subject.learn = None
        front._dismiss_companions()

    def deliver(self, event: str) -> None:
        """Call the callback at an event.

        Raises:
            CancelException: The callback raised one, of Callboard's or of fastai's.
        """
        front = self.subject.learn
        if front is None:  # another callback has just removed it
            return
        front._is_behind = event == "after_batch" and self.order < COUNTING
        try:
            self.subject(event)
        except Exception as error:
            cancel = CANCELS.get(type(error).__name__)
            if cancel is None or isinstance(error, control.CancelException):
                raise
            raise cancel(*error.args) from error
        finally:
            front._is_behind = False

    # ---- the events -----------------------------------------------------------

    def after_create(self) -> None:
        """Fired for the callbacks that a Learner is made with, as in fastai."""
        learner: Any = self.learn
        _front(learner)._call_companions()
        reason = next(m.reason for m in learner.cbs.members if m.plugin is self)
        if reason not in ("add_cbs", "added_cbs"):
            self.deliver("after_create")

    def before_fit(self) -> None:
        """A fit begins."""
        _front(self.learn)._begin_fit()
        self.deliver("before_fit")

    def before_epoch(self) -> None:
        """An epoch begins."""
        self.deliver("before_epoch")

    def before_train(self) -> None:
        """A training phase begins."""
        self.deliver("before_train")

    def before_batch(self) -> None:
        """A batch is about to be used."""
        self.deliver("before_batch")

    def after_pred(self) -> None:
        """The model has answered."""
        self.deliver("after_pred")

    def after_loss(self) -> None:
        """The loss is known; labels are looked at a second time."""
        front = _front(self.learn)
        try:
            self.deliver("after_loss")
        except control.CancelException:
            front._forget_bad_loss()
            raise
        finally:
            front._settle_loss()

    def before_backward(self) -> None:
        """Gradients are about to be computed."""
        self.deliver("before_backward")

    def after_cancel_backward(self) -> None:
        """The backward pass was cancelled."""
        self.deliver("after_cancel_backward")

    def after_backward(self) -> None:
        """Gradients are there."""
        self.deliver("after_backward")

    def before_step(self) -> None:
        """The optimizer is about to step."""
        self.deliver("before_step")

    def after_cancel_step(self) -> None:
        """The step was cancelled."""
        self.deliver("after_cancel_step")

    def after_step(self) -> None:
        """The optimizer has stepped."""
        self.deliver("after_step")

    def after_cancel_batch(self) -> None:
        """The batch was cancelled."""
        self.deliver("after_cancel_batch")

    def after_batch(self) -> None:
        """A batch is over."""
        self.deliver("after_batch")

    def after_cancel_train(self) -> None:
        """The training phase was cancelled."""
        self.deliver("after_cancel_train")

    def after_train(self) -> None:
        """A training phase is over."""
        self.deliver("after_train")

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, Any, Any]:
        """Fire what fastai fires around a validation outside a fit."""
        with _front(self.learn)._around_evaluation():
            return (yield)

    def do_backward(self) -> object:
        """What a file has put in the place of fastai's ``Learner._backward``."""
        return self._do("_backward")

    def do_step(self) -> object:
        """What a file has put in the place of fastai's ``Learner._step``."""
        return self._do("_step")

    def _do(self, name: str) -> object:
        replacement = _front(self.learn)._replaced(name)
        if replacement is None:
            return None
        replacement()
        return True

    def before_validate(self) -> None:
        """A validation begins."""
        self.deliver("before_validate")

    def after_cancel_validate(self) -> None:
        """The validation was cancelled."""
        self.deliver("after_cancel_validate")

    def after_validate(self) -> None:
        """A validation is over."""
        self.deliver("after_validate")

    def after_cancel_epoch(self) -> None:
        """The epoch was cancelled."""
        self.deliver("after_cancel_epoch")

    def after_epoch(self) -> None:
        """An epoch is over."""
        self.deliver("after_epoch")

    def after_cancel_fit(self) -> None:
        """The fit was cancelled."""
        self.deliver("after_cancel_fit")

    def after_fit(self) -> None:
        """The fit is over; ``run`` is True again."""
        self.deliver("after_fit")

    def teardown(self) -> None:
        """The fit has ended, however it did."""
        _front(self.learn)._is_in_fit = False

    # ---- state ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """That of the callback, where it has one of its own."""
        own = getattr(type(self.subject), "state_dict", None)
        return dict(self.subject.state_dict()) if callable(own) else {}

    def load_state_dict(self, state: Any) -> None:
        """Take back what ``state_dict`` returned."""
        self.subject.load_state_dict(state)


# The one that stands beside the others.
RECORDER = "fastai_recorder"
# after_loss is where labels are looked at again; after_fit sets run to True.
KEPT = ("before_fit", "after_loss", "after_fit")


def _front(learner: Any) -> Any:
    from callboard_fastai.learner import Learner

    return Learner.before(learner)


def _name_of(subject: Any, order: float) -> str:
    name = getattr(subject, "name", None)
    stem = name if isinstance(name, str) and name else type(subject).__name__
    stem = stem.replace("_", "-").lower()
    # Others stand before or after the plugin of this name, wherever this one stands.
    is_taken = stem in ORDERS and ORDERS[stem] != order
    return f"fastai-{stem}" if is_taken else stem


def _base_of(cls: type) -> type | None:
    """fastai's own Callback, or its counterpart here."""
    for base in cls.__mro__:
        if base.__name__ == "Callback" and base.__module__.endswith("callback.core"):
            return base
    return None
