"""Train recurrent models: reset their state, unpack what they return, regularise it.

Listens to  before_train, before_validate, do_validate (around it), teardown
            (ModelResetter); before_batch, after_pred, teardown (RNNCallback);
            before_fit, after_loss, teardown (RNNRegularizer)
Changes     the model's hidden state; pred; the loss that backward runs on
Source      Merity et al. 2017, arXiv:1708.01009 (AR and TAR, equations 9 and 10); the
            three callbacks and their options are fastai's
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from callboard import Callback, hookimpl
from callboard.errors import DataError, OptionError

if TYPE_CHECKING:
    from callboard.testing import Specimen

EVERY_STAGE = ("fit", "validate", "predict", "lr-find")


def reset_model(model: nn.Module) -> int:
    """Call ``reset()`` of a model, or of those of its parts that have one.

    A part with a ``reset`` of its own answers for what is inside of it.

    Returns:
        How many were called.
    """
    reset = getattr(model, "reset", None)
    if callable(reset):
        reset()
        return 1
    return sum(reset_model(part) for part in model.children())


HiddenState = list[tuple[nn.Module, str, Any]]
# What every module has: parameters, buffers, parts, hooks, the mode.
COMMON_ATTRIBUTES = frozenset(vars(nn.Module()))


def hidden_state(model: nn.Module) -> HiddenState:
    """The plain attributes in which the parts of a model keep tensors, or could.

    Not parameters and buffers, which are trained and saved.
    """
    return [
        (part, name, value)
        for part in model.modules()
        for name, value in vars(part).items()
        if name not in COMMON_ATTRIBUTES and (value is None or _holds_tensor(value))
    ]


def put_back(state: HiddenState) -> None:
    """Give every part of a model the attributes that it had."""
    for part, name, value in state:
        setattr(part, name, value)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


class ModelResetter(Callback):
    """Resets the model's hidden state before each training and each validation.

    Around an evaluation in the middle of a fit the hidden state is kept.
    """

    name = "model-resetter"
    role = "modify"
    stages = EVERY_STAGE

    def before_train(self) -> None:
        """Start the epoch with nothing remembered."""
        self._reset()

    def before_validate(self) -> None:
        """Start the validation with nothing remembered."""
        self._reset()

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, object, object]:
        """Give back what the model remembered before an evaluation of its own."""
        if self.learn.stage == "fit":
            return (yield)
        state = hidden_state(self.learn.model)
        try:
            return (yield)
        finally:
            put_back(state)

    def teardown(self) -> None:
        """Hold no hidden state between fits, however this one ends."""
        reset_model(self.learn.model)

    def _reset(self) -> None:
        model = self.learn.model
        if not reset_model(model):
            raise OptionError(
                f"{self.name}: neither {type(model).__name__} nor any part of it has "
                "a method reset(), which forgets the hidden state. Define one, or "
                "leave model-resetter out where the model keeps no state."
            )


class RNNCallback(Callback):
    """Takes the prediction out of the three that a recurrent model returns.

    The model returns the prediction, the outputs of its recurrent layers as they are,
    and the same after dropout; each a tensor, or a list of one for each layer, of which
    the last counts.

    Attributes:
        raw_out: Outputs of the last layer before dropout, (items, steps, features).
            None outside of a batch of training.
        out: The same after dropout.
    """

    name = "rnn"
    role = "modify"
    stages = EVERY_STAGE

    def __init__(self) -> None:
        self.raw_out: Any = None
        self.out: Any = None

    def before_batch(self) -> None:
        """Hold no outputs of the batch before while this one is predicted."""
        if self.learn.training:
            self.raw_out = self.out = None

    def after_pred(self) -> None:
        """Let the prediction alone go on to the loss."""
        learner = self.learn
        pred = learner.pred
        if not isinstance(pred, tuple | list) or len(pred) != 3:
            got = type(pred).__name__
            if isinstance(pred, tuple | list):
                got += f" of {len(pred)}"
            raise DataError(
                f"{self.name}: the model must return its prediction, the outputs of "
                f"its recurrent layers and the same after dropout, got {got}. Leave "
                "rnn out where it returns a prediction only."
            )
        learner.pred, raw_out, out = map(_of_last_layer, pred)
        # A validation inside of a training batch must not change what is regularised.
        if learner.training:
            self.raw_out, self.out = raw_out, out

    def teardown(self) -> None:
        self.raw_out = self.out = None


def _of_last_layer(outputs: Any) -> Any:
    return outputs[-1] if isinstance(outputs, tuple | list) else outputs


def activation_penalty(out: Tensor) -> Tensor:
    """The mean square of outputs (AR), which keeps them small.

    Args:
        out: Outputs after dropout, any shape; taken as float32.
    """
    return out.float().square().mean()


def temporal_penalty(raw_out: Tensor) -> Tensor | None:
    """The mean square of how outputs change from step to step (TAR).

    Args:
        raw_out: Outputs before dropout, (items, steps, ...); taken as float32.

    Returns:
        None where there is one step only.
    """
    if raw_out.shape[1] < 2:
        return None
    return (raw_out[:, 1:] - raw_out[:, :-1]).float().square().mean()


class RNNRegularizer(Callback):
    """Adds penalties on a recurrent model's outputs to the loss that backward runs on.

    The loss that is recorded stays as it is.

    Args:
        alpha: Weight of the mean square of outputs (AR), from 0 on; 2 is usual.
        beta: Weight of the mean square of their steps (TAR), from 0 on; 1 is usual.
    """

    name = "rnn-regularizer"
    role = "modify"
    stages = ("fit", "lr-find")
    run_valid = False
    requires = "rnn"
    # What divides the loss among micro-batches must divide the penalty too.
    run_before = "gradient-accumulation"

    def __init__(self, alpha: float = 0.0, beta: float = 0.0) -> None:
        for option, value, usual in (("alpha", alpha, 2), ("beta", beta, 1)):
            if not 0 <= value < math.inf:
                raise OptionError(
                    f"{self.name}: {option} must be a number from 0 on, got {value!r}. "
                    f"Use {usual}."
                )
        self.alpha = alpha
        self.beta = beta
        self._rnn: RNNCallback | None = None

    def before_fit(self) -> None:
        """Find who unpacks the outputs."""
        self._rnn = self.learn.cbs["rnn"]

    def after_loss(self) -> None:
        """Add the penalties."""
        learner, rnn = self.learn, self._rnn
        loss = learner.loss_grad
        if rnn is None or loss is None:
            return
        if self.alpha:
            loss = loss + self.alpha * activation_penalty(rnn.out)
        change = temporal_penalty(rnn.raw_out) if self.beta else None
        if change is not None:
            loss = loss + self.beta * change
        learner.loss_grad = loss

    def teardown(self) -> None:
        self._rnn = None


def rnn_cbs(alpha: float = 0.0, beta: float = 0.0) -> list[Callback]:
    """The callbacks of a recurrent model, with a regulariser where there is a weight.

    Args:
        alpha: Weight of the mean square of outputs (AR), from 0 on.
        beta: Weight of the mean square of their steps (TAR), from 0 on.
    """
    cbs: list[Callback] = [ModelResetter(), RNNCallback()]
    return [*cbs, RNNRegularizer(alpha, beta)] if alpha or beta else cbs


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the callbacks of recurrent models out."""
    from callboard.testing import Specimen

    return {
        "model-resetter": Specimen(learner="sequences"),
        "rnn": Specimen(learner="sequences"),
        "rnn-regularizer": Specimen(
            make=lambda: RNNRegularizer(2.0, 1.0),
            learner="sequences",
            companions=["rnn"],
        ),
    }
