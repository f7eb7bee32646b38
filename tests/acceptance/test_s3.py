"""A bucket of a real S3 service as the only source: backup, point-in-time recovery, and a store that goes away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.doorway import Doorway, doorway
from tests.acceptance.scene import Scene, folder, newest_major, stop_strays
from tests.acceptance.stores import s3_target
from tests.real.postgres import free_port, give, new_server, run
from tests.real.rgw import RgwServer
from tests.real.wal_archive import until

pytestmark = pytest.mark.real

ROWS = 14
WAL_NAME = rb"/wal/[0-9A-F]+/[0-9A-F]+/([0-9A-F]{24})"


@dataclass
class Past:
    """Rows 1 to ROWS, each in a segment of its own, behind one backup; xids and times by row."""

    scene: Scene
    port: Doorway
    xids: list[int]
    times: list[str]


@pytest.fixture(scope="module")
def past(rgw: RgwServer) -> Iterator[Past]:
    server = new_server(newest_major(), segment_mb=1)
    try:
        with doorway(rgw.endpoint) as port:
            one = Scene(server, [folder(server.root, "a"), s3_target(rgw, server.root, "cloud", port)])
            one.start()
            server.query("create table t (n int)")
            one.backup()
            made = Past(one, port, [], [])
            for number in range(1, ROWS + 1):
                made.xids.append(int(server.value(f"insert into t values ({number}) returning txid_current()")))
                made.times.append(one.now())
                one.switch(wait=False)
            one.until_archived(one.switch(wait=False))
            yield made
    finally:
        stop_strays(server.root)
        server.close()


@pytest.mark.parametrize("kind", ["xid", "latest"])
def test_point_in_time_recovery_from_a_bucket_alone(past: Past, kind: str) -> None:
    """Once by --from, and once by a configuration that has no other target, on what is like another host."""
    one = past.scene
    config: Path | None = None
    flags: list[str] = []
    last = ROWS
    if kind == "xid":
        flags, last = ["--from", "cloud", "--to-xid", str(past.xids[9]), "--exclusive"], 9
    else:
        spool = one.fresh("other-spool")
        spool.mkdir()
        give(spool)
        config = one.write_config(one.root / "other.toml", one.targets[1:], spool=spool)
    with one.restored(f"from-bucket-{kind}", *flags, config=config) as (answer, session):
        assert list(answer["bytes"]) == ["cloud"] and answer["bytes"]["cloud"] > 0
        assert answer["plan"]["wal_sources"] == ["cloud"]
        found = [row[0] for row in session.execute("select n from t order by n").fetchall()]
    assert found == list(range(1, last + 1))


def test_row_01_a_store_that_goes_away_in_mid_recovery_stops_the_server_which_goes_on_later(past: Past) -> None:
    """The port is shut after a few WAL files: some are replayed, the next is in doubt, and nothing is promoted.

    The log names the file in doubt and what to do, and says nothing of the target that the plan leaves out.
    """
    one, data = past.scene, past.scene.fresh("interrupted")
    one.answer("restore", "--into", data, "--from", "cloud")
    past.port.shut_after(3, WAL_NAME)
    try:
        log = _run(one, data)
        assert 'restored log file "' in log, log
        assert "FATAL:  could not restore file" in log, log
        last = re.findall(r"drkit: ([0-9A-F]{24}) is in doubt", log)
        assert last, "it names the segment"
        said = log[log.index(f"{last[-1]} is in doubt") :]
        assert "start the server again: recovery goes on" in said
        assert "just now" not in said and "a:" not in said.split("FATAL")[0], "the plan does without it"
        assert list((data / "pg_wal").glob("RECOVERYHISTORY*")) == []
        assert "archive recovery complete" not in log and not list((data / "pg_wal").glob("*.history"))
        assert not (data / "postmaster.pid").exists()
    finally:
        past.port.open()
    log = _run(one, data)
    assert "archive recovery complete" in log
    with psycopg.connect(f"host={one.root} port={_port(data)} dbname=postgres user=postgres") as session:
        assert session.execute("select count(*), max(n) from t").fetchone() == (ROWS, ROWS)
    run([one.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])


def test_a_store_that_is_away_for_seconds_in_mid_recovery_ends_no_recovery(past: Past) -> None:
    one, data = past.scene, past.scene.fresh("blip")
    one.answer("restore", "--into", data, "--from", "cloud")
    past.port.shut_after(3, WAL_NAME, connections=8)
    log = _run(one, data)
    assert past.port.broken == 8, "it was away"
    assert "archive recovery complete" in log and "FATAL" not in log, log
    run([one.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])


def test_a_restore_whose_store_goes_away_says_so_and_is_unreachable(past: Past) -> None:
    one, data = past.scene, past.scene.fresh("away")
    past.port.shut_after(3, WAL_NAME)
    try:
        status, error = one.refusal("restore", "--into", data, "--from", "cloud", "--start", "--no-scan")
    finally:
        past.port.open()
    assert (status, error["code"]) == (7, "unreachable"), error
    assert "WAL file " in error["where"] and "cloud: " in error["why"] and "goes on where it stopped" in error["cure"]


def _run(one: Scene, data: Path) -> str:
    """Start the restored server and wait until it is promoted or has stopped; its log."""
    log = data.with_name(f"{data.name}-{free_port()}.log")
    options = f"-p {free_port()} -k {one.root} -c listen_addresses= -c shared_buffers=16MB"
    run([one.server.bin / "pg_ctl", "-D", data, "-l", log, "-W", "-o", options, "start"], check=False)

    def ended() -> bool:
        text = log.read_text() if log.exists() else ""
        ready = "archive recovery complete" in text and "ready to accept connections" in text
        return ready or "database system is shut down" in text

    until(ended, one.server, timeout_s=180)
    return log.read_text()


def _port(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[3])
