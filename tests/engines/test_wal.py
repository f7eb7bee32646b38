"""WAL file names and segment headers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.core.errors import Conflict, Damage
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.version import MAJORS
from drkit.engines.postgres.wal import (
    SegmentError,
    WalKind,
    WalNameError,
    WrongAddress,
    WrongMagic,
    WrongSize,
    WrongSystem,
    WrongTimeline,
    check_segment,
    history_name,
    is_segment_size,
    name_at,
    name_before,
    names_between,
    next_name,
    parse_name,
    segment_name,
    segments_per_log,
)
from tests.real.postgres import MakeServer

MIB = 1 << 20
sizes = st.integers(20, 30).map(lambda power: 1 << power)
timelines = st.integers(1, (1 << 32) - 1)


def header(
    *, magic: int = 0xD110, info: int = 2, timeline: int = 1, address: int = 0, sysid: int = 7, size: int = MIB
) -> bytes:
    return struct.pack("<HHIQI4xQII", magic, info, timeline, address, 0, sysid, size, 8192).ljust(8192, b"\0")


@given(timelines, st.integers(0, (1 << 34) - 1), sizes)
def test_a_segment_name_survives_a_round_trip(timeline: int, number: int, size: int) -> None:
    number %= (1 << 32) * segments_per_log(size)
    name = segment_name(timeline, number, size)
    assert parse_name(name.text, size) == name
    assert name.number(size) == number
    assert name.start(size) == Lsn(number * size)
    assert len(name.text) == 24


@given(timelines, st.integers(0, 1 << 50), sizes)
def test_a_position_lies_in_its_segment(timeline: int, value: int, size: int) -> None:
    name = name_at(timeline, Lsn(value), size)
    assert name.start(size) <= Lsn(value) < name.start(size) + size
    assert next_name(name, size).start(size) == name.start(size) + size


def test_names_follow_across_a_log_boundary() -> None:
    assert next_name(parse_name("0000000100000000000000FF"), 16 * MIB).text == "000000010000000100000000"
    assert next_name(parse_name("000000010000000000000003"), 1024 * MIB).text == "000000010000000100000000"
    assert next_name(parse_name("000000010000000000000FFF"), MIB).text == "000000010000000100000000"


@pytest.mark.parametrize(
    ("text", "kind", "timeline", "offset"),
    [
        ("000000010000000000000001", WalKind.SEGMENT, 1, 0),
        ("0000000A0000000000000001.partial", WalKind.PARTIAL, 10, 0),
        ("000000010000000000000002.00000028.backup", WalKind.BACKUP_LABEL, 1, 0x28),
        ("0000001F.history", WalKind.HISTORY, 31, 0),
    ],
)
def test_every_kind_of_name_is_known(text: str, kind: WalKind, timeline: int, offset: int) -> None:
    name = parse_name(text, 16 * MIB)
    assert (name.text, name.kind, name.timeline, name.offset) == (text, kind, timeline, offset)
    if kind is WalKind.HISTORY:
        assert history_name(timeline) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00000001000000000000000",
        "0000000100000000000000011",
        "00000001000000000000000a",
        "000000000000000000000001",
        "00000000.history",
        "00000001.History",
        "0000000a.history",
        "000000010000000000000001.part",
        "000000010000000000000001.backup",
        "000000010000000000000001.00000028.backup.gz",
        "../000000010000000000000001",
        "000000010000000000000001\n",
        "RECOVERYXLOG",
    ],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(WalNameError):
        parse_name(text)


def test_a_segment_outside_its_log_is_refused() -> None:
    assert parse_name("000000010000000000000100").seg == 256
    with pytest.raises(WalNameError, match="no segment"):
        parse_name("000000010000000000000100", 16 * MIB)
    parse_name("000000010000000000000100", 8 * MIB)


def test_sizes_are_powers_of_two_from_1_mib_to_1_gib() -> None:
    assert [is_segment_size(n) for n in (MIB, 64 * MIB, 1024 * MIB)] == [True] * 3
    assert not any(is_segment_size(n) for n in (0, MIB // 2, 3 * MIB, 2048 * MIB, -MIB))


def test_the_segments_of_a_span() -> None:
    def span(start: int, end: int) -> list[str]:
        return [name.text[-2:] for name in names_between(1, Lsn(start), Lsn(end), MIB)]

    assert span(0, MIB) == ["00"]
    assert span(0, MIB + 1) == ["00", "01"]
    assert span(MIB, MIB) == ["01"]
    assert span(5, 3 * MIB) == ["00", "01", "02"]
    assert name_before(1, Lsn(3 * MIB), MIB).text.endswith("02")


def test_a_right_segment_passes_for_every_major() -> None:
    name = parse_name("000000020000000000000003")
    for major, facts in MAJORS.items():
        page = header(magic=facts.wal_magic, timeline=2, address=3 * MIB)
        found = check_segment(memoryview(page), name, MIB, 7)
        assert (found.major, found.timeline, found.system_identifier) == (major, 2, 7)
        assert (found.segment_size, found.block_size, found.address) == (MIB, 8192, Lsn(3 * MIB))


def test_an_older_page_timeline_is_right_after_a_switch() -> None:
    name = parse_name("000000020000000000000003")
    assert check_segment(header(timeline=1, address=3 * MIB), name, MIB, None).timeline == 1


@pytest.mark.parametrize(
    ("page", "size", "error"),
    [
        (bytes(8192), MIB, WrongMagic),
        (header(magic=0xD109, address=3 * MIB), MIB, WrongMagic),
        (header(info=0, address=3 * MIB), MIB, WrongMagic),
        (header(info=0x12, address=3 * MIB), MIB, WrongMagic),
        (header(address=3 * MIB)[:30], MIB, WrongSize),
        (header(address=3 * MIB), MIB - 1, WrongSize),
        (header(address=3 * MIB), 16 * MIB, WrongSize),
        (header(address=3 * MIB, size=3 * MIB), 3 * MIB, WrongSize),
        (header(address=2 * MIB), MIB, WrongAddress),
        (header(address=3 * MIB, timeline=3), MIB, WrongTimeline),
        (header(address=3 * MIB, timeline=0), MIB, WrongTimeline),
        (header(address=3 * MIB, sysid=8), MIB, WrongSystem),
    ],
)
def test_each_contradiction_has_its_error(page: bytes, size: int, error: type[SegmentError]) -> None:
    with pytest.raises(error) as caught:
        check_segment(page, parse_name("000000020000000000000003"), size, 7)
    assert isinstance(caught.value, Conflict if error is WrongSystem else Damage)


@pytest.mark.real
@pytest.mark.parametrize("segment_mb", [1, 64])
def test_a_servers_own_segments_pass(pg_server: MakeServer, segment_mb: int) -> None:
    server = pg_server(segment_mb=segment_mb)
    sysid = server.value("select system_identifier from pg_control_system()")
    server.query("create table t as select 1 as a")
    current = server.value("select pg_walfile_name(pg_current_wal_lsn())")
    lsn = Lsn.parse(server.value("select pg_current_wal_lsn()::text"))
    path = server.data / "pg_wal" / current
    name = parse_name(current, segment_mb * MIB)
    assert name == name_at(1, lsn, segment_mb * MIB)
    found = check_segment(path.read_bytes()[:8192], name, path.stat().st_size, sysid)
    assert (found.major, found.segment_size) == (server.major, segment_mb * MIB)
    with pytest.raises(WrongSystem):
        check_segment(path.read_bytes()[:8192], name, path.stat().st_size, sysid + 1)
