"""Two plugins in one tiny run: it ends, ends so again, and goes on from its middle.

``nox -s pairs`` tries every pair of this repository's plugins and prints what became
of them; tests/test_pairs.py tries some.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeRemainingColumn,
)
from rich.table import Table

from callboard import Learner, discovery
from callboard.activation import matching, member_of
from callboard.discovery import InstalledPlugin
from callboard.errors import ActivationError
from callboard.testing import tiny_learner
from callboard.testing.comparing import MEASURED, differences
from callboard.testing.conformance.subject import Subject, failures_of, said
from callboard.testing.conformance.surviving import Keeper, Moment, through_a_file

PLUGINS = Path(__file__).parents[1] / "plugins"
OURS = {f"callboard-{path.parent.name}" for path in PLUGINS.glob("*/pyproject.toml")}
#: What became of a pair.
VERDICTS = {
    "together": "work together",
    "refused": "refused with the reason",
    "apart": "no tiny Learner that both can work in",
    "untried": "not tried, since a client is not installed",
    "wrong": "WRONG",
}
USUAL = "classification"
MANY_MOMENTS = 3


@dataclass
class Outcome:
    """What became of a pair.

    Attributes:
        names: Those of both.
        verdict: A key of ``VERDICTS``.
        findings: What is wrong, a sentence each.
        num_resumed: From how many checkpoints the run went on.
        seconds: How long it took to try.
    """

    names: tuple[str, str]
    verdict: str = "together"
    findings: list[str] = field(default_factory=list)
    num_resumed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return " + ".join(self.names)


@dataclass
class Pair:
    """Two plugins that are tried out together.

    Attributes:
        one: A callback.
        other: Another one, or a method.
        folder: Where their files go.
    """

    one: Subject
    other: Subject
    folder: Path

    @property
    def both(self) -> tuple[Subject, Subject]:
        return self.one, self.other

    @cached_property
    def companions(self) -> list[str]:
        """What takes part besides: what either asks for."""
        mine = {subject.name for subject in self.both}
        asked = [name for subject in self.both for name in subject.companions]
        return [name for name in dict.fromkeys(asked) if name not in mine]

    @cached_property
    def declared_reasons(self) -> list[str]:
        """Why they do not go together, as either declares."""
        callbacks = [subject for subject in self.both if not subject.is_method]
        members = [
            member_of(s.instance(), "tried", s.installed)
            for s in callbacks
            if not s.missing
        ]
        return [
            member.why_not_with(target)
            for member in members
            for target in member.targets("conflicts_with")
            for found in matching(members, target)
            if found is not member
        ]

    @property
    def learners(self) -> list[Any]:
        """The Learners that either asks for, the unusual ones first."""
        wanted = [subject.specimen.learner for subject in self.both]
        unusual = [learner for learner in wanted if learner != USUAL]
        return list(dict.fromkeys([*unusual, USUAL]))

    def learner(self, kind: Any, *subjects: Subject, keeper: Any = ()) -> Learner:
        """A new Learner with some of them, and their companions, in an empty folder."""
        path = self.folder / "run"
        shutil.rmtree(path, ignore_errors=True)
        own = [subject.instance() for subject in subjects if not subject.is_method]
        cbs = [*self.companions, *own, *keeper]
        if isinstance(kind, str):
            return tiny_learner(kind, cbs=cbs, path=path)
        made: Learner = kind(cbs=cbs, path=path)
        return made

    def run(
        self,
        kind: Any,
        *subjects: Subject,
        keeper: Any = (),
        prepare: Callable[[Learner], object] = id,
    ) -> tuple[Learner | None, str | None]:
        """Train with some of them; the Learner, and what has gone wrong in words.

        Args:
            kind: What is learned.
            subjects: Who takes part; a method is called before.
            keeper: Callbacks besides.
            prepare: What is done with the Learner before.
        """
        learner = None
        try:
            learner = self.learner(kind, *subjects, keeper=keeper)
            prepare(learner)
            for subject in subjects:
                if subject.is_method:
                    subject.run(learner)
            if not learner.train_iter:
                learner.fit(2)
        except Exception as error:
            return learner, said(error)
        return learner, failures_of(learner)

    def is_fit_for(self, kind: Any) -> bool:
        """Whether each of them works in a Learner of this kind without the other."""
        return not any(self.run(kind, alone)[1] for alone in self.both)

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*MEASURED, *self.one.specimen.ignore, *self.other.specimen.ignore)

    def difference(self, run: Any, other: Any, *, plugins: bool = True) -> str | None:
        """Where two runs differ first."""
        states = [
            without_columns(
                each.state_dict() if isinstance(each, Learner) else each, self.ignored
            )
            for each in (run, other)
        ]
        found = differences(*states, plugins=plugins, ignore=self.ignored)
        return next(found, None)


def without_columns(state: Any, names: Collection[str]) -> Any:
    """A state whose logs, tables as CSV, lack the columns of these names."""
    if isinstance(state, Mapping):
        return {key: without_columns(value, names) for key, value in state.items()}
    if not isinstance(state, str) or "\n" not in state:
        return state
    header, *rows = csv.reader(state.splitlines())
    kept = [number for number, name in enumerate(header) if name not in names]
    return [[row[number] for number in kept] for row in [header, *rows]]


def tried(
    one: InstalledPlugin, other: InstalledPlugin, *, is_thorough: bool = False
) -> Outcome:
    """Try a pair out.

    Args:
        one: A callback.
        other: Another one, or a method.
        is_thorough: Go on from three checkpoints, where else from one in the middle.
    """
    outcome, started = Outcome((one.name, other.name)), time.perf_counter()
    with tempfile.TemporaryDirectory(
        prefix="callboard-", ignore_cleanup_errors=True
    ) as folder:
        path = Path(folder).resolve()
        pair = Pair(Subject(one, path), Subject(other, path), path)
        with pair.one.undisturbed():
            _try(pair, outcome, is_thorough=is_thorough)
    if outcome.findings:
        outcome.verdict = "wrong"
    outcome.seconds = time.perf_counter() - started
    return outcome


def _try(pair: Pair, outcome: Outcome, *, is_thorough: bool) -> None:
    if pair.one.missing or pair.other.missing:
        outcome.verdict = "untried"
        return
    if pair.declared_reasons:
        outcome.verdict = "refused"
        outcome.findings += _not_refused(pair)
        return
    for kind in pair.learners:
        keeper = Keeper(pair.folder / "kept")
        learner, problem = pair.run(kind, *pair.both, keeper=[keeper])
        if learner is not None and not problem:
            state = copy.deepcopy(learner.state_dict())
            outcome.findings += _faults(pair, kind, state, keeper, outcome, is_thorough)
            return
        if problem and is_refusal(problem):
            # One of them beside a companion of the other, or beside what it adds.
            outcome.verdict = "refused"
            if " declares " in problem and ", since " not in problem:
                outcome.findings.append(f"they are refused without a reason: {problem}")
            return
        if pair.is_fit_for(kind):
            outcome.findings.append(f"in the Learner {_words(kind)}: {problem}")
        shutil.rmtree(pair.folder / "kept", ignore_errors=True)
    outcome.verdict = "apart"


def is_refusal(problem: str) -> bool:
    """Whether two were not let take part together; all others are mistakes.

    >>> is_refusal("ActivationError: schedule: two schedules set lr")
    True
    """
    return problem.startswith("ActivationError: ") and " requires " not in problem


def _not_refused(pair: Pair) -> Iterator[str]:
    """Whether they are refused with the reason that is declared."""
    reason = pair.declared_reasons[0]
    try:
        pair.learner(pair.learners[0], *pair.both)
    except ActivationError as error:
        if not reason or reason not in str(error):
            yield f"they are refused without a reason: {error}"
    else:
        yield "a conflict is declared, and they were not refused."


def _faults(
    pair: Pair,
    kind: Any,
    state: dict[str, Any],
    keeper: Keeper,
    outcome: Outcome,
    is_thorough: bool,
) -> Iterator[str]:
    """What is wrong with a pair whose run has ended."""
    yield from _not_repeatable(pair, kind, state)
    yield from _harmful(pair, kind, state)
    if any("resume" in subject.specimen.exempt for subject in pair.both):
        return
    for moment in _chosen(keeper.moments, is_thorough=is_thorough):
        outcome.num_resumed += 1
        yield from _not_resumed(pair, kind, state, moment)


def _not_repeatable(pair: Pair, kind: Any, state: dict[str, Any]) -> Iterator[str]:
    """Whether they train the same again, whichever was given first."""
    turned = _difference(pair, kind, state, *reversed(pair.both))
    if turned:
        again = _difference(pair, kind, state, *pair.both)
        what = "in a second run" if again else "in the other sequence"
        yield f"in the Learner {_words(kind)}, {what}, {turned}"


def _difference(
    pair: Pair, kind: Any, state: dict[str, Any], *subjects: Subject
) -> str | None:
    """What goes wrong in one more run, or how it ends otherwise."""
    keeper = Keeper(pair.folder / "again")
    learner, problem = pair.run(kind, *subjects, keeper=[keeper])
    shutil.rmtree(pair.folder / "again", ignore_errors=True)
    return problem or pair.difference(learner, state)


def _harmful(pair: Pair, kind: Any, state: dict[str, Any]) -> Iterator[str]:
    """Whether an observer leaves what the other one trains as it is."""
    for watching, other in (pair.both, pair.both[::-1]):
        if watching.is_method or watching.role != "observe":
            continue
        alone, problem = pair.run(kind, other)
        if problem:
            continue  # it needs the observer
        difference = pair.difference(state, alone, plugins=False)
        if difference:
            yield f"with and without the observer {watching.name}, {difference}"


def _chosen(moments: Sequence[Moment], *, is_thorough: bool) -> Sequence[Moment]:
    """Checkpoints to go on from: in the middle, the first, and at an epoch's end."""
    if not moments:
        return []
    middle = len(moments) // 2
    if not is_thorough:
        return [moments[middle]]
    ends = [moment for moment in moments if not moment.batch]
    wanted = [moments[middle], moments[0], *ends[:1]]
    return list({id(moment): moment for moment in wanted}.values())[:MANY_MOMENTS]


