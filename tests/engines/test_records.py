"""Records in WAL: against pg_waldump, across pages, segments, crashes and damage."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import (
    BackupEnd,
    Checkpoint,
    EndOfRecovery,
    ParameterChange,
    Record,
    RecordDamaged,
    RecordKind,
    RestorePoint,
    Transaction,
    find,
    summarise,
)
from drkit.engines.postgres.session import Session
from drkit.engines.postgres.stream import Batch, EndOfWal, WalStream, iterate
from drkit.engines.postgres.timeline import parse_history
from drkit.engines.postgres.wal import WalName, parse_name
from tests.real.postgres import MakeServer, Server

pytestmark = pytest.mark.real
MIB = 1 << 20
Segment = tuple[WalName, bytes]


def archive_of(folder: Path) -> list[Segment]:
    """The segments in a folder, in order."""
    return [(parse_name(path.name), path.read_bytes()) for path in sorted(folder.iterdir()) if len(path.name) == 24]


def read(segments: Iterable[Segment], stream: WalStream) -> list[Record]:
    return [record for _, batch in iterate(iter(segments), stream) for record in find(batch)]


def starts(segments: Iterable[Segment], stream: WalStream) -> list[int]:
    return [int(lsn) for _, batch in iterate(iter(segments), stream) for lsn in batch.lsns]


def busy(make: MakeServer, *, segment_mb: int) -> tuple[Server, Path]:
    """A server that archived a mixed load, stopped: subtransactions, aborts, two-phase, drops, huge records."""
    settings = {"max_prepared_transactions": "10", "wal_level": "logical", "synchronous_commit": "off"}
    server = make(start=False, segment_mb=segment_mb, settings=settings)
    archive = server.root / "archive"
    server.archive_to(archive)
    server.start()
    server.pgbench("-i", "-s", "1", "-q")
    server.query("create table t (a int, b text)")
    server.query("select pg_create_restore_point('before all')")
    server.pgbench("-c", "2", "-t", "300", "-n")
    with server.connect() as session:
        for sql in (
            "begin; savepoint a; insert into t values (1); savepoint b; insert into t values (2); commit",
            "begin; insert into t values (3); rollback",
            "begin; drop table pgbench_history; prepare transaction 'the gid'",
            "commit prepared 'the gid'",
            "begin; insert into t values (4); prepare transaction 'another'",
            "rollback prepared 'another'",
            "select pg_logical_emit_message(true, 'p', repeat('z', 3500000))",
            "begin; create table dropped (a int); drop table t; drop table dropped; commit",
            "checkpoint",
            "select pg_create_restore_point('nach allem — ü')",
            "select pg_switch_wal()",
            "create table last as select 1 as a",
            "select pg_switch_wal()",
        ):
            session.execute(sql)
    server.stop()
    return server, archive


def waldump(server: Server, archive: Path) -> list[str]:
    names = [name.text for name, _ in archive_of(archive)]
    done = server.tool("pg_waldump", archive / names[0], archive / names[-1], check=False)
    return [line for line in done.stdout.splitlines() if line.startswith("rmgr")]


_LINE = re.compile(r"rmgr: (\S+) .*tx:\s+(\d+), lsn: (\S+), prev (\S+), desc: (\S+) (.*)")


def told(lines: list[str]) -> list[tuple[str, bool, int, str, tuple[int, ...]]]:
    """pg_waldump's transactions: (lsn, committed, xid, time, subtransactions)."""
    found = []
    for line in lines:
        match = _LINE.match(line)
        if match is None or match[1] != "Transaction" or not match[5].startswith(("COMMIT", "ABORT")):
            continue
        prepared = re.match(r"(\d+):", match[6]) if "PREPARED" in match[5] else None
        xid = int(prepared[1]) if prepared else int(match[2])
        time = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", match[6])
        subxacts = re.search(r"subxacts: ([\d ]+)", match[6])
        assert time is not None
        ids = tuple(int(one) for one in subxacts[1].split()) if subxacts else ()
        found.append((str(Lsn.parse(match[3])), match[5].startswith("COMMIT"), xid, time[0], ids))
    return found


def ours(records: list[Record]) -> list[tuple[str, bool, int, str, tuple[int, ...]]]:
    return [
        (str(one.lsn), one.committed, one.xid, one.time.strftime("%Y-%m-%d %H:%M:%S.%f"), one.subxacts)
        for one in records
        if isinstance(one, Transaction)
    ]


