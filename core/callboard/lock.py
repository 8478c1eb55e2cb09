"""What a run was made of: its active plugins, and the libraries around them.

A lock is plain data: name, distribution, version, role and options of every active
plugin, in running order. The environment is what else decides the last bit of a result.
Both stand in every saved state, so that a resumed run can say what is not as it was.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from callboard import __version__
from callboard.options import options_of

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.learner import Learner

Lock = list[dict[str, Any]]
PLAIN = (str, int, float, bool, type(None))


def lock_of(learner: Learner) -> Lock:
    """Every active plugin in running order: plain data."""
    return [_entry(member) for member in learner._board.members.values()]


def _entry(member: ActivePlugin) -> dict[str, Any]:
    distribution, version = member.origin
    return {
        "key": member.key,
        "name": member.name,
        "distribution": distribution,
        "version": version,
        "role": member.role,
        "options": _options(member.plugin),
    }


def _options(plugin: object) -> dict[str, Any]:
    """The options that a plugin keeps under their own names, where they are plain."""
    if isinstance(plugin, ModuleType) or not hasattr(plugin, "__dict__"):
        return {}
    values = vars(plugin)
    names = [option.name for option in options_of(type(plugin))]
    return {name: values[name] for name in names if _is_plain(values.get(name))}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is not None and isinstance(value, PLAIN)


def environment(learner: Learner) -> dict[str, Any]:
    """What besides plugins, data and seed decides the last bit of a result."""
    return {
        "callboard": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": learner.device.type,
        "threads": torch.get_num_threads(),
        "processes": learner.world_size,
    }


def differences(then: Sequence[Mapping[str, Any]], now: Lock) -> list[str]:
    """What is not the same in two locks, a sentence each; none where all is.

    Args:
        then: The lock that was saved.
        now: That of the Learner as it is.
    """
    before = {entry["key"]: entry for entry in then}
    after = {entry["key"]: entry for entry in now}
    said = []
    for key, entry in before.items():
        if key not in after:
            said.append(
                f"{_title(entry)} was active then and is not now: install and name it, "
                "or go on without its state."
            )
    for key, entry in after.items():
        if key not in before:
            said.append(
                f"{_title(entry)} is active now and was not then: it starts anew; "
                f"--without {entry['name']} leaves it out."
            )
        else:
            said += _changes(before[key], entry)
    order = [key for key in before if key in after]
    if order != [key for key in after if key in before]:
        said.append(f"The plugins ran in another order then: {', '.join(order)}.")
    return said


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = []
    origin = (then["distribution"], then["version"])
    if origin != (now["distribution"], now["version"]):
        said.append(
            f"{now['key']} is of {now['distribution']} {now['version']} now, and was "
            f"of {then['distribution']} {then['version']} then: install that version "
            "to go on exactly."
        )
    for name in sorted({*then["options"], *now["options"]}):
        old, new = then["options"].get(name), now["options"].get(name)
        if _as_in_a_file(old) != _as_in_a_file(new):
            said.append(f"{now['key']}: {name} is {new!r} now and was {old!r} then.")
    return said


def _as_in_a_file(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def environment_differences(
    then: Mapping[str, Any], now: Mapping[str, Any]
) -> list[str]:
    """Which parts of the environment are not the same, a sentence each."""
    then = {"processes": 1, **then}  # not said by states of before there were many
    return [
        f"{name} is {now.get(name)} now and was {then.get(name)} then: the last bits "
        "of the results may differ."
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def _title(entry: Mapping[str, Any]) -> str:
    origin = " ".join(
        part for part in (entry["distribution"], entry["version"]) if part
    )
    return f"{entry['key']} ({origin})"