def _not_resumed(
    pair: Pair, kind: Any, state: dict[str, Any], moment: Moment
) -> Iterator[str]:
    """Whether a new Learner that goes on from a checkpoint ends as the first run."""
    saved = through_a_file(moment.state)

    def go_on(learner: Learner) -> None:
        if moment.files is not None:
            shutil.copytree(moment.files, pair.folder / "run", dirs_exist_ok=True)
        learner.resume_next_fit(saved, "ignore")

    keeper = Keeper(pair.folder / "resumed")
    resumed, problem = pair.run(kind, *pair.both, keeper=[keeper], prepare=go_on)
    shutil.rmtree(pair.folder / "resumed", ignore_errors=True)
    if wrong := problem or pair.difference(resumed, state):
        yield f"in the Learner {_words(kind)}, going on from {moment}: {wrong}"


def _words(kind: Any) -> str:
    return repr(kind) if isinstance(kind, str) else kind.__name__


@cache
def catalogue() -> dict[str, InstalledPlugin]:
    """All plugins of this repository that take part in a Learner or are its methods."""
    return {
        plugin.name: plugin
        for plugin in sorted(discovery.installed(), key=lambda p: (p.kind, p.name))
        if plugin.distribution in OURS
        and plugin.kind in ("plugin", "callback", "method")
    }


