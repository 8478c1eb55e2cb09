"""The saved state of a Learner: what ``state_dict`` returns, and the way back.

Plain data and tensors: model, optimizer, loss, the position in the run, the state and
random stream of every plugin, and what the run was made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from callboard.data import streams_held
from callboard.errors import StateError
from callboard.keyed import keeps_its_place
from callboard.lock import environment, lock_of
from callboard.state import RandomStream, derive_seed
from callboard.streams import put_at, states_of

if TYPE_CHECKING:
    from callboard.learner import Learner

STATE_VERSION = 1
# The parts of a state and what each is; of a tuple any one.
SHAPE: dict[str, Any] = {
    "model": Mapping,
    "frozen": Sequence,
    "loss_func": Mapping,
    "opt": (Mapping, type(None)),
    "loop": Mapping,
    "plugins": Mapping,
    "streams": Mapping,
    "held_streams": Mapping,
    "lock": Sequence,
    "environment": Mapping,
}
POSITION: dict[str, Any] = {
    **dict.fromkeys(("seed", "fit_number", "epoch", "iter", "train_iter"), int),
    "pct_train": (int, float),
    "n_epoch": int,
    "next": Sequence,
    "n_iter": (int, type(None)),
    "stop_reason": (str, type(None)),
    "results": Mapping,
}
LOCKED: dict[str, Any] = {
    **dict.fromkeys(("key", "name", "distribution", "version"), str),
    "options": Mapping,
}


def state_of(learner: Learner, *, whole: bool = True) -> dict[str, Any]:
    """Model, optimizer, position and every plugin's state, as ``state_dict``."""
    plugins = {}
    for key, member in learner._board.members.items():
        own = member.plugin.state_dict() if _has_state(member.plugin) else {}
        if own:  # one without state need not be there when this comes back
            plugins[key] = own
    return {
        "version": STATE_VERSION,
        "model": learner.processes.model_state(learner, whole=whole),
        "frozen": [
            n for n, p in learner.model.named_parameters() if not p.requires_grad
        ],
        "loss_func": _state_of_loss(learner),
        "opt": _state_of_optimizer(learner, whole),
        "loop": {
            "seed": learner.seed,
            "fit_number": learner._fit_number,
            "epoch": learner.epoch,
            "iter": learner.iter,
            "train_iter": learner.train_iter,
            "pct_train": learner.pct_train,
            "n_epoch": learner.n_epoch,
            "next": list(learner.position),
            "n_iter": learner._num_train_batches(),
            "stop_reason": learner.stop_reason,
            "results": dict(learner.results),
        },
        "loader": _state_of_loader(learner),
        "plugins": plugins,
        "streams": {key: s.get_state() for key, s in learner._streams.items()},
        "held_streams": {
            holder: states_of(streams)
            for holder, streams in streams_held(learner).items()
            if streams
        },
        "lock": lock_of(learner),
        "environment": environment(learner),
    }


def _frozen_parameters(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if not p.requires_grad]


def _state_of_optimizer(learner: Learner, whole: bool) -> dict[str, Any] | None:
    if learner.opt is None:
        return None
    return learner.processes.optimizer_state(learner, whole=whole)


def _state_of_loss(learner: Learner) -> dict[str, Any]:
    loss_func = learner.loss_func
    return loss_func.state_dict() if isinstance(loss_func, nn.Module) else {}


def _state_of_loader(learner: Learner) -> Any:
    """Where the training loader is, if it tells and cannot be told from outside."""
    loader: Any = learner.dls.train
    if learner.position[1] and keeps_its_place(loader):
        return loader.state_dict()
    return None


