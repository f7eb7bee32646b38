"""Restore and start of a server whose configuration lies outside of its data folder, as Debian has it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import Refused
from drkit.core.progress import Silent
from drkit.engines.postgres.instance import make_socket_folder
from drkit.jobs.restore_start import StartOrder, check_start, start
from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import Server, free_port, give, make_folder, require, run

MAJOR = 15


class Debian(BackupWorld):
    """.../15/NAME is the data folder, .../etc/15/NAME holds the files; rows 1 and 2 of t, the first in the backup."""

    backup_id: str

    @property
    def home(self) -> Path:
        return self.server.data

    @property
    def etc(self) -> Path:
        return self.server.root / "etc"

    @property
    def outside(self) -> Path:
        return self.etc / str(MAJOR) / self.home.name

    def run(self) -> None:
        options = f"-c config_file={self.outside}/postgresql.conf"
        log = self.server.log
        run([self.server.bin / "pg_ctl", "-D", self.home, "-l", log, "-w", "-o", options, "start"])

    def move_configuration(self) -> None:
        self.outside.mkdir(parents=True)
        names = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
        self.server.set(data_directory=str(self.home), **{k: f"{self.outside}/{names[k]}" for k in names})
        for name in names.values():
            (self.home / name).rename(self.outside / name)
        conf = self.outside / "postgresql.conf"
        conf.write_text(conf.read_text().replace("config_file =", "#config_file ="))


@pytest.fixture(scope="module")
def world() -> Iterator[Debian]:
    server = Server(MAJOR, require(MAJOR), make_folder(), free_port())
    try:
        server.data = server.root / str(MAJOR) / f"c{server.port}"
        server.data.parent.mkdir()
        give(server.data.parent)
        server.initdb()
        server.set(max_connections="150")
        found = Debian(server)
        found.start()
        server.stop()
        found.move_configuration()
        found.run()
        server.query("create table t (a int)")
        server.query("insert into t values (1)")
        found.backup_id = found.backup()["id"]
        server.query("insert into t values (2)")
        with server.connect() as session:
            name = session.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
            while session.execute("select last_archived_wal < %s from pg_stat_archiver", name).fetchone() != (False,):
                session.execute("select pg_sleep(0.05)")
        yield found
    finally:
        server.close()


def rows(sockets: str, port: int) -> list[int]:
    with psycopg.connect(f"host={sockets} port={port} dbname=postgres user=postgres") as session:
        return [row[0] for row in session.execute("select a from t order by a").fetchall()]


def stop(world: Debian, data: Path) -> None:
    run([world.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])


@pytest.mark.real
def test_a_copy_is_started_with_files_of_its_own_beside_it(world: Debian) -> None:
    data = world.server.root / "copy"
    done: dict[str, Any] = json.loads(world.drkit("--json", "restore", "--into", str(data), "--start").stdout)
    try:
        server = done["server"]
        assert server["outcome"] == "ready" and rows(server["socket"], server["port"]) == [1, 2]
        made = {key: Path(name) for key, name in server["configuration"].items()}
        assert set(made) == {"config_file", "hba_file", "ident_file"}
        assert {one.parent for one in made.values()} == {data.with_name("copy.conf")}
        assert not any((data / one.name).exists() for one in made.values()), "what is restored stays as it was"
        for closed in (data.with_name("copy.conf"), Path(server["socket"])):
            assert closed.stat().st_mode & 0o077 == 0
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
            psycopg.connect(f"host=127.0.0.1 port={server['port']} dbname=postgres user=postgres")
    finally:
        stop(world, data)
    text = world.drkit("restore", "--into", str(data), "--delta", "--start").stdout
    stop(world, data)
    assert "configuration lay outside of its data folder" in text
    assert all(str(one) in text for one in made.values())


@pytest.mark.real
def test_in_place_it_is_started_with_the_clusters_own_configuration_or_not_at_all(world: Debian) -> None:
    manifest, home = world.manifest(world.backup_id), world.home
    assert check_start(manifest, None, home, etc=world.etc) == {"config_file": f"{world.outside}/postgresql.conf"}
    with pytest.raises(Refused, match="no configuration"):
        check_start(manifest, None, home.with_name("another"), etc=world.etc)
    another = world.etc / str(MAJOR) / "another"
    another.symlink_to(world.outside)
    with pytest.raises(Refused, match="no configuration"):  # it is there, for another data folder
        check_start(manifest, None, home.with_name("another"), etc=world.etc)

    stop(world, home)
    home.rename(world.server.root / "broken")
    refused = world.drkit("restore", "--into", str(home), "--start", check=False)
    assert refused.returncode == 4 and f"/etc/postgresql/{MAJOR}/{home.name}" in refused.stderr
    assert not home.exists()
    assert "put it and pg_hba.conf in place" in world.drkit("restore", "--into", str(home)).stdout
    settings = check_start(manifest, None, home, etc=world.etc)
    order = StartOrder(home, None, None, fenced=False, segment_bytes=16 << 20, environment={}, settings=settings)
    started = start(order, SystemClock(), CancelToken(), Silent())
    assert started.port == world.server.port and started.configuration == settings
    assert rows(str(started.socket_folder), started.port) == [1, 2]
    assert world.server.value("show max_connections") == "150"
    assert world.server.value("show hba_file") == f"{world.outside}/pg_hba.conf"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_private_folder_that_somebody_else_made_is_not_used(tmp_path: Path) -> None:
    data, sockets = tmp_path / "data", tmp_path / "sockets"
    data.mkdir()
    sockets.mkdir()
    os.chown(sockets, 65534, 65534)
    with pytest.raises(Refused, match="not its own"):
        make_socket_folder(sockets, data)
    os.chown(sockets, 0, 0)
    sockets.chmod(0o777)
    make_socket_folder(sockets, data)
    assert sockets.stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(sockets)
    with pytest.raises(Refused, match="not its own"):
        make_socket_folder(link, data)
