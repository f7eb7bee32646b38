"""History files, ancestry, and which file holds a segment of a path."""

from __future__ import annotations

import pytest

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import HistoryDamaged, Timeline, Timelines, UnknownTimeline, parse_history
from drkit.engines.postgres.wal import parse_name
from tests.real.postgres import MakeServer

MIB = 1 << 20
HISTORY = b"""# a comment
1\t0/2800000\tno recovery target specified

 2\t0/4000000\tbefore 2026-11-21 12:00:00.000000+00
  # another
3\t0/4000000\tat restore point "a\tb"
"""


def names(timeline: Timeline, start: int, end: int, size: int = 16 * MIB) -> list[str]:
    found = timeline.segments(Lsn(start), Lsn(end), size)
    return [f"{name.timeline}:{name.number(size)}" for name in found]


def test_a_history_file_is_read_as_the_server_reads_it() -> None:
    timeline = parse_history(5, HISTORY)
    assert timeline.path == (1, 2, 3, 5)
    assert [str(one.switch) for one in timeline.ancestors] == ["0/2800000", "0/4000000", "0/4000000"]
    assert timeline.ancestors[2].reason == 'at restore point "a\tb"'
    assert timeline.begin == Lsn(0x4000000)
    assert timeline.begin_of(2) == Lsn(0x2800000)
    assert timeline.end_of(2) == Lsn(0x4000000)
    assert timeline.end_of(5) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# only a comment\n",
        b"one\t0/1\treason\n",
        b"1\t0-1\treason\n",
        b"1\n",
        b"2\t0/1\tx\n1\t0/2\tx\n",
        b"1\t0/2\tx\n2\t0/1\tx\n",
        b"5\t0/1\tx\n",
        b"1\t0/123456789\tx\n",
    ],
)
def test_what_the_server_would_refuse_is_refused(content: bytes) -> None:
    with pytest.raises(HistoryDamaged):
        parse_history(5, content)


def test_each_byte_of_a_path_has_one_timeline() -> None:
    timeline = parse_history(5, HISTORY)
    assert timeline.timeline_at(Lsn(0)) == 1
    assert timeline.timeline_at(Lsn(0x27FFFFF)) == 1
    assert timeline.timeline_at(Lsn(0x2800000)) == 2
    assert timeline.timeline_at(Lsn(0x4000000)) == 5


def test_the_segment_with_the_switch_goes_by_the_new_name() -> None:
    timeline = parse_history(5, HISTORY)
    assert names(timeline, 0x1000028, 0x5000001) == ["1:1", "2:2", "2:3", "5:4", "5:5"]
    assert [name.timeline for name in timeline.candidates(2, 16 * MIB)] == [2, 1]
    assert [name.timeline for name in timeline.candidates(4, 16 * MIB)] == [5, 3, 2, 1]
    assert timeline.segment(1, 16 * MIB) == parse_name("000000010000000000000001")


def test_a_switch_at_a_segments_first_byte_leaves_the_old_segment_before_it() -> None:
    timeline = parse_history(2, b"1\t0/3000000\tx\n")
    assert names(timeline, 0x2000000, 0x4000000) == ["1:2", "2:3"]
    assert names(timeline, 0x2000000, 0x3000000) == ["1:2"]


def test_a_backup_is_on_the_path_only_when_it_stopped_before_the_switch() -> None:
    timeline = parse_history(2, b"1\t0/3000000\tx\n")
    assert timeline.holds(1, Lsn(0x3000000))
    assert not timeline.holds(1, Lsn(0x3000001))
    assert timeline.holds(2, Lsn(0x9000000))
    assert not timeline.holds(3, Lsn(1))


def test_branches_are_told_apart() -> None:
    known = Timelines([parse_history(2, b"1\t0/3000000\tx\n"), parse_history(3, b"1\t0/5000000\tx\n")])
    assert [one.id for one in known] == [1, 2, 3]
    assert [one.id for one in known.through(1, Lsn(0x2000000))] == [1, 2, 3]
    assert [one.id for one in known.through(1, Lsn(0x4000000))] == [1, 3]
    assert [one.id for one in known.through(2, Lsn(0x4000000))] == [2]
    assert [one.id for one in known.children(1)] == [2, 3]
    with pytest.raises(UnknownTimeline):
        known.get(4)
    with pytest.raises(UnknownTimeline):
        known.get(2).begin_of(3)


def test_ancestors_without_a_file_of_their_own_are_known() -> None:
    known = Timelines([parse_history(5, HISTORY)])
    assert known.get(3).path == (1, 2, 3)
    assert 4 not in known


@pytest.mark.real
def test_the_path_of_a_promoted_server_is_where_its_files_are(pg_server: MakeServer) -> None:
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
    written = {path.name for path in archive.iterdir()} | {path.name for path in (server.data / "pg_wal").iterdir()}
    size = 1 * MIB
    start, end = timeline.begin - size, timeline.begin + size
    for name in timeline.segments(start, end, size):
        assert name.text in written
    switch = timeline.segment(timeline.begin.segment(size), size)
    assert switch.timeline == 2
    assert switch.text in written
