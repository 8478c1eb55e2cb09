"""The callback that saves the run, and the method that reads what it has saved."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from callboard import Callback, hookimpl
from callboard.callback import Role
from callboard.errors import (
    CallboardWarning,
    NonFiniteError,
    OptionError,
    StateError,
    suggestion,
)
from callboard_checkpoint.files import Snapshot, write_share
from callboard_checkpoint.folder import RunFolder, sees
from callboard_checkpoint.intervals import Timer, read_intervals
from callboard_checkpoint.reading import Reader
from callboard_checkpoint.signals import Interrupted, Signals
from callboard_checkpoint.tree import split
from callboard_tracker import (
    Comparison,
    Direction,
    direction_of,
    is_better,
    published_directions,
)

if TYPE_CHECKING:
    from callboard import Learner
    from callboard_checkpoint.shards import Shards

FOLDER = "checkpoints"


class CheckpointCallback(Callback):
    """Saves the whole run, so that it goes on bit for bit after a kill.

    The state is copied at a ``checkpoint`` and written behind training's back. SIGTERM
    and Ctrl-C finish the step, save, tear down and leave with 143 or 130.

    Args:
        every: How often: ``"1 epoch"``, ``"500 steps"``, ``"10 min"``, or several.
        keep: How many of the latest are kept, from 1 on.
        keep_best: Name of a result; the checkpoint of its best epoch is kept too.
        comp: ``"min"`` where a lower ``keep_best`` is better, ``"max"`` where a higher
            is. Default: as the plugin that measures it says.
        async_: Write in a thread of its own, while training goes on.
        folder: Where, in ``learner.path`` unless it is absolute.
        overwrite: Take away what an earlier run has left there, instead of refusing.
        sharded: Whether each process writes its share of weights that are spread over
            several, into a folder that all see. False: the main one gathers and writes
            all. None: shares, where the folder is seen by all.

    Attributes:
        last_saved: The checkpoint that was written last, None before the first.
        costs: Of the latest saves: seconds that training stood still, seconds of
            writing, and bytes.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "checkpoint"
    role: Role = "control"
    run_after = ("recorder", "tracker")

    def __init__(
        self,
        every: str | Sequence[str] = "1 epoch",
        *,
        keep: int = 3,
        keep_best: str | None = None,
        comp: Comparison = None,
        async_: bool = True,
        folder: str | Path = FOLDER,
        overwrite: bool = False,
        sharded: bool | None = None,
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise OptionError(
                f"checkpoint: keep must be a whole number from 1 on, got {keep!r}.\n"
                "Use 3 to have others to fall back on."
            )
        self.every = every
        self.keep = keep
        self.keep_best = keep_best
        self.async_ = async_
        self.folder = folder
        self.overwrite = overwrite
        self.sharded = sharded
        self.last_saved: Path | None = None
        self.costs: list[dict[str, float]] = []
        self.best: float | None = None
        self._timer = Timer(read_intervals(every))
        self._comp = _checked_comp(comp)
        self._direction: Direction | None = None
        self._run = uuid.uuid4().hex
        self._best_name: str | None = None
        self._files: RunFolder | None = None
        self._shards: Shards | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[Path | None] | None = None
        self._is_overdue = False
        self._saved_at: tuple[int, int, int] | None = None
        self._held: Snapshot | None = None
        self._may_leave = False
        self._leaving: BaseException | None = None
        self._signals = Signals(lambda: self._may_leave, self._tell_of_signal)

    # ---- the fit --------------------------------------------------------------

    def before_fit(self) -> None:
        """Open the folder, and take over the signals."""
        learner = self.learn
        if self.keep_best is not None:
            self._direction = self._comp or direction_in(learner, self.keep_best)
        processes = learner.processes
        self._run = processes.from_main(self._run)
        if learner.is_main:
            self._files = RunFolder(place(learner.path, self.folder))
            self._files.open()
            self._refuse_what_is_anothers(self._files)
        if processes.spreads_weights and self.sharded is not False:
            self._shards = self._find_shards()
        is_writing = learner.is_main or self._shards is not None
        is_writing_apart = self.async_ and is_writing
        self._writer = ThreadPoolExecutor(1, "checkpoint") if is_writing_apart else None
        self._writing, self._held, self._is_overdue = None, None, False
        self._saved_at = None
        self._timer.restart(processes.seconds())
        processes.signal = None
        self._signals.catch()
        warn_of_what_is_inexact(learner.dls.train)

    @hookimpl(trylast=True)
    def checkpoint(self) -> None:
        """Save where it is time, or where a signal has come."""
        learner = self.learn
        epoch, batch = learner.position
        is_epoch_end = batch == 0
        self._take_note_of_the_written()
        is_best = is_epoch_end and self._is_new_best()
        is_due = self._timer.is_due(
            seconds=learner.processes.seconds(),
            num_epochs=epoch,
            num_steps=learner.train_iter,
            is_epoch_end=is_epoch_end,
        )
        if learner.processes.signal is not None:
            self._save(wait=True)
            raise Interrupted(learner.processes.signal)
        if is_due or is_best or self._is_overdue:
            is_last = is_epoch_end and (epoch >= learner.n_epoch or self._is_stopped())
            self._save(is_best=is_best, wait=is_last)
        self._held = None
        may_leave = learner.dls.valid is not None and learner.world_size == 1
        if batch == learner.n_iter and may_leave:
            # What a signal in the validation saves: it may not wait for the next one.
            self._held = self._unless_saved()

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, object, object]:
        """Let a signal end a validation at once, with what was saved before it.

        Several processes finish it, since none knows where in it the others are.
        """
        is_saved = self._held is not None or self._saved_at == self._moment()
        if self.learn.stage != "fit" or not is_saved or self.learn.world_size > 1:
            return (yield)
        try:
            self._may_leave = True
            if self._signals.received is not None:
                raise Interrupted(self._signals.received)
            return (yield)
        except Interrupted:
            self._may_leave = False
            self._finish_writing()
            if self._held is not None:
                self._write(self._held, 0.0)
            raise
        finally:
            self._may_leave = False

    def after_fit(self) -> None:
        """Wait for the last save."""
        self._finish_writing()

    def teardown(self) -> None:
        """Give back folder, thread and signals."""
        self._finish_writing()
        self._held = None
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None
        if self._shards is not None:
            self._shards.close()
            self._shards = None
        self._signals.give_back()
        if self._files is not None:
            self._files.close()
        number, self._signals.received = self._signals.received, None
        leaving, self._leaving = self._leaving, None
        if number is not None and not isinstance(leaving, Interrupted):
            raise Interrupted(number)

    def _tell_of_signal(self, number: int) -> None:
        self.learn.processes.leave(number)

    def on_exception(self, exception: BaseException) -> None:
        """Remember what ends the fit."""
        self._leaving = exception

    def _refuse_what_is_anothers(self, files: RunFolder) -> None:
        others = files.runs() - {self._run}
        if others and not self.overwrite:
            files.close()
            raise OptionError(
                f"checkpoint: {files.path} holds checkpoints of an earlier run. Go on "
                'with it by fit(..., resume="auto") or `callboard fit --resume auto`, '
                "give another folder, or overwrite=True to take it away."
            )
        if others:
            files.prune(0, None)

    def _find_shards(self) -> Shards | None:
        """The processes that write their shares, if the folder is there for all."""
        from callboard_checkpoint.shards import Shards  # a second to import

        processes = self.learn.processes
        files = self._files
        with files.shown(self._run) if files is not None else nullcontext():
            folder = processes.from_main(files and files.path)
            seen = processes.gather(sees(folder, self._run))
        if all(seen):
            return Shards()
        if self.sharded:
            raise OptionError(
                f"checkpoint: sharded=True: process {seen.index(False)} does not see "
                f"{folder}, where the main one writes. Give a folder that all share, "
                "or sharded=False to let the main process gather and write all."
            )
        return None

    # ---- saving ---------------------------------------------------------------

    def _moment(self) -> tuple[int, int, int]:
        return (*self.learn.position, self.learn.train_iter)

    def _is_stopped(self) -> bool:
        return self.learn.stop_reason is not None

    def _unless_saved(self) -> Snapshot | None:
        return None if self._saved_at == self._moment() else self._snapshot()

    def _save(self, *, is_best: bool = False, wait: bool = False) -> None:
        # The main process writes, and knows how far it is.
        is_saved, is_busy = self.learn.processes.from_main(
            (self._saved_at == self._moment(), self._writing is not None)
        )
        if is_saved:
            if wait:
                self._finish_writing()
            return
        if is_busy and not wait:
            self._is_overdue = True  # one at a time; at the next checkpoint, then
            return
        self._finish_writing()
        started = time.perf_counter()
        check_finite(self.learn)
        snapshot = self._snapshot()
        seconds = time.perf_counter() - started
        self._saved_at, self._is_overdue = self._moment(), False
        self._timer.restart(self.learn.processes.seconds())
        if snapshot is None:
            return
        if self._writer is None or wait:
            self._write(snapshot, seconds, is_best)
        else:
            self._writing = self._writer.submit(
                self._written, snapshot, seconds, is_best
            )

    def _snapshot(self) -> Snapshot | None:
        """A copy of the state; every process has its part in it, and main has it."""
        learner = self.learn
        state = learner.state_dict(whole=self._shards is None)
        if not learner.is_main and self._shards is None:
            return None
        plain, tensors, spread = split(state)
        if spread:
            from callboard_checkpoint.shards import staged

            spread = staged(spread)
        epoch, batch = learner.position
        summary = {
            "run": self._run,
            "epoch": epoch,
            "batch": batch,
            "step": learner.train_iter,
            "results": {k: v for k, v in learner.results.items() if is_number(v)},
            "seconds_since_1970": time.time(),
        }
        return Snapshot(plain, tensors, split(summary).plain, spread)

    def _write(self, snapshot: Snapshot, seconds: float, is_best: bool = False) -> None:
        """Write at once; what cannot be written is said."""
        done: Future[Path | None] = Future()
        try:
            done.set_result(self._written(snapshot, seconds, is_best))
        except Exception as error:
            done.set_exception(error)
        self._writing = done
        self._finish_writing()

    def _written(
        self, snapshot: Snapshot, seconds: float, is_best: bool
    ) -> Path | None:
        """Write a snapshot, and put the folder in order; runs in the thread."""
        files = self._files
        if files is None:
            assert self._shards is not None
            write_share(snapshot, self._shards)
            return None
        started = time.perf_counter()
        saved = files.add(snapshot, self._shards)
        self._best_name = saved.name if is_best else self._best_name
        files.prune(self.keep, self._best_name)
        cost = {
            "standing_seconds": seconds,
            "writing_seconds": time.perf_counter() - started,
            "bytes": float(sum(file.stat().st_size for file in saved.iterdir())),
        }
        self.costs = [*self.costs[-99:], cost]
        files.write_manifest(
            {
                "run": self._run,
                "last_good": saved.name,
                "best": self._best_name,
                "checkpoints": [path.name for path in files.checkpoints()],
                "cost_of_last": cost,
            }
        )
        return saved

    def _take_note_of_the_written(self) -> None:
        if self._writing is not None and self._writing.done():
            self._finish_writing()

    def _finish_writing(self) -> None:
        """Wait for a save that is under way; one that failed is said, not raised."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        error = writing.exception()
        if error is None:
            self.last_saved = writing.result()
        elif isinstance(error, OSError | StateError):
            self._saved_at = None
            if self._files is None:
                return  # the main process says it
            warnings.warn(
                f"checkpoint: it could not be saved: {error}. The last good one is "
                f"{self.last_saved or 'none'}; training goes on, and so does saving.",
                CallboardWarning,
                stacklevel=2,
            )
        else:
            raise error

    def _is_new_best(self) -> bool:
        if self.keep_best is None or self._direction is None:
            return False
        value = self.learn.results.get(self.keep_best)
        is_new = is_better(value, self.best, direction=self._direction, min_delta=0.0)
        if is_new:
            self.best = value
        return is_new

    # ---- state ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The name of the run, and its best result."""
        return {"run": self._run, "best": self.best, "best_name": self._best_name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self._run, self.best = state["run"], state["best"]
        self._best_name = state["best_name"]


def read_checkpoint(learner: Learner, where: str | Path = "auto") -> Any:
    """The saved state that ``learner.fit(resume=...)`` goes on from.

    Args:
        learner: The Learner that goes on.
        where: A checkpoint, a folder of them, or ``"auto"`` for the folder of the
            Learner's checkpoint callback. Of a folder, the last good one is read.

    Returns:
        None where ``"auto"`` finds no checkpoint at all.

    Raises:
        StateError: There is nothing to read, or all of it is damaged.
    """
    reader = Reader(learner)
    if where == "auto":
        own = [cb.folder for cb in learner.cbs if isinstance(cb, CheckpointCallback)]
        return reader.newest_good(place(learner.path, own[0] if own else FOLDER))
    return reader.read_path(Path(where))


def place(path: Path, folder: str | Path) -> Path:
    """Where the checkpoints are, whatever folder the process goes to later."""
    return Path(path, folder).resolve()


def _checked_comp(comp: Comparison) -> Direction | None:
    try:
        return direction_of(comp)
    except (TypeError, ValueError):
        raise OptionError(
            'checkpoint: comp must be "min" where lower is better or "max" where '
            f"higher is, got {comp!r}."
        ) from None


def direction_in(learner: Learner, result: str) -> Direction:
    """Which direction of a result is better, as the plugin that measures it says.

    Raises:
        OptionError: No active plugin says so.
    """
    directions = published_directions(learner.cbs)
    if result not in directions:
        known = ", ".join(directions) or "nothing; is the recorder active?"
        raise OptionError(
            f"checkpoint: no active plugin says whether a lower or a higher {result!r} "
            f'is better; give comp="min" or comp="max". Known: {known}.'
            + suggestion(result, directions)
        )
    return directions[result]


def check_finite(learner: Learner) -> None:
    """Refuse to save weights that nobody could train on.

    Raises:
        NonFiniteError: One of them is NaN or infinite. Reads one number.
    """
    weights = [_own_part(p) for p in learner.model.parameters()]
    weights = [w for w in weights if w.is_floating_point() and w.numel()]
    largest = get_total_norm(weights, norm_type=torch.inf) if weights else None
    is_lost = largest is not None and not bool(torch.isfinite(largest))
    if any(learner.processes.sum([is_lost])):
        raise NonFiniteError(
            f"The weights are not finite any more at step {learner.train_iter} (epoch "
            f"{learner.epoch}, training batch {learner.iter}); they are not saved. The "
            "last checkpoint is finite: go on from it with a lower learning rate."
        )


def _own_part(parameter: Tensor) -> Tensor:
    """What of a parameter is in this process, where it is spread over several."""
    own: Tensor = parameter.detach()
    return own.to_local() if hasattr(own, "to_local") else own


def warn_of_what_is_inexact(loader: object) -> None:
    """Say before training starts what a resumed run could not do exactly."""
    iterator = loader if hasattr(loader, "__next__") else None
    if iterator is not None:
        warnings.warn(
            f"checkpoint: the training loader ({type(loader).__name__}) can be gone "
            "through once and keeps no place: a resumed run would begin it anew. Give "
            "a DataLoader, a list, or an object with state_dict and load_state_dict.",
            CallboardWarning,
            stacklevel=2,
        )


def is_number(value: object) -> bool:
    """Whether a result can stand in a summary."""
    return isinstance(value, int | float) and not isinstance(value, bool)
