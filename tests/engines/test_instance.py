"""Recovery by a real server: settings, signal, phases, outcomes, and the copy that must not act on the world."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from drkit.core.errors import Missing, Refused
from drkit.engines.postgres.instance import (
    Instance,
    InstanceSpec,
    NotReached,
    Outcome,
    StartFailed,
    make_socket_folder,
    own_configuration,
)
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.phases import Phase, phase_of
from drkit.engines.postgres.programs import find_programs, major_of
from drkit.engines.postgres.recovery import (
    RecoveryTarget,
    TargetAction,
    TargetKind,
    fence_settings,
    recovery_settings,
    required_minimums,
)
from tests.engines.copies import Copy, copy_of, prepare
from tests.real.postgres import MakeServer, Server, free_port, require

pytestmark = pytest.mark.real


def archived(make: MakeServer, **settings: str) -> tuple[Server, Path]:
    """A running server that archives into a folder."""
    server = make(start=False, settings=settings)
    folder = server.root / "archive"
    server.archive_to(folder)
    server.start()
    return server, folder


def finish(server: Server) -> None:
    """Archive everything written so far: stop does so before it ends."""
    server.query("select pg_switch_wal()")
    server.stop()


@contextmanager
def recovering(server: Server, copy: Copy, target: RecoveryTarget, **settings: str) -> Iterator[Instance]:
    command = f"cp {server.root}/archive/%f %p"
    prepare(copy, recovery_settings(target, command))
    sockets = copy.data.with_name(copy.data.name + ".s")
    make_socket_folder(sockets, copy.data)
    port = free_port()
    fenced = fence_settings(server.major, port, sockets, shared_buffers_mib=16)
    spec = InstanceSpec(
        copy.data,
        find_programs(server.major, (server.bin,)),
        port,
        sockets,
        copy.data.with_name("copy.log"),
        {**fenced, **required_minimums(copy.control), **settings},
        oom_score_adj=1000,
    )
    with Instance(spec, time.monotonic, time.sleep) as instance:
        instance.start()
        yield instance


def rows(instance: Instance, sql: str) -> list[tuple[object, ...]]:
    spec = instance.spec
    with psycopg.connect(
        f"host={spec.socket_folder} port={spec.port} dbname=postgres user=postgres", autocommit=True
    ) as connection:
        return connection.execute(sql).fetchall()  # type: ignore[arg-type,unused-ignore]


def test_recovers_to_a_time_and_reports_its_phases(pg_server: MakeServer) -> None:
    server, _ = archived(pg_server)
    server.query("create table t (a int)")
    copy = copy_of(server)
    server.query("insert into t values (1)")
    between = server.value("select clock_timestamp()")
    server.query("insert into t values (2)")
    finish(server)
    target = RecoveryTarget(TargetKind.TIME, between, timeline=1)
    with recovering(server, copy, target) as instance:
        assert instance.wait(60) is Outcome.READY
        assert rows(instance, "select a from t") == [(1,)]
        assert rows(instance, "show archive_mode") == [("off",)]
        assert rows(instance, "show listen_addresses") == [("127.0.0.1",)]
        order = [one.phase for one in instance.phases]
        expected = [
            Phase.RECOVERY_BEGINS,
            Phase.REDO_STARTS,
            Phase.CONSISTENT,
            Phase.STOPPING,
            Phase.REDO_DONE,
            Phase.NEW_TIMELINE,
            Phase.PROMOTED,
            Phase.READY,
        ]
        assert [phase for phase in order if phase in expected] == expected
        stamps = [one.at_s for one in instance.phases]
        assert stamps == sorted(stamps)
        redo = instance.seen(Phase.REDO_STARTS)
        assert redo is not None and Lsn.parse(redo.detail) == copy.start.lsn
        stopping = instance.seen(Phase.STOPPING)
        assert stopping is not None and stopping.detail.startswith("before commit of transaction")


@pytest.mark.parametrize("inclusive", [True, False])
def test_recovers_to_a_transaction(pg_server: MakeServer, inclusive: bool) -> None:
    server, _ = archived(pg_server)
    server.query("create table t (a int)")
    copy = copy_of(server)
    server.query("insert into t values (1)")
    xid = int(server.query("insert into t values (2) returning pg_current_xact_id()::text")[0][0])
    server.query("insert into t values (3)")
    finish(server)
    target = RecoveryTarget(TargetKind.XID, xid, inclusive=inclusive, timeline=1)
    with recovering(server, copy, target) as instance:
        assert instance.wait(60) is Outcome.READY
        assert rows(instance, "select max(a) from t") == [(2 if inclusive else 1,)]


def test_pauses_at_a_name_and_goes_on(pg_server: MakeServer) -> None:
    server, _ = archived(pg_server)
    server.query("create table t (a int)")
    copy = copy_of(server)
    server.query("insert into t values (1)")
    server.query("select pg_create_restore_point('it''s here')")
    server.query("insert into t values (2)")
    finish(server)
    target = RecoveryTarget(TargetKind.NAME, "it's here", timeline=1, action=TargetAction.PAUSE)
    with recovering(server, copy, target) as instance:
        assert instance.wait(60) is Outcome.PAUSED
        assert rows(instance, "select a from t") == [(1,)]
        rows(instance, "select pg_wal_replay_resume()::text")
        assert instance.wait(60, accept=frozenset({Outcome.READY})) is Outcome.READY


def test_shuts_down_at_an_lsn(pg_server: MakeServer) -> None:
    server, _ = archived(pg_server)
    copy = copy_of(server)
    server.query("create table t (a int)")
    lsn = Lsn.parse(server.value("select pg_current_wal_insert_lsn()::text"))
    server.query("insert into t values (2)")
    finish(server)
    target = RecoveryTarget(TargetKind.LSN, lsn, timeline=1, action=TargetAction.SHUTDOWN)
    with recovering(server, copy, target) as instance:
        assert instance.wait(60) is Outcome.SHUT_DOWN
        assert not instance.is_running


@pytest.mark.parametrize("kind", [TargetKind.LATEST, TargetKind.END])
def test_recovers_to_both_ends(pg_server: MakeServer, kind: TargetKind) -> None:
    server, _ = archived(pg_server)
    server.query("create table t (a int)")
    copy = copy_of(server)
    server.query("insert into t values (1)")
    finish(server)
    with recovering(server, copy, RecoveryTarget(kind, timeline=1 if kind is TargetKind.LATEST else None)) as instance:
        assert instance.wait(60) is Outcome.READY
        assert rows(instance, "select count(*) from t") == [(1 if kind is TargetKind.LATEST else 0,)]


def test_a_target_past_the_end_is_not_reached(pg_server: MakeServer) -> None:
    server, _ = archived(pg_server)
    copy = copy_of(server)
    finish(server)
    future = datetime.now(UTC) + timedelta(days=1)
    with recovering(server, copy, RecoveryTarget(TargetKind.TIME, future, timeline=1)) as instance:
        with pytest.raises(NotReached) as caught:
            instance.wait(60)
        assert "recovery ended before configured recovery target" in caught.value.why


def test_settings_lower_than_the_sources_are_named(pg_server: MakeServer) -> None:
    server, _ = archived(pg_server, max_connections="150")
    copy = copy_of(server)
    server.query("create table t (a int)")
    finish(server)
    target = RecoveryTarget(TargetKind.LATEST, timeline=1)
    with recovering(server, copy, target, max_connections="20") as instance, pytest.raises(StartFailed) as caught:
        instance.wait(60)
    assert "max_connections" in caught.value.why


def test_a_copy_without_configuration_files_runs_on_its_own(pg_server: MakeServer) -> None:
    server, _ = archived(pg_server, max_connections="150")
    server.query("create table t (a int)")
    copy = copy_of(server)
    finish(server)
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (copy.data / name).unlink()
    folder = server.root / "conf"
    make_socket_folder(folder, copy.data)
    settings = own_configuration(folder, copy.data)
    with recovering(server, copy, RecoveryTarget(TargetKind.LATEST, timeline=1), **settings) as instance:
        assert instance.wait(60) is Outcome.READY
        assert rows(instance, "show max_connections") == [("150",)]
        assert rows(instance, "show config_file") == [(str(folder / "postgresql.conf"),)]
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
            psycopg.connect(f"host=127.0.0.1 port={instance.spec.port} dbname=postgres user=postgres")


def test_the_last_words_of_a_server_that_cannot_start_are_in_the_error(pg_server: MakeServer) -> None:
    server = pg_server(start=False)
    (server.data / "global/pg_control").unlink()
    spec = InstanceSpec(server.data, server.bin, server.port, server.sockets, server.log)
    with Instance(spec, time.monotonic, time.sleep) as instance:
        instance.start()
        with pytest.raises(StartFailed, match="ended") as caught:
            instance.wait(30)
    assert "pg_control" in caught.value.why


def test_a_folder_of_root_is_refused(tmp_path: Path) -> None:
    spec = InstanceSpec(Path("/"), tmp_path, 1, tmp_path, tmp_path / "log")
    with pytest.raises(Refused, match="root"):
        Instance(spec, time.monotonic, time.sleep).start()


def test_programs_are_found_by_major(pg_major: int) -> None:
    folder = find_programs(pg_major, (require(pg_major),))
    assert major_of(folder) == pg_major
    assert (folder / "pg_ctl").exists()


def test_a_major_without_programs_is_missing() -> None:
    with pytest.raises(Missing, match="PostgreSQL 7"):
        find_programs(7)


def test_refused_connections_are_no_failure() -> None:
    assert phase_of("FATAL:  the database system is starting up", 0) is None
