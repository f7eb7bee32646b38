"""Writers against a database in memory that fails as real ones do: before, or after, the commit."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from drills.journal import digest_of, read_journal, read_ledger
from drills.ledger import Moment, Row, judge
from drills.writer import Load
from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import Failed, Unreachable


class Database:
    """Commits into a dictionary; `script` says how each call goes: ok, lost (not committed), unheard (committed)."""

    def __init__(self, script: str, enough: int) -> None:
        self.rows: dict[tuple[str, int], str] = {}
        self.done = threading.Event()
        self._script, self._enough, self._calls = script.split(","), enough, 0
        self._lock = threading.Lock()

    def connect(self) -> Connection:
        return Connection(self)

    def commit(self, writer: str, number: int, payload: str) -> None:
        with self._lock:
            how = self._script[self._calls % len(self._script)]
            self._calls += 1
            if how == "broken":
                raise Failed("the disk is full")
            if how != "lost":
                self.rows.setdefault((writer, number), payload)
            if len(self.rows) >= self._enough:
                self.done.set()
            if how != "ok":
                raise Unreachable("the connection broke")


class Connection:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.commit = database.commit

    def close(self) -> None:
        return None


def load(folder: Path, database: Database, writers: int = 3) -> Load:
    counter = iter(range(10_000))
    clock = SystemClock()
    return Load(folder, writers, database.connect, clock, lambda: f"payload {next(counter)}", 0.0, CancelToken())


def rows_of(database: Database) -> list[Row]:
    return [Row(writer, number, digest_of(payload)) for (writer, number), payload in database.rows.items()]


@pytest.mark.parametrize("script", ["ok", "ok,lost", "ok,unheard,ok,ok", "lost,unheard,ok"])
def test_whatever_the_connection_does_every_row_is_accounted_for(tmp_path: Path, script: str) -> None:
    database = Database(script, enough=8)
    with load(tmp_path, database) as running:
        assert database.done.wait(30)
    end = SystemClock().monotonic()
    verdict = judge(read_ledger(running.journals), rows_of(database), Moment(end, end))
    assert verdict.complete
    assert verdict.kept == running.acknowledged
    assert verdict.recovered >= 8


def test_a_database_that_forgets_is_found_out(tmp_path: Path) -> None:
    database = Database("ok", enough=12)
    with load(tmp_path, database, writers=1) as running:
        assert database.done.wait(30)
    del database.rows["writer-1", 5]
    end = SystemClock().monotonic()
    verdict = judge(read_ledger(running.journals), rows_of(database), Moment(end, end))
    assert verdict.lost == verdict.holes == (("writer-1", 5),)


def test_an_error_that_no_retry_cures_ends_the_load_and_is_told(tmp_path: Path) -> None:
    database = Database("ok,ok,broken", enough=99)
    running = load(tmp_path, database, writers=1)
    with pytest.raises(Failed, match="disk is full"), running:
        running._group.token.wait(30)
        running.check()
    entries = read_journal(running.journals[0]).entries
    assert [e.acknowledged_s is None for e in entries] == [False, False, True]
