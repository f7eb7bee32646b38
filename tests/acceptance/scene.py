"""A server, its drkit and its targets, as an operator would set them up; everything goes through the command line."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psycopg

from tests.real.postgres import MAJORS, Server, bin_dir, give, new_server, require, run, server_user

DRKIT = Path(sys.executable).with_name("drkit")
DRKIT_WAL = Path(sys.executable).with_name("drkit-wal")


@dataclass(frozen=True, slots=True)
class Target:
    """A section [target.NAME]; lines: what follows `url`, each a line of TOML."""

    name: str
    url: str
    lines: tuple[str, ...] = ('site = "one"',)


@dataclass
class Scene:
    """extra: further TOML · folder targets lie in the server's root under their names, unless `targets` says other."""

    server: Server
    targets: list[Target]
    extra: str = ""

    @property
    def root(self) -> Path:
        return self.server.root

    @property
    def config(self) -> Path:
        return self.root / "drkit.toml"

    def place(self, target: str) -> Path:
        """Where a target that is a folder lies."""
        return self.root / target

    # --- drkit ---

    def write_config(self, path: Path | None = None, targets: Iterable[Target] | None = None, **keys: Path) -> Path:
        """Write a configuration. keys: other places of `key` (the key file) and `spool`."""
        path = path or self.config
        text = f"""
[cluster.main]
connection = "{self.server.conninfo()}"
data_dir = "{self.server.data}"
pg_bin = "{self.server.bin}"
[keys]
file = "{keys.get("key", self.root / "master.key")}"
[daemon]
spool = "{keys.get("spool", self.root / "spool")}"
[backup]
workers = 2
"""
        for target in self.targets if targets is None else targets:
            text += "\n".join([f"[target.{target.name}]", f'url = "{target.url}"', *target.lines, ""])
        path.write_text(text + self.extra)
        give(path)
        path.chmod(0o600)
        return path

    def drkit(self, *args: str | Path, config: Path | None = None, check: bool = True) -> CompletedProcess[str]:
        """One command line, run as the server's user."""
        return run([DRKIT, "--config", config or self.config, "-q", *args], check=check, timeout_s=600)

    def answer(self, *args: str | Path, config: Path | None = None, code: int = 0) -> dict[str, Any]:
        """The JSON answer of a command that ends with `code`."""
        done = self.drkit(*args, "--json", config=config, check=False)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def backup(self, *args: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.answer("backup", *args, code=code)["backup"]
        return found

    def refusal(self, *args: str | Path, config: Path | None = None) -> tuple[int, dict[str, str]]:
        """(exit status, the error object) of a command that must fail."""
        done = self.drkit(*args, "--json", config=config, check=False)
        assert done.returncode != 0, done.stdout
        last = json.loads(done.stderr.splitlines()[-1])
        assert last["schema"] == "drkit.error/1", done.stderr
        return done.returncode, last["error"]

    def states(self, config: Path | None = None, code: int = 0) -> dict[str, dict[str, str]]:
        """Backup id -> target -> state, as `drkit list` shows them."""
        rows = self.answer("list", config=config, code=code)["backups"]
        return {row["id"]: {t["name"]: t["state"] for t in row["targets"]} for row in rows}

    def wal_status(self) -> dict[str, dict[str, Any]]:
        """Target -> its status, whatever the exit code."""
        done = self.drkit("wal", "status", "--json", check=False)
        return {one["name"]: one for one in json.loads(done.stdout)["targets"]}

    # --- the server ---

    def start(self) -> None:
        """Configure archiving, start the server, create the repository."""
        (self.root / "spool").mkdir()
        give(self.root / "spool")
        for target in self.targets:
            folder = Path(target.url.removeprefix("file://"))
            if target.url.startswith("file://") and not folder.exists():
                folder.mkdir()
                give(folder)
        self.write_config()
        self.drkit("init", "--yes")
        self.server.set(archive_mode="on", archive_command=f"{DRKIT_WAL} push --config {self.config} %p")
        self.server.start()

    def switch(self, wait: bool = True) -> str:
        """End the WAL segment at hand and, unless told otherwise, wait until it is archived; its name."""
        with self.server.connect() as session:
            session.execute("select txid_current()")
            name = str(session.execute("select pg_walfile_name(pg_switch_wal())").fetchone()[0])  # type: ignore[index]
        if wait:
            self.until_archived(name)
        return name

    def until_archived(self, name: str) -> None:
        with self.server.connect() as session:
            for _ in range(1200):
                row = session.execute("select last_archived_wal from pg_stat_archiver").fetchone()
                if row is not None and row[0] is not None and str(row[0])[:24] >= name:
                    return
                session.execute("select pg_sleep(0.05)")
        raise AssertionError(f"{name} was not archived\n{self.server.log.read_text()[-3000:]}")

    def until(self, query: str, what: str) -> None:
        """Poll the server until a query answers true."""
        with self.server.connect() as session:
            for _ in range(1200):
                row = session.execute(query).fetchone()
                if row is not None and row[0]:
                    return
                session.execute("select pg_sleep(0.05)")
        raise AssertionError(f"{what} did not happen\n{self.server.log.read_text()[-3000:]}")

    def now(self) -> str:
        """The server's clock, as a time with its zone."""
        sql = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        return str(self.server.value(sql))

    # --- restores ---

    @contextmanager
    def restored(
        self, name: str, *flags: str | Path, config: Path | None = None, fresh: bool = True
    ) -> Iterator[tuple[dict[str, Any], psycopg.Connection[Any]]]:
        """`drkit restore --start`: its answer and a session on the server that it started; stopped on the way out."""
        data = self.fresh(name) if fresh else self.root / name
        answer = self.answer("restore", "--into", data, "--start", *flags, config=config)
        server = answer["server"]
        try:
            where = f"host={server['socket']} port={server['port']} dbname=postgres user=postgres"
            with psycopg.connect(where, autocommit=True) as session:
                yield answer, session
        finally:
            run([self.server.bin / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop"], check=False)

    def fresh(self, name: str) -> Path:
        """The name of a folder that is not there."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def wal_objects(self, target: str) -> dict[str, Path]:
        """Name -> stored object of each archived WAL file on a folder target."""
        return {p.name: p for p in (self.place(target) / "clusters").rglob("wal/*/*/*") if p.is_file()}


def newest_major() -> int:
    """The newest of the majors under test; skips where none is installed."""
    majors = sorted((one for one in MAJORS if bin_dir(one) is not None), reverse=True)
    if not majors:
        require(MAJORS[0])
    return majors[0]


def folder(root: Path, name: str, site: str = "one") -> Target:
    """A target in a folder below `root`."""
    return Target(name, f"file://{root}/{name}", (f'site = "{site}"',))


@contextmanager
def scene(
    major: int,
    *,
    segment_mb: int = 16,
    checksums: bool = True,
    settings: Mapping[str, str] | None = None,
    extra: str = "",
    names: tuple[str, ...] = ("a", "b"),
) -> Iterator[Scene]:
    """A new server that archives to folders, running; everything is removed on the way out."""
    server = new_server(major, segment_mb=segment_mb, checksums=checksums)
    try:
        server.set(**(settings or {}))
        one = Scene(server, [folder(server.root, name, f"site-{name}") for name in names], extra)
        one.start()
        yield one
    finally:
        stop_strays(server.root)
        server.close()


def stop_strays(root: Path) -> None:
    """Stop the restored servers that a failed test left running below `root`."""
    for pid_file in root.glob("*/postmaster.pid"):
        with suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)


def listing(*roots: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below the roots with mode, size and mtime: what 'nothing was touched' means."""
    found: dict[str, tuple[int, int, int]] = {}
    for root in roots:
        for where, names, files in os.walk(root):
            for name in (*names, *files, "."):
                path = Path(where) / name
                status = path.lstat()
                size = 0 if path.is_dir() else status.st_size
                found[str(path)] = (status.st_mode, size, status.st_mtime_ns)
    return found


def as_server(args: Sequence[str | Path]) -> subprocess.Popen[str]:
    """Start a program in the background as the server's user; its stderr is a pipe."""
    user = server_user()
    who: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    words = [str(one) for one in args]
    return subprocess.Popen(words, text=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **who)
