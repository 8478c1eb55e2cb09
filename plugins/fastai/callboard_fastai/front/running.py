"""The loop as fastai's Learner shows it, and the parts of it that files replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Self

from fastcore.basics import noop
from fastcore.foundation import L
from torch import Tensor

from callboard import optim
from callboard_fastai.front.attributes import patched_onto_fastai
from callboard_fastai.front.membership import Membership
from callboard_fastai.recording import FIT_STAGES
from callboard_fastai.torch_core import norm_bias_params, tensor, to_device
from callboard_fastai.views import viewed_loader


class Running(Membership):
    """fastai's methods that train, and those that its own loop consists of."""

    def fit(
        self,
        n_epoch: int,
        lr: Any = None,
        wd: float | None = None,
        cbs: Any = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> None:
        """Train for ``n_epoch`` epochs."""
        self._wd_of_run = wd
        try:
            self.callboard.fit(
                n_epoch, lr, cbs=L(cbs), start_epoch=start_epoch, reset_opt=reset_opt
            )
        finally:
            self._wd_of_run = None

    def create_opt(self) -> None:
        """Make the optimizer anew."""
        self.callboard.create_opt()
        self._spare_from_decay()

    def _begin_fit(self) -> None:
        native = self.callboard
        if not self._is_in_fit and native.stage in FIT_STAGES:
            self._spare_from_decay()
            wd = self.wd if self._wd_of_run is None else self._wd_of_run
            if wd is not None:
                optim.set_hyper(native.opt, "wd", wd)
        self._is_in_fit = True

    def _spare_from_decay(self) -> None:
        opt = self.callboard.opt
        if hasattr(opt, "spared"):
            opt.spared = () if self.wd_bn_bias else norm_bias_params(self.model)

    def freeze_to(self, n: int) -> None:
        """Train the parameter groups from number ``n`` on."""
        self.callboard.freeze_to(n)

    def freeze(self) -> None:
        """Train the last parameter group only."""
        self.callboard.freeze()

    def unfreeze(self) -> None:
        """Train all parameter groups."""
        self.callboard.unfreeze()

    def show_training_loop(self) -> None:
        """Print the loop with who runs where."""
        self.callboard.show_training_loop()

    def all_batches(self) -> None:
        """Go through the running loader."""
        native = self.callboard
        native.n_iter = len(native.dl)
        for number, batch in enumerate(self.dl):
            self.one_batch(number, batch)

    def one_batch(self, i: int, b: Any) -> None:
        """Train on one batch, or evaluate it, with all events."""
        native = self.callboard
        native.iter = i
        self._split(to_device(b, native.device))
        if native.plan.do_batch is not None:
            native.plan.do_batch()
        else:
            native.pred = native.model(*native.xb)
            if len(native.yb):
                native.loss = native.loss_func(native.pred, *native.yb)

    def _split(self, b: Any) -> None:
        count = self.callboard.dls.num_inputs or (1 if len(b) == 1 else len(b) - 1)
        self.callboard.xb, self.callboard.yb = b[:count], b[count:]

    def _with_events(
        self, f: Callable[[], Any], event_type: str, ex: Any, final: Any = noop
    ) -> None:
        try:
            self(f"before_{event_type}")
            f()
        except ex:
            self(f"after_cancel_{event_type}")
        self(f"after_{event_type}")
        final()

    def _backward(self) -> None:
        self.loss_grad.backward()

    def _step(self) -> None:
        self.callboard.opt.step()

    def _replaced(self, name: str) -> Callable[[], object] | None:
        """What somebody has put in the place of ``_backward`` or ``_step``."""
        if name in vars(self):
            replacement: Callable[[], object] = vars(self)[name]
            return replacement
        on_class = getattr(type(self), name)
        if on_class not in OWN_WORK:
            return MethodType(on_class, self)
        patched = patched_onto_fastai(name)
        return None if patched is None else MethodType(patched, self)

    def _do_epoch_train(self) -> None:
        self.callboard.plan.do_train()

    def _do_epoch_validate(self, ds_idx: int = 1, dl: Any = None) -> None:
        loader = self.callboard.dls[ds_idx] if dl is None else viewed_loader(dl)
        before = self._is_evaluating, self._is_recording
        self._is_evaluating = self._is_recording = True
        try:
            with self.callboard.evaluating("validate"):
                self.callboard.run_validation(loader)
        finally:
            self._is_evaluating, self._is_recording = before

    @contextmanager
    def _around_evaluation(self) -> Iterator[None]:
        """Fire what fastai fires around an evaluation that is inside of nothing.

        In a fit, fastai would fire the events of a whole fit in the middle of it; here
        callbacks see the validation alone.
        """
        native = self.callboard
        if native.stage in FIT_STAGES or self._is_in_fit or self._is_evaluating:
            yield
            return
        self._is_evaluating = self._is_alone = True
        native.train_iter, native.pct_train = 0, 0.0
        self._last_loss = tensor(0.0)
        try:
            self._fire("before_fit")
            self._fire("before_epoch")
            yield
        finally:
            self._fire("after_epoch")
            self._fire("after_fit")
            self._is_evaluating = self._is_alone = False

    def __enter__(self) -> Self:
        self(["before_fit", "before_epoch"])
        return self

    def __exit__(self, *error: object) -> None:
        self(["after_epoch", "after_fit"])

    def _settle_loss(self) -> None:
        """Look a second time whether the batch has labels, as fastai does.

        Labels that were put there after the loss let backward run; labels that were
        taken away keep it from running.
        """
        native = self.callboard
        if native.loss is not None:
            self._last_loss = native.loss
        if not native.training or native.loss_func is None:
            return
        has_labels = len(native.yb) > 0
        if not has_labels and native.loss is not None:
            self._pending_loss, native.loss = native.loss, None
        elif has_labels and native.loss is None and self._pending_grad is not None:
            loss, grad = self._pending_loss, self._pending_grad
            native.loss = grad.detach().clone() if loss is None else loss
            native.loss_grad = grad

    def _forget_bad_loss(self) -> None:
        """Let nobody train on, or be alarmed by, a bad loss that was cancelled.

        fastai's callbacks go on seeing it.
        """
        native = self.callboard
        loss = native.loss
        if native.training and isinstance(loss, Tensor) and not loss.isfinite().all():
            self._pending_loss, native.loss = loss, None

    def _end_batch(self) -> None:
        self._last_loss = self.loss
        self._pending_loss = self._pending_grad = None


# What does the work of these actions unless a file patches others onto the class.
OWN_WORK = (Running._backward, Running._step)