@pytest.mark.parametrize("segment_mb", [1, 16])
def test_agrees_with_pg_waldump(pg_server: MakeServer, segment_mb: int) -> None:
    server, archive = busy(pg_server, segment_mb=segment_mb)
    segments = archive_of(archive)
    lines = waldump(server, archive)
    dumped = [Lsn.parse(match[3]).value for match in map(_LINE.match, lines) if match is not None]
    stream = WalStream(check_all=True)
    assert starts(segments, stream) == dumped
    assert stream.end is None
    assert stream.end_lsn == Lsn(segments[-1][0].start(segment_mb * MIB).value + segment_mb * MIB)
    records = read(segments, WalStream())
    transactions = told(lines)
    assert len(transactions) > 600
    assert ours(records) == transactions
    redo = [one.redo for one in records if isinstance(one, Checkpoint)]
    dumped_redo = [re.search(r"redo (\S+);", line) for line in lines if "desc: CHECKPOINT_" in line and "redo " in line]
    assert redo == [Lsn.parse(match[1]) for match in dumped_redo if match is not None]


def test_every_part_of_a_record_is_found(pg_server: MakeServer) -> None:
    """The global id comes last: behind subtransactions, dropped relations, statistics and invalidations."""
    _, archive = busy(pg_server, segment_mb=1)
    records = read(archive_of(archive), WalStream(check_all=True))
    assert [one.gid for one in records if isinstance(one, Transaction) and one.gid] == ["the gid", "another"]
    assert [len(one.subxacts) for one in records if isinstance(one, Transaction) and one.subxacts] == [2]
    assert [one.name for one in records if isinstance(one, RestorePoint)] == ["before all", "nach allem — ü"]
    changed = [one for one in records if isinstance(one, ParameterChange)]
    assert changed[-1].max_prepared_transactions == 10
    for before, after in itertools.pairwise(records):
        assert before.end <= after.lsn


def test_a_summary_says_the_same_as_the_records(pg_server: MakeServer) -> None:
    _, archive = busy(pg_server, segment_mb=1)
    segments = archive_of(archive)
    for _, batch in iterate(iter(segments), WalStream()):
        summary = summarise(batch)
        ends = [one for one in find(batch, frozenset({RecordKind.TRANSACTION})) if isinstance(one, Transaction)]
        times = [one.time for one in ends]
        assert summary.commits == sum(one.committed for one in ends)
        assert summary.aborts == len(ends) - summary.commits
        assert (summary.min_time, summary.max_time) == ((min(times), max(times)) if times else (None, None))
        assert summary.records == len(batch)
        assert summary.first == Lsn(int(batch.lsns[0]))
        points = tuple(find(batch, frozenset({RecordKind.RESTORE_POINT})))
        assert summary.restore_points == points


def test_reading_may_begin_in_any_segment(pg_server: MakeServer) -> None:
    _, archive = busy(pg_server, segment_mb=1)
    segments = archive_of(archive)
    everything = starts(segments, WalStream())
    for index in range(1, len(segments)):
        found = starts(segments[index:], WalStream())
        assert found == everything[len(everything) - len(found) :]
        first = segments[index][0].start(MIB).value
        assert all(lsn >= first for lsn in found)
        expected = [lsn for lsn in everything if lsn >= first]
        assert found == expected


def test_a_missing_segment_ends_it(pg_server: MakeServer) -> None:
    _, archive = busy(pg_server, segment_mb=1)
    segments = archive_of(archive)
    stream = WalStream()
    found = starts(segments[:2] + segments[3:], stream)
    assert stream.end is EndOfWal.GAP
    assert found == starts(segments[:2], WalStream())


def test_any_cut_gives_a_prefix(pg_server: MakeServer) -> None:
    _, archive = busy(pg_server, segment_mb=1)
    segments = archive_of(archive)[:3]
    everything = starts(segments, WalStream())
    name, last = segments[-1]
    source = random.Random(5)
    for size in [40, 8192, 8200, *(source.randrange(40, len(last)) for _ in range(60))]:
        stream = WalStream()
        found = starts([*segments[:-1], (name, last[:size])], stream)
        assert found == everything[: len(found)]
        assert stream.end is EndOfWal.PAGE
        zeros = WalStream()
        padded = starts([*segments[:-1], (name, last[:size].ljust(MIB, b"\0"))], zeros)
        assert padded == everything[: len(padded)]
        assert zeros.end is not None
        assert abs(len(padded) - len(found)) < 400


def test_no_flipped_bit_is_reported_as_data(pg_server: MakeServer) -> None:
    _, archive = busy(pg_server, segment_mb=1)
    segments = archive_of(archive)[:4]
    good = {record.lsn: record for record in read(segments, WalStream())}
    everything = starts(segments, WalStream())
    source = random.Random(6)
    name, content = segments[2]
    ended = 0
    for _ in range(150):
        damaged = bytearray(content)
        at = source.randrange(40, MIB)
        damaged[at] ^= 1 << source.randrange(8)
        changed = [*segments[:2], (name, bytes(damaged)), segments[3]]
        strict = WalStream(check_all=True)
        found = starts(changed, strict)
        assert found == everything[: len(found)]
        ended += strict.end is not None
        try:
            records = read(changed, WalStream())
        except RecordDamaged:
            continue
        assert all(good.get(record.lsn) == record for record in records)
    assert ended > 100  # the others hit padding between records or unchecked header fields


