"""`drkit policy` as a process, on a real server with targets on two devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.promises import RULE, Promise, kept_promise
from tests.real.postgres import give


def state_of(answer: dict[str, Any], name: str) -> str:
    rows = [*answer["decisions"], *answer["objectives"]]
    return str(next(row["state"] for row in rows if row["name"] == name))


def copy_of(answer: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in answer["copies"] if row["name"] == name)
    return found


@pytest.fixture(scope="module")
def kept() -> Iterator[Promise]:
    """One server for all tests here; tests that break a promise mend it again."""
    with kept_promise() as promise:
        yield promise


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
    assert (answer["state"], answer["instant"]) == ("unknown", None)
    assert answer["losses"] == [[]]
    assert state_of(answer, "max_backup_age") == "unknown"
    assert "Nothing is known to be restorable" in text


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
    assert means["retention.pitr_window"] == "Expiry keeps every instant of the last 2w restorable."
    code, text = kept.drkit("policy", "explain")
    assert code == 0
    assert means["copies.rule"] in text
