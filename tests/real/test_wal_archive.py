"""drkit-wal under real servers: every segment size, and recoveries that lose or damage their store half way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.real.postgres import MakeServer, Server
from tests.real.wal_archive import Archive, copy_of, make_archive, plan_for, recovers

pytestmark = pytest.mark.real


@pytest.fixture
def archives() -> Iterator[Callable[[Server], Archive]]:
    made: list[Archive] = []

    def make(server: Server) -> Archive:
        made.append(make_archive(server))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def copies() -> Iterator[Callable[[Archive], Server]]:
    made: list[Server] = []

    def make(archive: Archive) -> Server:
        made.append(copy_of(archive))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fill(archive: Archive, segments: int, rows: int = 1000) -> list[str]:
    """Write and archive some segments; the names. Row n of table t is in segment n."""
    archive.server.query("create table if not exists t (n int, filler text)")
    names = []
    for number in range(segments):
        archive.server.query(f"insert into t select {number}, repeat('x', 100) from generate_series(1, {rows})")
        names.append(archive.switch())
    return names


Recovery = Callable[[Archive], Server]
Archiving = Callable[[Server], Archive]


@pytest.mark.parametrize("segment_mb", [1, 64])
def test_row_16_any_segment_size_is_archived_and_recovered_to_the_last_row(
    segment_mb: int, pg_server: MakeServer, archives: Archiving, copies: Recovery
) -> None:
    archive = archives(pg_server(start=False, segment_mb=segment_mb))
    copy = copies(archive)
    names = fill(archive, 5)
    for planned in (False, True):
        if planned:
            copy = copies(archive)
            names += fill(archive, 3)
            plan_for(archive, copy, names[-1], segment_bytes=segment_mb << 20)
        assert recovers(copy)
        log = copy.log.read_text()
        assert all(f'restored log file "{name}"' in log for name in names[-2:])
        count = archive.server.value("select count(*) from t")
        assert copy.value("select count(*) from t") == count
        assert not list(copy.data.glob("pg_wal/*.drkit.tmp"))


def test_row_01_a_store_that_goes_away_in_mid_recovery_stops_the_server_and_it_goes_on_later(
    pg_server: MakeServer, archives: Archiving, copies: Recovery
) -> None:
    archive = archives(pg_server(start=False, segment_mb=1))
    copy = copies(archive)
    names = fill(archive, 6)
    plan_for(archive, copy, names[-1], segment_bytes=1 << 20)
    for target in ("a", "b"):
        archive.object(target, names[3]).rename(archive.root / f"{target}-{names[3]}")
    assert not recovers(copy)
    assert "is in doubt" in copy.log.read_text()
    for target in ("a", "b"):
        (archive.root / f"{target}-{names[3]}").rename(archive.object(target, names[2]).with_name(names[3]))
    copy.log.unlink()
    assert recovers(copy)
    assert copy.value("select count(*) from t") == 6000


def test_row_01_absent_on_one_target_while_the_other_is_unmounted_does_not_promote(
    pg_server: MakeServer, archives: Archiving, copies: Recovery
) -> None:
    archive = archives(pg_server(start=False, segment_mb=1))
    copy = copies(archive)
    names = fill(archive, 4)
    archive.object("a", names[2]).unlink()
    archive.target("b").rename(archive.root / "unmounted")
    assert not recovers(copy), "no recovery file: absence must be proven on both"
    (archive.root / "unmounted").rename(archive.target("b"))
    copy.log.unlink()
    assert recovers(copy)
    assert copy.value("select count(*) from t") == 4000


def test_row_18_a_flipped_bit_on_one_target_is_told_and_recovery_is_exact(
    pg_server: MakeServer, archives: Archiving, copies: Recovery
) -> None:
    archive = archives(pg_server(start=False, segment_mb=1))
    one, both = copies(archive), copies(archive)
    names = fill(archive, 4)
    for copy in (one, both):
        plan_for(archive, copy, names[-1], segment_bytes=1 << 20)
    _flip(archive, "a", names[1])
    assert recovers(one)
    assert one.value("select n, count(*) from t group by n order by n limit 1") == 0
    assert one.value("select count(*) from t") == 4000
    assert 'event="wal damaged"' in one.log.read_text()
    _flip(archive, "b", names[1])
    assert not recovers(both), "no good copy: it must not be promoted"
    assert "is in doubt" in both.log.read_text()


def _flip(archive: Archive, target: str, file: str) -> None:
    path = archive.object(target, file)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
