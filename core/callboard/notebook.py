"""What a notebook shows of a Learner, of its board and of the record of a fit.

All of it is read where it lies: nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from torch.nn.parameter import is_lazy

from callboard.board import BOARD_TITLES, board_rows

if TYPE_CHECKING:
    from torch import nn

    from callboard.activation import ActivePlugin
    from callboard.learner import Learner
    from callboard.state import Failure, RunRecord

RECORD_TITLES = ("epoch", "batch", "what", "by", "why")
MAX_REASONS_SHOWN = 20
# Jupyter sets tables to the right, which words are hard to read in.
CELL = ' style="text-align:left;vertical-align:top"'


def learner_html(learner: Learner) -> str:
    """What a Learner is made of, how far it is, and who is on its board."""
    facts = "".join(
        f"<tr><th{CELL}>{escape(name)}</th><td{CELL}>{escape(text)}</td></tr>"
        for name, text in facts_of(learner)
    )
    has_record = learner.record.reasons or learner.record.failures
    parts = [
        f"<p><b>Learner</b> of <code>{escape(type(learner.model).__name__)}</code></p>",
        f"<table><tbody>{facts}</tbody></table>",
        board_html(learner.cbs.members),
        record_html(learner.record) if has_record else "",
    ]
    return f"<div>{''.join(parts)}</div>"


def facts_of(learner: Learner) -> Iterator[tuple[str, str]]:
    """Lines of the form name and text: model, data, loss, optimizer and so on."""
    yield "model", f"{size_in_words(learner.model)}, on {learner.device}"
    yield "data", repr(learner.dls)
    yield "loss", "of the model" if not learner.loss_func else _name(learner.loss_func)
    yield "optimizer", f"{_name(learner.opt_func)}, learning rate {learner.lr}"
    if learner.metrics:
        yield "metrics", ", ".join(map(_name, learner.metrics))
    if learner.results:
        values = (f"{name} {_in_short(v)}" for name, v in learner.results.items())
        yield f"epoch {learner.epoch}", ", ".join(values)


def size_in_words(model: nn.Module) -> str:
    """How many parameters a model has, and how many of them are trained."""
    parameters = list(model.parameters())
    if any(map(is_lazy, parameters)):
        return "as many parameters as its first batch will show"
    total = sum(each.numel() for each in parameters)
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    rest = "" if trained == total else f", {trained:,} of them trained"
    return f"{total:,} parameters{rest}"


def board_html(members: Iterable[ActivePlugin]) -> str:
    """The board as a table, one row a plugin in running order."""
    rows = board_rows(members)
    return table_html(BOARD_TITLES, rows) if rows else "<p>no active plugins</p>"


def record_html(record: RunRecord) -> str:
    """What was stopped, cancelled or switched off, in a table; of many the last."""
    reasons = record.reasons[-MAX_REASONS_SHOWN:]
    rows = [
        (str(each.epoch), str(each.batch), each.what, each.plugin, each.reason)
        for each in reasons
    ]
    rows += [
        (str(each.epoch), str(each.batch), "switched off", each.plugin, _failed(each))
        for each in record.failures
    ]
    if not rows:
        return "<p>nothing was stopped, cancelled or switched off</p>"
    left_out = len(record.reasons) - len(reasons)
    before = f"<p>{left_out} before these</p>" if left_out else ""
    return before + table_html(RECORD_TITLES, rows)


def table_html(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, escaped."""
    head = "".join(f"<th{CELL}>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td{CELL}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _failed(failure: Failure) -> str:
    return f"{failure.event} of {failure.distribution} failed: {failure.error}"


def _name(part: object) -> str:
    """What a function, a class, a partial of one, or an instance is known as."""
    part = getattr(part, "func", part)
    return getattr(part, "__name__", None) or type(part).__name__


def _in_short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
