"""``callboard trace``: ask a recorded fit who changed what, and who took how long."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from callboard.cli.text import columns, wrapped
from callboard_trace.answers import deeds, summary_of, who_wrote
from callboard_trace.callback import DEFAULT_FILE
from callboard_trace.file import opened
from callboard_trace.words import answer_in_words, printable, summary_in_words

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
    _print(answer_in_words(answer), answer.as_dict(), as_json=as_json)


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
        found = summary_of(trace, by_event=by_event)
    lines = summary_in_words(found, sys.stdout)
    _print(lines, found.as_dict(), as_json=as_json)


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
        click.echo(printable(text))
