"""What a trace answers: who wrote an attribute, who took how long, who did what."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

from callboard.errors import suggestion
from callboard_trace.file import Trace, TraceError
from callboard_trace.words import (
    answer_in_words,
    in_short,
    printable,
    summary_in_words,
)

#: What people call an attribute, and what it is called where it is kept.
ALIASES = {"mom": ("momentum", "betas"), "model": ("model", "weights")}
COLUMNS = (
    "attribute, plugin, event, fit, step, epoch, stage, is_put_back, before, after"
)


@dataclass(frozen=True)
class Writer:
    """One change of an attribute, and who made it.

    Attributes:
        attribute: What was changed.
        plugin: Key of the plugin, or ``"the loop"``.
        origin: Its distribution and version, or the file that it stands in.
        event: The event, action or span in which it happened.
        fit: Number of the fit in the trace, from 1.
        step: Number of the training step, from 1; 0 before the first.
        epoch: Number of the epoch, from 0.
        stage: ``"fit"``, or that of a nested evaluation.
        is_put_back: Whether it became what it was when the plugin began.
        before: What it was: text and, of a tensor, shape, dtype, mean and digest; None
            where there was no such attribute.
        after: What it became.
    """

    attribute: str
    plugin: str
    origin: str
    event: str
    fit: int
    step: int
    epoch: int
    stage: str
    is_put_back: bool
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, repr=False)
class Answer:
    """Who wrote an attribute last; prints as the command line does.

    Attributes:
        attribute: What was asked about.
        fit: In which fit.
        step: Up to which step.
        is_in_step: Whether it was written in that step, and not only before it.
        writers: The last writes of it, the last first.
        first_seen: What it was when the recording began, by name.
    """

    attribute: str
    fit: int
    step: int
    is_in_step: bool
    writers: list[Writer]
    first_seen: dict[str, dict[str, Any]]

    def __repr__(self) -> str:
        return printable("\n".join(answer_in_words(self)))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return asdict(self)


def who_wrote(
    trace: Trace,
    attribute: str,
    *,
    step: int | None = None,
    fit: int | None = None,
    limit: int = 10,
) -> Answer:
    """The last writes of an attribute in a step, or those before it.

    Args:
        trace: The trace.
        attribute: Its name: ``loss``, ``xb``, ``lr``, ``weights.0.bias``; a short one
            stands for all that end or begin with it.
        step: The training step, from 1. Default: the last one.
        fit: The fit, from 1. Default: the last one.
        limit: How many writes at most.

    Raises:
        TraceError: The trace knows no such attribute, step or fit.
    """
    names = _attributes_meant(trace, attribute)
    fit, step = _moment(trace, fit, step)
    marks = ", ".join("?" * len(names))
    query = f"SELECT {COLUMNS} FROM writes WHERE attribute IN ({marks}) AND "
    found = trace.rows(
        f"{query} fit = ? AND step = ? ORDER BY id DESC LIMIT ?",
        *(*names, fit, step, limit),
    )
    is_in_step = bool(found)
    if not found:
        before = "(fit < ? OR (fit = ? AND step < ?)) ORDER BY id DESC LIMIT 1"
        found = trace.rows(query + before, *names, fit, fit, step)
    origins = origins_of(trace)
    writers = [_writer(trace, row, origins) for row in found]
    seen = trace.fact("first_seen", {})
    first_seen = {name: seen[name] for name in names if name in seen}
    return Answer(attribute, fit, step, is_in_step, writers, first_seen)


def _writer(trace: Trace, row: Any, origins: dict[str, str]) -> Writer:
    attribute, plugin, event, fit, step, epoch, stage, is_put_back, *values = row
    before, after = map(trace.plain, values)
    return Writer(
        *(attribute, plugin, origins.get(plugin, ""), event, fit, step, epoch, stage),
        *(bool(is_put_back), before, after),
    )


def origins_of(trace: Trace) -> dict[str, str]:
    """Distribution and version of every plugin, by key."""
    plugins = trace.fact("plugins", {})
    return {key: str(plugin.get("origin", "")) for key, plugin in plugins.items()}


def _attributes_meant(trace: Trace, name: str) -> list[str]:
    known = [row[0] for row in trace.rows("SELECT DISTINCT attribute FROM writes")]
    wanted = (name, *ALIASES.get(name, ()))
    meant = [a for a in known if any(_is_meant(a, one) for one in wanted)]
    if meant:
        return meant
    first_seen = trace.fact("first_seen", {})
    if not (known or first_seen):
        raise TraceError(nothing_recorded(trace))
    unchanged = [a for a in first_seen if any(_is_meant(a, one) for one in wanted)]
    if unchanged:
        return unchanged
    short = sorted({_stem(attribute) for attribute in {*known, *first_seen}})
    near = suggestion(name, [*short, *known])
    raise TraceError(
        f'Nothing is named "{name}" in {trace.place}.{near} There are: '
        f"{', '.join(short)}."
    )


def _is_meant(attribute: str, name: str) -> bool:
    begins = attribute.startswith((f"{name}.", f"{name}["))
    return attribute == name or begins or attribute.endswith(f".{name}")


def _stem(attribute: str) -> str:
    """``weights`` for ``weights.0.bias``, ``lr`` for ``opt[0].lr``."""
    if attribute.startswith("opt["):
        return attribute.rpartition(".")[2]
    families = ("weights", "gradients", "opt.state")
    return next((f for f in families if attribute.startswith(f"{f}.")), attribute)


def _moment(trace: Trace, fit: int | None, step: int | None) -> tuple[int, int]:
    """The fit and step that are meant, which the trace must hold."""
    latest = trace.fact("latest", {})
    last_fit, end = latest.get("fit", 0), latest.get("step", 0)
    fit = last_fit if fit is None else fit
    ((first, last),) = trace.rows(
        "SELECT min(step), max(step) FROM calls WHERE fit = ?", fit
    )
    if last is None and fit == last_fit:
        raise TraceError(nothing_recorded(trace))
    if last is None:
        raise TraceError(
            f"{trace.place} holds nothing of a fit {fit}; fits: {last_fit}."
        )
    if step is None:
        return fit, last
    if not first <= step <= last:
        remedy = (
            f"record it with --trace-steps {max(step - 5, 1)}:{step + 5}, or keep more "
            "of them with --trace-last."
        )
        if fit == last_fit and step > end:
            remedy = f"the fit has come to step {end}."
        raise TraceError(
            f"{trace.place} holds steps {first} to {last} of fit {fit}, and not step "
            f"{step}: {remedy}"
        )
    return fit, step


def nothing_recorded(trace: Trace) -> str:
    """Why a trace is empty, in a sentence."""
    first, last = trace.fact("window", [0, None])
    if not first and last is None:
        return f"{trace.place} is empty: no fit was recorded."
    steps = f"steps {first} to {last}" if last is not None else f"step {first} on"
    end = trace.fact("latest", {}).get("step", 0)
    return (
        f"{trace.place} is empty: it was to hold {steps}, and the fit has come to step "
        f"{end}."
    )


@dataclass(frozen=True)
class Share:
    """What one plugin, or the loop itself, did and how long it took.

    Attributes:
        plugin: Key of the plugin, or ``"the loop"``.
        origin: Its distribution and version, or the file that it stands in.
        event: The event, where times are told apart by event.
        calls: How often it ran.
        own_ms: Milliseconds in all, without the pieces of others inside of it.
        changes: How often it changed an attribute, by name of the attribute.
        errors: How often it raised, cancels included.
    """

    plugin: str
    origin: str
    event: str
    calls: int
    own_ms: float
    changes: dict[str, int]
    errors: int


@dataclass(frozen=True, repr=False)
class Summary:
    """Who took how long; prints as the command line does.

    Attributes:
        first_step: The first step that the trace holds; None if it is empty.
        last_step: The last one.
        total_ms: Milliseconds in all, without what tracing took.
        shares: Who took how long, the longest first.
        why_empty: What an empty trace was to hold; else nothing.
    """

    first_step: int | None
    last_step: int | None
    total_ms: float
    shares: list[Share]
    why_empty: str

    def __repr__(self) -> str:
        return printable("\n".join(summary_in_words(self, io.StringIO())))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return asdict(self)


def summary_of(trace: Trace, *, by_event: bool = False) -> Summary:
    """Who took how long, told apart by event if that is asked for."""
    found = shares(trace, by_event=by_event)
    ((first, last),) = trace.rows("SELECT min(step), max(step) FROM calls")
    total = sum(share.own_ms for share in found)
    return Summary(first, last, total, found, "" if found else nothing_recorded(trace))


def shares(trace: Trace, *, by_event: bool = False) -> list[Share]:
    """Who took how long, the longest first."""
    group = "plugin, event" if by_event else "plugin"
    event = "event" if by_event else "''"
    changes: dict[tuple[str, str], dict[str, int]] = {}
    rows = trace.rows(
        f"SELECT plugin, {event}, attribute, count(*) FROM writes "
        f"WHERE NOT is_put_back GROUP BY {group}, attribute ORDER BY attribute"
    )
    for plugin, what, attribute, count in rows:
        of_plugin = changes.setdefault((plugin, what), {})
        of_plugin[_stem(attribute)] = of_plugin.get(_stem(attribute), 0) + count
    origins = origins_of(trace)
    rows = trace.rows(
        f"SELECT plugin, {event}, count(*), sum(own_ns), count(error) FROM calls "
        f"GROUP BY {group} ORDER BY sum(own_ns) DESC"
    )
    return [
        Share(
            *(plugin, origins.get(plugin, ""), what, calls, own_ns / 1e6),
            *(changes.get((plugin, what), {}), errors),
        )
        for plugin, what, calls, own_ns, errors in rows
    ]


@dataclass(frozen=True)
class Deed:
    """One piece of work in a step, and what it changed."""

    plugin: str
    event: str
    stage: str
    depth: int
    duration_ms: float
    error: str | None
    changed: dict[str, str]


def deeds(trace: Trace, *, step: int | None = None, fit: int | None = None) -> Any:
    """Fit, step, and every piece of work that began in it, in order.

    Raises:
        TraceError: The trace holds no such step or fit.
    """
    fit, step = _moment(trace, fit, step)
    changed: dict[int, dict[str, str]] = {}
    rows = trace.rows(
        "SELECT call, attribute, after FROM writes WHERE fit = ? AND step = ? "
        "ORDER BY id",
        *(fit, step),
    )
    for call, attribute, after in rows:
        changed.setdefault(call, {})[attribute] = in_short(trace.plain(after))
    rows = trace.rows(
        "SELECT id, plugin, event, stage, depth, duration_ns, error FROM calls "
        "WHERE fit = ? AND step = ? ORDER BY id",
        *(fit, step),
    )
    found = [
        Deed(plugin, event, stage, depth, ns / 1e6, error, changed.get(number, {}))
        for number, plugin, event, stage, depth, ns, error in rows
    ]
    return fit, step, found
