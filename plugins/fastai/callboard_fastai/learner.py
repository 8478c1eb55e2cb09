"""The Learner that fastai callbacks see, and fastai's Recorder and metrics.

``Learner`` has the surface of fastai's and keeps nothing of its own: behind it stands
one of Callboard's, in whose loop everything happens. It can be made as in fastai, or be
put before a Learner of Callboard's with ``Learner.before``.
"""

from __future__ import annotations

import inspect
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial, update_wrapper
from pathlib import Path
from threading import Lock
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from fastcore.basics import class2attr, detuplify, noop
from fastcore.basics import defaults as fastcores_defaults
from fastcore.foundation import L
from fastcore.xtras import join_path_file
from torch import Tensor

from callboard import Learner as NativeLearner
from callboard import discovery, optim
from callboard.data import as_dataloaders
from callboard.errors import StateError
from callboard_fastai.bars import ProgressView
from callboard_fastai.callback.core import (
    TrainEvalCallback,
    event,
)
from callboard_fastai.derivable.loop import CastToTensor
from callboard_fastai.exports import Mentioning, exporting
from callboard_fastai.files import load_model, save_model
from callboard_fastai.measuring import mk_metric
from callboard_fastai.optimizer import Adam
from callboard_fastai.recording import FIT_STAGES, LoopRecorder, Recorder
from callboard_fastai.torch_core import (
    default_device,
    norm_bias_params,
    tensor,
    to_detach,
    to_device,
    trainable_params,
)
from callboard_fastai.views import (
    DataLoadersView,
    OptFunc,
    view_of_optimizer,
    viewed_dls,
    viewed_loader,
    viewed_optimizer,
)

# What both Learners call the same and mean the same by. Anything else that a callback
# keeps on the Learner stays in front: it could hide what Callboard's needs.
SHARED = frozenset(
    (
        *("model", "loss_func", "lr", "splitter", "path", "train_bn", "training"),
        *("epoch", "n_epoch", "iter", "n_iter", "train_iter", "pct_train"),
        *("xb", "yb", "pred"),
    )
)


