"""Small callbacks, the same under fastai and under its counterpart here.

``run_all(root)`` runs every case with the modules of ``root`` (``fastai`` or
``callboard_fastai``) and returns what can be compared as plain data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CANCELS = (
    *(("Batch", e) for e in ("before_batch", "after_pred", "after_loss")),
    *(("Batch", e) for e in ("after_backward", "before_step", "after_step")),
    *(("Step", e) for e in ("before_step",)),
    *(("Backward", e) for e in ("before_backward",)),
    *(("Train", e) for e in ("before_train", "before_batch", "after_batch")),
    *(("Valid", e) for e in ("before_validate", "before_batch:v", "after_batch:v")),
    *(("Epoch", e) for e in ("before_epoch", "before_batch", "after_train")),
    *(("Epoch", e) for e in ("before_batch:v", "after_validate")),
    *(("Fit", e) for e in ("before_fit", "before_epoch", "before_batch")),
    *(("Fit", e) for e in ("before_step", "after_batch", "after_epoch")),
    *(("Fit", e) for e in ("before_validate", "after_batch:v")),
)


def loaders() -> list[Any]:
    """Three batches to train on and one to validate on."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=generator)
    y = x.sum(1, keepdim=True)
    train = DataLoader(TensorDataset(x, y), batch_size=4)
    return [train, DataLoader(TensorDataset(x[:4], y[:4]), batch_size=4)]


def run(root: str, make: Callable[..., Any], num_epochs: int = 2) -> dict[str, Any]:
    """Fit a line with the callbacks that ``make`` makes, and say what happened."""
    core = import_module(f"{root}.callback.core")
    trace = tracer(core.Callback)
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    made = make(core, root)
    cbs = [*(made if isinstance(made, list) else [made]), trace]
    learn = make_learner(root, model, cbs)
    learn.fit(num_epochs, 0.1)
    recorder = learn.recorder
    said = [getattr(cb, "said", None) for cb in cbs[:-1]]
    return {
        "trace": trace.said,
        "weights": [round(float(w), 5) for w in model.weight.detach().flatten()],
        "values": [[_number(v) for v in row] for row in recorder.values],
        "losses": [round(float(loss), 4) for loss in recorder.losses],
        "iters": [int(n) for n in recorder.iters],
        "names": [str(name) for name in recorder.metric_names],
        "said": [_plain(s) for s in said],
    }


def _number(value: Any) -> Any:
    return None if value is None else round(float(value), 4)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (str, int, type(None))):
        return value
    return _number(value)


def make_learner(root: str, model: nn.Module, cbs: list[Any]) -> Any:
    """A Learner of fastai, or what shows a Learner of Callboard's as one."""
    if root == "fastai":
        from fastai.callback.progress import ProgressCallback
        from fastai.data.core import DataLoaders, TfmdDL
        from fastai.learner import Learner
        from fastai.optimizer import OptimWrapper

        dls = DataLoaders(
            *(TfmdDL(d.dataset, bs=4, num_workers=0) for d in loaders()), device="cpu"
        )
        learn = Learner(
            dls,
            model,
            loss_func=nn.MSELoss(),
            opt_func=partial(OptimWrapper, opt=torch.optim.SGD),
            cbs=cbs,
        )
        return learn.remove_cb(ProgressCallback).remove_cb(learn.cast_to_tensor)
    from callboard import Learner as NativeLearner
    from callboard_fastai.learner import Learner as Front

    native = NativeLearner(
        loaders(), model, nn.MSELoss(), torch.optim.SGD, cbs=cbs, device="cpu"
    )
    front = Front.before(native)
    vars(front)["_kept"] = native
    return front


def tracer(base: type) -> Any:
    """A callback that runs last and writes down every event."""

    class TraceCallback(base):  # type: ignore[misc]
        order = 1000

        def __init__(self) -> None:
            self.said: list[str] = []

        def __call__(self, event_name: str) -> Any:
            self.said.append(event_name)
            return super().__call__(event_name)

    return TraceCallback()


