"""`drkit policy` as a process, on a real server with targets on two devices."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
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

    def wal_is_archived(self) -> None:
        """End the segment at hand and wait until the archiver has handed it over."""
        with self.server.connect() as session:
            session.execute("select txid_current()")
            row = session.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
            assert row is not None
            for _ in range(600):
                last = session.execute("select last_archived_wal from pg_stat_archiver").fetchone()
                if last is not None and last[0] is not None and last[0][:24] >= row[0]:
                    return
                session.execute("select pg_sleep(0.05)")
        raise AssertionError("nothing was archived")


def state_of(answer: dict[str, Any], name: str) -> str:
    rows = [*answer["decisions"], *answer["objectives"]]
    return str(next(row["state"] for row in rows if row["name"] == name))


def copy_of(answer: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in answer["copies"] if row["name"] == name)
    return found


@pytest.fixture(scope="module")
def kept() -> Iterator[Promise]:
    """One server for all tests here, with a backup on both targets; tests that break a promise mend it again."""
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


@pytest.mark.real
def test_kept_promises_are_0_and_say_why(kept: Promise) -> None:
    kept.promise()
    code, answer = kept.check()
    assert (code, answer["state"], answer["breaches"]) == (0, "kept", [])
    assert answer["schema"] == "drkit.policy.check/1"
    assert [copy["counts"] for copy in answer["copies"]] == [True, True, True]
    assert answer["backups_alone"] == 2
    assert answer["newest_compliant"] == answer["instant"] == copy_of(answer, "vault")["newest_instant"]
    assert {row["name"] for row in answer["objectives"]} == {"rpo", "max_backup_age"}
    alone = {loss[0]["kind"] for loss in answer["losses"] if len(loss) == 1}
    assert alone == {"key", "credential"}, "one key file and one user open and reach everything"
    assert [{"kind": "target", "name": "local"}, {"kind": "target", "name": "vault"}] in answer["losses"]
    code, text = kept.drkit("policy", "check")
    assert code == 0
    assert "rule 3-2-1 and every objective: kept" in text
    assert "backups alone   2" in text


@pytest.mark.real
def test_a_commit_that_is_not_archived_is_exposure(kept: Promise) -> None:
    """A quiet server loses nothing, however long ago its last commit was; one that cannot archive does."""
    kept.promise(objectives='rpo = "60s"')
    kept.wal_is_archived()
    quiet = next(row for row in kept.check()[1]["objectives"] if row["name"] == "rpo")
    kept.server.query("alter system set archive_command = 'false'")
    kept.server.query("select pg_reload_conf()")
    try:
        kept.server.query("create table if not exists exposed (at timestamptz)")
        kept.server.query("insert into exposed values (clock_timestamp())")
        seen = next(row for row in kept.check()[1]["objectives"] if row["name"] == "rpo")
    finally:
        kept.server.query("alter system reset archive_command")
        kept.server.query("select pg_reload_conf()")
    assert quiet["actual_s"] == 0
    assert seen["actual_s"] > 0


@pytest.mark.real
def test_a_target_that_is_away_is_unknown_and_10(kept: Promise) -> None:
    kept.promise(objectives="")
    away = kept.vault / "away"
    (kept.vault / "vault").rename(away)
    try:
        code, answer = kept.check()
        text = kept.drkit("policy", "check")[1]
    finally:
        away.rename(kept.vault / "vault")
    assert code == 10
    assert answer["state"] == "unknown"
    assert copy_of(answer, "vault")["counts"] is None
    assert copy_of(answer, "vault")["why"]
    assert copy_of(answer, "local")["counts"] is True
    assert answer["newest_compliant"] is None
    assert "UNKNOWN" in text


@pytest.mark.real
def test_no_target_at_all_is_an_answer_too(kept: Promise) -> None:
    kept.promise(objectives='max_backup_age = "1h"')
    places = [kept.vault / "vault", kept.server.root / "local"]
    for place in places:
        place.rename(place.with_name("gone"))
    try:
        code, answer = kept.check()
        text = kept.drkit("policy", "check")[1]
    finally:
        for place in places:
            place.with_name("gone").rename(place)
    assert code == 10
    assert answer["instant"] is None
    assert answer["losses"] == [[]]
    assert state_of(answer, "max_backup_age") == "unknown"
    assert "Nothing can be restored" in text


@pytest.mark.real
def test_a_lost_segment_is_no_window(kept: Promise) -> None:
    """The copy on vault ends before the gap, and 3-2-1 holds for what lies before it only."""
    kept.promise(objectives="")
    kept.server.query("create table if not exists later (n int)")
    kept.wal_is_archived()
    newest = max(path.name for path in kept.vault.glob("vault/clusters/*/wal/*/*/*") if len(path.name) == 24)
    (lost,) = kept.vault.glob(f"vault/clusters/*/wal/*/*/{newest}")
    content = lost.read_bytes()
    lost.unlink()
    try:
        code, answer = kept.check()
    finally:
        lost.write_bytes(content)
        give(lost)
    assert (code, answer["state"]) == (10, "broken")
    assert copy_of(answer, "vault")["counts"] is False
    assert answer["newest_compliant"] == copy_of(answer, "vault")["newest_instant"] < answer["instant"]
    assert answer["short"][-1]["state"] == "broken"


@pytest.mark.real
def test_what_is_not_measured_is_never_green(kept: Promise) -> None:
    kept.promise(rule="3-2-1-1-0", objectives='max_drill_age = "31d"\nmax_verify_age = "7d"\nrto = "30m"')
    code, answer = kept.check()
    assert (code, answer["measured_rule"]) == (10, "3-2-1")
    for name in ("immutable", "errors", "max_drill_age", "max_verify_age", "rto"):
        assert state_of(answer, name) == "unknown"
    assert state_of(answer, "copies") == "kept"


@pytest.mark.real
def test_a_dead_server_is_no_copy(kept: Promise) -> None:
    kept.promise()
    kept.server.stop("immediate")
    try:
        code, answer = kept.check()
    finally:
        kept.server.start()
    assert code == 10
    assert copy_of(answer, "orders")["counts"] is False
    assert "connect" in copy_of(answer, "orders")["why"]
    assert state_of(answer, "copies") == "broken"
    assert answer["backups_alone"] == 2
    assert any(b["why"] == "archive_timeout is not known" for b in answer["breaches"])


@pytest.mark.real
def test_explain_names_every_source(kept: Promise) -> None:
    kept.promise(more='[retention]\npitr_window = "14d"')
    code, text = kept.drkit("policy", "explain", "--json")
    answer = json.loads(text)
    assert (code, answer["schema"]) == (0, "drkit.policy.explain/1")
    settings = {row["key"]: row for row in answer["settings"]}
    assert settings["copies.rule"] == {"key": "copies.rule", "value": RULE, "source": str(kept.config)}
    assert settings["copies.backup_ack"]["source"] == "default"
    (cluster,) = answer["clusters"]
    means = {row["key"]: row["means"] for row in cluster["promises"]}
    assert means["objectives.rpo"] == "At most the last 1m of commits are lost with the server."
    assert means["objectives.rto"] == "How long a restore may take is not promised."
    assert means["retention.pitr_window"] == "Every instant of the last 14d can be restored."
    code, text = kept.drkit("policy", "explain")
    assert code == 0
    assert means["copies.rule"] in text
