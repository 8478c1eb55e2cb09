"""What a clock has tallied, as shares, words, a table, JSON and a Chrome trace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callboard.watching import NEXT_BATCH, THE_LOOP
from callboard_profile.clock import Clock, Tally

if TYPE_CHECKING:
    from rich.table import Table

ACTIONS = ("do_predict", "do_loss", "do_backward", "do_step", "do_zero_grad")
MODEL, DATA, LOOP, PLUGINS = "model", "data", "loop", "plugins"
WORDS = {
    MODEL: "model, loss and optimizer",
    DATA: "waiting for data",
    LOOP: "the loop itself",
}
# Below these shares the verdict keeps silent.
WORTH_A_WORD, DATA_WORTH_A_WORD = 0.01, 0.05
# Shorter ones are in the JSON only.
WORTH_A_ROW, SECONDS_WORTH_A_ROW = 0.0005, 0.01
MOST_PLUGINS_TOLD = 5


@dataclass(frozen=True)
class Line:
    """What one plugin, or the loop, came to at one event.

    Attributes:
        owner: Key of the plugin, or ``model``, ``data`` or ``loop``.
        event: The event, action or span.
        num_calls: How often it ran.
        seconds: Its own time within epochs.
        seconds_outside: Its own time before and after the epochs.
        longest_seconds: The longest call.
        share: Its part of the time of all epochs, from 0 to 1.
        host_reads: How often the value of a tensor was read.
        bytes_a_call: By how much memory grew in a call, on average over the calls that
            were looked at; None where none was.
        device_seconds: What the GPU took in the batches that were looked at.
    """

    owner: str
    event: str
    num_calls: int
    seconds: float
    seconds_outside: float
    longest_seconds: float
    share: float
    host_reads: int
    bytes_a_call: float | None
    device_seconds: float


@dataclass(frozen=True)
class Report:
    """Where the time of one fit went.

    Attributes:
        lines: What every plugin at every event came to, the longest first.
        epoch_seconds: Time of all epochs together.
        num_epochs: How many epochs ran.
        num_batches: How many batches ran, those of validation among them.
    """

    lines: Sequence[Line]
    epoch_seconds: float
    num_epochs: int
    num_batches: int

    def shares(self) -> dict[str, float]:
        """Part of the epochs' time by plugin; ``model``, ``data``, ``loop`` besides.

        ``plugins`` is all plugins together.
        """
        shares = dict.fromkeys((MODEL, DATA, LOOP, PLUGINS), 0.0)
        for line in self.lines:
            shares[line.owner] = shares.get(line.owner, 0.0) + line.share
            if line.owner not in WORDS:
                shares[PLUGINS] += line.share
        return shares

    def verdict(self) -> list[str]:
        """What is worth knowing, a sentence each."""
        if not self.num_epochs:
            return ["No epoch was run, so there is nothing to say."]
        shares = self.shares()
        words = [
            f"{WORDS[MODEL].capitalize()} take {percent(shares[MODEL])} of each epoch, "
            f"the loop itself {percent(shares[LOOP])}, all plugins "
            f"{percent(shares[PLUGINS])}, waiting for data {percent(shares[DATA])}."
        ]
        words += [self._plugin_in_words(key) for key in self._plugins_worth_a_word()]
        if shares[DATA] >= DATA_WORTH_A_WORD:
            words.append(
                f"The model waits for data for {percent(shares[DATA])} of each epoch: "
                "give the DataLoader workers, or try the plugin prefetch."
            )
        return [*words, *self._readers_in_words()]

    def _plugins_worth_a_word(self) -> list[str]:
        shares = self.shares()
        keys = [key for key in shares if key not in WORDS and key != PLUGINS]
        told = sorted(keys, key=lambda key: -shares[key])[:MOST_PLUGINS_TOLD]
        return [key for key in told if shares[key] >= WORTH_A_WORD]

    def _plugin_in_words(self, key: str) -> str:
        lines = [line for line in self.lines if line.owner == key]
        seconds = sum(line.seconds for line in lines) / self.num_epochs
        most = max(lines, key=lambda line: line.seconds)
        where = f", in {most.event}" if most.seconds >= 0.75 * sum_of(lines) else ""
        share = percent(self.shares()[key])
        return f"{key} costs {share} of each epoch ({duration(seconds)}{where})."

    def _readers_in_words(self) -> Iterator[str]:
        reads: dict[str, int] = {}
        for line in self.lines:
            if line.owner not in WORDS:
                reads[line.owner] = reads.get(line.owner, 0) + line.host_reads
        for key, number in reads.items():
            a_batch = number / max(1, self.num_batches)
            # A batch or two of few are epochs' ends.
            if a_batch >= 0.5:
                yield (
                    f"{key} reads values from the device {a_batch:.1f} times a batch; "
                    "each time Python waits for a GPU to finish."
                )

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "num_epochs": self.num_epochs,
            "num_batches": self.num_batches,
            "epoch_seconds": self.epoch_seconds,
            "shares": self.shares(),
            "verdict": self.verdict(),
            "lines": [asdict(line) for line in self.lines],
        }

    def table(self) -> Table:
        """A table for the terminal: the owners by their share, their events below."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        title = "Where the time of the epochs went"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
        table.add_column("plugin, event", no_wrap=True)
        has_device_times = any(line.device_seconds for line in self.lines)
        names = ["calls", "time", "a call", "share", "reads", "memory"]
        for name in [*names, *(["on the GPU"] if has_device_times else [])]:
            table.add_column(f" {name}", justify="right", no_wrap=True)
        shares = self.shares()
        for owner in self._owners():
            lines = [line for line in self.lines if line.owner == owner]
            name = f"[bold]{WORDS.get(owner, owner)}[/bold]"
            table.add_row(
                *(name, "", duration(sum_of(lines)), "", percent(shares[owner])),
                str(sum(line.host_reads for line in lines) or ""),
            )
            for line in filter(_is_worth_a_row, lines):
                table.add_row(*_cells(line, has_device_times))
        return table

    def _owners(self) -> list[str]:
        shares = self.shares()
        owners = dict.fromkeys(line.owner for line in self.lines)
        return sorted(owners, key=lambda owner: -shares[owner])


