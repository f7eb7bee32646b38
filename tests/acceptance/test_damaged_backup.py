"""The newest backup is damaged: the plan finds it, says which one it takes instead, and never means another point."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.acceptance.broken import Copy, copy_of, flip, truncate, unmount
from tests.acceptance.scene import Scene, listing, newest_major, scene
from tests.real.postgres import run

pytestmark = pytest.mark.real

MIDDLE = 0.8  # of a manifest: among the sealed entries, behind what a listing opens


@dataclass
class Past:
    """A backup, five rows, a second one, five more rows; a restore point before the last."""

    scene: Scene
    words: dict[str, str]

    def copy(self, name: str) -> Copy:
        return copy_of(self.scene, name, self.words)

    def plan(self, copy: Copy, *flags: str) -> dict[str, Any]:
        into = ("--into", copy.destination)
        plan: dict[str, Any] = self.scene.answer("restore", "--plan", *into, *flags, config=copy.config)["plan"]
        return plan

    def refused(self, copy: Copy, *flags: str) -> tuple[int, str]:
        """(exit status, all that the error says); neither the targets nor the destination were touched."""
        watched = [copy.root / "a", copy.root / "b", copy.destination]
        before = listing(*watched)
        status, error = self.scene.refusal("restore", "--into", copy.destination, *flags, config=copy.config)
        assert listing(*watched) == before
        return status, " ".join([error["what"], error["where"], error["why"], error["cure"]])


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    with scene(newest_major(), segment_mb=1) as one:
        one.server.query("create table t (n int)")
        words = {"first": one.backup()["id"]}
        words["early"] = str(one.server.value("insert into t values (1) returning txid_current()::text"))
        one.switch()
        words["between"] = one.now()
        one.server.query("insert into t select generate_series(2, 5)")
        one.switch()
        second = one.backup()
        words |= {"second": second["id"], "end": second["stop_lsn"]}
        one.server.query("insert into t select generate_series(6, 9)")
        one.server.query("select pg_create_restore_point('noon')")
        one.server.query("insert into t values (10)")
        one.switch()
        yield Past(one, words)


def test_the_whole_manifest_is_read_before_anything_is_touched_and_an_older_backup_serves(past: Past) -> None:
    """The listing reads heads, and cannot know; the restore is as complete, and says what it did."""
    copy = past.copy("spoiled")
    flip("clusters/*/manifests/{second}", MIDDLE)(copy)
    assert past.scene.states(copy.config)[past.words["second"]] == {"a": "good", "b": "good"}
    for flags in ([], ["--to-name", "noon"]):
        plan = past.plan(copy, *flags)
        assert plan["backup"] == past.words["first"]
        assert [one["backup"] for one in plan["skipped"]] == [past.words["second"]]
        standings = plan["skipped"][0]["targets"]
        assert {one["name"]: one["state"] for one in standings} == {"a": "broken", "b": "broken"}
        assert "digest does not hold" in standings[0]["why"]
        assert past.words["second"] in plan["notes"][0] and "PASSED OVER" in plan["notes"][0]
    with started(past, copy, "my restore", past.words["second"], "passed over") as session:
        assert [row[0] for row in session.execute("select n from t order by n").fetchall()] == list(range(1, 11))
    # a point before the second backup never wanted it: nothing is said
    early = past.plan(copy, "--to", past.words["between"])
    assert early["backup"] == past.words["first"] and early["skipped"] == []


def test_all_descriptors_are_damaged_and_the_key_slots_lead_to_the_data(past: Past) -> None:
    """Also where nothing is pinned: the machine is a new one, and these targets are all that is left."""
    copy = past.copy("nameless")
    flip("repository")(copy)
    (copy.root / "spool" / "pins.json").unlink()
    before = listing(copy.root / "a", copy.root / "b")
    with started(past, copy, "rescued", "key slots alone") as session:
        assert [row[0] for row in session.execute("select n from t order by n").fetchall()] == list(range(1, 11))
    assert listing(copy.root / "a", copy.root / "b") == before


@contextmanager
def started(past: Past, copy: Copy, name: str, *says: str) -> Iterator[psycopg.Connection[Any]]:
    """`drkit restore --start` into a folder, as a person does it: a session by the line that it prints for psql.

    says: what it must have told on stderr.
    """
    data = copy.root / name
    done = past.scene.drkit("restore", "--into", data, "--start", config=copy.config)
    try:
        assert all(word in done.stderr for word in says), done.stderr
        line = next(one for one in done.stdout.splitlines() if "psql -h" in one)
        words = shlex.split(line.partition("; ")[2])
        with psycopg.connect(f"host='{words[2]}' port={words[4]} dbname=postgres user=postgres") as session:
            yield session
    finally:
        run([past.scene.server.bin / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop"], check=False)


def test_damage_on_one_target_costs_nothing_and_is_told(past: Past) -> None:
    copy = past.copy("one-sided")
    flip("clusters/*/manifests/{second}", MIDDLE, on="a")(copy)
    plan = past.plan(copy)
    assert plan["backup"] == past.words["second"] and plan["skipped"] == []
    (failure,) = plan["failures"]
    assert failure["target"] == "a" and failure["object"].endswith("manifests/" + past.words["second"])
    assert any("a could not serve" in note for note in plan["notes"])


def test_a_damaged_backup_that_was_named_is_refused_and_so_is_its_end(past: Past) -> None:
    copy = past.copy("named")
    flip("clusters/*/manifests/{second}", MIDDLE)(copy)
    status, text = past.refused(copy, "--backup", past.words["second"])
    assert status == 9
    for word in ("manifests/" + past.words["second"], "a: broken", "b: broken"):
        assert word in text
    # the end of the newest backup is not the end of an older one; both ways out are named, and work
    status, text = past.refused(copy, "--to", "end")
    assert status == 9 and past.words["second"] in text
    assert f"--to end --backup {past.words['first']}" in text and f"--to-lsn {past.words['end']}" in text
    for flags in (["--to", "end", "--backup", past.words["first"]], ["--to-lsn", past.words["end"]]):
        assert past.plan(copy, *flags)["backup"] == past.words["first"]


def test_where_no_backup_is_left_the_damage_is_named(past: Past) -> None:
    copy = past.copy("none-left")
    flip("clusters/*/manifests/*", MIDDLE)(copy)
    status, text = past.refused(copy)
    assert status == 9
    for word in ("manifests/" + past.words["second"], "a: broken", "b: broken"):
        assert word in text


def test_a_head_that_opens_nowhere_is_passed_over_in_words_too(past: Past) -> None:
    copy = past.copy("headless")
    truncate("clusters/*/manifests/{second}")(copy)
    plan = past.plan(copy)
    assert plan["backup"] == past.words["first"]
    assert [one["backup"] for one in plan["skipped"]] == [past.words["second"]]
    assert "no target can open" in plan["notes"][0]
    status, text = past.refused(copy, "--backup", past.words["second"])
    assert status == 9 and "cannot be opened" in text
    assert past.refused(copy, "--to", "end")[0] == 9


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip("clusters/*/verdicts/{second}"), "verdicts/"),
        (truncate("clusters/*/packs/{second}/00000000"), "is truncated, "),
    ],
    ids=["verdict", "pack"],
)
def test_what_a_listing_shows_as_broken_is_passed_over_in_words(past: Past, damage: Any, says: str) -> None:
    copy = past.copy("broken")
    damage(copy)
    assert past.scene.states(copy.config)[past.words["second"]] == {"a": "broken", "b": "broken"}
    plan = past.plan(copy)
    assert plan["backup"] == past.words["first"]
    (skipped,) = plan["skipped"]
    assert skipped["backup"] == past.words["second"] and says in skipped["targets"][0]["why"]
    assert says in plan["notes"][0]


def test_a_truncated_pack_is_told_with_its_sizes(past: Past) -> None:
    copy = past.copy("short")
    (path, _) = copy.objects("clusters/*/packs/{second}/00000000")
    whole = path.stat().st_size
    truncate("clusters/*/packs/{second}/00000000")(copy)
    shown = past.scene.drkit("show", past.words["second"], config=copy.config).stdout
    assert f"is truncated, {path.stat().st_size} of {whole} bytes" in shown and "missing" not in shown


def test_the_point_of_a_transaction_is_not_taken_for_the_latest_commit(past: Past) -> None:
    copy = past.copy("point")
    for flags in (["--to-xid", past.words["early"]], ["--to-name", "noon"]):
        assert past.plan(copy, *flags)["latest"]["last_commit"] is None
    assert past.plan(copy)["latest"]["last_commit"] > past.words["between"]


def test_an_answer_without_one_of_the_targets_is_given_and_is_no_success(past: Past) -> None:
    copy = past.copy("away")
    unmount("b")(copy)
    answer = past.scene.answer("windows", config=copy.config, code=7)
    assert [one["target"] for one in answer["windows"]] == ["a"] and "no repository" in answer["unreadable"]["b"]
    answer = past.scene.answer("list", config=copy.config, code=7)
    assert len(answer["backups"]) == 2 and "no repository" in answer["unreadable"]["b"]
    for verb in ("windows", "list"):
        done = past.scene.drkit(verb, config=copy.config, check=False)
        assert done.returncode == 7 and "b: nothing is known of it" in done.stdout
    rows = past.scene.drkit("windows", config=copy.config, check=False).stdout.splitlines()
    assert any(row.split()[:2] == ["b", "unreadable"] for row in rows)