def check_shape(state: Mapping[str, Any]) -> None:
    """Refuse what ``state_of`` cannot have returned, whoever has written it.

    Raises:
        StateError: It is of another version, or a part is missing or of another kind.
    """
    version = state.get("version")
    if version is None:
        raise StateError("This is no state of a Learner: it says no version.")
    if version != STATE_VERSION:
        raise StateError(
            f"This state is of version {version!r}; this Callboard reads version "
            f"{STATE_VERSION}."
        )
    _check_parts("", state, SHAPE)
    _check_parts("loop.", state["loop"], POSITION)
    if [type(number) for number in state["loop"]["next"]] != [int, int]:
        raise StateError("This is no state of a Learner: loop.next is no position.")
    for entry in state["lock"]:
        if not isinstance(entry, Mapping):
            raise StateError("This is no state of a Learner: its lock lists no plugin.")
        _check_parts("lock.", entry, LOCKED)


def _check_parts(
    prefix: str, held: Mapping[str, Any], shape: Mapping[str, Any]
) -> None:
    for name, kinds in shape.items():
        if name not in held:
            raise StateError(f"This is no state of a Learner: it lacks {prefix}{name}.")
        found = held[name]
        is_text = isinstance(found, str) and kinds is Sequence
        if is_text or not isinstance(found, kinds):
            raise StateError(
                f"This is no state of a Learner: {prefix}{name} is "
                f"{type(found).__name__}."
            )


def restore(
    learner: Learner, state: Mapping[str, Any], *, is_early: bool = False
) -> None:
    """Take back what ``state_of`` returned.

    Args:
        learner: What takes it.
        state: What ``state_of`` returned.
        is_early: It comes before ``before_fit``, where a plugin may make what its state
            goes into, and comes once more behind it.

    Raises:
        StateError: It is of another version, or a part does not fit.
    """
    check_shape(state)
    unknown = sorted(set(state["plugins"]) - set(learner._board.members))
    if unknown:
        raise StateError(
            f"The state holds plugins that are not active: {', '.join(unknown)}. "
            "Add them, or take them out of state['plugins']."
        )
    try:
        learner.processes.load_model_state(learner, state["model"])
    except RuntimeError as error:
        raise StateError(f"The model does not fit this state: {error}") from error
    frozen = set(state["frozen"])
    for name, parameter in learner.model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if isinstance(learner.loss_func, nn.Module):
        learner.loss_func.load_state_dict(state["loss_func"])
    if state["opt"] is None:
        learner.opt = None  # type: ignore[assignment]
    else:
        _restore_optimizer(learner, state["opt"])
    position = state["loop"]
    learner.seed, learner._fit_number = position["seed"], position["fit_number"]
    learner.epoch, learner.iter = position["epoch"], position["iter"]
    learner.train_iter = position["train_iter"]
    learner.pct_train, learner.n_epoch = position["pct_train"], position["n_epoch"]
    learner._is_epoch_over = position["next"][0] > learner.epoch
    learner._first_train_iter = learner.train_iter - position["next"][1]
    for key, plugin_state in state["plugins"].items():
        member = learner._board.members[key]
        try:
            member.plugin.load_state_dict(plugin_state)
        except Exception as error:
            if is_early and isinstance(error, AttributeError):
                continue
            error.add_note(f"callboard: in load_state_dict of {member.label}")
            raise
    _restore_held(learner, state["held_streams"])
    for key in {**learner._streams, **state["streams"]}:
        stream = learner._streams.setdefault(key, RandomStream())
        if key in state["streams"]:
            stream.set_state(state["streams"][key])
        else:  # nobody had drawn from it yet
            stream.manual_seed(derive_seed(learner.seed, "plugin", key))


def _restore_held(learner: Learner, states: Mapping[str, Any]) -> None:
    held = streams_held(learner)
    for holder, there in states.items():
        streams = held.get(holder, [])
        if len(streams) != len(there):  # it is another one now
            continue
        try:
            put_at(streams, there)
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise StateError(
                f"The random streams that {holder} holds do not fit this state: {error}"
            ) from error


def _has_state(plugin: object) -> bool:
    return callable(getattr(plugin, "state_dict", None))


def _restore_optimizer(learner: Learner, state: dict[str, Any]) -> None:
    if learner.opt is None:
        learner.create_opt()
    try:
        learner.processes.load_optimizer_state(learner, state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"The optimizer does not fit this state: {error}") from error
