"""Save the weights of the best epoch, of every epoch, or of the end.

Listens to  before_fit, before_epoch, after_epoch, after_cancel_fit, after_fit, teardown
Changes     the weights, at the end of a fit: those of the best epoch are loaded back
Source      fastai's ``SaveModelCallback`` (Apache-2.0), written anew; the weights are
            in the safetensors format, https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from callboard.errors import OptionError, StateError
from callboard.plain import read_plain
from callboard_tracker import Comparison, TrackerCallback

if TYPE_CHECKING:
    from callboard.testing import Specimen

FOLDER = "models"
SUFFIX = ".safetensors"
OPTIMIZER_SUFFIX = ".optimizer.pt"


def save_weights(
    model: nn.Module, file: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the parameters and buffers of a model; tied ones are written once.

    Args:
        model: Whose weights to write.
        file: Where; it is written in place.
        metadata: Text to write with them.
    """
    state = model.state_dict()
    tied = {name: names[0] for names in tied_names(state) for name in names[1:]}
    # Copies, since the format takes no tensors that share memory in another way.
    tensors = {
        name: tensor.to("cpu", copy=True).contiguous()
        for name, tensor in state.items()
        if name not in tied
    }
    save_file(tensors, file, {**(metadata or {}), **tied})


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, on the CPU.

    Raises:
        StateError: It is damaged, or something else.
    """
    try:
        found: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise StateError(
            f"{file} is damaged, or no safetensors file: {error}"
        ) from error
    return found


def load_weights(model: nn.Module, file: Path) -> None:
    """Fill a model with saved weights, in place: devices and dtypes stay as they are.

    Raises:
        StateError: The file is not of a model like this one.
    """
    tensors = read_weights(file)
    for names in tied_names(model.state_dict()):
        saved = next((name for name in names if name in tensors), None)
        if saved is not None:
            tensors |= dict.fromkeys(names, tensors[saved])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise StateError(f"{file} does not fit the model: {error}") from error


def tied_names(state: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each tensor in a state, which are several where weights are tied."""
    names_by_place: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        view = tensor.dtype, tensor.shape, tensor.stride()
        # Empty tensors have no place of their own.
        place = tensor.data_ptr() or name
        names_by_place.setdefault((tensor.device, place, view), []).append(name)
    return list(names_by_place.values())


def save_optimizer(opt: Optimizer, file: Path) -> None:
    """Write the state of an optimizer; the file is written in place."""
    torch.save(opt.state_dict(), file)


