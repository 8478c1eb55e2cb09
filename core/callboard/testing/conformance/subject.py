"""A plugin that is being tried out: made, put into tiny Learners, and run."""

from __future__ import annotations

import copy
import io
import os
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from callboard import Callback, DataLoaders, Learner
from callboard.activation import ActivePlugin, member_of
from callboard.configuration import CommandLine, command_line
from callboard.discovery import InstalledPlugin
from callboard.errors import BrokenPluginError, CallboardError
from callboard.faults import PLACE
from callboard.options import Option, options_of, parameters_of
from callboard.testing.comparing import MEASURED, differences
from callboard.testing.learners import tiny_learner
from callboard.testing.limiting import TIMEOUT, folder_of
from callboard.testing.specimens import HOOK, Specimen, specimen_of

Moment = TypeVar("Moment")
NUM_EPOCHS = 2
# Odd, since mishaps come in pairs: before the plugin's turn and behind it.
SLOW_ONE_IN = 7
# What decides which plugins take part must not be what this machine happens to say.
SWITCHES = ("CALLBOARD_DISABLE", "CALLBOARD_AUTOLOAD")


@dataclass
class Subject:
    """A plugin that is being tried out.

    Attributes:
        installed: Its entry point.
        folder: Where everything that is tried puts its files.
        one_in: Of so many mishaps and checkpoints one is tried; 1 for all.
        timeout: Seconds that a rule may take.
        is_stuck: Whether it took longer, so that no further rule is tried.
        notes: What rules have noticed and do not call wrong.
        left_at_first: What its first fit left that was not so before, in words.
        spare: A Learner that is where it started, its state then, and what it found.
    """

    installed: InstalledPlugin
    folder: Path
    one_in: int = 1
    timeout: float = TIMEOUT
    is_stuck: bool = False
    notes: list[str] = field(default_factory=list)
    left_at_first: list[str] = field(default_factory=list)
    spare: tuple[Learner, Mapping[str, Any], dict[str, Any]] | None = None

    @cached_property
    def specimen(self) -> Specimen:
        """What its author says that it needs."""
        return specimen_of(self.installed)

    def sample(self, moments: Iterable[Moment]) -> list[Moment]:
        """Those of many moments that are tried."""
        is_slow = self.specimen.is_slow
        return list(moments)[:: max(self.one_in, SLOW_ONE_IN if is_slow else 1)]

    @cached_property
    def missing(self) -> list[str]:
        """What it needs to be tried and is not installed."""
        return [name for name in self.specimen.needs if find_spec(name) is None]

    @cached_property
    def code(self) -> str | None:
        """The file or folder with its code, where it can be imported."""
        try:
            return folder_of(self.installed.load())
        except CallboardError:
            return None

    @cached_property
    def member(self) -> ActivePlugin:
        """One instance as it would take part, to read what it declares."""
        return member_of(self.instance(), "tried", self.installed)

    @property
    def name(self) -> str:
        """What users write."""
        return self.installed.name

    @cached_property
    def companions(self) -> list[str]:
        """Names of plugins that take part too: those that it asks for, or requires."""
        asked = list(self.specimen.companions)
        required = () if self.is_method else self.member.targets("requires")
        return asked + [n for n in required if isinstance(n, str) and n not in asked]

    @property
    def role(self) -> str:
        """What it may do; a method may do anything."""
        return "modify" if self.is_method else self.member.role

    @property
    def is_method(self) -> bool:
        """Whether it is called on a Learner, and no part of one."""
        return self.installed.kind == "method"

    @property
    def is_module(self) -> bool:
        """Whether it is a module with hookimpls, of which there is only one."""
        return isinstance(self.installed.load(), ModuleType)

    def instance(self) -> Any:
        """A new instance; a module is always the same.

        Raises:
            BrokenPluginError: It needs options, and nobody has said which.
        """
        loaded: Any = self.installed.load()
        if self.specimen.make is not None:
            return self.specimen.make()
        if not isinstance(loaded, type):
            return loaded
        needed = [str(option) for option in options_of(loaded) if option.is_required]
        if needed:
            raise BrokenPluginError(
                f"{self.name} cannot be made without {'; '.join(needed)}."
            )
        return loaded()

    def learner(
        self,
        *cbs: Any,
        with_it: bool = True,
        kind: str = "",
        valid: bool = True,
        is_labelled: bool = True,
        folder: str = "run",
    ) -> Learner:
        """A new Learner with the plugin, in a folder that is empty.

        Args:
            cbs: Callbacks besides the plugin and its companions.
            with_it: Whether the plugin takes part.
            kind: What is learned, where it is not what the specimen says.
            valid: Whether there is validation data.
            is_labelled: Whether batches keep their labels.
            folder: Name of the Learner's folder.
        """
        path = self.folder / folder
        shutil.rmtree(path, ignore_errors=True)
        own = [self.instance()] if with_it and not self.is_method else []
        together = [*self.companions, *own, *cbs]
        wanted = kind or self.specimen.learner
        if isinstance(wanted, str):
            learner = tiny_learner(wanted, cbs=together, path=path, valid=valid)
        else:
            learner = wanted(cbs=together, path=path)
            if not valid:
                learner.dls.valid = None
        if not is_labelled:
            learner.dls = _without_labels(learner.dls)
        return learner

    def run(self, learner: Learner) -> Learner:
        """Do with a Learner what the specimen says, or what is usual."""
        if self.specimen.run is not None:
            self.specimen.run(learner)
        elif self.is_method:
            self._call_method(learner)
        else:
            learner.fit(NUM_EPOCHS)
        return learner

    def _call_method(self, learner: Learner) -> None:
        method: Any = self.installed.load()
        method(learner, *(NUM_EPOCHS for _ in self.needed_arguments))

    @property
    def needed_arguments(self) -> tuple[Option, ...]:
        """What a method asks for besides the Learner."""
        method: Any = self.installed.load()
        found = parameters_of(method, skip_first=True)
        return tuple(option for option in found if option.is_required)

    @property
    def is_callable_by_guess(self) -> bool:
        """Whether a method asks for nothing but whole numbers."""
        whole_number = (int, "int")  # text where an annotation cannot be evaluated
        return all(
            option.annotation in whole_number for option in self.needed_arguments
        )

    @cached_property
    def outcome(self) -> dict[str, Any]:
        """The state after a run with the plugin."""
        return self.run(self.learner()).state_dict()

    @cached_property
    def plain_outcome(self) -> dict[str, Any]:
        """The state after the same run without the plugin."""
        return self.run(self.learner(with_it=False)).state_dict()

    @cached_property
    def can_be_repeated(self) -> bool:
        """Whether a Learner that is put back to its start trains the same again.

        What rules about mishaps rest on; one about it stands for itself.
        """
        learner = self.learner()
        start = copy.deepcopy(learner.state_dict())
        self.run(learner)
        learner.load_state_dict(start)
        self.run(learner)
        return self.difference(learner, self.outcome) is None

    def difference(
        self,
        run: Learner | Mapping[str, Any],
        other: Mapping[str, Any],
        *,
        plugins: bool = True,
    ) -> str | None:
        """Where two runs differ first, a sentence; None where they are the same."""
        ignored = (*MEASURED, *self.specimen.ignore)
        return next(differences(run, other, plugins=plugins, ignore=ignored), None)

    def problem_of(self, attempt: Callable[[], Learner]) -> str | None:
        """What goes wrong in an attempt, in words; None where nothing does."""
        try:
            learner = attempt()
        except Exception as error:
            return said(error)
        return failures_of(learner)

    def refusal_of(self, attempt: Callable[[], Learner]) -> str | None:
        """As ``problem_of``, but for what the plugin refuses in so many words."""
        try:
            learner = attempt()
        except CallboardError as error:
            return None if self._is_own(error) else said(error)
        except Exception as error:
            return said(error)
        return failures_of(learner)

    def _is_own(self, error: CallboardError) -> bool:
        if self.is_method:
            return True
        places = [n for n in getattr(error, "__notes__", ()) if n.startswith(PLACE)]
        own = (self.name, f"{self.name}-2", *self.companions)
        of_ours = tuple(f"{PLACE}plugin {name} " for name in own)
        return not places or any(place.startswith(of_ours) for place in places)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Nothing outside decides what happens here, and nothing here shows outside."""
        before = {name: os.environ.get(name) for name in SWITCHES}
        cwd = os.getcwd()
        os.environ.pop("CALLBOARD_DISABLE", None)
        os.environ["CALLBOARD_AUTOLOAD"] = "0"
        os.chdir(self.folder)
        quiet, self.spare = io.StringIO(), None
        try:
            with (
                command_line(CommandLine()),
                warnings.catch_warnings(),
                redirect_stdout(quiet),
                redirect_stderr(quiet),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            os.chdir(cwd)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def prepared(
    installed: InstalledPlugin, one_in: int = 1, timeout: float = TIMEOUT
) -> Iterator[Subject]:
    """A plugin to try out, in a folder that is removed in the end.

    Args:
        installed: Its entry point.
        one_in: Of so many mishaps one is tried.
        timeout: Seconds that a rule may take.
    """
    with tempfile.TemporaryDirectory(
        prefix="callboard-", ignore_cleanup_errors=True
    ) as folder:
        # Resolved, since a plugin may resolve its own paths and keep them in its state.
        yield Subject(installed, Path(folder).resolve(), one_in, timeout)


def failures_of(learner: Learner) -> str | None:
    """What became of observers that failed, in words; None where none did."""
    for failure in learner.record.failures:
        where = f"epoch {failure.epoch}, batch {failure.batch}"
        return (
            f"the observer {failure.plugin} failed in {failure.event} ({where}) and "
            f"was switched off: {failure.error}."
        )
    return None


def said(error: BaseException) -> str:
    """An error in one line: type, message, place in the loop and in the source."""
    text = " ".join(str(error).split())
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(PLACE)]
    place = f", {notes[0].removeprefix('callboard: ')}" if notes else ""
    frames = traceback.extract_tb(error.__traceback__)
    line = ""
    if frames:
        line = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {text}{line}{place}."


def how_to_say(name: str, argument: str) -> str:
    """What to write into a plugin's module so that the suite can try it."""
    return (
        f"write into its module: def {HOOK}(): from callboard.testing import "
        f'Specimen; return {{"{name}": Specimen({argument})}}'
    )


def _without_labels(dls: DataLoaders) -> DataLoaders:
    loaders = [None if loader is None else _inputs_of(loader) for loader in dls]
    train, valid = loaders
    assert train is not None
    return DataLoaders(train, valid)


def _inputs_of(loader: Any) -> list[tuple[Any, ...]]:
    return [tuple(batch[:-1]) for batch in loader]


def is_callback(plugin: object) -> bool:
    """Whether a plugin is a callback, and no module or object with hookimpls."""
    return isinstance(plugin, Callback)
