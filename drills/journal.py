"""The ledger's journal: a writer's own file, outside the database, that says what was sent and acknowledged.

    {"schema": "drkit.journal/1", "writer": "w1", "opened_at": "2026-07-01T00:00:00.000000Z", "opened_s": 12.5}
    ["sent", 1, 12.501, "<digest>"]
    ["acknowledged", 1, 12.508]

Each line is on disk before the call that wrote it returns, so a crash of the client makes a row doubtful at worst,
never forgotten. Numbers are consecutive from 1, and one is sent only when the one before it is acknowledged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from drills.ledger import Entry
from drkit.core.errors import Damage
from drkit.core.units import format_time, parse_time
from storage_backends.durable import sync_dir

SCHEMA = "drkit.journal/1"


def digest_of(payload: str) -> str:
    """What stands for a payload: 128 bits of BLAKE2b, in hex."""
    return hashlib.blake2b(payload.encode(), digest_size=16).hexdigest()


class Journal:
    """Append-only; one writer, one thread. Instants are seconds of the clock that all writers of a ledger share."""

    def __init__(self, path: Path, writer: str, opened_at: datetime, opened_s: float) -> None:
        """Creates the file, durably. Raises OSError: FileExistsError where the path is taken."""
        self.path, self.writer = path, writer
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        head = {"schema": SCHEMA, "writer": writer, "opened_at": format_time(opened_at), "opened_s": opened_s}
        self._append(head)
        sync_dir(path.parent)

    def sent(self, number: int, digest: str, at_s: float) -> None:
        """Before the commit is asked for."""
        self._append(["sent", number, at_s, digest])

    def acknowledged(self, number: int, at_s: float) -> None:
        """After the commit returned, at `at_s`."""
        self._append(["acknowledged", number, at_s])

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, value: object) -> None:
        data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data) :]
        os.fdatasync(self._file)


@dataclass(frozen=True, slots=True)
class Book:
    """A journal read back. opened_at, opened_s: one instant, by the wall clock and by the clock of the entries."""

    writer: str
    opened_at: datetime
    opened_s: float
    entries: tuple[Entry, ...]


def read_journal(path: Path) -> Book:
    """Raises Damage where a line is not as written; a torn last line is what a crash leaves, and is dropped."""
    lines = path.read_bytes().split(b"\n")[:-1]
    entries: list[Entry] = []
    read = 0
    try:
        head = json.loads(lines[0])
        if head["schema"] != SCHEMA:
            raise ValueError(f"its schema is {head['schema']!r}")
        writer, opened_at, opened_s = str(head["writer"]), parse_time(head["opened_at"]), float(head["opened_s"])
        for line in lines[1:]:
            read += 1
            _add(entries, writer, json.loads(line))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Damage("the journal is damaged", where=f"{path}, line {read + 1}", why=str(error)) from error
    return Book(writer, opened_at, opened_s, tuple(entries))


def read_ledger(paths: Iterable[Path]) -> tuple[Entry, ...]:
    """The entries of all writers. Raises Damage, also for two journals of one writer."""
    books = [read_journal(path) for path in paths]
    writers = [book.writer for book in books]
    if len(set(writers)) < len(writers):
        raise Damage("two journals are of one writer", why=", ".join(sorted(writers)))
    return tuple(entry for book in books for entry in book.entries)


def _add(entries: list[Entry], writer: str, record: list[object]) -> None:
    kind, number, at_s = record[:3]
    if not isinstance(number, int) or not isinstance(at_s, int | float):
        raise TypeError("a number and an instant were expected")
    last = entries[-1] if entries else None
    if kind == "sent":
        if number != len(entries) + 1 or (last is not None and last.acknowledged_s is None):
            raise ValueError(f"{number} was sent out of turn")
        entries.append(Entry(writer, number, str(record[3]), float(at_s)))
    elif kind == "acknowledged":
        if last is None or last.number != number or last.acknowledged_s is not None:
            raise ValueError(f"{number} was acknowledged out of turn")
        entries[-1] = replace(last, acknowledged_s=float(at_s))
    else:
        raise ValueError(f"{kind!r} is no record of a journal")