def canceller(core: Any, root: str, *, level: str, where: str) -> Any:
    """A callback that cancels a level once, at an event."""
    event, _, phase = where.partition(":")
    cancel = getattr(core, f"Cancel{level}Exception")
    done = []

    def handler(self: Any) -> None:
        is_its_phase = not self.learn.training if phase else self.learn.training
        is_batch = event in ("before_batch", "after_batch")
        if not done and (is_its_phase or not is_batch):
            done.append(True)
            raise cancel

    return core.Callback(**{event: handler})


def methods(core: Any, root: str, name: str = "PlainCallback", **functions: Any) -> Any:
    """An instance of a class with these functions as methods, which ``said`` things."""

    def initialise(self: Any) -> None:
        self.said = []

    namespace = {"__init__": initialise, **functions}
    return type(name, (core.Callback,), namespace)()


def switches(core: Any, root: str, **flags: bool) -> Any:
    """A callback with run, run_train or run_valid set, which says when it runs."""

    def say(event: str) -> Any:
        return lambda self: self.said.append(event)

    events = ("before_fit", "before_batch", "after_batch", "before_validate")
    events += ("after_validate", "after_cancel_batch", "after_fit")
    return methods(core, root, **flags, **{e: say(e) for e in events})


def runs_once(core: Any, root: str) -> Any:
    """Switches itself off in before_fit; ``run`` is True again afterwards."""

    def before_fit(self: Any) -> None:
        self.run = False

    def after_batch(self: Any) -> None:
        self.said.append("batch")

    return methods(core, root, before_fit=before_fit, after_batch=after_batch)


def ordered(core: Any, root: str) -> list[Any]:
    """Only ``order`` decides; ties go by the sequence in which they were given."""
    log: list[str] = []

    def make(name: str, order: float, **more: Any) -> Any:
        def before_batch(self: Any) -> None:
            log.append(name)

        cb = methods(core, root, name, order=order, before_batch=before_batch, **more)
        cb.said = log if name == "Last" else None
        return cb

    last = make("Last", 100)
    return [make("B", 3), last, make("C", 3), make("A", -5), make("D", 60)]


def positions(core: Any, root: str) -> Any:
    """What the loop counts, at every event of interest."""

    def note(event: str) -> Any:
        def handler(self: Any) -> None:
            learn = self.learn
            part = [event, self.training, self.epoch, self.train_iter]
            self.said.append([*part, round(float(learn.pct_train), 4)])

        return handler

    events = ("before_fit", "before_epoch", "before_train", "before_batch")
    events += ("after_batch", "after_train", "before_validate", "after_epoch")
    return methods(core, root, **{e: note(e) for e in events})


def early_counter(core: Any, root: str) -> Any:
    """An order below that of TrainEvalCallback sees the counters before they count."""

    def after_batch(self: Any) -> None:
        self.said.append([self.train_iter, round(float(self.pct_train), 4)])

    return methods(core, root, order=-20, after_batch=after_batch, run_valid=False)


def recorder_seen(core: Any, root: str, order: float) -> Any:
    """What the recorder holds after an epoch, before it or after it in the order."""

    def after_epoch(self: Any) -> None:
        recorder = self.recorder
        log = [_plain(v) if i < 3 else "time" for i, v in enumerate(recorder.log)]
        self.said.append([len(recorder.values), log, len(recorder.iters)])

    return methods(core, root, order=order, after_epoch=after_epoch)


def penalty(core: Any, root: str) -> Any:
    """Changes the loss of backward in place, and leaves what is recorded."""

    def after_loss(self: Any) -> None:
        if self.training:
            self.learn.loss_grad += 0.1 * self.model.weight.pow(2).sum()
            self.said.append(round(float(self.loss.detach()), 4))

    return methods(core, root, after_loss=after_loss)


def recorded_loss(core: Any, root: str) -> Any:
    """Changes what is recorded, and leaves the loss of backward."""

    def after_loss(self: Any) -> None:
        self.learn.loss = self.loss.detach() * 100

    return methods(core, root, after_loss=after_loss)


