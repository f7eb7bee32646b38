"""A server with a policy: targets on two devices, and the command line run as the server's user."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.postgres import Server, give, new_server, run

DRKIT = Path(sys.executable).with_name("drkit")
WAL = Path(sys.executable).with_name("drkit-wal")
SHM = Path("/dev/shm")
RULE = "3-2-1"


@dataclass
class Promise:
    """A server at site fra; target local beside it, target vault on another device, which says it is at site dub."""

    server: Server
    vault: Path

    @property
    def config(self) -> Path:
        return self.server.root / "drkit.toml"

    def promise(self, rule: str = RULE, objectives: str = 'rpo = "60s"\nmax_backup_age = "1h"', more: str = "") -> None:
        self.config.write_text(
            f"""
            [cluster.orders]
            connection = "{self.server.conninfo()}"
            data_dir = "{self.server.data}"
            site = "fra"
            [cluster.orders.objectives]
            {objectives}
            [target.local]
            url = "file://{self.server.root}/local"
            site = "fra"
            [target.vault]
            url = "file://{self.vault}/vault"
            site = "dub"
            [copies]
            rule = "{rule}"
            [keys]
            file = "{self.server.root}/master.key"
            [daemon]
            spool = "{self.server.root}/spool"
            {more}
            """
        )

    def drkit(self, *words: str | Path) -> tuple[int, str]:
        done = run([DRKIT, "--config", self.config, "-q", *words], check=False)
        return done.returncode, done.stdout if done.stdout else done.stderr

    def check(self) -> tuple[int, dict[str, Any]]:
        code, text = self.drkit("policy", "check", "--json")
        answer: dict[str, Any] = json.loads(text)
        return code, answer

    def stop(self, data: Path) -> None:
        """End a restored server."""
        run([self.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])

    def wal_is_archived(self) -> str:
        """End the segment at hand and wait until the archiver has handed it over; its name."""
        with self.server.connect() as session:
            session.execute("select txid_current()")
            row = session.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
            assert row is not None
            for _ in range(600):
                last = session.execute("select last_archived_wal from pg_stat_archiver").fetchone()
                if last is not None and last[0] is not None and last[0][:24] >= row[0]:
                    return str(row[0])
                session.execute("select pg_sleep(0.05)")
        raise AssertionError("nothing was archived")


@contextmanager
def kept_promise() -> Iterator[Promise]:
    """A running server that archives, with a backup on both targets; skips where there is no second device."""
    if not SHM.is_dir() or SHM.stat().st_dev == Path("/tmp").stat().st_dev:
        pytest.skip("/dev/shm is no device of its own")
    vault = Path(tempfile.mkdtemp(prefix="drkit-vault-", dir=SHM))
    give(vault)
    server = new_server(15)
    try:
        promise = Promise(server, vault)
        promise.promise()
        command = f"{WAL} push --config {promise.config} %p"
        server.set(archive_mode="on", archive_timeout="30s", archive_command=command, autovacuum="off")
        server.start()
        assert promise.drkit("init", "--yes")[0] == 0
        assert promise.drkit("backup")[0] == 0
        promise.wal_is_archived()
        yield promise
    finally:
        server.close()
        shutil.rmtree(vault, ignore_errors=True)