class Learner(metaclass=Mentioning):
    """A Learner with fastai's surface; everything happens in one of Callboard's.

    Args:
        dls: Training and validation data.
        model: What is trained.
        loss_func: Called with the prediction and the labels. Default: that of the
            training data.
        opt_func: Makes the optimizer.
        lr: Learning rate.
        splitter: Parts the model into parameter groups.
        cbs: Callbacks of fastai's kind or of Callboard's.
        metrics: One or many: functions, or ``Metric`` objects.
        path: Where callbacks put files. Default: that of the data.
        model_dir: The folder for models in it.
        wd: Weight decay of every fit.
        wd_bn_bias: Whether biases and normalisation layers decay too, by the optimizers
            of ``callboard_fastai.optimizer``; by torch's own they always do.
        train_bn: Whether normalisation layers keep training when frozen.
        moms: Momentum for ``fit_one_cycle`` and what is made of it.
        default_cbs: Whether automatic plugins of Callboard take part.

    Attributes:
        callboard: The Learner behind, None when nobody holds it any more.
        logger: Called by the recorder with the row of every epoch.
    """

    _adapters: list[Any]
    _companions: list[Any]
    _is_in_fit: bool
    _is_evaluating: bool
    _is_recording: bool
    _is_behind: bool
    _is_alone: bool
    _last_loss: Any
    _pending_loss: Any
    _pending_grad: Any
    _names: tuple[tuple[str, ...], dict[str, Any]]
    _views: DataLoadersView | None
    _metrics: dict[int, Any]
    _kept: NativeLearner | None
    _wd_of_run: Any
    logger: Callable[[Any], object]
    create_mbar: bool
    model_dir: str | Path
    wd: float | None
    final_record: Any
    if TYPE_CHECKING:  # shared with Callboard's
        loss_func: Any
        model: Any
        path: Any

    def __init__(
        self,
        dls: Any,
        model: Any,
        loss_func: Callable[..., Any] | None = None,
        opt_func: Any = Adam,
        lr: Any = 1e-3,
        splitter: Any = trainable_params,
        cbs: Any = None,
        metrics: Any = None,
        path: str | Path | None = None,
        model_dir: str = "models",
        wd: float | None = None,
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        default_cbs: bool = True,
    ) -> None:
        dls = viewed_dls(dls)
        if loss_func is None:
            items = getattr(as_dataloaders(dls).train, "dataset", None)
            loss_func = getattr(items, "loss_func", None)
            assert loss_func is not None, (
                "Could not infer loss function from the data, please pass a loss "
                "function."
            )
        native = NativeLearner(
            dls,
            model,
            loss_func,
            opt_func,
            lr,
            metrics=list(L(metrics)),
            splitter=splitter,
            path=getattr(dls, "path", ".") if path is None else path,
            device=getattr(dls, "device", None),
            train_bn=train_bn,
        )
        if not default_cbs:
            automatic = [m.key for m in native.cbs.members if m.is_automatic]
            native.remove_cbs(automatic)
        self._stand_before(native, keep=True)
        self.model_dir, self.wd, self.wd_bn_bias = model_dir, wd, wd_bn_bias
        self.moms = moms
        self.add_cbs(cbs)
        self._call_companions()
        self("after_create")

    @classmethod
    def before(cls, native: NativeLearner) -> Learner:
        """The one Learner with fastai's surface that stands before Callboard's."""
        known: Learner | None = vars(native).get("fastai")
        if known is None or known.callboard is not native:
            known = cls.__new__(cls)
            known._stand_before(native, keep=False)
        return known

    def _stand_before(self, native: NativeLearner, *, keep: bool) -> None:
        # Weakly unless it was made here: a cycle would keep the model alive.
        vars(self).update(
            _reference=weakref.ref(native),
            _kept=native if keep else None,
            _adapters=[],
            _companions=[],
            _is_in_fit=False,
            _is_evaluating=False,
            _is_recording=False,
            _is_behind=False,
            _is_alone=False,
            _last_loss=tensor(0.0),
            _pending_loss=None,
            _pending_grad=None,
            _names=((), {}),
            _views=None,
            _metrics={},
            _wd_of_run=None,
            logger=log_row,
            create_mbar=True,
            model_dir="models",
            wd=None,
            wd_bn_bias=False,
            moms=(0.95, 0.85, 0.95),
            lock=Lock(),
        )
        vars(native)["fastai"] = self

    def __getstate__(self) -> dict[str, Any]:
        # What a copy needs is found again when its callbacks join it.
        names = ("_kept", "model_dir", "wd", "wd_bn_bias")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        native = state["_kept"]
        if native is not None:
            self._stand_before(native, keep=True)
            vars(self).update(state)

    @property
    def callboard(self) -> Any:
        """The Learner behind."""
        reference = vars(self).get("_reference")
        return None if reference is None else reference()

    # ---- reading and writing --------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        native = self.callboard
        if native is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        if name in SHARED:
            is_shown_as_is = not (self._is_behind or self._is_alone)
            return getattr(native, name) if is_shown_as_is else self._counter(name)
        callback = self._callbacks_by_name().get(name)
        if callback is not None:
            return callback
        if not name.startswith("_") and _is_method(name):
            method = getattr(native, name)
            return update_wrapper(partial(self._call_method, method), method)
        patched = _patched_onto_fastai(name)
        if patched is not None:
            return MethodType(patched, self)
        return getattr(native.model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SHARED:
            setattr(self.callboard, name, value)
        else:
            object.__setattr__(self, name, value)

    def _counter(self, name: str) -> Any:
        """A counter where fastai's stands elsewhere.

        fastai's TrainEvalCallback, at -10, counts a batch in after_batch; Callboard's
        loop has done so before. And fastai starts an evaluation at epoch 0, which
        Callboard keeps: random draws hang on it.
        """
        native = self.callboard
        value = getattr(native, name)
        if self._is_alone:
            return 0 if name == "epoch" else value
        if name == "train_iter" and native.training:
            return value - 1
        if name == "pct_train" and native.training and native.n_iter:
            return value - 1 / (native.n_iter * native.n_epoch)
        return value

    def _callbacks_by_name(self) -> dict[str, Any]:
        active = self.callboard.cbs
        keys, known = self._names
        if keys != active.keys():
            known = {}
            for member in active.members:
                subject = member.subject
                known[class2attr(subject, "Callback")] = subject
                known[member.key.replace("-", "_")] = subject
                own = getattr(subject, "name", None)
                if isinstance(own, str):
                    known[own] = subject
            bar = known.get("progress")
            if bar is not None and not hasattr(bar, "mbar"):
                known["progress"] = ProgressView(bar)
            self._names = active.keys(), known
        return known

    @property
    def loss(self) -> Any:
        """What is recorded: the loss of the batch, or of the last one that had one."""
        native = self.callboard
        if native.loss is None:
            return self._last_loss if self._pending_loss is None else self._pending_loss
        if native.training:
            _ = native.loss_grad  # from here on a tensor of its own, as in fastai
        return native.loss

    @loss.setter
    def loss(self, loss: Any) -> None:
        native = self.callboard
        if native.loss is None:
            self._pending_loss = loss
        else:
            _ = native.loss_grad
            native.loss = loss
        self._last_loss = loss

    @property
    def loss_grad(self) -> Any:
        """What backward runs on."""
        found = self.callboard.loss_grad
        found = self._pending_grad if found is None else found
        if found is None:
            raise AttributeError("loss_grad")
        return found

    @loss_grad.setter
    def loss_grad(self, loss: Any) -> None:
        native = self.callboard
        if native.loss is None:
            self._pending_grad = loss
        else:
            _ = native.loss_grad
            native.loss_grad = loss

    @property
    def x(self) -> Any:
        """The input where there is one, else all of them."""
        return detuplify(self.callboard.xb)

    @property
    def y(self) -> Any:
        """The label where there is one, else all of them."""
        return detuplify(self.callboard.yb)

    @property
    def opt(self) -> Any:
        """The optimizer, None before the first fit."""
        return view_of_optimizer(self.callboard.opt)

    @opt.setter
    def opt(self, opt: Any) -> None:
        self.callboard.opt = viewed_optimizer(opt)

    @property
    def opt_func(self) -> Any:
        """What makes the optimizer."""
        return OptFunc(self.callboard.opt_func)

    @opt_func.setter
    def opt_func(self, make: Any) -> None:
        self.callboard.opt_func = make.make if isinstance(make, OptFunc) else make

    @property
    def dls(self) -> DataLoadersView:
        """Training and validation data."""
        native = self.callboard
        view = self._views
        if view is None or view.dls is not native.dls:
            self._views = view = DataLoadersView(native.dls, native.device)
        return view

    @dls.setter
    def dls(self, dls: Any) -> None:
        self.callboard.dls = viewed_dls(dls)

    @property
    def dl(self) -> Any:
        """The loader that is running."""
        return self.dls.view(self.callboard.dl)

    @dl.setter
    def dl(self, loader: Any) -> None:
        self.callboard.dl = viewed_loader(loader)

    @property
    def metrics(self) -> Any:
        """What is measured, as ``Metric`` objects."""
        return L(self._as_metric(metric) for metric in self.callboard.metrics)

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        functions = {id(m): m.func for m in self._metrics.values()}
        self.callboard.metrics = [functions.get(id(m), m) for m in L(metrics)]

    def _as_metric(self, metric: Any) -> Any:
        if hasattr(metric, "accumulate"):
            return metric
        key = id(metric)
        if key not in self._metrics:
            self._metrics[key] = mk_metric(metric)
        return self._metrics[key]

    @property
    def recorder(self) -> Any:
        """The Recorder, as fastai callbacks know it."""
        recorders = [a.subject for a in self._adapters if _is_recorder(a.subject)]
        if not recorders:
            raise AttributeError("recorder")
        return recorders[-1]

    @property
    def smooth_loss(self) -> Any:
        """The smoothed training loss."""
        recorder = self.recorder
        if "smooth_loss" not in vars(recorder) or not recorder.smooth_loss.count:
            raise AttributeError("smooth_loss")
        return recorder.smooth_loss.value

    @smooth_loss.setter
    def smooth_loss(self, value: Any) -> None:
        """Kept by the Recorder; there for those that record by themselves."""

    # ---- callbacks ------------------------------------------------------------

    @property
    def cbs(self) -> Any:
        """The active callbacks and plugins, in running order."""
        return L(self.callboard.cbs)

    def add_cb(self, cb: Any) -> Learner:
        """Let a callback take part."""
        self.callboard.add_cb(cb)
        return self

    def add_cbs(self, cbs: Any) -> Learner:
        """Let callbacks take part."""
        self.callboard.add_cbs(L(cbs))
        return self

    def remove_cb(self, cb: Any) -> Learner:
        """Let a callback, or all of a class, take part no more."""
        active = self.callboard.cbs
        gone = self._grab_cbs(cb) if isinstance(cb, type) else [cb]
        self.callboard.remove_cbs([c for c in gone if any(c is a for a in active)])
        return self

    def remove_cbs(self, cbs: Any) -> Learner:
        """Let callbacks take part no more."""
        for cb in L(cbs):
            self.remove_cb(cb)
        return self

    @contextmanager
    def added_cbs(self, cbs: Any) -> Iterator[Learner]:
        """Callbacks that take part inside the ``with`` block only."""
        with self.callboard.added_cbs(L(cbs)):
            yield self

    @contextmanager
    def removed_cbs(self, cbs: Any) -> Iterator[Learner]:
        """Callbacks that do not take part inside the ``with`` block."""
        gone = [c for cb in L(cbs) for c in self._meant_by(cb)]
        with self.callboard.removed_cbs(gone):
            yield self

    def _meant_by(self, cb: Any) -> Any:
        if isinstance(cb, type):
            return self._grab_cbs(cb)
        return [c for c in self.callboard.cbs if c is cb]

    def _grab_cbs(self, cb_cls: type) -> Any:
        return L(cb for cb in self.callboard.cbs if isinstance(cb, cb_cls))

    def ordered_cbs(self, event: str) -> list[Any]:
        """The callbacks that implement an event, in the order in which they run."""
        return [cb for cb in self.callboard.cbs if hasattr(cb, event)]

    def __call__(self, event_name: Any) -> None:
        """Fire events at all plugins, or outside a fit at fastai's callbacks."""
        for name in L(event_name):
            if not hasattr(event, name):
                raise Exception(f"missing {name}")
            calls = list(getattr(self.callboard.plan, name))
            if not calls:
                self._fire(name)
            for call in calls:
                call()

    def _fire(self, name: str) -> None:
        for adapter in self._ordered_adapters():
            adapter.deliver(name)

    def _ordered_adapters(self) -> list[Any]:
        keys = {id(m.plugin): n for n, m in enumerate(self.callboard.cbs.members)}
        known = [a for a in self._adapters if id(a) in keys]
        return sorted(known, key=lambda adapter: keys[id(adapter)])

    def _call_companions(self) -> None:
        """Let those take part that callbacks of fastai expect in every Learner."""
        if self._companions:
            return
        made = [cb() if isinstance(cb, type) else cb for cb in _added_defaults()]
        self._companions = [LoopRecorder(), *made]
        self.callboard.add_cbs(self._companions)

    def _dismiss_companions(self) -> None:
        """Let them go with the last callback that they were there for."""
        companions = self._companions
        present = [a.subject for a in self._adapters]
        is_alone = all(any(p is c for c in companions) for p in present)
        if present and is_alone and not self._is_in_fit and self._kept is None:
            self._companions = []
            active = self.callboard.cbs
            gone = [p for p in present if any(p is cb for cb in active)]
            self.callboard.remove_cbs(gone)

    # ---- the loop -------------------------------------------------------------

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

    def _call_method(
        self, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call a method that a plugin adds, with weight decay and momenta as here."""
        signature = inspect.signature(method)
        if "moms" in signature.parameters and kwargs.get("moms") is None:
            is_given = "moms" in signature.bind_partial(*args).arguments
            kwargs |= {} if is_given else {"moms": self.moms}
        self._wd_of_run = signature.bind_partial(*args, **kwargs).arguments.get("wd")
        try:
            return method(*args, **kwargs)
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
        if on_class is not vars(Learner)[name] or on_class not in OWN_WORK:
            return MethodType(on_class, self)
        patched = _patched_onto_fastai(name)
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

    def validate(self, ds_idx: int = 1, dl: Any = None, cbs: Any = None) -> Any:
        """Loss and metrics on validation data, or on other data."""
        loader = self.callboard.dls[ds_idx] if dl is None else viewed_loader(dl)
        with self.no_logging():
            results = self.callboard.validate(loader, cbs=L(cbs))
        if "recorder" not in self.callboard.cbs and self._companions:
            return self.recorder.evaluated
        names = ["valid_loss", *(metric.name for metric in self.metrics)]
        return L(results[name] for name in names if name in results)

    def get_preds(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        act: Any = None,
        inner: bool = False,
        reorder: bool = True,
        cbs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Predictions and targets of a whole loader."""
        native = self.callboard
        with self.no_logging():
            return native.get_preds(
                ds_idx,
                viewed_loader(dl),
                with_input=with_input,
                with_decoded=with_decoded,
                with_loss=with_loss,
                act=act,
                reorder=reorder,
                cbs=L(cbs),
                **kwargs,
            )

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

    def __enter__(self) -> Learner:
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

    # ---- what surrounds it ----------------------------------------------------

    @contextmanager
    def no_logging(self) -> Iterator[Learner]:
        """Without a logger."""
        logger, self.logger = self.logger, noop
        try:
            yield self
        finally:
            self.logger = logger

    @contextmanager
    def no_mbar(self) -> Iterator[Learner]:
        """Without a bar for the epochs."""
        create_mbar, self.create_mbar = self.create_mbar, False
        try:
            yield self
        finally:
            self.create_mbar = create_mbar

    @contextmanager
    def no_bar(self) -> Iterator[Learner]:
        """Without bars."""
        bars = [m.key for m in self.callboard.cbs.members if m.name == "progress"]
        with self.callboard.removed_cbs(bars):
            yield self

    @contextmanager
    def loss_not_reduced(self) -> Iterator[Learner]:
        """With a loss function that gives the loss of every item."""
        loss_func = self.loss_func
        with ExitStack() as stack:
            if hasattr(loss_func, "reduction"):
                before = loss_func.reduction
                stack.callback(setattr, loss_func, "reduction", before)
                loss_func.reduction = "none"
            else:
                stack.callback(setattr, self, "loss_func", loss_func)
                self.loss_func = partial(loss_func, reduction="none")
            yield self

    def validation_context(self, cbs: Any = None, inner: bool = False) -> Any:
        """What fastai puts around an evaluation."""
        stack = ExitStack()
        stack.enter_context(self.no_logging())
        stack.enter_context(self.no_mbar())
        stack.enter_context(self.added_cbs(cbs) if cbs else nullcontext())
        if not inner:
            stack.enter_context(self)
        return stack

    def to_detach(self, b: Any, cpu: bool = True, gather: bool = True) -> Any:
        """The same without gradients, by default on the CPU."""
        own = getattr(self.callboard.dl, "to_detach", None)
        return (own or to_detach)(b, cpu, gather)

    # ---- files ----------------------------------------------------------------

    def save(self, file: Any, with_opt: bool = True, pickle_protocol: int = 2) -> Any:
        """Save model and optimizer to ``path/model_dir/file.pth``; returns the file."""
        if not isinstance(file, str | Path):
            save_model(file, self.model, self.opt, with_opt, pickle_protocol)
            return file
        place = join_path_file(file, Path(self.path) / self.model_dir, ext=".pth")
        save_model(place, self.model, self.opt, with_opt, pickle_protocol)
        return place

    def load(
        self,
        file: Any,
        device: Any = None,
        with_opt: bool = True,
        strict: bool = True,
        weights_only: bool = True,
    ) -> Learner:
        """Load what ``save`` saved; ``weights_only`` is ignored."""
        if self.opt is None:
            self.create_opt()
        if isinstance(file, str | Path):
            file = join_path_file(file, Path(self.path) / self.model_dir, ext=".pth")
        device = self.callboard.device if device is None else device
        load_model(file, self.model, self.opt, with_opt, device, strict)
        return self

    def export(
        self,
        fname: str = "export.pkl",
        pickle_module: Any = None,
        pickle_protocol: int = 2,
    ) -> None:
        """Save the whole Learner; loading it runs code."""
        module = {} if pickle_module is None else {"pickle_module": pickle_module}
        place = Path(self.path) / fname
        torch.save(self.callboard, place, pickle_protocol=pickle_protocol, **module)

    def __repr__(self) -> str:
        return f"fastai's view of {self.callboard!r}"


# What does the work of these actions unless a file patches others onto the class.
OWN_WORK = (Learner._backward, Learner._step)


def as_fastais(learner: Any) -> Any:
    """What stands before a Learner of Callboard's; anything else as it is."""
    is_native = isinstance(learner, NativeLearner)
    return Learner.before(learner) if is_native else learner


def _is_method(name: str) -> bool:
    installed = discovery.installed()
    return any(p.kind == "method" and p.name == name for p in installed)


def _patched_onto_fastai(name: str) -> Any:
    """A function that a package has put on the Learner of an installed fastai."""
    module = sys.modules.get("fastai.learner")
    function = vars(module.Learner).get(name) if module else None
    is_function = isinstance(function, FunctionType)
    return function if is_function and function.__module__ != "fastai.learner" else None


def log_row(row: Any) -> None:
    """The logger of a new Learner: rows are shown by whoever shows progress."""
    if isinstance(row, str):
        print(row)


def _is_recorder(subject: Any) -> bool:
    return getattr(subject, "name", None) in ("recorder", LoopRecorder.key)


def load_learner(fname: Any, cpu: bool = True, pickle_module: Any = None) -> Learner:
    """Load what ``Learner.export`` saved, if its reader has said to trust the file.

    Raises:
        StateError: ``CALLBOARD_FASTAI_UNPICKLE`` is not 1: such a file is a program.
    """
    if os.environ.get("CALLBOARD_FASTAI_UNPICKLE") != "1":
        raise StateError(
            f"{fname} is a pickled Learner: loading it runs whatever it holds. If you "
            "made it yourself set CALLBOARD_FASTAI_UNPICKLE=1 in the environment; to "
            "pass a model on save its weights, learn.save() and learn.load()."
        )
    module = {} if pickle_module is None else {"pickle_module": pickle_module}
    place = "cpu" if cpu else default_device()
    native = torch.load(fname, map_location=place, weights_only=False, **module)
    made = Learner.before(native)
    made._kept = native
    return made


#: fastai's settings; a file may put callbacks into ``callbacks`` for every Learner.
defaults = SimpleNamespace(
    **{
        **vars(fastcores_defaults),
        "lr": 1e-3,
        "use_cuda": None,
        "callbacks": [TrainEvalCallback, Recorder, CastToTensor],
    }
)


def _added_defaults() -> list[Any]:
    """What files have put into ``defaults.callbacks``, here or in an installed fastai.

    What fastai itself has put there is done by Callboard's loop and plugins.
    """
    ours = defaults.callbacks
    known = [*ours, *getattr(fastcores_defaults, "callbacks", ())]
    roots = {id(cb): str(cb.__module__).partition(".")[0] for cb in known}
    return [cb for cb in known if roots[id(cb)] not in ("fastai", "callboard_fastai")]


__getattr__, __dir__ = exporting(__name__)
