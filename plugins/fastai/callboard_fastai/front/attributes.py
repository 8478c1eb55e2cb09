"""What is read from and written to the Learner that fastai callbacks see."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from threading import Lock
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from fastcore.basics import class2attr, detuplify
from fastcore.foundation import L

from callboard import Learner as NativeLearner
from callboard import discovery
from callboard_fastai.bars import ProgressView
from callboard_fastai.exports import Mentioning
from callboard_fastai.measuring import mk_metric
from callboard_fastai.recording import LoopRecorder
from callboard_fastai.torch_core import tensor
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


class Attributes(metaclass=Mentioning):
    """fastai's attributes, in front of a Learner of Callboard's.

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

    @property
    def callboard(self) -> Any:
        """The Learner behind."""
        reference = vars(self).get("_reference")
        return None if reference is None else reference()

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
        patched = patched_onto_fastai(name)
        if patched is not None:
            return MethodType(patched, self)
        return getattr(native.model, name)

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


def _is_method(name: str) -> bool:
    installed = discovery.installed()
    return any(p.kind == "method" and p.name == name for p in installed)


def patched_onto_fastai(name: str) -> Any:
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