def own_loss(core: Any, root: str) -> Any:
    """Empties the labels before the loss, makes one, and puts labels back after it."""

    def before_batch(self: Any) -> None:
        self.kept, self.learn.yb = self.learn.yb, ()

    def after_pred(self: Any) -> None:
        loss = (self.pred - self.kept[0]).abs().mean()
        self.learn.loss_grad = loss
        self.learn.loss = loss.clone()

    def after_loss(self: Any) -> None:
        self.learn.yb = self.kept

    return methods(
        core,
        root,
        before_batch=before_batch,
        after_pred=after_pred,
        after_loss=after_loss,
    )


def no_backward(core: Any, root: str) -> Any:
    """Takes the labels away after the loss: no backward pass, no step."""

    def after_loss(self: Any) -> None:
        if self.training and self.iter == 0:
            self.learn.yb = ()

    return methods(core, root, after_loss=after_loss)


def accumulation(core: Any, root: str) -> Any:
    """Steps once in two batches: CancelBatch in before_step keeps gradients."""

    def before_step(self: Any) -> None:
        self.said.append(round(float(self.model.weight.grad.sum()), 4))
        if self.iter % 2 == 0:
            raise core.CancelBatchException

    return methods(core, root, before_step=before_step)


def leaves(core: Any, root: str) -> Any:
    """Removes itself in the middle of the fit."""

    def after_batch(self: Any) -> None:
        self.said.append(self.train_iter)
        if self.train_iter == 2:
            self.learn.remove_cb(self)

    return methods(core, root, after_batch=after_batch)


def fires(core: Any, root: str) -> Any:
    """Fires an event itself."""

    def after_pred(self: Any) -> None:
        self.said.append("pred")

    def after_loss(self: Any) -> None:
        if len(self.said) < 3:
            self.learn("after_pred")

    return methods(core, root, after_pred=after_pred, after_loss=after_loss)


def rates(core: Any, root: str) -> Any:
    """Sets hyper-parameters and reads them through the optimizer."""

    def before_batch(self: Any) -> None:
        if self.training:
            self.opt.set_hyper("lr", 0.1 / (1 + self.train_iter))
            self.said.append(round(self.opt.hypers[-1]["lr"], 5))

    def after_batch(self: Any) -> None:
        if self.training:
            with_grad = self.opt.all_params(with_grad=True)
            self.said.append([len(self.opt.param_lists), len(with_grad) <= 1])

    return methods(core, root, before_batch=before_batch, after_batch=after_batch)


def delegates(core: Any, root: str) -> Any:
    """Reads through the Learner to the model."""

    def after_batch(self: Any) -> None:
        known = [hasattr(self, n) for n in ("weight", "recorder", "no_such_thing")]
        absent = [hasattr(self, n) for n in ("gather_preds", "lr_finder")]
        self.said.append([*known, *absent, self.in_features, len(self.x), len(self.y)])

    return methods(core, root, after_batch=after_batch, run_valid=False)


def logs(core: Any, root: str) -> Any:
    """Takes the place of the logger for a fit."""

    def before_fit(self: Any) -> None:
        self.old_logger, self.learn.logger = self.learn.logger, self.said_row

    def said_row(self: Any, row: Any) -> None:
        self.said.append([_plain(v) if i < 3 else "time" for i, v in enumerate(row)])

    def after_fit(self: Any) -> None:
        self.learn.logger = self.old_logger

    return methods(
        core, root, before_fit=before_fit, said_row=said_row, after_fit=after_fit
    )


def validates(core: Any, root: str) -> Any:
    """Runs a validation of its own after every epoch."""

    def after_epoch(self: Any) -> None:
        front = self.learn
        front._do_epoch_validate(ds_idx=0)
        self.said.append(front.training)

    return methods(core, root, after_epoch=after_epoch)


CASES: dict[str, Callable[..., Any]] = {
    **{
        f"Cancel{level} in {where}": partial(canceller, level=level, where=where)
        for level, where in CANCELS
    },
    "plain": lambda core, root: core.Callback(),
    "run_train is False": partial(switches, run_train=False),
    "run_valid is False": partial(switches, run_valid=False),
    "run is False": partial(switches, run=False),
    "run is False in before_fit": runs_once,
    "order": ordered,
    "positions": positions,
    "order below -10": early_counter,
    "recorder at order 0": partial(recorder_seen, order=0),
    "recorder at order 55": partial(recorder_seen, order=55),
    "loss_grad in place": penalty,
    "loss alone": recorded_loss,
    "labels put back after the loss": own_loss,
    "labels taken away after the loss": no_backward,
    "accumulation": accumulation,
    "removed in mid-fit": leaves,
    "fires an event": fires,
    "hyper-parameters": rates,
    "delegation": delegates,
    "logger": logs,
    "validation of its own": validates,
}