def all_pairs() -> list[tuple[str, str]]:
    """Names of every two callbacks, and of every callback with every method."""
    callbacks, methods = _by_kind()
    pairs = list(combinations(callbacks, 2))
    return pairs + [(one, method) for one in callbacks for method in methods]


def some_pairs() -> list[tuple[str, str]]:
    """Of these the same few each time: each callback with four others and a method.

    And each method with two callbacks.
    """
    callbacks, methods = _by_kind()
    chosen = set()
    for number, one in enumerate(callbacks):
        for step in (1, len(callbacks) // 3):
            other = callbacks[(number + step) % len(callbacks)]
            chosen.add((min(one, other), max(one, other)))
        chosen.add((one, methods[number % len(methods)]))
    for number, method in enumerate(methods):
        chosen.add((callbacks[-1 - number % len(callbacks)], method))
    return sorted(chosen)


def _by_kind() -> tuple[list[str], list[str]]:
    named = catalogue().items()
    callbacks = sorted(name for name, plugin in named if plugin.kind != "method")
    return callbacks, sorted(catalogue().keys() - set(callbacks))


def _tried(pair: tuple[str, str]) -> Outcome:
    one, other = pair
    return tried(catalogue()[one], catalogue()[other], is_thorough=True)


def main() -> int:
    """Try all pairs, or those of some plugins, and print what became of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("plugins", nargs="*", help="only pairs with one of these")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    pairs = [
        pair
        for pair in all_pairs()
        if not given.plugins or set(pair) & set(given.plugins)
    ]
    console, outcomes = Console(file=sys.stdout), []
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = get_context("spawn")
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(given.processes, context, _without_stderr) as pool,
    ):
        of_chunks = pool.map(_tried, pairs, chunksize=8)
        for outcome in progress.track(of_chunks, total=len(pairs)):
            outcomes.append(outcome)
            for finding in outcome.findings:
                console.print(f"{outcome}: {finding}", style="red", markup=False)
    _show(outcomes, console)
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def _without_stderr() -> None:
    """Be silent in a process of the pool: torch's profiler writes there past Python."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _show(outcomes: Sequence[Outcome], console: Console) -> None:
    counts = Counter(outcome.verdict for outcome in outcomes)
    table = Table("what became of them", title="Pairs of plugins", title_justify="left")
    table.add_column("pairs", justify="right")
    for verdict, words in VERDICTS.items():
        table.add_row(words, str(counts[verdict]))
    table.add_row("all", str(len(outcomes)))
    num_resumed = sum(outcome.num_resumed for outcome in outcomes)
    table.add_row("runs that went on from a checkpoint", str(num_resumed))
    table.add_row("plugins", str(len({*sum((o.names for o in outcomes), ())})))
    table.add_row("minutes", f"{sum(o.seconds for o in outcomes) / 60:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
