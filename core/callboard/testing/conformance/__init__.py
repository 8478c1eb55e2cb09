"""The conformance suite: what every plugin keeps, whoever wrote it.

    report = check_plugin("mixup")
    for finding in report.findings:
        print(finding)

A rule tries an installed plugin out in tiny Learners and says what was expected, what
happened instead and how to mend it. ``callboard plugins check NAME`` and
``pytest --callboard NAME`` are two ways to ask for it.
"""

from __future__ import annotations

from callboard.testing.conformance.report import Finding, Report, Rule
from callboard.testing.conformance.subject import Subject, prepared
from callboard.testing.conformance.suite import (
    RULES,
    check_plugin,
    cost_of_a_step,
    rules_for,
    tried,
)

__all__ = [
    "RULES",
    "Finding",
    "Report",
    "Rule",
    "Subject",
    "check_plugin",
    "cost_of_a_step",
    "prepared",
    "rules_for",
    "tried",
]
