"""Say where the time of a fit goes: by plugin and event, the loop, the model, the data.

Listens to  do_fit
Changes     nothing; what it found is in ``Profile.report``
Source      pyinstrument's idea of own time; Chrome's Trace Event Format
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from callboard import Callback, hookimpl
from callboard.callback import Role
from callboard.errors import CheckError, OptionError, suggestion
from callboard_profile.clock import Clock, counted_reads, memory_getter
from callboard_profile.report import (
    DATA,
    LOOP,
    MODEL,
    PLUGINS,
    Report,
    over_budget,
    report_of,
    write_trace,
)

if TYPE_CHECKING:
    import torch

TRACE_LIMIT = 200_000


class BudgetError(CheckError):
    """A plugin took a larger share of the time than its budget allows."""


class Profile(Callback):
    """Says where the time of a fit goes, and fails where a plugin costs too much.

    Args:
        budget: Which share of the epochs' time a plugin may take at most, as
            ``{"mixup": 0.02}`` or ``"mixup=2%;csv-logger=1%"``; ``model``, ``data``,
            ``loop`` and ``plugins`` (all of them together) may be named too. The fit
            ends as ever, and then raises ``BudgetError`` where one took more.
        show: Print the table and the verdict at the end of a fit.
        json_file: File for the numbers, below the Learner's ``path``; None for none.
        trace_file: File for a Chrome trace, likewise.

    Attributes:
        report: Of the last fit; None before it.

    Raises:
        OptionError: The budget cannot be read.
    """

    name = "profile"
    role: Role = "observe"

    def __init__(
        self,
        *,
        budget: Mapping[str, float] | str = "",
        show: bool = True,
        json_file: str | None = None,
        trace_file: str | None = None,
    ) -> None:
        self.budget = read_budget(budget)
        self.show = show
        self.json_file = json_file
        self.trace_file = trace_file
        self.report: Report | None = None
        if self.budget:  # an observer's error would end no fit
            self.role = "control"

    @hookimpl(wrapper=True)
    def do_fit(self) -> Generator[None, Any, Any]:
        """Watch the fit, then report."""
        learner = self.learn
        self._check_names()
        clock = Clock(
            memory_getter(learner.device),
            event_maker(learner.device),
            trace_limit=TRACE_LIMIT if self.trace_file else 0,
        )
        with ExitStack() as stack:
            stack.callback(self._keep, clock)
            stack.enter_context(counted_reads(clock.note_read, learner.device))
            stack.enter_context(learner.watched_by(clock))
            result = yield
        self._write(clock)
        return result

    def _keep(self, clock: Clock) -> None:
        clock.read_device_times(is_last=True)
        self.report = report_of(clock)

    def _write(self, clock: Clock) -> None:
        report = self.report
        assert report is not None
        folder = self.learn.path
        if self.json_file:
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(report.as_dict(), indent=2)
            (folder / self.json_file).write_text(text, encoding="utf-8")
        if self.trace_file:
            write_trace(clock, folder / self.trace_file)
        if self.show:
            show(report)
        if problems := over_budget(report.shares(), self.budget):
            raise BudgetError(
                f"profile: {'; '.join(problems)}. Give it more in `budget`, or look "
                "into the table for the event that takes the time."
            )

    def _check_names(self) -> None:
        known = [MODEL, DATA, LOOP, PLUGINS, *self.learn.cbs.keys()]
        for name in self.budget:
            if name not in known:
                raise OptionError(
                    f"profile: budget names {name!r}, which takes no part in this fit. "
                    f"It may name {', '.join(known)}.{suggestion(name, known)}"
                )


def read_budget(given: Mapping[str, float] | str) -> dict[str, float]:
    """Largest shares, from 0 to 1, by name.

    >>> read_budget("mixup=2%; data=0.5%")
    {'mixup': 0.02, 'data': 0.005}

    Raises:
        OptionError: A part is no budget.
    """
    if isinstance(given, Mapping):
        budget = dict(given)
    else:
        parts = [part for part in re.split(r"[,;\s]+", given.strip("'\" ")) if part]
        budget = dict(map(_read_part, parts))
    for name, share in budget.items():
        is_number = isinstance(share, int | float)
        if not is_number or not 0 <= share <= 1:
            raise OptionError(
                f"profile: the budget of {name!r} must be a share from 0 to 1, or a "
                f'text such as "{name}=2%", got {share!r}.'
            )
    return budget


def _read_part(part: str) -> tuple[str, float]:
    name, _, number = part.partition("=")
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise OptionError(
            f"profile: {part!r} is no budget; write name=2%, as in mixup=2%."
        ) from None
    return name, share


def event_maker(device: torch.device) -> Any:
    """What makes an event that keeps a GPU's time; None where there is no CUDA."""
    if device.type != "cuda":
        return None
    import torch

    return partial(torch.cuda.Event, enable_timing=True)


def show(report: Report) -> None:
    """Print the table and the verdict."""
    from rich.console import Console

    console = Console()
    console.print()
    console.print(report.table())
    for sentence in report.verdict():
        console.print(sentence, highlight=False)
