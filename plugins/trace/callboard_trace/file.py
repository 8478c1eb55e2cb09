"""The trace on the disk: an SQLite file with plain data, bounded in size.

Table ``calls``: every piece of work, when it began and how long it took, in
nanoseconds. Table ``writes``: every change of an attribute, with before and after as
JSON. Table ``facts``: what the trace is of. Where rows go, the last write of every
attribute before them stays, so that a question always has an answer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from callboard.errors import CallboardError, OptionError

#: "cbtr", in the header of every trace: what tells it from another SQLite file.
APPLICATION_ID = 0x63627472
FORMAT = 1
#: Of each table; about 150 MB of calls, and twice as much of writes.
MAX_ROWS = 1_000_000
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, fact TEXT NOT NULL);
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, moment INTEGER NOT NULL, fit INTEGER NOT NULL,
    step INTEGER NOT NULL, epoch INTEGER NOT NULL, stage TEXT NOT NULL,
    phase TEXT NOT NULL, plugin TEXT NOT NULL, event TEXT NOT NULL,
    begin_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL, own_ns INTEGER NOT NULL,
    depth INTEGER NOT NULL, error TEXT
);
CREATE TABLE writes (
    id INTEGER PRIMARY KEY, call INTEGER NOT NULL, moment INTEGER NOT NULL,
    fit INTEGER NOT NULL, step INTEGER NOT NULL, epoch INTEGER NOT NULL,
    stage TEXT NOT NULL, plugin TEXT NOT NULL, event TEXT NOT NULL,
    attribute TEXT NOT NULL, is_put_back INTEGER NOT NULL, before TEXT, after TEXT
);
CREATE INDEX calls_by_moment ON calls(moment);
CREATE INDEX writes_by_moment ON writes(moment);
CREATE INDEX writes_by_attribute ON writes(attribute, id);
CREATE INDEX writes_by_call ON writes(call);
"""


class TraceError(CallboardError):
    """A file is no trace, or does not hold what was asked for."""


class Call(NamedTuple):
    """One piece of work; the fields are the columns of ``calls``."""

    id: int
    moment: int
    fit: int
    step: int
    epoch: int
    stage: str
    phase: str
    plugin: str
    event: str
    begin_ns: int
    duration_ns: int
    own_ns: int
    depth: int
    error: str | None


class Write(NamedTuple):
    """One change of an attribute; the fields are the columns of ``writes`` but one."""

    call: int
    moment: int
    fit: int
    step: int
    epoch: int
    stage: str
    plugin: str
    event: str
    attribute: str
    is_put_back: bool
    before: str | None
    after: str | None


class TraceFile:
    """A trace that is being written."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @classmethod
    def made_anew(cls, place: Path) -> TraceFile:
        """An empty trace in the place of an older one.

        Raises:
            OptionError: Something else is there, or nothing can be written.
        """
        check_place(place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            for left in (place, place.with_name(f"{place.name}-journal")):
                left.unlink(missing_ok=True)
            with _connection(place) as connection:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise OptionError(
                f"trace: nothing can be written to {place}: {error}. Give another file."
            ) from error
        return cls(place)

    def add(
        self,
        calls: Sequence[Call],
        writes: Sequence[Write],
        facts: Mapping[str, Any],
        first_moment: int,
    ) -> None:
        """Write rows down, and let go of those before a moment or beyond the bound."""
        with _connection(self.place) as connection:
            connection.executemany(_insert("calls", Call._fields), calls)
            connection.executemany(_insert("writes", Write._fields), writes)
            rows = [(name, json.dumps(fact)) for name, fact in facts.items()]
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
            self._let_go(connection, first_moment)

    def _let_go(self, connection: sqlite3.Connection, first_moment: int) -> None:
        (latest,) = connection.execute("SELECT max(id) FROM calls").fetchone()
        (newest,) = connection.execute("SELECT max(id) FROM writes").fetchone()
        connection.execute(
            "DELETE FROM calls WHERE moment < ? OR id <= ?",
            (first_moment, (latest or 0) - MAX_ROWS),
        )
        gone = (first_moment, (newest or 0) - MAX_ROWS)
        connection.execute(
            "DELETE FROM writes WHERE (moment < ? OR id <= ?) AND id NOT IN "
            "(SELECT max(id) FROM writes WHERE moment < ? OR id <= ? "
            "GROUP BY attribute)",
            (*gone, *gone),
        )


def check_place(place: Path) -> None:
    """Leave files of another kind alone.

    Raises:
        OptionError: There is one.
    """
    if place.exists() and not _is_trace(place):
        raise OptionError(
            f"trace: {place} is there already and is no trace. Give another file."
        )


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


@contextmanager
def _connection(place: Path) -> Iterator[sqlite3.Connection]:
    # Opened for every batch of rows: a connection can be neither copied nor forked.
    with closing(sqlite3.connect(place)) as connection:
        # A trace need not outlive a power failure; a killed process it does.
        connection.execute("PRAGMA synchronous = OFF")
        with connection:
            yield connection


def _is_trace(place: Path) -> bool:
    try:
        with place.open("rb") as content:
            header = content.read(72)
    except OSError:
        return False
    is_sqlite = header.startswith(b"SQLite format 3\x00")
    return is_sqlite and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


class Trace:
    """A trace that is read; nothing that it may hold is run."""

    def __init__(self, place: Path, connection: sqlite3.Connection) -> None:
        self.place = place
        self._connection = connection

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What a query gives, a tuple a row.

        Raises:
            TraceError: The file is damaged.
        """
        try:
            return self._connection.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeError) as error:
            raise TraceError(f"{self.place} is damaged: {error}.") from error

    def fact(self, name: str, default: Any = None) -> Any:
        """Something that the trace tells of the run as a whole."""
        found = self.rows("SELECT fact FROM facts WHERE name = ?", name)
        return self.plain(found[0][0]) if found else default

    def plain(self, text: str | None) -> Any:
        """A column that holds JSON.

        Raises:
            TraceError: It does not.
        """
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise TraceError(f"{self.place} is damaged: {error}.") from error


@contextmanager
def opened(place: Path) -> Iterator[Trace]:
    """A trace, to be read inside the ``with`` block.

    Raises:
        TraceError: There is none, or what is there is not one.
    """
    if not place.exists():
        raise TraceError(
            f"There is no trace {place}. `callboard fit TARGET --epochs N --trace` "
            "makes one; --trace FILE names it here and there."
        )
    if not _is_trace(place):
        raise TraceError(f"{place} is no trace that Callboard has written.")
    _undo_what_a_kill_has_left(place)
    address = f"file:{quote(str(place.resolve()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        trace = Trace(place, connection)
        ((version,),) = trace.rows("PRAGMA user_version")
        if version != FORMAT:
            raise TraceError(
                f"{place} has format {version}; this version of callboard-trace reads "
                f"format {FORMAT}."
            )
        _check_tables(trace)
        yield trace


def _undo_what_a_kill_has_left(place: Path) -> None:
    """Take back half a batch of rows, which SQLite does only for who may write."""
    if place.with_name(f"{place.name}-journal").exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(place)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("SELECT count(*) FROM sqlite_master")


def _check_tables(trace: Trace) -> None:
    """Refuse what no trace has: views and triggers are questions of somebody else's."""
    found = trace.rows("SELECT type, name FROM sqlite_master")
    tables = {name for kind, name in found if kind == "table"}
    kinds = {kind for kind, _ in found}
    if not {"facts", "calls", "writes"} <= tables or kinds - {"table", "index"}:
        raise TraceError(
            f"{trace.place} is damaged: its tables are not those of a trace."
        )