def load_optimizer(opt: Optimizer, file: Path) -> None:
    """Fill an optimizer with a saved state; loading it runs no code.

    Raises:
        StateError: The file is not of an optimizer like this one.
    """
    state = read_plain(file)
    try:
        opt.load_state_dict(state)
    except ValueError as error:
        raise StateError(f"{file} does not fit the optimizer: {error}") from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of ``file`` once it is complete.

    However the writing ends, ``file`` is either what it was before or the new one,
    whole and on the disk.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.touch()
    permissions = fresh.stat().st_mode
    try:
        yield fresh
        # safetensors makes files that only their owner may read.
        fresh.chmod(permissions)
        _flush(fresh)
        os.replace(fresh, file)
        _flush(file.parent)
    finally:
        fresh.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders, and keeps their names by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SaveModelCallback(TrackerCallback):
    """Saves the weights of the best epoch, of every epoch, or of the end.

    By default the weights of the best epoch: they are saved whenever the result is a
    new best, and loaded back when the fit is over.

    Args:
        monitor: Name of the result that says which epoch is best.
        comp: ``"min"`` where lower is better, ``"max"`` where higher is; or
            ``numpy.less``, ``numpy.greater``. Default: as the plugin that measures it
            says; where none does, it must be given.
        min_delta: By how much a value must be better to be a new best, from 0 on.
        fname: Name of the file in the folder ``models`` of the Learner's ``path``,
            without ending; it may begin with sub-folders.
        every_epoch: Instead of the best, save every epoch (True) or every so many
            epochs, each to a file of its own: ``model_0``, ``model_5``.
        at_end: Instead of the best, save what the end of the fit leaves.
        with_opt: Save and load the state of the optimizer too.
        reset_on_fit: Forget the best when a fit starts at epoch 0.

    Attributes:
        last_saved_path: The file saved last, None before the first.
    """

    name = "save-model"
    role = "modify"

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Comparison = None,
        min_delta: float = 0.0,
        fname: str = "model",
        every_epoch: bool | int = False,
        at_end: bool = False,
        with_opt: bool = False,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        if not isinstance(every_epoch, int) or every_epoch < 0:
            raise OptionError(
                f"{self.name}: every_epoch must be True, False or a number of epochs, "
                f"got {every_epoch!r}. Use 5 to save every fifth epoch."
            )
        if every_epoch and at_end:
            raise OptionError(
                f"{self.name}: every_epoch and at_end were both given; choose one. To "
                "have both, add a second SaveModelCallback with another fname."
            )
        self.fname = self._checked_name(fname)
        self.every_epoch = int(every_epoch)
        self.at_end = at_end
        self.with_opt = with_opt
        self.last_saved_path: Path | None = None
        self._last_saved: str | None = None
        self._is_in_epoch = False

    def _checked_name(self, fname: str) -> str:
        stem = str(fname).removesuffix(SUFFIX)
        path = Path(stem)
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise OptionError(
                f"{self.name}: fname must name a file inside the folder {FOLDER!r} of "
                f"the Learner's path, got {fname!r}. Sub-folders are fine (run1/best); "
                "to save elsewhere give Learner(path=...)."
            )
        return stem

    @property
    def keeps_best(self) -> bool:
        """Whether it is the best epoch that is saved."""
        return not self.every_epoch and not self.at_end

    def before_fit(self) -> None:
        """Refuse what cannot be saved, while no epoch has been paid for yet."""
        if self.keeps_best:
            super().before_fit()
        self._check_name_is_free()
        self._check_folder()
        self._check_tensors()

    def before_epoch(self) -> None:
        """Note that an epoch is to be seen to."""
        self._is_in_epoch = True

    def after_epoch(self) -> None:
        """Save a new best, or the epoch whose turn it is."""
        self._is_in_epoch, epoch = False, self.learn.epoch
        if self.keeps_best:
            super().after_epoch()
            if self.new_best:
                self.save(self.fname)
        elif self.every_epoch and epoch % self.every_epoch == 0:
            self.save(f"{self.fname}_{epoch}")

    def after_cancel_fit(self) -> None:
        """See to the last epoch where a cancel in after_epoch hid that event."""
        if self._is_in_epoch and self.monitor in self.learn.results:
            self.after_epoch()

    def after_fit(self) -> None:
        """Save what the end leaves, or load the best epoch back."""
        if self.at_end:
            self.save(self.fname)
        elif self.keeps_best and self.best is not None:
            self.load(self.fname)

    def teardown(self) -> None:
        """Leave no epoch open, however the fit ended."""
        self._is_in_epoch = False

    def save(self, stem: str) -> Path:
        """Save the model, and the optimizer where asked to; returns the file."""
        weights, optimizer = self._files(stem)
        weights.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"epoch": str(self.learn.epoch)}
        # Both are written before either takes its place.
        with replacing(weights) as fresh:
            save_weights(self.learn.model, fresh, metadata)
            if self.with_opt:
                with replacing(optimizer) as fresh_optimizer:
                    save_optimizer(self.learn.opt, fresh_optimizer)
        self._last_saved, self.last_saved_path = stem, weights
        return weights

    def load(self, stem: str) -> None:
        """Load what ``save`` saved, into the same model and optimizer.

        Raises:
            StateError: The file is gone, or it does not fit.
        """
        weights, optimizer = self._files(stem)
        if not weights.exists():
            raise StateError(
                f"{self.name}: {weights} with the weights of epoch {self.best_epoch} "
                "is gone; the model keeps those of the last epoch."
            )
        load_weights(self.learn.model, weights)
        if self.with_opt:
            load_optimizer(self.learn.opt, optimizer)

    def _files(self, stem: str) -> tuple[Path, Path]:
        folder = self.learn.path / FOLDER
        return folder / f"{stem}{SUFFIX}", folder / f"{stem}{OPTIMIZER_SUFFIX}"

    def _check_name_is_free(self) -> None:
        for other in self.learn.cbs[SaveModelCallback]:
            is_same_file = other.fname == self.fname
            if other is not self and is_same_file and self._kind() == other._kind():
                raise OptionError(
                    f"{self.name}: two of them save to {self.fname!r}; give each a "
                    "fname of its own."
                )

    def _kind(self) -> str:
        return "epochs" if self.every_epoch else "one"

    def _check_folder(self) -> None:
        folder = self._files(self.fname)[0].parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OptionError(
                f"{self.name}: nothing can be written into {folder} ({error}). Give "
                "Learner(path=...) a folder that can be."
            ) from error

    def _check_tensors(self) -> None:
        for key, value in self.learn.model.state_dict().items():
            if not isinstance(value, Tensor):
                raise OptionError(
                    f"{self.name}: {key!r} in the state of the model is no tensor but "
                    f"{type(value).__name__}, which the file format cannot hold. Let "
                    "get_extra_state return a tensor."
                )

    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch, and the name of the file saved last.

        Not its path: whoever goes on with the run may do so in another folder.
        """
        return {**super().state_dict(), "last_saved": self._last_saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        super().load_state_dict(state)
        stem = self._last_saved = state["last_saved"]
        self.last_saved_path = None if stem is None else self._files(stem)[0]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the saving of models out."""
    from callboard.testing import Specimen

    return {"save-model": Specimen(companions=["recorder"], is_slow=True)}