def decays() -> Any:
    """A normalisation layer, and two linear ones: all but two weights are spared."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def halves(model: Any) -> list[list[nn.Parameter]]:
    """Two parameter groups."""
    return [[*model[0].parameters()], [*model[1:].parameters()]]


OPTIMIZED = {
    "by default": {},
    "no decay": {"wd": 0.0},
    "much decay": {"wd": 0.5},
    "much decay of biases too": {"wd": 0.5, "wd_bn_bias": True},
    "much decay in two groups": {"wd": 0.5, "splitter": halves},
    "SGD": {"make": "SGD"},
    "SGD with momentum": {"make": "SGD", "mom": 0.9},
    "SGD with decay in gradients": {"make": "SGD", "decouple_wd": False},
    "Adam with decay in gradients": {"make": "Adam", "decouple_wd": False},
    "RMSProp": {"make": "RMSProp"},
    "RMSProp with momentum": {"make": "RMSProp", "mom": 0.9, "lr": 0.01},
    "RMSProp with decay in gradients": {"make": "RMSProp", "decouple_wd": False},
    "RAdam": {"make": "RAdam"},
    "RAdam with softplus": {"make": "RAdam", "beta": 20.0},
    "QHAdam": {"make": "QHAdam"},
    "QHAdam with both shares": {"make": "QHAdam", "nu_1": 0.4, "nu_2": 0.6},
    "Larc": {"make": "Larc", "lr": 0.5},
    "Larc without momentum and clip": {
        "make": "Larc",
        "lr": 0.5,
        "mom": 0.0,
        "clip": False,
    },
    "Lamb": {"make": "Lamb"},
    "ranger": {"make": "ranger", "k": 2},
    "ranger in two groups": {"make": "ranger", "alpha": 0.3, "splitter": halves},
    "an optimizer of torch": {"make": "OptimWrapper", "opt": torch.optim.AdamW},
}
OF_LEARNER = ("wd", "wd_bn_bias", "splitter", "lr")


def optimized(root: str, options: dict[str, Any], cycle: bool) -> list[float]:
    """The weights after three epochs, or one cycle of three, of an optimizer."""
    options = dict(options)
    made = options.pop("make", None)
    mine = {name: options.pop(name) for name in OF_LEARNER if name in options}
    if made is not None:
        optimizers = import_module(f"{root}.optimizer")
        mine["opt_func"] = partial(getattr(optimizers, made), **options)
        mine.setdefault("wd", 0.5)
    data = import_module(f"{root}.data.core")
    load = import_module(f"{root}.data.load")
    learner = import_module(f"{root}.learner")
    for module in ("schedule", "progress"):
        import_module(f"{root}.callback.{module}")
    dls = data.DataLoaders(*(load.DataLoader(d.dataset, bs=4) for d in loaders()))
    learn = learner.Learner(
        *(dls, decays(), nn.MSELoss()),
        **{"lr": 0.05, **mine},
    )
    with learn.no_bar(), learn.no_logging():
        if cycle:
            learn.fit_one_cycle(3, learn.lr)
        else:
            learn.fit(3)
    return [float(w) for p in learn.model.parameters() for w in p.detach().flatten()]


def run_all(root: str) -> dict[str, Any]:
    """What every case does under ``root``."""
    cases = {name: _run_or_fail(root, make) for name, make in CASES.items()}
    weights = {
        name: [optimized(root, options, cycle) for cycle in (False, True)]
        for name, options in OPTIMIZED.items()
    }
    return {**cases, "optimized": weights}


def _run_or_fail(root: str, make: Callable[..., Any]) -> dict[str, Any]:
    try:
        return run(root, make)
    except Exception as error:
        return {"error": type(error).__name__}
