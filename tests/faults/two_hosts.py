"""Two hosts with all of drkit each, one server under load, and two targets between them."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from drkit.crypto.keys import parse_key_file
from drkit.crypto.slots import Secret
from drkit.repository.catalogue import Catalogue, read_catalogue
from drkit.repository.layout import ClusterLayout
from drkit.repository.pins import Pins
from drkit.repository.repository import Repository, open_repository
from drkit.repository.target import Target
from storage_backends.api import StorageBackend
from storage_backends.url import TargetSettings, open_target
from tests.acceptance.scene import DRKIT_WAL
from tests.acceptance.scene import Target as Section
from tests.acceptance.soundness import assert_manifest_matches
from tests.real.postgres import Server, free_port, give, run, server_user
from tests.real.rgw import RgwServer

PROJECT = Path(__file__).resolve().parents[2]
LEASE_S = 10
STOPPED_S = LEASE_S * 1.3
GRACE_S = 4
MIN_FULL = 2
HOSTS = ("anna", "bruno")
RETENTION = f'[retention]\npitr_window = "12s"\nmin_full = {MIN_FULL}\ngrace = "{GRACE_S}s"\n'
_ENDS_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a job `after_s` it began. signal: SIGKILL, SIGSTOP (until its lease ran out), or None."""

    signal: signal.Signals | None = None
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """status: as an exit status, -9 where it was killed · met: the fate came while it ran."""

    args: tuple[str, ...]
    status: int
    out: str
    err: str
    met: bool
    seconds: float

    def answer(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out)
        return value


class Lane:
    """One job at a time on one host. Not thread-safe."""

    def __init__(self, host: str, config: Path, folder: Path, name: str, lease_s: int = LEASE_S) -> None:
        self.host = host
        self._config, self._files = config, (folder / f"{name}.out", folder / f"{name}.err")
        user = server_user()
        extra: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.brief_leases", host, str(lease_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=PROJECT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            **extra,
        )

    def run(self, *args: str, fate: Fate | None = None) -> Ended:
        """One command line to its end, and what it met."""
        began = time.monotonic()
        out, err = self._files
        asked = {"args": ["--config", str(self._config), *args], "out": str(out), "err": str(err)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        pid = int(self._line(_ENDS_WITHIN_S))
        met = fate is not None and fate.signal is not None and self._suffer(pid, fate)
        status = os.waitstatus_to_exitcode(int(self._line(_ENDS_WITHIN_S)))
        seconds = time.monotonic() - began
        return Ended(args, status, out.read_text(), err.read_text(), met, seconds)

    def _suffer(self, pid: int, fate: Fate) -> bool:
        assert fate.signal is not None
        if self._ready(fate.after_s):
            return False
        with suppress(ProcessLookupError):
            os.killpg(pid, fate.signal)
            if fate.signal is signal.SIGSTOP:
                time.sleep(STOPPED_S)  # the fault itself: stopped for longer than a lease lasts
                os.killpg(pid, signal.SIGCONT)
            return True
        return False

    def _ready(self, timeout_s: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout.fileno()], [], [], timeout_s)[0])

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        assert self._ready(timeout_s), f"a job on {self.host} does not end: {self._files[1].read_text()[-2000:]}"
        line: bytes = self._process.stdout.readline()
        return line

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Ledger:
    """Rows that the server acknowledged: a row is in every backup that ends at or behind its position."""

    server: Server
    rows: list[tuple[int, int]] = field(default_factory=list)

    def demanded(self, stop: int) -> int:
        """The greatest number that a backup which ends at `stop` must hold; rows are numbered from 1, none left out."""
        return max((number for position, number in self.rows if position <= stop), default=0)

    @contextmanager
    def load(self) -> Iterator[None]:
        done, ended = threading.Event(), list[BaseException]()

        def write() -> None:
            try:
                with self.server.connect() as session:
                    while not done.wait(0.03):
                        self._write(session)
            except BaseException as error:  # noqa: BLE001  a thread root: raised when the block ends
                ended.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if ended:
            raise ended[0]

    def _write(self, session: psycopg.Connection[Any]) -> None:
        number = len(self.rows) + 1
        session.execute("insert into ledger values (%s)", (number,))
        row = session.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        self.rows.append((int(row[0]), number))
        if number % 8 == 0:
            session.execute("update filler set v = %s where id = %s", (number, number * 7919 % 1000))


