"""A rule of the suite, and what checking it has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from callboard.discovery import InstalledPlugin
from callboard.testing.conformance.subject import Subject, said
from callboard.testing.counting import StepCost
from callboard.testing.limiting import TimeoutReachedError, limited

CALLBACKS = ("plugin", "callback")
RUNNABLE = (*CALLBACKS, "method")
EVERY_KIND = (*RUNNABLE, "command", "adapter")


@dataclass(frozen=True)
class Rule:
    """Something that every plugin of some kinds keeps.

    Attributes:
        name: What it is called, in reports and in ``Specimen.exempt``.
        expected: What is expected of the plugin, a sentence.
        mend: What its author can do, a sentence.
        kinds: Whom it concerns.
        check: Tries a plugin out; gives a sentence for everything that went wrong.
        is_basic: Whether nothing further can be tried where it is broken.
        is_limited: Whether it is cut short after ``Subject.timeout``. One that waits
            for a process limits what the plugin does there, not the process's start.
    """

    name: str
    expected: str
    mend: str
    kinds: tuple[str, ...]
    check: Callable[[Subject], Iterator[str]]
    is_basic: bool = False
    is_limited: bool = True

    def findings(self, subject: Subject) -> list[Finding]:
        """What is wrong with a plugin by this rule."""
        with subject.undisturbed():
            happened = list(dict.fromkeys(self._found_in_time(subject)))
        return [Finding(self.name, self.expected, what, self.mend) for what in happened]

    def _found_in_time(self, subject: Subject) -> Iterator[str]:
        if not self.is_limited:
            yield from self._found(subject)
            return
        try:
            with limited(subject.timeout, subject.code):
                yield from self._found(subject)
        except TimeoutReachedError as error:
            subject.is_stuck = True
            yield str(error)

    def _found(self, subject: Subject) -> Iterator[str]:
        try:
            yield from self.check(subject)
        except SystemExit as error:
            # Nobody would hear of it: it would end the check, and with its status.
            yield f"it ended the process: SystemExit({error.code!r})."
        except Exception as error:
            # It did so where the rule expects nothing of the kind: the second time.
            yield f"it raised {said(error)}"


Check = Callable[[Subject], Iterator[str]]


def rule(
    name: str,
    *,
    expected: str,
    mend: str,
    kinds: tuple[str, ...] = CALLBACKS,
    is_basic: bool = False,
    is_limited: bool = True,
) -> Callable[[Check], Rule]:
    """Make a rule of a function that tries a plugin out."""

    def made(check: Check) -> Rule:
        return Rule(name, expected, mend, kinds, check, is_basic, is_limited)

    return made


@dataclass(frozen=True)
class Finding:
    """A rule that a plugin breaks.

    Attributes:
        rule: Name of the rule.
        expected: What was expected.
        happened: What happened instead.
        mend: How to mend it.
    """

    rule: str
    expected: str
    happened: str
    mend: str

    def __str__(self) -> str:
        return (
            f"{self.rule}\n"
            f"  expected: {self.expected}\n"
            f"  happened: {self.happened}\n"
            f"  to mend:  {self.mend}"
        )


@dataclass
class Report:
    """What the suite has found about one plugin.

    Attributes:
        plugin: The plugin.
        findings: The rules that it breaks, and how.
        kept: Names of the rules that it keeps.
        exempt: Name of a rule that it does not have to keep -> why not.
        untried: Names of the rules that could not be tried, since others are broken.
        notes: What its author may have meant otherwise.
        cost: What a training step costs more because of it, where it takes part in one.
    """

    plugin: InstalledPlugin
    findings: list[Finding] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    exempt: dict[str, str] = field(default_factory=dict)
    untried: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost: StepCost | None = None

    @property
    def is_good(self) -> bool:
        """Whether it breaks no rule."""
        return not self.findings
