"""A backup that waits for WAL which the server cannot archive: cut short where somebody has to act, else patient."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from drkit.core.errors import Failed, Unreachable
from drkit.core.log import StreamLog
from drkit.jobs.backup_archiver import ArchiverWatch, Archiving
from tests.core.clocks import HandClock
from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import Server, new_server, require, run
from tests.storage_backends.mounts import tmpfs

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
SEGMENT = "000000010000000000000007"
FULL = {"b": "write x at file:///b: ENOSPC"}


class Archiver:
    """What pg_stat_archiver answers, one after the other; the last one for ever."""

    def __init__(self, *answers: tuple[int, int] | Unreachable) -> None:
        self._answers = list(answers)

    def __call__(self) -> Archiving:
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(found, Unreachable):
            raise found
        archived, failed = found
        return Archiving(archived, failed, SEGMENT if failed else "", AT if failed else None)


def watched(archiver: Archiver, lasting: dict[str, str], looks: int, stranded: dict[str, str] | None = None) -> str:
    """What was logged."""
    stream = StringIO()
    log = StreamLog(stream, run_id="r", clock=HandClock(), level="warn")
    watch = ArchiverWatch(archiver, lasting, lambda: stranded or {}, log)
    for _ in range(looks):
        watch.look()
    return stream.getvalue()


def test_three_failures_and_a_full_target_end_the_wait() -> None:
    with pytest.raises(Failed) as caught:
        watched(Archiver((5, 2), (5, 3), (5, 4), (5, 5)), FULL, 4)
    text = str(caught.value)
    assert SEGMENT in text and "3 attempts" in text and "2026-07-01T12:00:00.000000Z" in text
    assert "target b" in text and "ENOSPC" in text and caught.value.cure


def test_without_a_reason_that_lasts_it_is_said_once_and_waited_for() -> None:
    text = watched(Archiver((5, 2), (5, 3), (5, 4), (5, 5), (5, 9)), {}, 20)
    assert len(text.splitlines()) == 1 and SEGMENT in text and "server's log" in text


def test_with_no_target_apart_the_archiver_is_given_a_second_round() -> None:
    away = {"b": "open at file:///b: not this target"}
    assert len(watched(Archiver((5, 2), (5, 5), (5, 7)), {}, 20, away).splitlines()) == 1
    assert watched(Archiver((5, 2), (5, 7), (6, 8), (6, 10)), {}, 20, away).count("\n") == 1  # b came back
    with pytest.raises(Failed) as caught:
        watched(Archiver((5, 2), (5, 5), (5, 8)), {}, 20, away)
    text = str(caught.value)
    assert SEGMENT in text and "6 attempts" in text and "own device" in text and "target b" in text
    assert "not this target" in text and caught.value.cure


@pytest.mark.parametrize(
    "answers",
    [
        [(5, 2), (5, 4)],
        [(5, 7), (6, 9), (6, 11)],
        [(5, 2), (0, 0), (0, 2)],
        [(5, 2), Unreachable("the server is gone")],
        [Unreachable("it was never there")],
    ],
    ids=["two failures", "it goes on", "counts were reset", "gone", "never there"],
)
def test_what_proves_nothing_ends_nothing(answers: list[tuple[int, int] | Unreachable]) -> None:
    assert watched(Archiver(*answers), FULL, 20) == ""


@pytest.fixture
def world() -> Iterator[tuple[BackupWorld, Path]]:
    """Target a on the server's own device, b apart on a small disk."""
    require(15)
    server: Server = new_server(15, segment_mb=1)
    try:
        with tmpfs(server.root / "small", "size=40m,mode=0777") as small:
            made = BackupWorld(server, folders={"b": small / "target"})
            made.start()
            yield made, small
    finally:
        server.close()


@pytest.mark.real
def test_with_the_only_target_apart_full_the_backup_does_not_wait_for_ever(world: tuple[BackupWorld, Path]) -> None:
    made, small = world
    filler = small / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))

    done = made.drkit("--json", "backup", check=False)  # within the 2 minutes of the test, not the 10 of --wal-timeout

    assert done.returncode == 1, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])["error"]
    assert "could not archive" in told["what"] and "00000001" in told["what"]
    assert told["where"] == "target b" and errno.errorcode[errno.ENOSPC] in told["why"]
    assert made.listed() == []
    filler.unlink()
    made.server.query("select pg_switch_wal()")  # wakes the archiver, which rests for a minute
    assert {t["state"] for t in made.backup()["targets"]} == {"good"}


@pytest.mark.real
@pytest.mark.parametrize("away_before", [True, False])
def test_with_the_only_target_apart_away_the_backup_does_not_wait_for_ever(
    world: tuple[BackupWorld, Path], away_before: bool
) -> None:
    made, _ = world
    made.backup()
    folder = made.folders["b"]
    aside = folder.with_name("aside")
    server = made.server
    begun = server.value("select failed_count from pg_stat_archiver")
    if away_before:
        folder.rename(aside)
    command = made.program("drkit", "--json", "-q", "backup", "--rehash")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, command, check=False)
        if not away_before:
            until_it_runs(server)
            folder.rename(aside)
        while not running.done():
            server.query("select txid_current(), pg_switch_wal(), pg_sleep(0.2)")  # wakes the archiver from its rest
        done = running.result()
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])["error"]
    assert "could not archive" in told["what"] and "own device" in told["what"] and told["where"] == "target b", told
    assert server.value("select failed_count from pg_stat_archiver") >= begun + 6
    aside.rename(folder)
    server.query("select pg_switch_wal()")
    assert {t["state"] for t in made.backup()["targets"]} == {"good"}


def until_it_runs(server: Server) -> None:
    """A backup was started on the server."""
    sql = "select count(*) from pg_stat_activity where application_name = 'drkit backup'"
    while not server.value(sql):
        server.query("select pg_sleep(0.02)")
