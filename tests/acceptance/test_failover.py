"""A primary dies with WAL that nobody archived, and a standby with a daemon of its own takes its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.scene import DRKIT_WAL, Scene, newest_major, scene, stop_strays
from tests.daemon.wal_daemon import WalDaemon, wal_daemon
from tests.real.postgres import Server, free_port, give, make_folder, new_server, run
from tests.real.wal_archive import until

pytestmark = pytest.mark.real


@contextmanager
def standby_of(one: Scene, **settings: str) -> Iterator[tuple[Scene, WalDaemon]]:
    """A streaming standby with drkit and a daemon of its own, which knows the repository and the key; running."""
    server = Server(one.server.major, one.server.bin, make_folder(), free_port())
    args = ["-h", str(one.server.sockets), "-p", str(one.server.port), "-U", "postgres", "-X", "stream"]
    run([server.bin / "pg_basebackup", "-D", server.data, *args, "--checkpoint=fast", "--no-manifest", "-R"])
    server.sockets.mkdir(mode=0o777)
    give(server.sockets)
    other = Scene(server, one.targets)
    socket = server.root / "socket"
    command = f"{DRKIT_WAL} push --config {other.config} --socket {socket} %p"
    where = {"port": str(server.port), "unix_socket_directories": str(server.sockets)}
    server.set(**where, archive_command=command, **settings)
    other.write_config(key=one.root / "master.key")
    (server.root / "spool").mkdir()
    give(server.root / "spool")
    try:
        with wal_daemon(other.config, socket, server.root / "daemon.log") as daemon:
            server.start()
            yield other, daemon
    finally:
        stop_strays(server.root)
        server.close()


def lose(one: Scene, standby: Scene, segments: int) -> tuple[list[str], list[str]]:
    """Write segments that are not archived, one row each, wait for the standby, and kill the primary.

    Names of the segments, and a time after each row's commit.
    """
    one.server.query("alter system set archive_command = '/bin/false'")
    one.server.query("select pg_reload_conf()")
    names, times = [], []
    for _ in range(segments):
        one.server.query("insert into t select coalesce(max(n), 0) + 1 from t")
        times.append(one.now())
        names.append(one.switch(wait=False))
    end = one.server.value("select pg_current_wal_lsn()")
    standby.until(f"select pg_last_wal_replay_lsn() >= '{end}'", "the standby replays it all")
    one.server.kill()
    until(lambda: not one.server.is_running(), standby.server)
    return names, times


def archived(one: Scene) -> list[set[str]]:
    """Of each target: the names of its WAL objects."""
    places = [Path(target.url.removeprefix("file://")) / "clusters" for target in one.targets]
    return [{path.name for path in place.rglob("wal/*/*/*") if path.is_file()} for place in places]


def test_row_05_segments_that_the_dead_primary_did_not_archive_come_from_the_promoted_standby(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with scene(newest_major(), segment_mb=1) as one:
        one.server.query("create table t (n int)")
        one.backup()
        one.switch()
        with standby_of(one) as (standby, daemon):
            names, times = lose(one, standby, 5)
            assert not any(names[0] in there for there in archived(standby))
            standby.server.promote()
            standby.server.query("checkpoint")  # what the new primary does not need, it recycles now
            until(lambda: all(there.issuperset(names) for there in archived(standby)), standby.server)
            standby.server.query("insert into t select max(n) + 1 from t")
            assert standby.switch() > names[-1]
            monkeypatch.setenv("DRKIT_DAEMON__SOCKET", str(daemon.socket))  # restored servers ask the daemon as well
            for number, moment in enumerate(times, start=1):
                with standby.restored(f"at-{number}", "--to", moment) as (_, session):
                    rows = [row[0] for row in session.execute("select n from t order by n").fetchall()]
                assert rows == list(range(1, number + 1)), daemon.log.read_text()[-3000:]
            with standby.restored("latest") as (_, session):
                assert session.execute("select max(n) from t").fetchone() == (6,)


def test_row_03_archiving_goes_on_after_a_failover_and_a_foreign_cluster_is_refused() -> None:
    with scene(newest_major(), segment_mb=1) as one:
        one.server.query("create table t (n int)")
        one.backup()
        one.switch()
        with standby_of(one) as (standby, daemon):
            lose(one, standby, 1)
            before = archived(standby)
            standby.server.promote()
            for _ in range(3):
                standby.switch()
            assert standby.server.value("select failed_count from pg_stat_archiver") == 0
            assert standby.server.value("select timeline_id from pg_control_checkpoint()") == 2
            assert all(now > then for now, then in zip(archived(standby), before, strict=True))
            known = archived(standby)
            foreign = new_server(one.server.major, segment_mb=1)
            try:
                command = f"{DRKIT_WAL} push --config {standby.config} --socket {daemon.socket} %p"
                foreign.set(archive_mode="on", archive_command=command)
                foreign.start()
                foreign.query("select pg_switch_wal()")
                failed = "select failed_count > 0 from pg_stat_archiver"
                until(lambda: bool(foreign.value(failed)), foreign)
                assert "this daemon archives no such cluster" in foreign.log.read_text()
                assert foreign.value("select archived_count from pg_stat_archiver") == 0
            finally:
                foreign.close()
            standby.switch()
            assert all(now >= then for now, then in zip(archived(standby), known, strict=True))
