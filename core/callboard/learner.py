"""The Learner: what is trained, and the state of the loop.

The loop itself is in ``loop.py``. A Learner holds model, data, optimizer and loss,
brings the active plugins together, and sees to it that whatever a fit or a nested
evaluation changes for its own sake is put back, however it ends.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callboard import (
    board,
    checks,
    copying,
    data,
    discovery,
    evaluation,
    faults,
    fitting,
    loop,
    membership,
    optim,
    processes,
    resume,
    saved,
)
from callboard.activation import (
    ActivePlugin,
    activate,
    as_sequence,
)
from callboard.callback import Callback
from callboard.configuration import load_configuration
from callboard.control import CancelException
from callboard.data import DataLoaders, as_dataloaders, num_batches
from callboard.dispatch import Board
from callboard.keyed import KeyedTwin
from callboard.optim import Rate, Splitter
from callboard.plan import Plan
from callboard.processes import Processes
from callboard.resume import Resume
from callboard.state import (
    RandomStream,
    Reason,
    RunRecord,
    derive_seed,
)
from callboard.watching import Watcher

Callbacks = Any
OptFunc = Callable[..., Optimizer]
DEFAULT_RATE = 1e-3


class Learner:
    """The model, data, optimizer and loss that are trained together.

    Args:
        dls: ``DataLoaders(train, valid)``, a pair ``(train, valid)``, or the training
            data alone; any iterables of batches.
        model: What is trained.
        loss_func: Called with the prediction and the labels; returns a scalar. None
            where the model returns its loss.
        opt_func: Makes the optimizer from parameter groups and ``lr``: a class of
            ``torch.optim``, or a partial of one.
        lr: Learning rate; a number, one per parameter group, or ``slice(low, high)``.
            Default: that of a partial ``opt_func``, else 0.001.
        metrics: One or many; what they may be is said by the plugin that measures
            (``recorder``).
        cbs: One callback or many: instances, classes, or names of installed plugins.
        splitter: Parts the model into parameter groups, first layers first.
        path: Where plugins put files.
        device: Where model and batches go. Default: a GPU where there is one.
        seed: What all random numbers of training derive from. Default: torch's own
            initial seed, so that ``torch.manual_seed`` decides.
        train_bn: Whether normalisation layers keep training when frozen.

    Raises:
        CallboardError: The data, or a plugin that was asked for, cannot be used.
    """

    def __init__(
        self,
        dls: Any,
        model: nn.Module,
        loss_func: Callable[..., Tensor] | None = None,
        opt_func: OptFunc = torch.optim.Adam,
        lr: Rate = DEFAULT_RATE,
        *,
        metrics: Any = None,
        cbs: Callbacks = None,
        splitter: Splitter = optim.trainable_params,
        path: str | Path = ".",
        device: str | torch.device | None = None,
        seed: int | None = None,
        train_bn: bool = True,
    ) -> None:
        checks.check_parts(model, loss_func, opt_func)
        self.dls = dls
        self.model: nn.Module = model
        self.loss_func = loss_func
        self.opt_func = opt_func
        self.lr = optim.own_rate(opt_func) if lr == DEFAULT_RATE else lr
        self.metrics: list[Any] = checks.as_list(metrics)
        self.splitter = splitter
        self.path = Path(path)
        self.device = data.choose_device(device)
        self.seed = torch.initial_seed() if seed is None else checks.as_seed(seed)
        self.train_bn = train_bn

        #: The optimizer; None until the first fit or ``create_opt``.
        self.opt: Optimizer = None  # type: ignore[assignment]
        self.stage = "fit"
        self.training = False
        self.epoch = 0
        self.n_epoch = 1
        self.iter = 0
        self.n_iter: int | None = None
        self.train_iter = 0
        self.pct_train = 0.0
        self.dl: Any = None
        self.xb: Any = ()
        self.yb: tuple[Any, ...] = ()
        self.pred: Any = None
        self.loss: Tensor | None = None
        self.results: dict[str, Any] = {}
        self.record = RunRecord()
        self.stop_reason: str | None = None
        #: What a training loss that is NaN or infinite does: "raise" an error, "stop"
        #: the fit in order, or nothing ("ignore").
        self.on_non_finite: Literal["raise", "stop", "ignore"] = "raise"

        self._loss_grad: Tensor | None = None
        self._pct_per_batch = 0.0
        self._evaluated_dl: Any = None
        self._is_predicting_by_keyword = False
        self._is_epoch_over = False
        self._first_train_iter = 0  # of the epoch that is running
        self._resume: Resume | None = None
        self._next_resume: Resume | None = None
        self._non_finite: tuple[int, float] | None = None
        self._fit_number = 0
        self._depth = 0
        self._streams: dict[str, RandomStream] = {}
        self._configuration = load_configuration()
        self._make_board()
        membership.set_members(self, activate(cbs, self._configuration))
        membership.created(self, self._board.members.values())

    fit = loop.fit
    _fitting = fitting.fitting

    def _make_board(self) -> None:
        """What is this Learner's own and goes into no copy of it."""
        self._processes = processes.alone()
        self.plan = Plan()
        self._switches_before: list[tuple[Callback, dict[str, bool]]] = []
        self._known_lengths: weakref.WeakKeyDictionary[Any, int]
        self._known_lengths = weakref.WeakKeyDictionary()
        self._keyed_twins: weakref.WeakKeyDictionary[Any, KeyedTwin]
        self._keyed_twins = weakref.WeakKeyDictionary()
        self._board = Board(faults.reporter(self))
        weakref.finalize(self, Board.clear, self._board)

    def __getstate__(self) -> dict[str, Any]:
        return copying.portable_state(self)

    def __setstate__(self, portable: Mapping[str, Any]) -> None:
        copying.revive(self, portable)

    # ---- what is trained ------------------------------------------------------

    @property
    def dls(self) -> DataLoaders:
        """The data; a pair of loaders, or training data alone, may be assigned."""
        return self._dls

    @dls.setter
    def dls(self, dls: Any) -> None:
        self._dls = as_dataloaders(dls)

    @property
    def x(self) -> Any:
        """The input of the batch where there is one, else all of them."""
        return checks.single(self.xb)

    @property
    def y(self) -> Any:
        """The label of the batch where there is one, else all of them."""
        return checks.single(self.yb)

    @property
    def loss_grad(self) -> Tensor | None:
        """The loss that backward runs on; a tensor of its own once it was touched."""
        if self._loss_grad is None and self.loss is not None:
            self._loss_grad = self.loss
            self.loss = self.loss.clone()
        return self._loss_grad

    @loss_grad.setter
    def loss_grad(self, loss: Tensor | None) -> None:
        self._loss_grad = loss

    @property
    def backward_loss(self) -> Tensor | None:
        """The loss that backward runs on; reading it makes no tensor of its own."""
        return self.loss if self._loss_grad is None else self._loss_grad

    # ---- where it runs --------------------------------------------------------

    @property
    def processes(self) -> Processes:
        """The processes that train together; by itself, this one."""
        return self._processes

    @processes.setter
    def processes(self, together: Processes) -> None:
        self._processes = together
        membership.set_members(self, list(self._board.members.values()))

    @property
    def rank(self) -> int:
        """Number of this process among those that train together, from 0."""
        return self._processes.rank

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return self._processes.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and talks to people."""
        return self._processes.is_main

    # ---- the optimizer --------------------------------------------------------

    def create_opt(self) -> Optimizer:
        """Make the optimizer anew, from the parameter groups of the splitter."""
        groups = optim.split_parameters(self.model, self.splitter)
        rates = optim.spread_rate(self.lr, len(groups))
        parameters = [
            {"params": group, "lr": rate}
            for group, rate in zip(groups, rates, strict=True)
        ]
        self.opt = self.opt_func(parameters, lr=rates[-1])
        return self.opt

    def _parameter_groups(self) -> list[list[nn.Parameter]]:
        if self.opt is not None:
            return [list(group["params"]) for group in self.opt.param_groups]
        return optim.split_parameters(self.model, self.splitter)

    def freeze(self) -> None:
        """Train the last parameter group only."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train all parameter groups."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Train the parameter groups from number ``n`` on; negative: from the end.

        The optimizer forgets its state (momenta), since the weights it was about may
        stand still from now on.
        """
        if self.opt is None:
            self.create_opt()
        groups = self._parameter_groups()
        optim.freeze_groups(self.model, groups, n, train_bn=self.train_bn)
        self.opt.state.clear()

    # ---- plugins --------------------------------------------------------------

    @property
    def cbs(self) -> board.ActivePlugins:
        """The active plugins in running order; prints as the board."""
        return board.ActivePlugins(self._board.members)

    def add_cb(self, cb: Callbacks) -> Learner:
        """Let a callback take part from the next event on."""
        return self.add_cbs(cb)

    def add_cbs(self, cbs: Callbacks) -> Learner:
        """Let callbacks take part from the next event on; returns the Learner."""
        membership.add(self, cbs, "add_cbs")
        return self

    def remove_cb(self, cb: Any) -> Learner:
        """Let a callback take part no more: an instance, a class (all its instances),
        a module or a name.

        Raises:
            ActivationError: It is not active.
        """
        return self.remove_cbs(cb)

    def remove_cbs(self, cbs: Callbacks) -> Learner:
        """Let callbacks take part no more; returns the Learner."""
        gone = [m for cb in as_sequence(cbs) for m in membership.meant_by(self, cb)]
        membership.remove(self, gone)
        return self

    def added_cbs(self, cbs: Callbacks) -> AbstractContextManager[Learner]:
        """Callbacks that take part inside the ``with`` block only."""
        return membership.added(self, cbs)

    def removed_cbs(self, cbs: Callbacks) -> AbstractContextManager[Learner]:
        """Callbacks that do not take part inside the ``with`` block."""
        return membership.removed(self, cbs)

    def _replan(self) -> None:
        if self._depth:
            plan = self._board.plan(self, self.stage, training=self.training)
            if plan.do_step is None and optim.needs_closure(self.opt):
                plan.do_step = partial(loop.step_with_closure, self)
            if plan.do_predict is None and self._is_predicting_by_keyword:
                plan.do_predict = partial(loop.predict, self)
            self.plan = plan

    def _predict_by_keyword(self) -> None:
        """Batches are mappings: the model takes them as keyword arguments."""
        if not self._is_predicting_by_keyword:
            self._is_predicting_by_keyword = True
            self._replan()

    def _plan_anew(self) -> None:
        """Who takes part has changed: in the event that is firing and from now on."""
        self._board.forget_plans()
        self._replan()

    def _random_stream(self, callback: Callback) -> RandomStream:
        key = next(m.key for m in self._board.members.values() if m.plugin is callback)
        if key not in self._streams:
            stream = RandomStream()
            stream.manual_seed(derive_seed(self.seed, "plugin", key))
            self._streams[key] = stream
        return self._streams[key]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for key, member in self._board.members.items():
                if key.replace("-", "_") == name:
                    return member.subject
            # Not by `find`: it words a suggestion, which hasattr() need not wait for.
            found = [
                plugin
                for plugin in discovery.installed()
                if plugin.name.replace("-", "_") == name
            ]
            if any(p.kind == "method" and p.name == name for p in found):
                method: Any = discovery.find(name, "method").load()
                return partial(method, self)
            if any(p.kind in ("callback", "plugin") for p in found):
                raise AttributeError(
                    f"'Learner' has no attribute {name!r}: the plugin {found[0].name} "
                    f'is installed and not active; cbs="{found[0].name}" makes it so'
                )
        message = f"'Learner' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=self)

    def __dir__(self) -> list[str]:
        keys = [key.replace("-", "_") for key in self._board.members]
        methods = [p.name for p in discovery.installed() if p.kind == "method"]
        return sorted({*super().__dir__(), *keys, *methods})

    def show_training_loop(self) -> None:
        """Print the loop with, at every event, the plugins that run there in order."""
        print(board.loop_text(self._board))

    @contextmanager
    def watched_by(self, watcher: Watcher) -> Iterator[Learner]:
        """Tell a watcher of every piece of work inside the ``with`` block.

        For profilers and tracers; see ``callboard.watching``. Plugins that are added
        inside the block are watched too.
        """
        self._board.set_watchers((*self._board.watchers, watcher))
        self._replan()
        try:
            yield self
        finally:
            left = (other for other in self._board.watchers if other is not watcher)
            self._board.set_watchers(left)
            self._replan()

    # ---- a fit ----------------------------------------------------------------

    def stop(self, reason: str = "") -> None:
        """Ask the loop to end the fit at the next boundary.

        Every plugin still sees the event that is firing. The boundary is the end of the
        batch, or of the epoch; the reason is kept in ``record``.
        """
        self._processes.stop(self, reason or "asked to stop")
        member = self._board.running_member()
        self._note_reason("stop", reason, member)

    def _note_cancel(self, cancel: CancelException) -> None:
        blamed = self._board.blame(cancel.__traceback__)
        self._note_reason(cancel.level, cancel.reason, blamed and blamed[0])
        faults.break_cycles(cancel.__traceback__)

    def _note_reason(self, what: str, why: str, member: ActivePlugin | None) -> None:
        key = member.key if member else ""
        self.record.add_reason(Reason(what, why, key, self.epoch, self.iter))

    def _epochs(self) -> Iterator[int]:
        """Numbers of the epochs to run, up to where the fit is asked to stop."""
        if self._resume is not None:
            self._resume.restore(self)
            if not self._resume.batch:
                self._resume = None
            if self.epoch == self.n_epoch > 0:  # nothing is left to do
                self.epoch, self._is_epoch_over = self.epoch - 1, True
                return
        for epoch in range(self.epoch, self.n_epoch):
            if self.stop_reason is not None:
                return
            data.seed_epoch(self, epoch)
            yield epoch

    def _enter_phase(self, *, training: bool) -> None:
        self.training = training
        self.model.train(training)
        if training:
            self.dl = self.dls.train
        else:
            self.dl = (
                self.dls.valid if self._evaluated_dl is None else self._evaluated_dl
            )
        self.iter = 0
        self._measure_loader()
        if training:
            self.pct_train = self.epoch / self.n_epoch
            self._first_train_iter = self.train_iter - self._num_done_before()
        self._replan()

    def _measure_loader(self) -> None:
        self.n_iter = self._length_of(self.dl)
        num_batches_in_all = (self.n_iter or 0) * self.n_epoch * self.training
        self._pct_per_batch = 1 / num_batches_in_all if num_batches_in_all else 0.0

    def _batches(self) -> Iterator[tuple[int, tuple[Any, tuple[Any, ...]]]]:
        if self.training and self.stop_reason is not None:
            return iter(())  # stopped before the first batch
        num_done, place = self._num_done_before(), None
        if num_done and self._resume is not None:
            self._resume.restore(self)
            place, self._resume = self._resume.saved["loader"], None
        self._measure_loader()  # before_train may have put another loader here
        return self._board.watched_batches(data.batches(self, num_done, place))

    # ---- the position in the run ----------------------------------------------

    @property
    def position(self) -> tuple[int, int]:
        """Epoch, and number in it, of the training batch that comes next.

        At a ``checkpoint`` all that comes before it is done; between epochs the number
        is 0.
        """
        if self._is_epoch_over:
            return self.epoch + 1, 0
        return self.epoch, self.train_iter - self._first_train_iter

    def _num_train_batches(self) -> int | None:
        """Number of batches in an epoch of training, None while it is unknown."""
        return self._length_of(self.dls.train)

    def _length_of(self, loader: Any) -> int | None:
        count = num_batches(loader)
        if count is None:
            # One that is neither hashable nor weakly referenced stays unknown.
            with suppress(TypeError):
                count = self._known_lengths.get(loader)
        return count

    def _num_done_before(self) -> int:
        """Batches of this phase that the saved run had done."""
        if self._resume is None or not self.training:
            return 0
        return self._resume.batch if self.epoch == self._resume.epoch else 0

    def resume_next_fit(
        self, given: Any, policy: resume.Policy = "warn"
    ) -> tuple[int, int] | None:
        """Let the next fit go on with a saved run, whatever method starts it.

        Where the saved run was in its second fit, as that of ``fine_tune`` is, the
        first is left out.

        Args:
            given: What ``state_dict`` returned, the path of a checkpoint, or ``"auto"``
                for the last good one where there is any.
            policy: As ``resume_policy`` of ``fit``.

        Returns:
            The epoch, and the number of its training batches that are done; None where
            ``"auto"`` finds nothing, and the run starts from its beginning.

        Raises:
            OptionError, StateError: There is nothing to go on from.
        """
        self._next_resume = resume.as_resume(self, given, policy)
        if self._next_resume is None:
            return None
        return self._next_resume.epoch, self._next_resume.batch

    def _was_done_before(self) -> bool:
        """Whether the next fit is one that the saved run had behind it."""
        saved = self._next_resume
        if self._depth or saved is None or self._fit_number + 1 >= saved.fit_number:
            return False
        self._fit_number += 1
        return True

    def _what_to_resume(self, given: Any, policy: resume.Policy) -> Resume | None:
        if self._depth > 1:
            return None
        waiting, self._next_resume = self._next_resume, None
        return waiting if given is None else resume.as_resume(self, given, policy)

    def note_non_finite(self, train_iter: int, loss: float) -> None:
        """Tell of a training loss that is NaN or infinite: the fit ends with an error.

        Any plugin that reads losses may; the loop itself looks at the last one of an
        epoch only, since reading waits for the device. The first one counts.

        Args:
            train_iter: Number of training batches that were done with it, from 1.
            loss: What it was.
        """
        is_asked = self.stage == "fit" and self.on_non_finite != "ignore"
        if is_asked and self._non_finite is None:
            self._non_finite = (train_iter, loss)
            self.stop(f"the training loss became {loss} in step {train_iter}")

    @property
    def non_finite(self) -> tuple[int, float] | None:
        """Step and value of the first training loss of this fit that is no number."""
        return self._non_finite

    def _refuse_non_finite_loss(self) -> None:
        if self.stage != "fit" or not isinstance(self.loss, Tensor):
            return
        if self.loss.is_meta:  # it has no value
            return
        has_stopped = self.stop_reason is not None
        if self._non_finite is None and not has_stopped and self.position[1]:
            [loss] = self._processes.sum([float(self.loss.detach().mean())])
            if not math.isfinite(loss):
                self.note_non_finite(self.train_iter, loss)
        if self._non_finite is not None and self.on_non_finite == "raise":
            raise faults.non_finite(self, *self._non_finite)

    def _saw_batches(self, count: int) -> None:
        """Remember the length of a loader that could not tell it."""
        if num_batches(self.dl) is None and self.stage == "fit":
            # One that is neither hashable nor weakly referenced stays unknown.
            with suppress(TypeError):
                self._known_lengths[self.dl] = count

    # ---- evaluation -----------------------------------------------------------

    def evaluating(self, stage: str) -> AbstractContextManager[Learner]:
        """A nested stage that leaves every bit of the loop's state as it was.

        Works at any moment, inside a fit and inside a callback. Kept: the loop's
        position and batch, ``results`` and ``record``, the modes of all modules, and
        the global random streams. Only plugins that name the stage in ``stages`` take
        part inside.

        Raises:
            OptionError: There is no such stage.
        """
        return evaluation.evaluating(self, stage)

    def validate(self, dl: Any = None, *, cbs: Callbacks = None) -> dict[str, Any]:
        """Results of the model on validation data, by name: ``{"valid_loss": 0.1}``.

        Args:
            dl: Batches to validate on. Default: the Learner's validation data.
            cbs: Callbacks that take part in this validation only; ``"validate"`` must
                be one of their ``stages``.

        Raises:
            OptionError: There is no validation data, or a callback takes no part in
                validations.
        """
        return evaluation.validate(self, dl, cbs)

    def run_validation(self, dl: Any = None) -> None:
        """Go through data once without gradients; for use inside ``evaluating``.

        What plugins that evaluate in a stage of their own are built on:

            with learner.evaluating("predict"):
                learner.run_validation(dl)

        Args:
            dl: Batches to go through. Default: the Learner's validation data.

        Raises:
            CallboardError: It is called outside ``evaluating``.
        """
        evaluation.run_validation(self, dl)

    # ---- state ----------------------------------------------------------------

    def state_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """Model, optimizer, position, every plugin's state: plain data and tensors.

        Args:
            whole: Gather in the main process what is spread over several. False leaves
                each process its share of it, as a ``DTensor``.
        """
        return saved.state_of(self, whole=whole)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned.

        A plugin that is active and has no state in it keeps its own.

        Raises:
            StateError: It is of another version, or a part does not fit.
        """
        saved.restore(self, state)

    def __repr__(self) -> str:
        names = ", ".join(self._board.members) or "none"
        return f"Learner({type(self.model).__name__}, {self.dls!r}, cbs: {names})"

    def _repr_html_(self) -> str:
        from callboard.notebook import learner_html

        return learner_html(self)
