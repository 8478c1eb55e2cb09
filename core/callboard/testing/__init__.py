"""The kit for testing plugins, and the conformance suite that all of them pass.

    from callboard.testing import assert_same_run, cancel_at, tiny_learner

    def test_training_goes_on_after_a_cancelled_batch():
        learner = tiny_learner(cbs=[MyCallback(), cancel_at("after_loss")])
        learner.fit(2)

``callboard plugins check NAME`` and ``pytest --callboard NAME`` try an installed plugin
out against every rule of the suite; ``Specimen`` says what it needs for that. Names are
imported when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callboard.testing.comparing import assert_same_run
    from callboard.testing.conformance import RULES, Finding, Report, check_plugin
    from callboard.testing.counting import StepCost, cost_of, cost_per_step
    from callboard.testing.faults import InjectedError, cancel_at, kill_at, raise_at
    from callboard.testing.learners import KINDS, tiny_learner
    from callboard.testing.recording import record_events
    from callboard.testing.sites import Site
    from callboard.testing.specimens import Specimen

_HOMES = {
    "KINDS": "learners",
    "RULES": "conformance",
    "Finding": "conformance",
    "InjectedError": "faults",
    "Report": "conformance",
    "Site": "sites",
    "Specimen": "specimens",
    "StepCost": "counting",
    "assert_same_run": "comparing",
    "cancel_at": "faults",
    "check_plugin": "conformance",
    "cost_of": "counting",
    "cost_per_step": "counting",
    "kill_at": "faults",
    "raise_at": "faults",
    "record_events": "recording",
    "tiny_learner": "learners",
}

__all__ = [
    "KINDS",
    "RULES",
    "Finding",
    "InjectedError",
    "Report",
    "Site",
    "Specimen",
    "StepCost",
    "assert_same_run",
    "cancel_at",
    "check_plugin",
    "cost_of",
    "cost_per_step",
    "kill_at",
    "raise_at",
    "record_events",
    "tiny_learner",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        message = f"module 'callboard.testing' has no attribute {name!r}"
        raise AttributeError(message, name=name) from None
    return getattr(import_module(f"callboard.testing.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
