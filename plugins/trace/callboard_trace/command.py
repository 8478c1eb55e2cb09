"""``callboard trace``: ask a recorded fit who changed what, and who took how long."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from callboard.cli.text import columns, wrapped
from callboard_trace.answers import (
    Answer,
    Share,
    blame,
    deeds,
    shares,
    value_cells,
    who_wrote,
)
from callboard_trace.callback import DEFAULT_FILE
from callboard_trace.file import opened

Command = Callable[..., None]
trace_option = click.option(
    "--trace",
    "place",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    help="The trace to read.",
)
step_option = click.option(
    "--step",
    type=click.IntRange(min=0),
    metavar="N",
    help="The training step, from 1; what follows it up to the next counts to it, and "
    "0 is what comes before the first. Default: the last step.",
)
fit_option = click.option(
    "--fit",
    type=click.IntRange(min=1),
    metavar="N",
    help="The fit, from 1, where a run has several. Default: the last one.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="The same as JSON.")


@click.group("trace")
def command() -> None:
    """Ask a recorded fit who changed what, and who took how long.

    `callboard fit TARGET --epochs N --trace` records it: every event, who ran there,
    for how long, and which attributes of the Learner it changed.

    \b
    callboard fit train.py --epochs 1 --trace --trace-steps 100:200
    callboard trace why loss --step 120
    callboard trace show --step 120
    callboard trace summary
    callboard trace export trace.json --chrome
    """


@command.command("why")
@click.argument("attribute")
@step_option
@fit_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many writes at most.",
)
@trace_option
@json_option
def why(
    attribute: str,
    step: int | None,
    fit: int | None,
    limit: int,
    place: Path,
    as_json: bool,
) -> None:
    """Who wrote ATTRIBUTE last, with what it was before and after.

    ATTRIBUTE is one of the Learner: xb, yb, pred, loss, loss_grad, model, loss_func,
    results.accuracy; a hyper-parameter: lr, mom; weights, gradients or opt.state; with
    --trace-weights each one of them: weights.0.bias. random.torch is the global random
    stream of the CPU. A short name stands for all that begin or end with it.

    A write counts for who ran when it happened. The loop itself takes batches, and
    writes what do_predict and do_loss return where no plugin does it.

    \b
    callboard trace why loss --step 120
    callboard trace why lr
    callboard trace why weights --step 3 --json
    """
    with opened(place) as trace:
        answer = who_wrote(trace, attribute, step=step, fit=fit, limit=limit)
    _print(_lines_of(answer), answer.as_dict(), as_json=as_json)


def _lines_of(answer: Answer) -> Iterator[str]:
    where = f"step {answer.step}" if answer.step else "the beginning"
    if not answer.writers:
        yield f"Nobody changed {answer.attribute} up to {where}. It was:"
        rows = [(name, *value_cells(v)) for name, v in answer.first_seen.items()]
        yield from _aligned(rows, "  ")
        return
    if answer.is_in_step:
        epoch = answer.writers[0].epoch
        yield f"{answer.attribute} in {where} (epoch {epoch}), the last write first:"
    else:
        last = answer.writers[0]
        at = f"step {last.step}" if last.step else "before the first step"
        yield f"Nobody wrote {answer.attribute} in {where}. The last write was at {at}:"
    for number, writer in enumerate(answer.writers, 1):
        is_other = writer.attribute != answer.attribute
        which = f"{writer.attribute}: " if is_other else ""
        yield ""
        yield f"{number}. {which}{blame(writer)}"
        rows = [
            ("before", *value_cells(writer.before)),
            ("after", *value_cells(writer.after)),
        ]
        yield from _aligned(rows, "     ")


def _aligned(rows: list[tuple[str, ...]], indent: str) -> Iterator[str]:
    num_cells = max(map(len, rows), default=0)
    full = [(*row, *[""] * (num_cells - len(row))) for row in rows]
    # As for a pipe, which has no width: lines are wrapped later.
    for line in columns(full, io.StringIO()).splitlines():
        yield (indent + line).rstrip()


@command.command("show")
@step_option
@fit_option
@trace_option
@json_option
def show(step: int | None, fit: int | None, place: Path, as_json: bool) -> None:
    """All that happened in one step: who ran, how long, and what it changed.

    Pieces that lie within others are indented: plugins within the loop's spans, nested
    evaluations within the plugin that asked for them.

    \b
    callboard trace show --step 120
    """
    with opened(place) as trace:
        fit, step, found = deeds(trace, step=step, fit=fit)
    shallow = min((deed.depth for deed in found), default=0)
    rows = [("who", "event", "ms", "changed")]
    for deed in found:
        changed = ", ".join(f"{name} = {text}" for name, text in deed.changed.items())
        raised = f"raised {deed.error}" if deed.error else ""
        event = deed.event if deed.stage == "fit" else f"{deed.event} ({deed.stage})"
        rows.append(
            (
                "  " * (deed.depth - shallow) + deed.plugin,
                event,
                f"{deed.duration_ms:.3f}",
                "; ".join(filter(None, (changed, raised))),
            )
        )
    data = {"fit": fit, "step": step, "pieces": [asdict(deed) for deed in found]}
    lines = [f"Fit {fit}, step {step}", "", columns(rows, sys.stdout)]
    _print(iter(lines), data, as_json=as_json)


@command.command("summary")
@click.option("--events", "by_event", is_flag=True, help="A line for every event.")
@trace_option
@json_option
def summary(by_event: bool, place: Path, as_json: bool) -> None:
    """Who took how long, and changed what how often.

    Times are of the clock, without what tracing itself takes and without the pieces of
    others inside. On a GPU every piece waits for the work that it began.

    \b
    callboard trace summary
    callboard trace summary --events
    """
    with opened(place) as trace:
        found = shares(trace, by_event=by_event)
        ((first, last),) = trace.rows("SELECT min(step), max(step) FROM calls")
    total = sum(share.own_ms for share in found)
    data = {
        "first_step": first,
        "last_step": last,
        "total_ms": total,
        "shares": [asdict(share) for share in found],
    }
    if as_json or not found:
        nothing = "The trace is empty: nothing was recorded."
        _print(iter([nothing]), data, as_json=as_json)
        return
    lines = [
        f"Steps {first} to {last}, {total:.1f} ms without what tracing took",
        "",
        columns(list(_table(found, total, by_event=by_event)), sys.stdout),
    ]
    _print(iter(lines), data, as_json=as_json)


def _table(
    found: list[Share], total: float, *, by_event: bool
) -> Iterator[tuple[str, ...]]:
    titles = ("who", "ms", "share", "calls", "us a call", "changed")
    yield (titles[0], "event", *titles[1:]) if by_event else titles
    for share in found:
        changed = ", ".join(f"{name} {count}x" for name, count in share.changes.items())
        raised = f"raised {share.errors}x" if share.errors else ""
        cells = (
            f"{share.own_ms:.1f}",
            f"{share.own_ms / total:.1%}" if total else "",
            str(share.calls),
            f"{share.own_ms / share.calls * 1000:.1f}",
            "; ".join(filter(None, (changed, raised))),
        )
        who = (share.plugin, share.event) if by_event else (share.plugin,)
        yield (*who, *cells)


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--chrome",
    is_flag=True,
    required=True,
    help="In the trace event format, which Perfetto and Chrome open.",
)
@trace_option
def export(file: Path, chrome: bool, place: Path) -> None:
    """Write the trace to FILE in a format that other programs read.

    Open the file at https://ui.perfetto.dev, which reads it in the browser and sends
    it nowhere, or at chrome://tracing.

    \b
    callboard trace export trace.json --chrome
    """
    from callboard_trace import chrome as chrome_format

    with opened(place) as trace:
        num_events = chrome_format.export(trace, file)
    message = f"{num_events} events in {file}: open it at https://ui.perfetto.dev"
    click.echo(wrapped(message, sys.stdout))


def _print(lines: Iterator[str], data: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    for line in lines:
        text = line if line.count("\n") else wrapped(line, sys.stdout, "    ")
        click.echo(_printable(text))


def _printable(text: str) -> str:
    """Without what a terminal would obey: a trace may come from anywhere."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
