"""A server under load that archives through the daemon, compared byte for byte with WAL kept aside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from drkit.repository.layout import Kind
from drkit.repository.wal import open_wal
from tests.daemon.wal_daemon import WalDaemon, wal_daemon
from tests.jobs.backup_world import PROGRAMS, BackupWorld, load
from tests.real.postgres import give, new_server, require
from tests.real.wal_archive import until

pytestmark = pytest.mark.real

_ARCHIVE = """#!/bin/sh
[ -e {aside}/$2 ] || {{ cp "$1" {aside}/.$2 && mv {aside}/.$2 {aside}/$2; }} || exit 1
{programs}/drkit-wal push --config {config} "$1"
"""


class Place:
    """A server whose archive_command keeps each file aside before drkit-wal gets it."""

    def __init__(self) -> None:
        require(15)
        self.server = new_server(15, segment_mb=1)
        self.world = BackupWorld(self.server)
        self.root = self.world.root
        self.aside, self.log = self.root / "aside", self.root / "daemon.log"
        self.aside.mkdir()
        give(self.aside)
        script = self.root / "archive.sh"
        script.write_text(_ARCHIVE.format(aside=self.aside, programs=PROGRAMS, config=self.world.config))
        script.chmod(0o755)
        self.world.start()
        self.server.set(archive_command=f"{script} %p %f")
        self.server.restart()

    def daemon(self) -> AbstractContextManager[WalDaemon]:
        return wal_daemon(self.world.config, self.root / "socket", self.log)

    def write(self, segments: int) -> str:
        """Rows, and the end of a segment, as often as that; the name of the last one."""
        name = ""
        for _ in range(segments):
            self.server.query("insert into t select generate_series(1, 2000)")
            name = str(self.server.value("select pg_walfile_name(pg_switch_wal())"))
        return name

    def until_archived(self, name: str) -> None:
        until(lambda: str(self.server.value("select last_archived_wal from pg_stat_archiver")) >= name, self.server)

    def failures(self) -> int:
        return int(self.server.value("select failed_count from pg_stat_archiver"))

    def plain(self, target: str, file: str) -> bytes:
        repository = self.world.repository()
        kind = Kind.HISTORY if file.endswith(".history") else Kind.WAL
        with open_wal(repository.ring, repository.target(target), self.world.layout.archived(file), kind) as found:
            return b"".join(found.pieces())

    def check_all(self) -> int:
        """Every file that was handed over is on every target, byte for byte; how many there are."""
        names = sorted(path.name for path in self.aside.iterdir() if not path.name.startswith("."))
        for name in names:
            content = (self.aside / name).read_bytes()
            for target in ("a", "b"):
                assert self.plain(target, name) == content, f"{name} on {target}"
        return len(names)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    one = Place()
    one.server.query("create table t (n int)")
    one.server.pgbench("-i", "-s", "1")
    yield one
    one.server.close()


def owed(daemon: WalDaemon, target: str) -> int:
    ((found,),) = [[t["owed"] for t in row["targets"] if t["name"] == target] for row in daemon.facts()]
    return int(found)


def test_all_that_is_written_under_load_is_archived_byte_for_byte(place: Place) -> None:
    with place.daemon() as daemon, load(place.server):
        place.until_archived(place.write(40))
        (facts,) = daemon.facts()
        assert facts["last_file"] and not facts["problem"]
        assert place.failures() == 0
    assert place.check_all() >= 40
    assert "wal archived" in place.log.read_text()


def test_a_target_goes_away_and_returns(place: Place) -> None:
    folder = place.world.folders["b"]
    aside = folder.with_name("taken-away")
    with place.daemon() as daemon:
        folder.rename(aside)
        place.until_archived(place.write(5))
        assert owed(daemon, "b") >= 5
        (facts,) = daemon.facts()
        (resting,) = [t["resting"] for t in facts["targets"] if t["name"] == "b"]
        assert "missing" in resting or "not" in resting
        aside.rename(folder)
        until(lambda: owed(daemon, "b") == 0, place.server, timeout_s=200)
    place.check_all()


def test_without_a_daemon_the_command_line_archives_and_with_it_the_daemon_goes_on(place: Place) -> None:
    before = place.failures()
    place.until_archived(place.write(1))
    with place.daemon() as daemon:
        place.until_archived(place.write(2))
        daemon.kill()
        assert (place.root / "socket").exists()  # nobody listens there now
        place.until_archived(place.write(1))
    with place.daemon() as daemon:
        place.until_archived(place.write(2))
        assert daemon.stop() == 0
        assert not (place.root / "socket").exists()
    assert place.failures() - before <= 1  # the push that the kill cut short
    place.check_all()


def test_a_restore_recovers_through_the_daemon(place: Place) -> None:
    place.world.backup()
    with place.daemon() as daemon:
        rows = place.write(20)
        place.until_archived(rows)
        count = place.server.value("select count(*) from t")
        data = place.root / "restored"
        server = json.loads(place.world.drkit("--json", "restore", "--into", str(data), "--start").stdout)["server"]
        where = f"host={server['socket']} port={server['port']} dbname=postgres user=postgres"
        with psycopg.connect(where) as session:
            assert session.execute("select count(*) from t").fetchone() == (count,)
            until(lambda: not (data / "pg_wal" / "drkit-prefetch").exists(), place.server)
        place.server.tool("pg_ctl", "-D", data, "-m", "immediate", "stop")
        log = data.with_name("restored.log").read_text()
        assert "drkit-wal: " in log and "drkit: " not in log  # by the daemon's word, no command line was started
        shutil.rmtree(data)
        assert daemon.stop() == 0


def test_the_facts_tell_what_waits_and_since_when(place: Place) -> None:
    place.server.query("alter system set archive_command = '/bin/false'")
    place.server.query("select pg_reload_conf()")
    try:
        with place.daemon() as daemon:
            place.write(3)
            until(lambda: daemon.facts()[0]["ready"] >= 3, place.server)
            (facts,) = daemon.facts()
            assert facts["ready_bytes"] >= 3 << 20 and facts["oldest_ready_at"]
    finally:
        place.server.query("alter system reset archive_command")
        place.server.query("select pg_reload_conf()")
    place.until_archived(place.write(1))


def test_only_files_of_the_servers_own_are_taken(place: Place, tmp_path: Path) -> None:
    """Foreign descriptors: a folder, a pipe, one opened for writing, another file under a segment's name."""
    import os

    from drkit.daemon.ask import ask
    from drkit.daemon.protocol import Request, Status

    system = str(place.world.layout.system_identifier)
    name = place.write(1)
    with place.daemon() as daemon:
        socket = daemon.socket
        reading, writing = os.pipe()
        written = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
        here = os.open(tmp_path, os.O_RDONLY)
        for descriptor in (reading, written, here):
            answer = ask(socket, Request("push", (system, name)), descriptors=[descriptor], timeout_s=30)
            assert answer.status is Status.REFUSED and "no regular file" in answer.text
        with (place.aside / sorted(p.name for p in place.aside.iterdir())[0]).open("rb") as other:
            answer = ask(socket, Request("push", (system, name)), descriptors=[other.fileno()], timeout_s=30)
            assert answer.status is Status.FAILED and "is not what its name says" in answer.text
            answer = ask(socket, Request("push", ("12345", name)), descriptors=[other.fileno()], timeout_s=30)
            assert answer.status is Status.FAILED and "no such cluster" in answer.text
        answer = ask(socket, Request("get", (system, name)), descriptors=[written, reading], timeout_s=30)
        assert answer.status is Status.FAILED and "no folder" in answer.text
        answer = ask(socket, Request("get", (system, name)), descriptors=[here, here], timeout_s=30)
        assert answer.status is Status.REFUSED and "no regular file" in answer.text
        for descriptor in (reading, writing, written, here):
            os.close(descriptor)
    place.until_archived(name)
