"""A server that archives through drkit to two folders, and the command line as its user types it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psycopg

from drkit.core.units import format_time
from tests.real.postgres import Server, free_port, give, run

DRKIT = Path(sys.executable).with_name("drkit")
WAL = Path(sys.executable).with_name("drkit-wal")


@dataclass
class World:
    server: Server

    @property
    def root(self) -> Path:
        return self.server.root

    @property
    def config(self) -> Path:
        return self.root / "drkit.toml"

    def target(self, name: str) -> Path:
        return self.root / name

    def drkit(self, *args: str | Path, check: bool = True) -> CompletedProcess[str]:
        """One command line, run as the server's user."""
        return run([DRKIT, "--config", self.config, "-q", *args], check=check, timeout_s=300)

    def answer(self, *args: str | Path) -> dict[str, Any]:
        """The JSON answer of a command that succeeds."""
        value: dict[str, Any] = json.loads(self.drkit(*args, "--json").stdout)
        return value

    def refusal(self, *args: str | Path) -> tuple[int, str]:
        """(exit status, the whole error) of a command that must fail."""
        done = self.drkit(*args, check=False)
        assert done.returncode != 0, done.stdout
        return done.returncode, done.stderr

    def backup(self, *args: str) -> str:
        return str(self.answer("backup", *args)["backup"]["id"])

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return self.server.query(text)

    def switch(self) -> str:
        """End the WAL segment at hand, and wait until it and all before it are archived; returns its name."""
        with self.server.connect() as session:
            session.execute("select txid_current()")
            name = session.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
            assert name is not None
            for _ in range(600):
                row = session.execute("select last_archived_wal from pg_stat_archiver").fetchone()
                if row is not None and row[0] is not None and str(row[0])[:24] >= str(name[0]):
                    return str(name[0])
                session.execute("select pg_sleep(0.05)")
        raise AssertionError(f"{name[0]} was not archived")

    def now(self) -> str:
        """The server's clock, as a time with its zone."""
        return format_time(self.server.value("select clock_timestamp()"))

    def segments(self, target: str) -> list[Path]:
        return sorted(p for p in (self.target(target) / "clusters").rglob("wal/*/*/*") if p.is_file())

    def remove_segment(self, name: str) -> None:
        """Lose one WAL file on every target."""
        for target in ("a", "b"):
            for path in self.segments(target):
                if path.name == name:
                    path.unlink()

    def fresh(self, name: str) -> Path:
        """A folder's name that is not taken yet, removed with the world."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    @contextmanager
    def started(self, data: Path) -> Iterator[psycopg.Connection[Any]]:
        """A session on a restored folder's server, started here and stopped on the way out."""
        port = free_port()
        sockets = self.root / "s"
        log = data.with_name(data.name + ".log")
        options = f"-p {port} -k {sockets} -c listen_addresses= -c shared_buffers=16MB -c logging_collector=off"
        run([self.server.bin / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-o", options, "start"])
        try:
            conninfo = f"host={sockets} port={port} dbname=postgres user=postgres"
            with psycopg.connect(conninfo, autocommit=True) as session:
                until_promoted(session)
                yield session
        finally:
            run([self.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])

    def refuses_to_start(self, data: Path) -> str:
        """Start a server on a folder that must not start; returns its last words."""
        done = run([self.server.bin / "postgres", "-D", data, "-p", str(free_port())], check=False, timeout_s=60)
        assert done.returncode != 0
        return done.stderr


def until_promoted(session: psycopg.Connection[Any]) -> None:
    """Wait until recovery has ended; the server's own clock does the waiting."""
    for _ in range(1200):
        row = session.execute("select pg_is_in_recovery()").fetchone()
        if row is not None and not row[0]:
            return
        session.execute("select pg_sleep(0.05)")
    raise AssertionError("recovery did not end")


def make_world(server: Server) -> World:
    """Configure drkit for a stopped server, start it with archiving, and create the repository."""
    world = World(server)
    for name in ("a", "b", "spool"):
        (world.root / name).mkdir()
        give(world.root / name)
    world.config.write_text(
        f"""
[cluster.main]
connection = "{server.conninfo()}"
data_dir = "{server.data}"
pg_bin = "{server.bin}"
[target.a]
url = "file://{world.root}/a"
site = "one"
[target.b]
url = "file://{world.root}/b"
site = "two"
[keys]
file = "{world.root}/master.key"
[daemon]
spool = "{world.root}/spool"
[backup]
workers = 2
"""
    )
    give(world.config)
    world.config.chmod(0o600)
    server.set(archive_mode="on", archive_command=f"{WAL} push --config {world.config} %p")
    server.start()
    world.drkit("init", "--yes")
    return world


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every path below a folder with mode, mtime and content: what 'untouched' means."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder) / name
            status = path.lstat()
            content = b""
            if path.is_symlink():
                content = os.fsencode(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, content)
    return found
