"""A server that archives through drkit-wal to two folders, and copies of it that recover from them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drkit.jobs.recovery_file import RecoveryFile, write_recovery_file
from tests.real.postgres import Server, free_port, give_tree, make_folder, run

CLIENT = f"{sys.executable} -P -m drkit.walclient"
RESTORE = (
    CLIENT
    + " get --config {config} --absent-exit 44 %f %p; r=$?; [ $r = 0 ] && exit 0; [ $r = 44 ] && exit 1; exit 126"
)


@dataclass
class Archive:
    """A repository on the targets a and b (folders), its configuration, and the server that archives into it."""

    server: Server
    root: Path

    @property
    def config(self) -> Path:
        return self.root / "drkit.toml"

    def target(self, name: str) -> Path:
        return self.root / name

    def drkit(self, *args: str, check: bool = True) -> str:
        done = run([sys.executable, "-P", "-m", "drkit.cli.app", "--config", self.config, *args], check=check)
        return done.stdout + done.stderr

    def object(self, target: str, file: str) -> Path:
        (found,) = self.target(target).glob(f"clusters/*/wal/*/*/{file}")
        return found

    def archived(self) -> list[str]:
        return sorted(path.name for path in self.target("a").glob("clusters/*/wal/*/*/*"))

    def switch(self) -> str:
        """End the current segment and wait until it is archived; its name."""
        name = str(self.server.value("select pg_walfile_name(pg_current_wal_lsn())"))
        self.server.query("select pg_switch_wal()")
        until(lambda: name in self.archived(), self.server)
        return name

    def close(self) -> None:
        self.server.close()
        shutil.rmtree(self.root, ignore_errors=True)


def until(ready: Callable[[], bool], server: Server, timeout_s: float = 60) -> None:
    """Poll; fails with the server's log."""
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end, server.log.read_text()[-4000:]
        time.sleep(0.05)


def make_archive(server: Server) -> Archive:
    """Initialise the repository and start the server with archiving on."""
    root = make_folder("drkit-archive-")
    for name in ("a", "b", "spool"):
        (root / name).mkdir()
    archive = Archive(server, root)
    archive.config.write_text(
        f"""
        [cluster.orders]
        data_dir = "{server.data}"
        [target.a]
        url = "file://{root}/a"
        site = "one"
        [target.b]
        url = "file://{root}/b"
        site = "two"
        [keys]
        file = "{root}/master.key"
        [daemon]
        spool = "{root}/spool"
        """
    )
    give_tree(root)
    archive.drkit("key", "new")
    archive.drkit("init", "--yes")
    server.set(archive_mode="on", archive_command=f"{CLIENT} push --config {archive.config} %p")
    server.start()
    return archive


def copy_of(archive: Archive) -> Server:
    """A base backup of the server beside it, made to recover from the archive; not started."""
    server = archive.server
    copy = Server(server.major, server.bin, make_folder(), free_port())
    args = ["-D", str(copy.data), "-h", str(server.sockets), "-p", str(server.port), "-U", "postgres", "-X", "none"]
    run([server.bin / "pg_basebackup", *args, "--checkpoint=fast", "--no-manifest"])
    copy.sockets.mkdir(mode=0o777)
    copy.sockets.chmod(0o777)
    copy.set(
        port=str(copy.port),
        unix_socket_directories=str(copy.sockets),
        archive_mode="off",
        restore_command=RESTORE.format(config=archive.config),
        recovery_target_timeline="current",
    )
    (copy.data / "recovery.signal").touch()
    give_tree(copy.root)
    return copy


def plan_for(archive: Archive, copy: Server, horizon: str, *, segment_bytes: int) -> None:
    """The recovery file that a restore to the end of timeline 1 leaves."""
    system = int(archive.server.value("select system_identifier from pg_control_system()"))
    plan = RecoveryFile(
        config=str(archive.config),
        cluster="orders",
        system_identifier=system,
        segment_bytes=segment_bytes,
        path=((1, None),),
        horizon=horizon,
        histories=(),
        targets=("a", "b"),
    )
    write_recovery_file(copy.data, plan)
    give_tree(copy.data)


def recovers(copy: Server) -> bool:
    """Start and wait until the server is out of recovery, or has stopped; whether it was promoted."""
    log = copy.log
    run([copy.bin / "pg_ctl", "-D", copy.data, "-l", log, "-W", "start"], check=False)
    text = ""

    def ended() -> bool:
        nonlocal text
        text = log.read_text() if log.exists() else ""
        ready = "archive recovery complete" in text and "ready to accept connections" in text
        return ready or "database system is shut down" in text or "could not start server" in text

    until(ended, copy)
    return "archive recovery complete" in text
