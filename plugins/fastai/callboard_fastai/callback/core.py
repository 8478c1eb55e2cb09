"""What a fastai callback is: its base class, the events, the cancels.

The semantics are fastai's, not Callboard's own: every event is delivered through
``__call__``, only ``order`` decides who comes first, and reading an attribute goes on
to the Learner and from there to the model.
"""

from __future__ import annotations

import warnings
from typing import Any

from fastcore.basics import GetAttr, Stateful, class2attr
from fastcore.meta import funcs_kwargs

from callboard_fastai.exports import exporting

_events = (
    *("after_create", "before_fit", "before_epoch", "before_train", "before_batch"),
    *("after_pred", "after_loss", "before_backward", "after_cancel_backward"),
    *("after_backward", "before_step", "after_cancel_step", "after_step"),
    *("after_cancel_batch", "after_batch", "after_cancel_train", "after_train"),
    *("before_validate", "after_cancel_validate", "after_validate"),
    *("after_cancel_epoch", "after_epoch", "after_cancel_fit", "after_fit"),
)
# The events that run_train and run_valid decide about; as in fastai without
# after_cancel_step.
_inner_loop = (
    *("before_batch", "after_pred", "after_loss", "before_backward"),
    *("after_cancel_backward", "after_backward", "before_step", "after_step"),
    *("after_cancel_batch", "after_batch"),
)
# The parts of a fit in order, events among them, for those who print or draw the loop.
_loop = [
    *("Start Fit", "before_fit", "Start Epoch Loop", "before_epoch"),
    *("Start Train", "before_train", "Start Batch Loop", "before_batch"),
    *("after_pred", "after_loss", "before_backward", "before_step", "after_step"),
    *("after_cancel_batch", "after_batch", "End Batch Loop", "End Train"),
    *("after_cancel_train", "after_train", "Start Valid", "before_validate"),
    *("Start Batch Loop", "**CBs same as train batch**", "End Batch Loop", "End Valid"),
    *("after_cancel_validate", "after_validate", "End Epoch Loop"),
    *("after_cancel_epoch", "after_epoch", "End Fit", "after_cancel_fit", "after_fit"),
]
# Declarations that fastai no longer reads.
DEAD_DECLARATIONS = ("run_before", "run_after", "toward_end")

#: Every event as an attribute: ``event.before_fit == "before_fit"``.
event = type("event", (), {name: name for name in _events})


def warn_of_dead_declarations(cls: type, stacklevel: int) -> None:
    """Tell that ``run_before`` and its like are declared in vain."""
    dead = [name for name in DEAD_DECLARATIONS if getattr(cls, name, None)]
    if dead:
        warnings.warn(
            f"{cls.__name__} declares {', '.join(dead)}, which fastai does not read: "
            f"only `order` (here {getattr(cls, 'order', 0)}) decides who runs first.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


@funcs_kwargs(as_method=True)
class Callback(Stateful, GetAttr):  # type: ignore[misc]
    """Base of callbacks written for fastai.

    ``self.learn`` is a Learner with fastai's surface; reading what the callback lacks
    reads the Learner's, and what that lacks the model's. Writing goes to the callback:
    assign to ``self.learn`` to change training.

    Args:
        kwargs: Functions by the name of their event: ``Callback(before_fit=f)``.
    """

    order: float = 0
    _default = "learn"
    learn: Any = None
    run = True
    run_train = True
    run_valid = True
    _methods: Any = _events

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        warn_of_dead_declarations(cls, stacklevel=2)

    def __init__(self, **kwargs: Any) -> None:
        assert not kwargs, f"Passed unknown events: {kwargs}"

    def __repr__(self) -> str:
        return type(self).__name__

    def __call__(self, event_name: str) -> Any:
        """Run what is implemented at an event, unless ``run`` and its like say no."""
        result = None
        if self.run and self._runs_in_this_phase(event_name):
            handler = getattr(self, event_name, None)
            result = None if handler is None else handler()
        if event_name == "after_fit":
            self.run = True
        return result

    def _runs_in_this_phase(self, event_name: str) -> bool:
        if event_name not in _inner_loop:
            return True
        is_training = getattr(self, "training", None)
        may_train = self.run_train and is_training in (True, None)
        return bool(may_train or (self.run_valid and not is_training))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "learn" and value is not None:
            from callboard_fastai.learner import as_fastais

            value = as_fastais(value)
        if hasattr(self.learn, name):
            warnings.warn(
                f"You are shadowing an attribute ({name}) that exists in the learner. "
                f"Use `self.learn.{name}` to avoid this",
                UserWarning,
                stacklevel=2,
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to no Learner.
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key != "learn"}

    @property
    def name(self) -> str:
        """The class name in snake case, without ``Callback``."""
        return str(class2attr(self, "Callback"))


class TrainEvalCallback(Callback):
    """Stands for what Callboard's loop does by itself: counters, modes, the device."""

    order = -10
    run_valid = False


__getattr__, __dir__ = exporting(__name__)
