"""Going on with a run from a saved state, as if it had never ended.

A plugin may set itself up in ``before_fit``, ``before_epoch`` and ``before_train``, and
so undo what it was just given back. The state is therefore restored before
``before_fit``, where a plugin can see it (a log opens its file where it left it), once
more behind it, and, where the run ended inside an epoch, again before the first batch
that is still to do. Those that are done are not loaded where the loader is one that
finds samples by index.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from callboard import lock
from callboard.data import num_batches
from callboard.errors import CallboardWarning, OptionError, StateError
from callboard.saved import check_shape, restore

if TYPE_CHECKING:
    from callboard.learner import Learner

Policy = Literal["strict", "warn", "ignore"]
POLICIES = ("strict", "warn", "ignore")
State = Mapping[str, Any]


@dataclass(frozen=True)
class Resume:
    """A state that a fit goes on from.

    Attributes:
        saved: What ``Learner.state_dict`` returned.
        policy: What to do where plugins, options or libraries are not as they were.
    """

    saved: State
    policy: Policy = "warn"

    @property
    def fit_number(self) -> int:
        """Which fit of the Learner it was, from 1."""
        return int(self.saved["loop"]["fit_number"])

    @property
    def epoch(self) -> int:
        """The epoch to go on in."""
        return int(self.saved["loop"]["next"][0])

    @property
    def batch(self) -> int:
        """How many training batches of that epoch are done."""
        return int(self.saved["loop"]["next"][1])

    def restore(self, learner: Learner, *, is_early: bool = False) -> None:
        """Put everything where it was; early is before ``before_fit``."""
        loop, n_epoch = self.saved["loop"], learner.n_epoch
        restore(learner, self._for(learner), is_early=is_early)
        if learner.opt is None:  # it was saved before any fit
            learner.create_opt()
            learner._fit_number = 1
        learner.epoch, learner.n_epoch = self.epoch, n_epoch
        learner._is_epoch_over = False
        # Whoever gives it more epochs wants a stopped run to go on.
        is_same_length = loop["n_epoch"] == n_epoch
        learner.stop_reason = loop["stop_reason"] if is_same_length else None
        if learner.stop_reason is not None and self.epoch and not self.batch:
            # There is no next epoch: the run ended with the one that is done.
            learner.epoch, learner._is_epoch_over = self.epoch - 1, True
        learner.results = dict(loop["results"])
        if loop["n_iter"] is not None:
            # One that is neither hashable nor weakly referenced stays unknown.
            with suppress(TypeError):
                learner._known_lengths.setdefault(learner.dls.train, loop["n_iter"])

    def _for(self, learner: Learner) -> State:
        """The state without those plugins that are not there any more."""
        members = learner._board.members
        plugins = {k: v for k, v in self.saved["plugins"].items() if k in members}
        return {**self.saved, "plugins": plugins}


def as_resume(learner: Learner, given: Any, policy: Policy) -> Resume | None:
    """What to go on from: a state, or where one lies.

    Args:
        learner: The Learner that goes on.
        given: What ``state_dict`` returned; or a path or ``"auto"``, for the installed
            method ``read_checkpoint`` to read.
        policy: ``"strict"``, ``"warn"`` or ``"ignore"``.

    Returns:
        None where ``"auto"`` finds nothing: the run starts from its beginning.

    Raises:
        OptionError: It is none of these.
        StateError: It is no state that a run can go on from.
    """
    if policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise OptionError(f"resume_policy must be one of {known}, got {policy!r}.")
    if isinstance(given, str | Path):
        given = learner.read_checkpoint(given)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise OptionError(
            'resume must be "auto", the path of a checkpoint or what state_dict '
            f"returned, got {type(given).__name__}."
        )
    check_shape(given)
    return Resume(given, policy)


def check(learner: Learner, resume: Resume) -> None:
    """Say what is not as it was when the state was saved.

    Raises:
        StateError: Something is not, and the policy is ``"strict"``; or the run cannot
            go on at all.
    """
    loop, saved = resume.saved["loop"], resume.saved
    if resume.epoch > learner.n_epoch:
        raise StateError(
            f"The saved run has done {resume.epoch} epochs, and this fit has "
            f"{learner.n_epoch}: give as many epochs in all as the run shall have."
        )
    said = lock.differences(saved["lock"], lock.lock_of(learner))
    said += lock.environment_differences(
        saved["environment"], lock.environment(learner)
    )
    if loop["n_epoch"] != learner.n_epoch:
        said.append(
            f"The run was to have {loop['n_epoch']} epochs and now has "
            f"{learner.n_epoch}: schedules that hang on it change."
        )
    length = num_batches(learner.dls.train)
    if None not in (length, loop["n_iter"]) and length != loop["n_iter"]:
        said.append(
            f"An epoch had {loop['n_iter']} batches and now has {length}: the data or "
            "the batch size is not the same."
        )
    if said and resume.policy == "strict":
        raise StateError(
            "This is not the run that was saved:\n  " + "\n  ".join(said) + "\n"
            'resume_policy="warn" goes on all the same.'
        )
    if said and resume.policy == "warn":
        listed = "\n  ".join(said)
        warnings.warn(
            f"The run goes on, but not exactly as it was:\n  {listed}",
            CallboardWarning,
            stacklevel=2,
        )
