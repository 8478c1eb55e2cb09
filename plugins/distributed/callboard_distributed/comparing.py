"""Whether all processes are about to train the same; a difference is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from callboard.data import num_batches
from callboard.errors import CallboardError
from callboard.lock import environment, lock_of

if TYPE_CHECKING:
    from callboard import Learner

Description = dict[str, Any]


class DifferenceError(CallboardError):
    """The processes would not train the same."""


def refuse_differences(learner: Learner) -> None:
    """Compare this process with the others; all of them raise alike.

    Raises:
        DifferenceError: Plugins, their versions, options or order, the data's length,
            the model or the libraries differ.
    """
    described = learner.processes.gather(description(learner))
    for rank, other in enumerate(described[1:], 1):
        said = differences(described[0], other)
        if said:
            listed = "\n  ".join(said)
            raise DifferenceError(
                f"distributed: process {rank} would not train as process 0:\n  {listed}"
                "\nStart the same program, with the same packages, in all processes."
            )


def description(learner: Learner) -> Description:
    """What must be the same in all processes, as plain data by what it is."""
    described: Description = {
        "number of epochs": learner.n_epoch,
        "epoch to begin in": learner.epoch,
        "batches of training": num_batches(learner.dls.train),
        "batches of validation": num_batches(learner.dls.valid or ()),
        "optimizer": type(learner.opt).__name__,
    }
    for name, version in environment(learner).items():
        if name != "threads":
            described[name] = version
    members = {member.key: member for member in learner.cbs.members}
    for place, entry in enumerate(lock_of(learner)):
        key = entry["key"]
        described[f"plugin {key}"] = f"{entry['distribution']} {entry['version']}"
        described[f"place of the plugin {key}"] = place
        if members[key].ranks == "all":
            for option, value in entry["options"].items():
                described[f"option {option} of the plugin {key}"] = value
    for name, parameter in learner.model.named_parameters():
        shape = tuple(parameter.shape)
        trained = "" if parameter.requires_grad else ", frozen"
        described[f"parameter {name}"] = f"{shape} of {parameter.dtype}{trained}"
    return described


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What is not the same, a line each; at most ten.

    >>> differences({"plugin ema": "callboard-ema 0.1.0"}, {})
    ['plugin ema: callboard-ema 0.1.0 there in process 0, missing here']
    """
    said = []
    for what in {**first, **other}:
        if what not in other:
            said.append(f"{what}: {first[what]} there in process 0, missing here")
        elif what not in first:
            said.append(f"{what}: {other[what]} here, missing in process 0")
        elif first[what] != other[what]:
            said.append(f"{what}: {other[what]} here, {first[what]} in process 0")
    places = [line for line in said if line.startswith("place of")]
    if len(places) < len(said):  # what is missing moves the others
        said = [line for line in said if line not in places]
    return said[:10]
