"""The Learner that fastai callbacks see, whole; its parts are in ``front``.

``Learner`` has the surface of fastai's and keeps nothing of its own: behind it stands
one of Callboard's, in whose loop everything happens. It can be made as in fastai, or be
put before a Learner of Callboard's with ``Learner.before``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastcore.basics import noop
from fastcore.foundation import L
from fastcore.xtras import join_path_file

from callboard import Learner as NativeLearner
from callboard.data import as_dataloaders
from callboard.errors import StateError
from callboard_fastai.exports import exporting
from callboard_fastai.files import load_model, save_model
from callboard_fastai.front.running import Running
from callboard_fastai.optimizer import Adam
from callboard_fastai.torch_core import (
    default_device,
    to_detach,
    trainable_params,
)
from callboard_fastai.views import (
    viewed_dls,
    viewed_loader,
)


class Learner(Running):
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

    def __getstate__(self) -> dict[str, Any]:
        # What a copy needs is found again when its callbacks join it.
        names = ("_kept", "model_dir", "wd", "wd_bn_bias")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        native = state["_kept"]
        if native is not None:
            self._stand_before(native, keep=True)
            vars(self).update(state)

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


def as_fastais(learner: Any) -> Any:
    """What stands before a Learner of Callboard's; anything else as it is."""
    is_native = isinstance(learner, NativeLearner)
    return Learner.before(learner) if is_native else learner


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


__getattr__, __dir__ = exporting(__name__)
