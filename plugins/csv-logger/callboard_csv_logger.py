"""Write the results of every epoch to a CSV file, one row an epoch.

A row is on the disk before the next epoch begins, so that a killed run keeps its rows.
Columns go by name: what comes later gets a column of its own, what is missing leaves
its cell empty. The state holds all that was written, so that a run that goes on from a
checkpoint, on whatever machine, ends with the file of the run that was never killed.

Listens to  before_fit, after_epoch
Changes     nothing
Source      fastai's CSVLogger (fastai/callback/progress.py), for the options and names
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from callboard import Callback
from callboard.errors import OptionError, StateError

Row = dict[str, str]


class CSVLogger(Callback):
    """Writes ``learner.results`` of every epoch to a CSV file.

    Args:
        fname: The file, in ``learner.path`` unless it is absolute. Folders are made.
        append: Keep the rows of runs before this one.
        exclude: Names that get no column, such as ``"time"``.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "csv-logger"
    role = "observe"
    run_after = "recorder"

    def __init__(
        self,
        fname: str | Path = "history.csv",
        *,
        append: bool = False,
        exclude: str | Sequence[str] = (),
    ) -> None:
        self.fname = _checked_fname(fname)
        self.append = append
        self.exclude = _checked_exclude(exclude)
        self._file: Path | None = None
        self._written = ""
        self._is_resuming = False

    def before_fit(self) -> None:
        if os.environ.get("RANK", "0") != "0":
            self.run = False  # the first of several processes writes
            return
        self._file = self._place()
        _check_place(self._file)
        self._written = self._rows_to_keep(self._file)
        self._is_resuming = False
        before = self._file.read_bytes() if self._file.exists() else None
        if before != self._written.encode():
            replace_file(self._file, self._written)

    def after_epoch(self) -> None:
        if self._file is None:
            return
        results = {"epoch": self.learn.epoch, **self.learn.results}
        row = {n: as_cell(v) for n, v in results.items() if n not in self.exclude}
        text = with_row(self._written, row)
        write_on(self._file, self._written, text)
        self._written = text

    def read_log(self) -> list[dict[str, Any]]:
        """The rows of the file with numbers as numbers, None where a cell is empty."""
        rows = rows_of(read_text(self._file or self._place()))
        return [{name: as_value(cell) for name, cell in row.items()} for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """All that the file holds: plain text."""
        return {"written": self._written}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next fit go on from these rows, whatever the file holds by then.

        Raises:
            StateError: The state is not of a CSVLogger.
        """
        if not isinstance(state.get("written"), str):
            raise StateError(
                "csv-logger: the state must hold the text 'written', got "
                f"{sorted(state)}."
            )
        self._written = state["written"]
        self._is_resuming = True

    def _place(self) -> Path:
        # Resolved, so that a link is followed and a change of folder moves nothing.
        return Path(self.path, self.fname).resolve()

    def _rows_to_keep(self, file: Path) -> str:
        start_epoch = self.learn.epoch
        if not (self.append or start_epoch):
            return ""
        text = self._written if self._is_resuming else read_text(file)
        if text and "epoch" not in columns_of(text):
            raise OptionError(
                f"csv-logger: {file} is no log to go on with: it has no column "
                "'epoch'. Give another fname, or take the file away."
            )
        if text and not text.endswith("\n"):
            text += "\n"  # the run that wrote it was killed in the middle of a row
        return without_epochs_from(text, start_epoch) if start_epoch else text


def _checked_fname(fname: object) -> Path:
    if not isinstance(fname, str | Path) or Path(fname).name == "":
        raise OptionError(
            f"csv-logger: fname must be the name of a file, got {fname!r}. "
            'Use "history.csv".'
        )
    return Path(fname)


def _checked_exclude(exclude: str | Sequence[str]) -> tuple[str, ...]:
    names = (exclude,) if isinstance(exclude, str) else exclude
    is_many = isinstance(names, Sequence | set | frozenset)
    if not is_many or not all(isinstance(name, str) for name in names):
        raise OptionError(
            f"csv-logger: exclude must be names of results, got {exclude!r}. "
            'Use ("time",) for a file without the time that an epoch took.'
        )
    if "epoch" in names:
        raise OptionError(
            'csv-logger: exclude must not name "epoch", which says where a run that is '
            'resumed goes on. Use ("time",) for a file without the time.'
        )
    return tuple(names)


def _check_place(file: Path) -> None:
    """Leave devices, folders and files of another kind alone.

    Raises:
        OptionError: There is something that no log of ours may be written to.
    """
    if file.exists() and not file.is_file():
        raise OptionError(
            f"csv-logger: {file} is no regular file, so no rows can be kept in it. "
            "Give another fname."
        )


# ---- rows as text --------------------------------------------------------------------


def as_cell(value: Any) -> str:
    """A value as text that reads back as the same value; None is an empty cell."""
    if value is None:
        return ""
    if hasattr(value, "item"):  # a number of torch or numpy
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value)


def as_value(cell: str) -> Any:
    """What a cell says: a number where it is one, None where it is empty.

    >>> [as_value(cell) for cell in ("3", "0.25", "", "up")]
    [3, 0.25, None, 'up']
    """
    for kind in (int, float):
        # Python reads 1_000 as a number, and no other program does.
        with suppress(ValueError):
            return kind(cell.replace("_", "?"))
    return cell or None


def columns_of(text: str) -> list[str]:
    """The names in the header of a CSV text; none in an empty one."""
    return next(csv.reader(io.StringIO(text, newline="")), [])


def rows_of(text: str) -> list[Row]:
    """The rows of a CSV text by name of their column; missing cells are empty."""
    return list(csv.DictReader(io.StringIO(text, newline=""), restval=""))


def with_row(text: str, row: Row) -> str:
    """A CSV text with one row more, and with the columns that are new in it.

    >>> with_row("epoch,loss\\n0,0.5\\n", {"epoch": "1", "f1": "0.9"})
    'epoch,loss,f1\\n0,0.5,\\n1,,0.9\\n'
    """
    columns = columns_of(text)
    new = [name for name in row if name not in columns]
    output = io.StringIO(newline="")
    writer = csv.DictWriter(output, [*columns, *new], restval="", lineterminator="\n")
    if not new:
        writer.writerow(row)
        return text + output.getvalue()
    writer.writeheader()
    writer.writerows([*rows_of(text), row])
    return output.getvalue()


def without_epochs_from(text: str, epoch: int) -> str:
    """A CSV text without its last rows, those of this epoch and of later ones.

    >>> without_epochs_from("epoch,loss\\n0,0.9\\n1,0.5\\n2,0.3\\n", 1)
    'epoch,loss\\n0,0.9\\n'
    """
    lines = list(io.StringIO(text, newline=""))
    reader = csv.DictReader(lines)
    kept = 0
    for row in reader:
        number = as_value(row.get("epoch") or "")
        if not isinstance(number, int) or number < epoch:
            kept = reader.line_num
    return "".join(lines[:kept])


# ---- text on the disk ----------------------------------------------------------------


def read_text(file: Path) -> str:
    """What a file holds, as it is; nothing where there is none."""
    return file.read_bytes().decode() if file.exists() else ""


def write_on(file: Path, before: str, text: str) -> None:
    """Let a file that holds ``before`` hold ``text``, safely on the disk.

    What is only added is written at the end; all else goes through a new file that
    takes the place of the old one at once.
    """
    start = len(before.encode())
    is_longer = file.exists() and file.stat().st_size >= start
    if not (is_longer and text.startswith(before)):
        replace_file(file, text)
        return
    try:
        with file.open("r+b") as output:
            output.seek(start)
            output.truncate()
            output.write(text.encode()[start:])
            _sync(output)
    except OSError:
        # Half a row is worse than none. The disk may well refuse this, too.
        with suppress(OSError):
            os.truncate(file, start)
        raise


def replace_file(file: Path, text: str) -> None:
    """Put a new file in the place of an old one at once, folders included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with new.open("wb") as output:
            output.write(text.encode())
            _sync(output)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    # Without this the new name may not outlive a power failure. Windows and some
    # network file systems cannot do it, and the rows are there all the same.
    with suppress(OSError):
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sync(output: BinaryIO) -> None:
    output.flush()
    os.fsync(output.fileno())
