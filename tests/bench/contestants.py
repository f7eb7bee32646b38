"""The programs that are compared, each with a repository of its own for the same server.

pgBackRest is Debian's, or the program that PGBACKREST names. Both compress with zstd at one level and encrypt.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.bench.meter import Sample, measure
from tests.real.postgres import Server, give, give_tree, server_user

_BIN = Path(sys.executable).parent
_PGBACKREST = os.environ.get("PGBACKREST", "pgbackrest")
_WITHIN_S = 60.0


class Contestant(Protocol):
    """A backup tool with a repository. Its folder holds all of it; `close` ends what it runs."""

    name: str

    @property
    def archive_command(self) -> str: ...
    @property
    def pids(self) -> Sequence[int]:
        """What stays and works for it, beside the server."""
        ...

    def backup(self, *, full: bool) -> Sample: ...
    def restore(self, into: Path, *, delta: bool = False) -> Sample: ...
    def stored_bytes(self) -> int:
        """Of its backups on one target, without WAL."""
        ...

    def close(self) -> None: ...


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


class Drkit:
    """drkit with its daemon, as it runs on a host. bucket: lines of a section [target.NAME], in place of folders."""

    name = "drkit"

    def __init__(
        self, server: Server, folder: Path, *, targets: int = 1, level: int = 3, bucket: Sequence[str] = ()
    ) -> None:
        self._folder, self._targets = folder, [folder / f"t{n}" for n in range(targets)]
        folder.mkdir()
        lines = [f'[cluster.bench]\nconnection = "{server.conninfo()}"\nsite = "here"']
        if bucket:
            lines += ["[target.cloud]", *bucket]
        else:
            lines += [f'[target.{path.name}]\nurl = "file://{path}"\nsite = "here"' for path in self._targets]
        lines.append(f'[keys]\nfile = "{folder}/key"\n[backup]\ncompression = "zstd:{level}"')
        lines.append(f'[wal]\ncompression = "zstd:{level}"')
        lines.append(f'[daemon]\nspool = "{folder}/spool"\nsocket = "{folder}/socket"\n')
        self.config = folder / "drkit.toml"
        self.config.write_text("\n".join(lines))
        give_tree(folder)
        measure([_BIN / "drkit", "--config", self.config, "init", "--yes"])
        with (folder / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [_BIN / "drkit", "--config", self.config, "daemon"],
                user=server_user(),
                extra_groups=[] if server_user() else None,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _WITHIN_S
        while not (folder / "socket").exists():
            assert time.monotonic() < until and self._daemon.poll() is None, (folder / "daemon.log").read_text()
            time.sleep(0.05)

    @property
    def archive_command(self) -> str:
        return f"{_BIN}/drkit-wal push --config {self.config} %p"

    @property
    def pids(self) -> Sequence[int]:
        return [self._daemon.pid]

    def run(self, *words: str) -> Sample:
        return measure([_BIN / "drkit", "--config", self.config, "-q", *words])

    def backup(self, *, full: bool) -> Sample:
        return self.run("backup", *(["--rehash"] if full else []))

    def restore(self, into: Path, *, delta: bool = False) -> Sample:
        return self.run("restore", "--to", "end", "--into", str(into), *(["--delta"] if delta else []))

    def stored_bytes(self) -> int:
        kinds = ("packs", "maps", "fingerprints", "manifests")
        return sum(size_of(path) for kind in kinds for path in self._targets[0].glob(f"clusters/*/{kind}"))

    def close(self) -> None:
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait()


class PgBackRest:
    """pgBackRest with asynchronous archiving; a repository more is a run more, as it has no other way."""

    name = "pgbackrest"

    def __init__(self, server: Server, folder: Path, *, targets: int = 1, level: int = 3) -> None:
        self._folder, self._targets = folder, [folder / f"r{n + 1}" for n in range(targets)]
        folder.mkdir()
        block = _later_than(2, 45)
        lines = ["[global]", f"compress-type=zst\ncompress-level={level}", "process-max=2", "start-fast=y"]
        lines += ["archive-async=y", "log-level-console=error", "log-level-file=off", "archive-get-queue-max=1GiB"]
        lines += [f"{key}-path={folder}/{key}" for key in ("lock", "spool", "log")]
        for number, path in enumerate(self._targets, 1):
            repo = f"repo{number}"
            lines += [f"{repo}-path={path}", f"{repo}-cipher-type=aes-256-cbc", f"{repo}-cipher-pass={'k' * 32}"]
            lines += [f"{repo}-bundle=y", f"{repo}-retention-full=99", *([f"{repo}-block=y"] if block else [])]
        lines += ["[bench]", f"pg1-path={server.data}", f"pg1-port={server.port}", f"pg1-socket-path={server.sockets}"]
        lines.append("pg1-user=postgres")
        self.config = folder / "pgbackrest.conf"
        self.config.write_text("\n".join(lines) + "\n")
        for path in (*self._targets, folder / "lock", folder / "spool", folder / "log"):
            path.mkdir()
        give_tree(folder)
        self._run("stanza-create")

    def _run(self, *words: str) -> Sample:
        return measure([_PGBACKREST, f"--config={self.config}", "--stanza=bench", *words])

    @property
    def archive_command(self) -> str:
        return f"{_PGBACKREST} --config={self.config} --stanza=bench archive-push %p"

    @property
    def pids(self) -> Sequence[int]:
        return []

    def backup(self, *, full: bool) -> Sample:
        kind = "--type=full" if full else "--type=incr"
        runs = [self._run("backup", kind, f"--repo={number + 1}") for number in range(len(self._targets))]
        return Sample(sum(r.seconds for r in runs), sum(r.cpu_s for r in runs), max(r.peak_bytes for r in runs))

    def restore(self, into: Path, *, delta: bool = False) -> Sample:
        words = ["restore", f"--pg1-path={into}", "--type=immediate"]
        return self._run(*words, *(["--delta"] if delta else []))

    def stored_bytes(self) -> int:
        return size_of(self._targets[0] / "backup")

    def close(self) -> None:
        shutil.rmtree(self._folder / "spool", ignore_errors=True)


def _version() -> str:
    done = subprocess.run([_PGBACKREST, "version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _later_than(major: int, minor: int) -> bool:
    found = [int(part) for part in re.findall(r"\d+", _version())]
    return tuple(found[:2]) > (major, minor)


def has_pgbackrest() -> bool:
    return shutil.which(_PGBACKREST) is not None


def peer_version() -> str:
    return _version() if has_pgbackrest() else "none"


def own_folder(folder: Path) -> Path:
    """An empty folder of the servers' user."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    give(folder)
    folder.chmod(0o700)
    return folder