@dataclass
class Scene:
    """rgw None: both targets are folders."""

    server: Server
    rgw: RgwServer | None

    def __post_init__(self) -> None:
        self.root = self.server.root
        self.sections = [self._folder("here"), self._bucket("away") if self.rgw else self._folder("away")]
        self.names = [section.name for section in self.sections]
        self.backends: dict[str, StorageBackend] = {}
        self.ledger = Ledger(self.server)
        self._numbers = itertools.count(1)

    def _folder(self, name: str) -> Section:
        return Section(name, f"file://{self.root}/{name}", (f'site = "{name}"',))

    def _bucket(self, name: str) -> Section:
        assert self.rgw is not None
        lines = [f'site = "{name}"', 'medium = "object"', 'addressing = "path"', f'endpoint = "{self.rgw.endpoint}"']
        for key, value in (("access_key_file", self.rgw.access_key), ("secret_key_file", self.rgw.secret_key)):
            path = self.root / f"{name}.{key}"
            path.write_text(value)
            path.chmod(0o600)
            give(path)
            lines.append(f'{key} = "{path}"')
        return Section(name, f"s3://{self.rgw.make_bucket()}/drkit", tuple(lines))

    def start(self) -> None:
        for host in HOSTS:
            self.config(host, self.sections)
        for section in self.sections:
            self.config(f"only-{section.name}", [section])
        run([sys.executable, "-P", "-m", "drkit.cli.app", "--config", self.root / "anna.toml", "-q", "init", "--yes"])
        self.backends = {section.name: self._backend(section) for section in self.sections}
        push = f"{DRKIT_WAL} push --config {self.root}/anna.toml %p"
        self.server.set(archive_mode="on", archive_command=push, autovacuum="off")
        self.server.start()
        self.server.query("create table ledger (n bigint primary key)")
        filler = "select i as id, 0 as v, repeat('x', 900) as pad from generate_series(0, 999) i"
        self.server.query(f"create table filler as {filler}")
        system = int(self.server.value("select system_identifier from pg_control_system()"))
        self.layout = ClusterLayout(system)

    def config(self, host: str, sections: Sequence[Section]) -> Path:
        """A host's configuration and its own spool; the key and the targets are those of all."""
        spool, path = self.root / f"{host}.spool", self.root / f"{host}.toml"
        spool.mkdir()
        give(spool)
        text = f'[cluster.main]\nconnection = "{self.server.conninfo()}"\ndata_dir = "{self.server.data}"\n'
        text += f'pg_bin = "{self.server.bin}"\n[keys]\nfile = "{self.root}/master.key"\n'
        text += f'[daemon]\nspool = "{spool}"\nsocket = "{spool}/socket"\n[backup]\nworkers = 2\n'
        text += f'compression = "zstd:1"\n{RETENTION}'
        for section in sections:
            text += "\n".join([f"[target.{section.name}]", f'url = "{section.url}"', *section.lines, ""])
        path.write_text(text)
        give(path)
        path.chmod(0o600)
        return path

    def lane(self, host: str, name: str, lease_s: int = LEASE_S) -> Lane:
        return Lane(host, self.root / f"{host}.toml", self.root / f"{host}.spool", name, lease_s)

    def _backend(self, section: Section) -> StorageBackend:
        keys = ("", "")
        if self.rgw is not None:
            keys = (self.rgw.access_key, self.rgw.secret_key)
        endpoint = self.rgw.endpoint if self.rgw else ""
        settings = TargetSettings(endpoint=endpoint, addressing="path", access_key=keys[0], secret_key=keys[1])
        return open_target(section.url, settings)

    # --- what is there, seen by nobody's host ---

    def target(self, name: str) -> Target:
        return Target(name, self.backends[name], name, "disk")

    def repository(self) -> Repository:
        secret = Secret("keyfile", parse_key_file((self.root / "master.key").read_text(), "key"), "key")
        targets = [self.target(name) for name in self.names]
        return open_repository(targets, {}, secret, Pins(self.root / "nobody"), entropy=os.urandom)

    def catalogue(self) -> Catalogue:
        return read_catalogue(self.repository(), self.layout.system_identifier)

    def keys(self, name: str) -> set[str]:
        return {str(info.key) for info in self.backends[name].list()}

    def give_back(self, name: str, key: str) -> None:
        """What this process wrote into a folder is the server's user's, as all that drkit writes."""
        if (self.root / name / key).exists():
            give(self.root / name / key)

    # --- restores ---

    def restore(self, lane: Lane, backup: str, stop: int) -> None:
        """From the one target that the lane's host knows; every file as it was, every row that must be there."""
        data = self.root / f"restored-{next(self._numbers)}"  # a restore_command may outlive a server that is stopped
        done = lane.run("-q", "restore", "--backup", backup, "--to", "end", "--into", str(data))
        try:
            assert done.status == 0, f"{backup} does not restore on {lane.host}: {done.err}"
            assert_manifest_matches(self.server, data)
            rows = self._rows(data)
            assert rows[0] == rows[1] and rows[0] >= self.ledger.demanded(stop), f"{backup} lost rows: {rows}"
        finally:
            shutil.rmtree(data, ignore_errors=True)

    def _rows(self, data: Path) -> tuple[int, int]:
        """(how many, the greatest number) in the restored ledger."""
        port, log = free_port(), data.with_suffix(".log")
        options = f"-p {port} -k {self.server.sockets} -c listen_addresses= -c shared_buffers=16MB"
        pg_ctl: list[str | Path] = [self.server.bin / "pg_ctl", "-D", data]
        run([*pg_ctl, "-l", log, "-w", "-t", "60", "-o", options, "start"])
        try:
            where = f"host={self.server.sockets} port={port} dbname=postgres user=postgres"
            with psycopg.connect(where, autocommit=True) as session:
                row = session.execute("select count(*), coalesce(max(n), 0) from ledger").fetchone()
                assert row is not None
                return int(row[0]), int(row[1])
        finally:
            run([*pg_ctl, "-w", "-m", "immediate", "stop"])
