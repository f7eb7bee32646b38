"""Sessions with real servers."""

from __future__ import annotations

import time

import pytest

from drkit.core.errors import ConfigError, Failed, Refused, Unreachable
from drkit.engines.postgres.backup_label import parse_backup_label
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.session import BackupSession, Session
from drkit.engines.postgres.version import facts_of
from drkit.engines.postgres.wal import name_at
from tests.real.postgres import MakeServer

pytestmark = pytest.mark.real


def test_facts_are_the_servers(pg_server: MakeServer) -> None:
    server = pg_server(segment_mb=4, checksums=False, settings={"archive_mode": "on", "archive_command": "false"})
    with Session.open(server.conninfo()) as session:
        facts = session.facts()
    assert facts.major == server.major
    assert facts.system_identifier == server.value("select system_identifier from pg_control_system()")
    assert facts.data_directory == server.data
    assert (facts.in_recovery, facts.timeline, facts.wal_segment_size) == (False, 1, 4 << 20)
    assert (facts.data_checksums, facts.archive_mode, facts.archive_command) == (False, "on", "false")
    assert facts.may_backup and facts.may_switch_wal and facts.may_create_restore_point


def test_timeouts_of_the_role_do_not_count(pg_server: MakeServer) -> None:
    server = pg_server()
    server.query("alter role postgres set statement_timeout = '1ms'")
    server.query("alter role postgres set lock_timeout = '1ms'")
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    if server.major >= 14:
        server.query("alter role postgres set idle_session_timeout = '5s'")
        names.append("idle_session_timeout")
    if server.major >= 17:
        server.query("alter role postgres set transaction_timeout = '5s'")
        names.append("transaction_timeout")
    with Session.open(server.conninfo()) as session:
        for name in names:
            assert session.rows(f"show {name}") == [("0",)]


def test_a_backup_gives_label_and_map_to_the_byte(pg_server: MakeServer) -> None:
    server = pg_server()
    location = server.create_tablespace("ts")
    with BackupSession.open(server.conninfo()) as backup:
        start = backup.start("Sicherung nächtlich")
        backup.check()
        server.query("create table t as select 1 as a")
        stop = backup.stop()
    assert stop.lsn > start.lsn
    label = parse_backup_label(stop.label)
    assert (label.start, label.timeline, label.label) == (start.lsn, start.timeline, "Sicherung nächtlich")
    assert label.start_segment == name_at(1, start.lsn, 16 << 20).text
    assert label.checkpoint >= label.start
    assert not label.from_standby
    oid = server.value("select oid::int from pg_tablespace where spcname = 'ts'")
    assert stop.tablespace_map == f"{oid} {location}\n".encode()
    assert stop.label.endswith(b"START TIMELINE: 1\n")
    assert not (server.data / "backup_label").exists()


def test_without_tablespaces_there_is_no_map(pg_server: MakeServer) -> None:
    with BackupSession.open(pg_server().conninfo()) as backup:
        backup.start("x")
        assert backup.stop().tablespace_map == b""


def test_leaving_without_stop_leaves_nothing_behind(pg_server: MakeServer) -> None:
    server = pg_server()
    with BackupSession.open(server.conninfo()) as backup:
        backup.start("given up")
    with BackupSession.open(server.conninfo()) as backup:
        backup.start("next")
        backup.stop()
        with pytest.raises(Failed, match="no backup was started"):
            backup.stop()
    with Session.open(server.conninfo()) as session, pytest.raises(Failed):
        session.stop_backup()


def test_a_lost_session_is_noticed(pg_server: MakeServer) -> None:
    server = pg_server()
    with BackupSession.open(server.conninfo()) as backup:
        backup.start("x")
        server.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'drkit backup'")
        with pytest.raises(Unreachable, match="cannot be stopped"):
            backup.stop()


def test_a_backup_from_a_standby(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    (server.data / "standby.signal").touch()
    server.start()
    with BackupSession.open(server.conninfo()) as backup:
        assert backup.facts().in_recovery
        start = backup.start("standby")
        stop = backup.stop()
    assert start.timeline == 1
    assert parse_backup_label(stop.label).from_standby
    with Session.open(server.conninfo()) as session:
        assert "its primary does" in session.archiver()
        with pytest.raises(Refused, match="query failed"):
            session.switch_wal()


def test_a_promotion_voids_a_standbys_backup(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    (server.data / "standby.signal").touch()
    server.start()
    with BackupSession.open(server.conninfo()) as backup:
        backup.start("standby")
        server.promote()
        with pytest.raises(Refused, match="cannot be stopped") as caught:
            backup.stop()
    assert "promoted" in caught.value.why


def test_a_missing_right_is_named_with_its_cure(pg_server: MakeServer) -> None:
    server = pg_server()
    known = facts_of(server.major)
    server.query("create role weak login")
    conninfo = server.conninfo().replace("user=postgres", "user=weak")
    with Session.open(conninfo) as session:
        assert not session.facts().may_backup
        with pytest.raises(Refused, match="permission denied") as caught:
            session.start_backup("x", fast=True)
        assert caught.value.cure.startswith(f"grant execute on function {known.start_function}")
        assert caught.value.cure.endswith("to weak")
    for function in (known.start_function, known.stop_function):
        server.query(f"grant execute on function {function} to weak")
    with BackupSession.open(conninfo) as backup:
        assert backup.facts().may_backup
        backup.start("x")
        backup.stop()


def test_minimal_wal_is_refused_with_the_servers_reason(pg_server: MakeServer) -> None:
    server = pg_server(settings={"wal_level": "minimal", "max_wal_senders": "0"})
    with BackupSession.open(server.conninfo()) as backup, pytest.raises(Refused, match="cannot start") as caught:
        backup.start("x")
    assert "wal_level" in caught.value.cure


def test_switch_and_restore_point(pg_server: MakeServer) -> None:
    server = pg_server()
    with Session.open(server.conninfo()) as session:
        before = session.position()
        point = session.create_restore_point("before the change")
        assert point > before
        assert session.switch_wal() >= point
        assert session.position().offset(16 << 20) == 0
        with pytest.raises(Refused, match="63 bytes"):
            session.create_restore_point("ä" * 32)


def test_no_server_is_unreachable_and_says_where(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    with pytest.raises(Unreachable, match="cannot connect") as caught:
        Session.open(server.conninfo() + " password=hidden")
    assert str(server.port) in caught.value.where
    assert "hidden" not in str(caught.value) + caught.value.cure


def test_a_connection_string_that_is_none_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="nonsense") as caught:
        Session.open("host=x nonsense=1")
    assert "connection" in caught.value.where and "host=" in caught.value.cure


def test_position_of_a_standby_is_what_it_replayed(pg_server: MakeServer) -> None:
    server = pg_server()
    server.query("create table t as select 1 as a")
    at_least = Lsn.parse(server.value("select pg_current_wal_lsn()::text"))
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    with Session.open(server.conninfo()) as session:
        deadline = time.monotonic() + 20
        while session.position() < at_least and time.monotonic() < deadline:
            session.rows("select pg_sleep(0.05)")
        assert session.position() >= at_least
