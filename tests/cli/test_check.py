"""`drkit check` on a real server: what it finds before it matters, in the words of the other commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drkit.jobs.check import Level, clocks
from tests.cli.promises import Promise, kept_promise
from tests.real.postgres import give

NOW = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def kept() -> Iterator[Promise]:
    with kept_promise() as promise:
        yield promise


def findings(promise: Promise) -> dict[str, list[dict[str, Any]]]:
    """By level, without what only a server for tests has wrong."""
    answer = json.loads(promise.drkit("check", "--json")[1])
    found: dict[str, list[dict[str, Any]]] = {"ok": [], "warn": [], "fail": []}
    for one in answer["findings"]:
        if "fsync" not in one["text"] and not one["about"].startswith("space"):
            found[one["level"]].append(one)
    return found


@pytest.mark.real
def test_what_dies_together_is_told_in_the_words_of_the_policy(kept: Promise) -> None:
    third = kept.server.root / "third"
    third.mkdir()
    give(third)
    kept.promise(rule="4-3-1", more=f'[target.third]\nurl = "{third.as_uri()}"\nsite = "fra"')
    try:
        assert kept.drkit("init")[0] == 0
        assert kept.drkit("backup")[0] == 0
        told = [one["text"] for one in findings(kept)["warn"]]
        media = next(one for one in kept.check()[1]["decisions"] if one["name"] == "media")
    finally:
        kept.promise()
    words = ["local is on a device of the primary", "third is on a device of the primary"]
    words.append("local, third are on one device: one medium")
    for phrase in words:
        assert phrase in media["reasons"]
        assert [one for one in told if one.startswith(phrase)], told


@pytest.mark.real
def test_a_target_in_the_data_folder_is_found_through_a_link_and_not_backed_up_to(kept: Promise) -> None:
    inner, link = kept.server.data / "backups", kept.server.root / "looks-apart"
    inner.mkdir()
    give(inner)
    link.symlink_to(inner)
    kept.promise(more=f'[target.inner]\nurl = "{link.as_uri()}"\nsite = "fra"')
    try:
        assert kept.drkit("init")[0] == 0, "which data folder is meant, only the server tells"
        (found,) = [one for one in findings(kept)["fail"] if one["about"] == "target inner"]
        before = {path for path in kept.vault.rglob("*") if "wal" not in path.parts}
        code, text = kept.drkit("backup")
        after = {path for path in kept.vault.rglob("*") if "wal" not in path.parts}
    finally:
        kept.promise()
    assert "lies inside a folder of the server" in found["text"] and found["cure"]
    assert code == 4 and "inner" in text and str(inner) in text
    assert after == before


@pytest.mark.real
def test_a_server_that_is_not_the_known_one_and_a_file_that_others_may_change(kept: Promise) -> None:
    pinned = kept.server.root / "spool" / "systems" / "orders"
    known = pinned.read_text()
    assert findings(kept)["fail"] == []
    pinned.write_text("1\n")
    kept.config.chmod(0o666)
    try:
        found = findings(kept)
    finally:
        pinned.write_text(known)
        kept.config.chmod(0o644)
    (server,) = found["fail"]  # and no segment of its is sent
    assert server["about"] == "server" and f"rm {pinned}" in server["cure"]
    (file,) = [one for one in found["warn"] if one["about"] == "configuration"]
    assert "others may write" in file["text"] and "chmod" in file["cure"]


def test_clocks_that_are_apart_are_told_with_the_side_that_is_ahead() -> None:
    assert list(clocks("server", NOW + timedelta(seconds=30), NOW)) == []
    (ahead,) = clocks("server", NOW + timedelta(days=3650), NOW)
    (behind,) = clocks("target a", NOW - timedelta(hours=1), NOW)
    assert ahead.level is behind.level is Level.WARN
    assert ahead.text == "its clock is 3650d ahead of this host's"
    assert behind.text == "its clock is 1h behind this host's"