def report_of(clock: Clock) -> Report:
    """Make a report of what a clock has tallied."""
    total = clock.epoch_nanoseconds or 1
    lines = [
        _line(who, what, tally, total) for (who, what), tally in clock.tallies.items()
    ]
    lines.sort(key=lambda line: -line.seconds)
    epochs = clock.tallies.get((THE_LOOP, "do_epoch"), Tally())
    return Report(
        lines, clock.epoch_nanoseconds / 1e9, epochs.num_calls, clock.num_batches
    )


def _line(who: str, what: str, tally: Tally, total: int) -> Line:
    return Line(
        owner=owner_of(who, what),
        event=what,
        num_calls=tally.num_calls,
        seconds=tally.nanoseconds / 1e9,
        seconds_outside=tally.nanoseconds_outside / 1e9,
        longest_seconds=tally.longest / 1e9,
        share=tally.nanoseconds / total,
        host_reads=tally.host_reads,
        bytes_a_call=tally.bytes_kept / tally.num_looks if tally.num_looks else None,
        device_seconds=tally.device_milliseconds / 1e3,
    )


def owner_of(who: str, what: str) -> str:
    """Whose time it is: a plugin's, or which part of the loop's."""
    if who != THE_LOOP:
        return who
    return MODEL if what in ACTIONS else DATA if what == NEXT_BATCH else LOOP


def sum_of(lines: Sequence[Line]) -> float:
    """Seconds within epochs of several lines together."""
    return sum(line.seconds for line in lines)


def _is_worth_a_row(line: Line) -> bool:
    is_long = line.share >= WORTH_A_ROW or line.seconds_outside >= SECONDS_WORTH_A_ROW
    return is_long or line.host_reads > 0


def _cells(line: Line, has_device_times: bool) -> Iterator[str]:
    yield f"  {line.event}"
    yield f"{line.num_calls:,}"
    is_outside = not line.seconds
    seconds = line.seconds_outside if is_outside else line.seconds
    yield duration(seconds)
    yield duration(seconds / max(1, line.num_calls))
    yield "once" if is_outside else percent(line.share)
    yield str(line.host_reads or "")
    yield "" if line.bytes_a_call is None else mebibytes(line.bytes_a_call)
    if has_device_times:
        yield duration(line.device_seconds) if line.device_seconds else ""


def percent(share: float) -> str:
    """A share in words, with as many digits as mean something.

    >>> percent(0.041), percent(0.634), percent(0.0004)
    ('4.1 %', '63 %', '0.0 %')
    """
    return f"{share:.0%}".replace("%", " %") if share >= 0.1 else f"{share * 100:.1f} %"


def duration(seconds: float) -> str:
    """A time in its own unit.

    >>> duration(2.5), duration(0.0031), duration(4.2e-6)
    ('2.50 s', '3.10 ms', '4.20 µs')
    """
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}".replace("e+03", "000")
    return f"{seconds * 1e6:.2f} µs"


def mebibytes(number: float) -> str:
    """Growth of memory, empty below a hundredth of a MiB."""
    size = number / 2**20
    return f"{size:+.2f} MiB" if abs(size) >= 0.01 else ""


def over_budget(shares: Mapping[str, float], budget: Mapping[str, float]) -> list[str]:
    """Who took more than it may, a sentence each."""
    return [
        f"{WORDS.get(name, name)} took {percent(shares.get(name, 0.0))} of the epochs, "
        f"and may take {percent(limit)}"
        for name, limit in budget.items()
        if shares.get(name, 0.0) > limit
    ]


def write_trace(clock: Clock, path: Path) -> None:
    """Write the pieces that the clock has kept as a Chrome trace.

    For ``chrome://tracing`` and https://ui.perfetto.dev; the format is "Trace Event
    Format", with complete events ("X") in microseconds.
    """
    first = min((start for *_, start, _ in clock.trace), default=0)
    name = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "fit"}}
    events = [
        {
            "name": what if who == THE_LOOP else f"{who}: {what}",
            "cat": owner_of(who, what),
            "ph": "X",
            "ts": (start - first) / 1e3,
            "dur": length / 1e3,
            "pid": 0,
            "tid": 0,
        }
        for who, what, start, length in clock.trace
    ]
    trace = {"traceEvents": [name, *events], "displayTimeUnit": "ms"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(trace), encoding="utf-8")
