"""pg_control against the server's own reading of it."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import google_crc32c
import pytest

from drkit.core.errors import Missing
from drkit.engines.postgres.control import (
    CONTROL_PATH,
    ClusterState,
    ControlDamaged,
    ControlFile,
    crc_offset,
    parse_control,
    read_control,
)
from drkit.engines.postgres.version import MAJORS, UnknownVersion, facts_of, facts_of_server, facts_of_wal
from tests.real.postgres import MakeServer, Server


def shown(server: Server) -> dict[str, str]:
    out = server.tool("pg_controldata", server.data).stdout
    pairs = (line.split(":", 1) for line in out.splitlines())
    return {name.strip(): value.strip() for name, value in pairs}


def as_shown(control: ControlFile) -> dict[str, str]:
    """The same facts in pg_controldata's words."""
    states = {ClusterState.SHUT_DOWN: "shut down", ClusterState.IN_PRODUCTION: "in production"}
    return {
        "pg_control version number": str(control.control_version),
        "Catalog version number": str(control.catalog_version),
        "Database system identifier": str(control.system_identifier),
        "Database cluster state": states[control.state],
        "Latest checkpoint location": str(control.checkpoint),
        "Latest checkpoint's REDO location": str(control.redo),
        "Latest checkpoint's TimeLineID": str(control.timeline),
        "Latest checkpoint's PrevTimeLineID": str(control.previous_timeline),
        "Latest checkpoint's NextXID": f"{control.next_xid >> 32}:{control.next_xid & 0xFFFFFFFF}",
        "Minimum recovery ending location": str(control.min_recovery_point),
        "Min recovery ending loc's timeline": str(control.min_recovery_timeline),
        "Backup start location": str(control.backup_start_point),
        "Backup end location": str(control.backup_end_point),
        "End-of-backup record required": "yes" if control.backup_end_required else "no",
        "wal_level setting": control.wal_level,
        "wal_log_hints setting": "on" if control.wal_log_hints else "off",
        "max_connections setting": str(control.max_connections),
        "max_worker_processes setting": str(control.max_worker_processes),
        "max_wal_senders setting": str(control.max_wal_senders),
        "max_prepared_xacts setting": str(control.max_prepared_transactions),
        "max_locks_per_xact setting": str(control.max_locks_per_transaction),
        "track_commit_timestamp setting": "on" if control.track_commit_timestamp else "off",
        "Database block size": str(control.block_size),
        "Blocks per segment of large relation": str(control.relation_segment_blocks),
        "WAL block size": str(control.wal_block_size),
        "Bytes per WAL segment": str(control.wal_segment_size),
        "Data page checksum version": str(control.data_checksum_version),
    }


@pytest.mark.real
@pytest.mark.parametrize("checksums", [True, False])
def test_reads_what_pg_controldata_shows(pg_server: MakeServer, checksums: bool) -> None:
    settings = {
        "wal_level": "logical",
        "wal_log_hints": "on",
        "max_connections": "77",
        "max_worker_processes": "9",
        "max_wal_senders": "6",
        "max_prepared_transactions": "5",
        "max_locks_per_transaction": "65",
        "track_commit_timestamp": "on",
    }
    server = pg_server(segment_mb=2, checksums=checksums, settings=settings)
    for stop in (False, True):
        if stop:
            server.stop()
        raw, control = read_control(server.data, time.sleep)
        expected = as_shown(control)
        assert {name: shown(server)[name] for name in expected} == expected
        assert raw == (server.data / CONTROL_PATH).read_bytes()
        assert control.has_checksums == checksums
        assert control.facts.major == server.major
        assert control.tablespace_folder == control.facts.tablespace_folder


@pytest.mark.real
def test_every_flipped_byte_is_noticed(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    raw, control = read_control(server.data, time.sleep)
    for offset in range(crc_offset(control.control_version) + 4):
        damaged = bytearray(raw)
        damaged[offset] ^= 0x20
        with pytest.raises((ControlDamaged, UnknownVersion)):
            parse_control(bytes(damaged))


@pytest.mark.real
def test_a_torn_read_is_read_again(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    path = server.data / CONTROL_PATH
    good = path.read_bytes()
    torn = bytearray(good)
    torn[40:48] = b"\xff" * 8
    path.write_bytes(torn)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            path.write_bytes(good)

    assert read_control(server.data, sleep)[0] == good
    assert len(waits) == 2
    path.write_bytes(torn)
    with pytest.raises(ControlDamaged):
        read_control(server.data, lambda _: None, attempts=3)


def test_no_data_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        read_control(tmp_path, time.sleep)


def test_an_unknown_format_is_refused() -> None:
    data = bytearray(8192)
    struct.pack_into("<I", data, 8, 1201)
    with pytest.raises(UnknownVersion, match="format"):
        parse_control(bytes(data))
    with pytest.raises(ControlDamaged, match="short"):
        parse_control(b"\0" * 100)


@pytest.mark.parametrize("version", [1300, 1700, 1800])
def test_zeros_with_a_right_checksum_are_still_refused(version: int) -> None:
    data = bytearray(8192)
    struct.pack_into("<I", data, 8, version)
    end = crc_offset(version)
    struct.pack_into("<I", data, end, google_crc32c.value(bytes(data[:end])))
    with pytest.raises(Exception, match="another kind"):
        parse_control(bytes(data))


def test_each_major_has_facts_and_others_are_refused() -> None:
    assert sorted(MAJORS) == [13, 14, 15, 16, 17, 18]
    assert facts_of_server(150018).start_sql.startswith("select pg_backup_start(")
    assert facts_of_server(140001).stop_sql.endswith("pg_stop_backup(false, %s)")
    assert facts_of(17).wal_folders == ("archive_status", "summaries")
    assert facts_of_wal(0xD118).major == 18
    for wrong in (12, 19, 0):
        with pytest.raises(UnknownVersion, match="not supported"):
            facts_of(wrong)
    with pytest.raises(UnknownVersion):
        facts_of_wal(0)
