"""A real server, targets in folders, and the `drkit` command line run as the server's user: as an operator has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drkit.crypto.container import DataKey
from drkit.crypto.keys import parse_key_file
from drkit.crypto.slots import Secret
from drkit.repository.catalogue import Catalogue, load_manifest, read_catalogue
from drkit.repository.content import ContentReader
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.manifest import Manifest
from drkit.repository.pins import Pins
from drkit.repository.repository import Repository, open_repository
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.errors import StorageError
from storage_backends.posix import PosixBackend
from tests.real.postgres import Server, give, run

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
CLUSTER = "orders"


@dataclass
class BackupWorld:
    """One server with its repository; everything lies below the server's own folder and goes with it."""

    server: Server
    names: Sequence[str] = ("a", "b")
    folders: dict[str, Path] = field(default_factory=dict)
    extra: str = ""

    def __post_init__(self) -> None:
        self.root = self.server.root / "drkit"
        self.root.mkdir()
        give(self.root)
        self.folders = {name: self.folders.get(name, self.root / f"target-{name}") for name in self.names}
        self.config = self.root / "drkit.toml"
        self.key_file = self.root / "master.key"
        self.spool = self.root / "spool"
        self.write_config()

    def write_config(self, *, names: Sequence[str] = (), data_dir: Path | None = None, connection: str = "") -> None:
        """The configuration; `names`: the targets in it."""
        lines = [
            f"[cluster.{CLUSTER}]",
            f'connection = "{connection or self.server.conninfo()}"',
            f'data_dir = "{data_dir or self.server.data}"',
            "[keys]",
            f'file = "{self.key_file}"',
            "[daemon]",
            f'spool = "{self.spool}"',
            f'socket = "{self.root}/socket"',
            "[backup]",
            "workers = 2",
            'compression = "zstd:1"',
            self.extra,
        ]
        for name in names or self.names:
            lines += [f"[target.{name}]", f'url = "file://{self.folders[name]}"', f'site = "site-{name}"']
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o644)

    # -- the command line --

    def program(self, name: str, *args: str | Path) -> list[str | Path]:
        return ["env", f"DRKIT_CONFIG={self.config}", PROGRAMS / name, *args]

    def drkit(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(self.program("drkit", *args), check=check)

    def backup(self, *args: str, status: int = 0) -> dict[str, Any]:
        """Take a backup; the JSON answer, after its exit status was compared."""
        done = self.drkit("--json", "backup", *args, check=False)
        assert done.returncode == status, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)["backup"]
        return answer

    def listed(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = json.loads(self.drkit("--json", "list").stdout)["backups"]
        return answer

    def start(self) -> None:
        """Make the repository, then start the server with archiving into it."""
        self.drkit("init", "--yes")
        command = f"{PROGRAMS}/drkit-wal push --config {self.config} %p"
        self.server.set(archive_mode="on", archive_command=command)
        self.server.start()

    # -- what the targets hold --

    def target(self, name: str) -> Target:
        return Target(name, PosixBackend(self.folders[name]), f"site-{name}", "disk")

    def repository(self) -> Repository:
        """Opened anew, by a host that remembers nothing."""
        secret = Secret("keyfile", parse_key_file(self.key_file.read_text(), "the key file"), "the key file")
        targets, failed = [], {}
        for name in self.names:
            try:
                targets.append(self.target(name))
            except StorageError as error:
                failed[name] = error
        return open_repository(targets, failed, secret, Pins(self.root / "nowhere"), entropy=os.urandom)

    @property
    def layout(self) -> ClusterLayout:
        return ClusterLayout(int(self.server.value("select system_identifier from pg_control_system()")))

    def catalogue(self) -> Catalogue:
        found = self.repository()
        remembering_nothing = Repository(found.ring, found.targets, found.absent, DataKey(found.ring, os.urandom))
        return read_catalogue(remembering_nothing, self.layout.system_identifier)

    def manifest(self, backup: str, name: str = "a") -> Manifest:
        return load_manifest(self.repository().ring, self.target(name), self.layout, RunId.parse(backup))

    def reader(self, manifest: Manifest, name: str = "a") -> ContentReader:
        sources = Sources([self.target(name)], self.layout, self.repository().ring)
        return ContentReader(self.repository().ring, self.layout, sources, chunk_bytes=manifest.head.chunk_bytes)

    def content(self, manifest: Manifest, path: str, name: str = "a") -> bytes:
        """A file of a backup, rebuilt from one target."""
        entry = next(e for e in manifest.entries if e.path == path.encode())
        wanted = [(manifest.maps[index], extent) for index, extent in entry.extents]
        return b"".join(bytes(c.data) for c in self.reader(manifest, name).read(wanted))


@contextmanager
def load(server: Server, *args: str) -> Iterator[None]:
    """pgbench in the background for as long as the block lasts."""
    ended: list[BaseException] = []

    def work() -> None:
        try:
            while not done.is_set():
                server.pgbench("-c", "2", "-j", "1", "-T", "1", "-R", "100", "-n", *args)
        except BaseException as error:  # noqa: BLE001  a thread root: raised when the block ends
            ended.append(error)

    done = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if ended:
        raise ended[0]
