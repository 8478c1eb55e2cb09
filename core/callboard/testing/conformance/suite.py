"""The whole suite: every rule in turn, and what a step costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from callboard import discovery
from callboard.discovery import InstalledPlugin
from callboard.errors import UnknownPluginError, suggestion
from callboard.testing.conformance import (
    declaring,
    exchanging,
    respecting,
    running,
    surviving,
)
from callboard.testing.conformance.declaring import declared
from callboard.testing.conformance.report import CALLBACKS, Finding, Report, Rule
from callboard.testing.conformance.subject import Subject, prepared
from callboard.testing.counting import StepCost, cost_of_a_fit
from callboard.testing.limiting import TIMEOUT

#: Every rule, in the order in which they are tried.
RULES: tuple[Rule, ...] = (
    *declaring.RULES,
    *running.RULES,
    *respecting.RULES,
    *exchanging.RULES,
    *surviving.RULES,
)
# One read in 64 steps is what plugins may do that wait with it.
FEW_READS = 0.05


def check_plugin(
    name: str | InstalledPlugin,
    *kinds: str,
    one_in: int = 1,
    counts_cost: bool = True,
    timeout: float = TIMEOUT,
) -> Report:
    """Try an installed plugin out against every rule that concerns it.

    Args:
        name: Its name, or its entry point.
        kinds: Which of several of this name is meant: ``plugin``, ``callback``,
            ``method``, ``command`` or ``adapter``. Default: whichever there is.
        one_in: Of so many ways to be cut short one is tried; 1 for all.
        counts_cost: Whether to count what a step costs more because of it.
        timeout: Seconds that a rule may take; what takes longer, as where a plugin
            waits forever, is cut short and told, on POSIX systems.

    Raises:
        UnknownPluginError, DoubledPluginError: There is none, or more than one.
    """
    installed = discovery.find(name, *kinds) if isinstance(name, str) else name
    with prepared(installed, one_in, timeout) as subject:
        report = _checked(subject)
        if counts_cost and not report.untried and not subject.is_stuck:
            report.cost = cost_of_a_step(subject)
    report.notes += _doubts(report.cost)
    return report


def rules_for(installed: InstalledPlugin) -> Sequence[Rule]:
    """The rules that concern a plugin of its kind."""
    return [rule for rule in RULES if installed.kind in rule.kinds]


def rule_named(name: str) -> Rule:
    """The rule of this name.

    Raises:
        UnknownPluginError: There is none.
    """
    for rule in RULES:
        if rule.name == name:
            return rule
    names = [rule.name for rule in RULES]
    raise UnknownPluginError(f"there is no rule {name!r}.{suggestion(name, names)}")


def _checked(subject: Subject) -> Report:
    report = Report(subject.installed)
    for rule in rules_for(subject.installed):
        tried(rule, subject, report)
    if report.untried and not report.findings:
        missing = ", ".join(subject.missing)
        report.notes.append(f"It was not tried, since {missing} cannot be imported.")
    report.notes += dict.fromkeys(subject.notes)
    return report


def _doubts(cost: StepCost | None) -> Iterator[str]:
    if cost is not None and cost.host_reads > FEW_READS:
        yield (
            f"It reads {cost.host_reads:.2f} values of tensors a step; where these are "
            "on a GPU each read waits for it: keep tensors, and read many of them at "
            "once."
        )


def tried(rule: Rule, subject: Subject, report: Report) -> list[Finding]:
    """Try one rule out and enter into the report what came of it.

    A rule is not tried where one that it rests on is broken, and none once the plugin
    did not come back.
    """
    is_basis_broken = any(rule_named(f.rule).is_basic for f in report.findings)
    if (
        subject.is_stuck
        or is_basis_broken
        or (rule is not declared and subject.missing)
    ):
        report.untried.append(rule.name)
        return []
    # Before it can be imported, nobody knows what it is exempt from.
    if not rule.is_basic and rule.name in subject.specimen.exempt:
        report.exempt[rule.name] = subject.specimen.exempt[rule.name]
        return []
    findings = rule.findings(subject)
    report.findings += findings
    if not findings:
        report.kept.append(rule.name)
    return findings


def cost_of_a_step(subject: Subject) -> StepCost | None:
    """What a training step costs more because of a plugin.

    None for what has no part in a step, and for what leaves steps out.
    """
    if subject.installed.kind not in CALLBACKS:
        return None
    with subject.undisturbed():
        plain = cost_of_a_fit(lambda: subject.learner(with_it=False))
        cost = cost_of_a_fit(subject.learner) - plain
    return cost if cost.python_calls >= 0 else None
