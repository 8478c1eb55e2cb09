"""Rules about what a plugin says of itself, and what it takes to make one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from callboard.errors import CallboardError
from callboard.testing.conformance.imports import heavy_packages, imports_of
from callboard.testing.conformance.report import CALLBACKS, EVERY_KIND, rule
from callboard.testing.conformance.subject import Subject, how_to_say, said

# Of a module that brings nothing heavy; what users notice.
SLOW_SECONDS = 1.0


@rule(
    "declared",
    expected="its entry point leads to a plugin that is named as the entry point is, "
    "and whose hookimpls, role and constraints are those that Callboard knows.",
    mend="correct what the message names; `callboard events` lists the events and what "
    "each of them passes.",
    kinds=EVERY_KIND,
    is_basic=True,
)
def declared(subject: Subject) -> Iterator[str]:
    """Import it and look at what it declares."""
    from callboard.cli.check import report_on
    from callboard.configuration import Configuration

    report = report_on(subject.installed, Configuration(), subject.timeout)
    yield from report.faults
    subject.notes += report.doubts


@rule(
    "imports",
    expected="importing it imports nothing heavy and changes nothing: what it needs is "
    "imported, and what it does is done, where it is used.",
    mend="move what the message names into the function that needs it.",
    kinds=EVERY_KIND,
    is_limited=False,
)
def imports(subject: Subject) -> Iterator[str]:
    """Import it in a process of its own, and look at what that did."""
    module = subject.installed.module
    imported = imports_of([module], subject.timeout)[module]
    if imported.seconds is None:
        subject.is_stuck = True
        yield (
            f"importing {module} in a process of its own had not come back after "
            f"{subject.timeout:g} seconds."
        )
        return
    for package, count in heavy_packages(imported.brought, module).items():
        yield f"importing {module} imported {count} modules of {package}."
    for change in imported.changes:
        yield f"after importing {module}, {change}"
    if imported.seconds > SLOW_SECONDS:
        subject.notes.append(
            f"Importing {module} took {imported.seconds:.1f} s, in which everybody "
            "waits who names it."
        )


@rule(
    "made",
    expected="it can be made: without options, or as its module says.",
    mend="give every option a default, or say how to make one: write a function "
    "callboard_specimens into its module.",
    kinds=CALLBACKS,
    is_basic=True,
)
def made(subject: Subject) -> Iterator[str]:
    """Make one, and another one."""
    try:
        first, second = subject.instance(), subject.instance()
    except CallboardError as error:
        example = how_to_say(subject.name, "make=lambda: ...")
        yield f"{' '.join(str(error).split())} To say how, {example}."
        return
    except Exception as error:
        yield f"making it raised {said(error)}"
        return
    if first is second and not subject.is_module:
        yield "two that were made are one and the same object."


@rule(
    "callable",
    expected="it can be called: its module says how, or it asks for nothing but the "
    "Learner and whole numbers.",
    mend="say how it is called: write a function callboard_specimens into its module.",
    kinds=("method",),
    is_basic=True,
)
def can_be_called(subject: Subject) -> Iterator[str]:
    """Look at what the method asks for."""
    if subject.specimen.run is None and not subject.is_callable_by_guess:
        asks = ", ".join(str(option) for option in subject.needed_arguments)
        example = how_to_say(
            subject.name, f"run=lambda learner: learner.{subject.name}(...)"
        )
        yield f"nobody knows what to call it with: it asks for {asks}. {example}."


@rule(
    "helps",
    expected="`callboard NAME --help` says what the command does.",
    mend="give the command a docstring, and let nothing fail before its options are "
    "read.",
    kinds=("command",),
)
def helps(subject: Subject) -> Iterator[str]:
    """Ask the command for its help."""
    from click.testing import CliRunner

    command: Any = subject.installed.load()
    result = CliRunner().invoke(command, ["--help"])
    if result.exit_code:
        yield f"--help ended with {result.exit_code}: {result.output.strip()}"
    elif not command.help:
        yield "the help has no word about what the command does."


RULES = (declared, imports, made, can_be_called, helps)