def test_the_segment_being_written_ends_where_the_server_is(pg_server: MakeServer) -> None:
    """Recycled segments hold old records behind the end: they must not be taken for new ones."""
    server = pg_server(segment_mb=1, settings={"max_wal_size": "2MB", "min_wal_size": "2MB"})
    server.query("create table t (a text)")
    for _ in range(6):
        server.query("insert into t select repeat('x', 100) from generate_series(1, 10000)")
        server.query("checkpoint")
    with Session.open(server.conninfo()) as session:
        point = session.create_restore_point("end")
        session.rows("insert into t values ('end')")  # its commit flushes the restore point too
        position = session.position()
        current = session.rows("select pg_walfile_name(pg_current_wal_lsn())")[0][0]
    server.stop("immediate")
    stream = WalStream(check_all=True)
    folder = server.data / "pg_wal"
    segments = [segment for segment in archive_of(folder) if segment[0].text >= current]
    records = read(segments, stream)
    assert [one.end for one in records if isinstance(one, RestorePoint)] == [point]
    assert any(isinstance(one, Transaction) and one.lsn >= point for one in records)
    assert stream.end is not None
    assert stream.end_lsn >= position
    assert stream.end_lsn - position < 16384  # nothing but what the background writers added


def test_a_promotion_is_read_along_the_path(pg_server: MakeServer) -> None:
    server = pg_server(start=False, segment_mb=1)
    archive = server.root / "archive"
    server.archive_to(archive)
    server.start()
    server.query("create table t as select generate_series(1, 30000) a")
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    server.promote()
    server.query("insert into t select generate_series(1, 30000)")
    server.query("select pg_switch_wal()")
    server.stop()
    timeline = parse_history(2, (archive / "00000002.history").read_bytes())
    start, end = Lsn(MIB), timeline.begin + MIB
    names = [name for name in timeline.segments(start, end, MIB) if (archive / name.text).exists()]
    stream = WalStream(check_all=True)
    records = read([(name, (archive / name.text).read_bytes()) for name in names], stream)
    assert stream.end is None
    ends = [one for one in records if isinstance(one, EndOfRecovery)]
    switched = [one for one in records if isinstance(one, Checkpoint) and one.timeline == 2]
    assert ends or switched
    for one in ends:
        assert (one.timeline, one.previous_timeline, one.lsn) == (2, 1, timeline.begin)


def test_a_record_cut_off_by_a_crash_is_dropped(pg_server: MakeServer) -> None:
    """The server loses the end of a long record, restarts, and overwrites it from the next page on."""
    server = pg_server(start=False, segment_mb=1)
    archive = server.root / "archive"
    server.archive_to(archive)
    server.set(archive_command="false")
    server.start()
    server.query("checkpoint")
    begun = server.value("select pg_walfile_name(pg_current_wal_insert_lsn())")
    server.query("select pg_logical_emit_message(true, 'p', repeat('z', 3500000))")
    server.stop("immediate")
    for path in (server.data / "pg_wal").iterdir():
        if len(path.name) == 24 and path.name > begun:
            path.unlink()
            (path.parent / "archive_status" / f"{path.name}.ready").unlink(missing_ok=True)
    server.archive_to(archive)
    server.start()
    server.query("select pg_create_restore_point('after the crash')")
    server.query("select pg_switch_wal()")
    server.stop()
    segments = archive_of(archive)
    names = [one.name for one in read(segments, WalStream()) if isinstance(one, RestorePoint)]
    assert names == ["after the crash"]
    lines = waldump(server, archive)
    assert any("OVERWRITE_CONTRECORD" in line for line in lines)
    stream = WalStream(check_all=True)
    dumped = [Lsn.parse(match[3]).value for match in map(_LINE.match, lines) if match is not None]
    assert starts(segments, stream) == dumped


def test_the_end_of_a_backup_is_seen(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    archive = server.root / "archive"
    server.archive_to(archive)
    server.start()
    with Session.open(server.conninfo()) as session:
        start = session.start_backup("x", fast=True)
        stop = session.stop_backup()
    server.stop()
    ends = [one for one in read(archive_of(archive), WalStream()) if isinstance(one, BackupEnd)]
    assert [one.start for one in ends] == [start.lsn]
    assert ends[0].end <= stop.lsn


def test_a_batch_knows_its_own_bytes(pg_server: MakeServer) -> None:
    _, archive = busy(pg_server, segment_mb=1)
    for _, batch in iterate(iter(archive_of(archive)), WalStream()):
        assert isinstance(batch, Batch)
        assert len(batch.record(0)) == int(batch.lengths[0])
        assert bool(np.all(batch.ends[:-1] <= batch.lsns[1:]))
        assert bool(np.all(batch.lsns < batch.ends))
