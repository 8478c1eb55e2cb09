"""A Learner's way into a pickle or a deep copy, and back.

What goes along: model, optimizer, data, plugins with their state, the position and the
plugins' random streams. What does not: the batch and the graph that a fit is in, and
the board, which the copy makes anew from its own plugins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from callboard import membership
from callboard.state import RandomStream

if TYPE_CHECKING:
    from callboard.learner import Learner

# What the copy has of its own from the start.
MADE_ANEW = (
    *("_board", "_known_lengths", "_keyed_twins", "_switches_before"),
    *("_processes", "plan"),
)
AT_REST: Mapping[str, Any] = {
    "dl": None,
    "xb": (),
    "yb": (),
    "pred": None,
    "_loss_grad": None,
    "_evaluated_dl": None,
    "_resume": None,
    "_depth": 0,
    "stage": "fit",
}


def portable_state(learner: Learner) -> dict[str, Any]:
    """All of a Learner that can be copied, as it would be between two fits."""
    state = {key: v for key, v in vars(learner).items() if key not in MADE_ANEW}
    state |= AT_REST
    if isinstance(learner.loss, Tensor):
        state["loss"] = learner.loss.detach()
    state["_streams"] = {key: s.get_state() for key, s in learner._streams.items()}
    state["members"] = list(learner._board.members.values())
    return state


def revive(learner: Learner, state: Mapping[str, Any]) -> None:
    """Make a Learner of what ``portable_state`` returned; no event is fired."""
    own = {key: value for key, value in state.items() if key != "members"}
    vars(learner).update(own)
    learner._streams = {}
    for key, stream_state in state["_streams"].items():
        learner._streams[key] = RandomStream()
        learner._streams[key].set_state(stream_state)
    learner._make_board()
    membership.set_members(learner, state["members"])
