"""Whether a restored cluster is what the server was: its manifest, its indexes, its sums, its checksums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c
import psycopg

from tests.real.postgres import Server, run

# What a restore writes for recovery, and a manifest's reader therefore skips (pg_verifybackup.c).
_OF_RECOVERY = {"postgresql.auto.conf", "recovery.signal", "standby.signal", "backup_manifest", "drkit.recovery.json"}


def assert_manifest_matches(server: Server, data: Path) -> None:
    """Every file of a folder that was not started yet is as its backup_manifest says, and there is no other.

    By pg_verifybackup where it works, in any case by the checksums themselves.
    """
    if server.major == 15:
        assert "successfully verified" in run([server.bin / "pg_verifybackup", "-n", data]).stdout
    manifest = json.loads((data / "backup_manifest").read_bytes())
    known = {one["Path"]: one for one in manifest["Files"]}
    present = {str(p.relative_to(data)) for p in _walk(data) if p.parts[len(data.parts)] != "pg_wal"}
    assert present - _OF_RECOVERY == {p for p in known if not p.startswith("pg_wal/")} - _OF_RECOVERY
    for path, one in known.items():
        if path in _OF_RECOVERY:
            continue
        content = (data / path).read_bytes()
        found = google_crc32c.value(content).to_bytes(4, "little").hex()  # as pg_checksum_final writes it
        assert (len(content), found) == (one["Size"], one["Checksum"].lower()), path


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _walk(path)
        else:
            found.append(path)
    return found


def assert_pgbench_adds_up(session: psycopg.Connection[Any]) -> None:
    """The law of pgbench's transactions: the four sums are one, whichever transactions there are."""
    sums = session.execute(
        "select (select coalesce(sum(abalance), 0) from pgbench_accounts),"
        " (select coalesce(sum(bbalance), 0) from pgbench_branches),"
        " (select coalesce(sum(tbalance), 0) from pgbench_tellers),"
        " (select coalesce(sum(delta), 0) from pgbench_history)"
    ).fetchone()
    assert sums is not None and len(set(sums)) == 1, sums


def assert_indexes_are_whole(server: Server, socket: str, port: int, session: psycopg.Connection[Any]) -> None:
    """`pg_amcheck --heapallindexed` where there is one; else each primary key finds what a scan finds."""
    if server.major == 15:
        where = ["-h", socket, "-p", str(port), "-U", "postgres"]
        run([server.bin / "pg_amcheck", *where, "--install-missing", "--heapallindexed", "--rootdescend", "postgres"])
        return
    for table, key in (("pgbench_accounts", "aid"), ("ledger", "n")):
        digest = f"select count(*), sum(hashint8({key})::numeric), min({key}), max({key}) from {table} where {key} >= 0"
        plans = []
        for scan in ("enable_indexscan", "enable_seqscan"):
            session.execute("reset all")
            session.execute(f"set {scan} = off")
            if scan == "enable_indexscan":
                session.execute("set enable_indexonlyscan = off")
                session.execute("set enable_bitmapscan = off")
            plans.append(session.execute(digest).fetchone())
        session.execute("reset all")
        assert plans[0] == plans[1], table


def assert_checksums(server: Server, data: Path) -> int:
    """Every page of a folder whose server ended cleanly; how many there are."""
    out = server.tool("pg_checksums", "--check", "-D", data).stdout
    return int(next(line for line in out.splitlines() if line.startswith("Blocks scanned")).split(":")[1])
