"""Backup and restore on real servers: every kind of point, and what is refused before a byte is written."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import google_crc32c
import pytest

from drkit.core.units import format_time, parse_time
from tests.jobs.pg_world import DRKIT, World, make_world
from tests.real.postgres import MAJORS, give, new_server, require, run

pytestmark = pytest.mark.real


class Story(World):
    """A world with a past: rows 1 to 6 of table t, with what is between them."""

    backup_id: str
    points: dict[str, str]


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    require(request.param)
    server = new_server(request.param)
    try:
        world = Story(make_world(server).server)
        _tell(world)
        yield world
    finally:
        server.close()


def _tell(world: Story) -> None:
    points: dict[str, str] = {"before": world.now()}
    world.sql("create table t (a int)")
    world.sql("create table big as select g, repeat(md5(g::text), 20) as x from generate_series(1, 20000) g")
    world.sql("insert into t values (1)")
    world.backup_id = world.backup()
    world.sql("insert into t values (2)")
    points["time"] = world.now()
    world.sql("insert into t values (3)")
    world.sql("select pg_create_restore_point('here')")
    points["xid"] = str(world.sql("insert into t values (4) returning pg_current_xact_id()::text")[0][0])
    points["lsn"] = str(world.sql("select pg_current_wal_insert_lsn()::text")[0][0])
    world.switch()
    world.sql("insert into t values (5)")
    points["after"] = world.now()
    world.switch()
    world.points = points


def rows(world: World, data: Path) -> list[int]:
    with world.started(data) as session:
        return [row[0] for row in session.execute("select a from t order by a").fetchall()]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--to", "latest"], [1, 2, 3, 4, 5]),
        (["--to", "end"], [1]),
        (["--to", "{time}"], [1, 2]),
        (["--to-name", "here"], [1, 2, 3]),
        (["--to-xid", "{xid}"], [1, 2, 3, 4]),
        (["--to-xid", "{xid}", "--exclusive"], [1, 2, 3]),
        (["--to-lsn", "{lsn}"], [1, 2, 3, 4]),
        (["--to", "{after}"], [1, 2, 3, 4, 5]),
        (["--target-name", "here", "--set", "{backup}", "--from", "b"], [1, 2, 3]),
    ],
    ids=lambda value: "-".join(value[:1] + value[1:2]).strip("-{}") if value and isinstance(value[0], str) else None,
)
def test_restores_to_each_kind_of_point(story: Story, flags: list[str], expected: list[int]) -> None:
    data = story.fresh("restored")
    words = [flag.format(**story.points, backup=story.backup_id) for flag in flags]
    done = story.answer("restore", "--into", data, *words)
    assert done["backup"] == story.backup_id
    assert sum(done["bytes"].values()) > 0
    assert rows(story, data) == expected


def test_a_restored_folder_is_what_its_backup_manifest_says(story: Story) -> None:
    data = story.fresh("verified")
    story.drkit("restore", "--into", data, "--to", "end")
    text = (data / "backup_manifest").read_bytes()
    manifest = json.loads(text)
    body, _, last = text.rpartition(b'"Manifest-Checksum"')
    assert manifest["Manifest-Checksum"] == hashlib.sha256(body).hexdigest() and last
    listed = {entry["Path"]: entry for entry in manifest["Files"]}
    ignored = {"backup_manifest", "postgresql.auto.conf", "recovery.signal"}
    there = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    assert {name for name in there if not name.startswith("pg_wal/")} - ignored == set(listed) - ignored
    for name, entry in listed.items():
        if name not in ignored:
            content = (data / name).read_bytes()
            assert (len(content), google_crc32c.value(content).to_bytes(4, "little").hex()) == (
                entry["Size"],
                entry["Checksum"],
            ), name
    verify = story.server.bin / "pg_verifybackup"
    done = run([verify, "-n", data], check=False)
    if done.returncode != -signal.SIGSEGV:  # the wheel's build for 18 crashes on every backup, the server's own too
        assert "successfully verified" in done.stdout, done.stderr


def test_start_follows_recovery_and_reports_its_phases(story: Story) -> None:
    data = story.fresh("booted")
    done = story.answer("restore", "--into", data, "--to", story.points["time"], "--start", "--action", "pause")
    try:
        assert done["target_reached"] is True
        assert done["server"]["outcome"] == "paused"
        names = [phase["name"] for phase in done["phases"]]
        assert names.index("files") < names.index("pg_control") < names.index("redo starts") < names.index("consistent")
    finally:
        run([story.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])


def test_delta_rewrites_only_what_differs_and_clears_the_rest(story: Story) -> None:
    data = story.fresh("delta")
    story.drkit("restore", "--into", data, "--to", "end")
    victim = max((data / "base").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    stat = victim.stat()
    victim.write_bytes(content)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for name in ("stranger", "pg_wal/000000090000000000000001", "standby.signal"):
        (data / name).write_text("x")
        give(data / name)
    assert story.refusal("restore", "--into", data)[0] == 4
    done = story.answer("restore", "--into", data, "--delta", "--to", "latest")
    assert 0 < done["written_bytes"] < done["kept_bytes"]
    assert not any((data / name).exists() for name in ("stranger", "pg_wal/000000090000000000000001", "standby.signal"))
    assert rows(story, data) == [1, 2, 3, 4, 5]


def test_plan_changes_nothing_and_says_everything(story: Story) -> None:
    data = story.fresh("planned")
    plan = story.answer("restore", "--into", data, "--plan")["plan"]
    assert not data.exists()
    assert plan["backup"] == story.backup_id
    assert plan["timeline_path"] == [{"timeline": 1, "until": None}]
    assert plan["size_bytes"] > plan["fetch_bytes"] > 0
    assert plan["latest"]["last_commit"] > story.points["lsn"]
    text = story.drkit("restore", "--into", data, "--plan").stdout
    assert story.backup_id in text and "latest reachable point" in text


def test_a_target_that_loses_packs_is_passed_over(story: Story) -> None:
    """The first target has every name, but one bit of a pack is wrong: the other serves it, and the report says so."""
    pack = next(path for path in (story.target("a") / "clusters").rglob("packs/*/*") if path.is_file())
    whole = pack.read_bytes()
    pack.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    try:
        data = story.fresh("healed")
        done = story.answer("restore", "--into", data)
        assert [failure["target"] for failure in done["failures"]] == ["a"]
        assert done["bytes"]["b"] > 0
        assert rows(story, data) == [1, 2, 3, 4, 5]
    finally:
        pack.write_bytes(whole)


# --- row 9 ---


def test_row_09_zones_are_required_and_understood(story: Story) -> None:
    data = story.fresh("zones")
    moment = parse_time(story.points["time"])
    for zone in (timezone(timedelta(hours=2)), timezone(timedelta(hours=-9, minutes=-30))):
        typed = moment.astimezone(zone).isoformat()
        plan = story.answer("restore", "--into", data, "--plan", "--to", typed)["plan"]
        assert plan["asked"]["text"] == typed
        assert plan["target"]["value"] == format_time(moment)
    naive = moment.replace(tzinfo=None).isoformat()
    for wrong in (naive, f"{naive} EST", f"{naive} Europe/Berlin", f"{naive} CEST"):
        code, error = story.refusal("restore", "--into", data, "--to", wrong)
        assert code == 2 and "zone" in error
    assert not data.exists()


def test_row_09_the_hour_that_a_clock_change_repeats_has_two_instants(story: Story) -> None:
    """02:30 on 2020-10-25 in Berlin came twice; the offset tells which one is meant."""
    data, typed = story.fresh("overlap"), "2020-10-25T02:30:00"
    errors = [story.refusal("restore", "--into", data, "--to", typed + zone)[1] for zone in ("+02:00", "+01:00")]
    assert "2020-10-25T00:30:00" in errors[0]
    assert "2020-10-25T01:30:00" in errors[1]


def test_row_09_a_target_inside_a_backup_is_refused(story: Story) -> None:
    shown = story.answer("list")["backups"][0]
    started, stopped = (datetime.fromisoformat(shown[key]) for key in ("started_at", "stopped_at"))
    middle = format_time(started + (stopped - started) / 2)
    code, error = story.refusal("restore", "--into", story.fresh("inside"), "--to", middle)
    assert code == 4 and "within backup" in error and "--to end" in error


# --- row 21 ---


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--to-name", "nobody-made-this"], 4),
        (["--to-xid", "99999999"], 4),
        (["--to-xid", "two"], 2),
        (["--to-lsn", "FF/0"], 4),
        (["--to-lsn", "0/0"], 4),
        (["--to-lsn", "nonsense"], 2),
        (["--to", "2038-02-01T00:00:00Z"], 4),
        (["--to", "2099-12-31T23:59:59+00:00"], 4),
        (["--to", "12026-01-01T00:00:00Z"], 2),
        (["--to", "2026-02-30T00:00:00Z"], 2),
        (["--to", "{before}"], 4),
        (["--to", "yesterday"], 2),
        (["--timeline", "7"], 4),
        (["--backup", "20200101T000000Z-00000000"], 5),
        (["--from", "nowhere"], 2),
        (["--without", "nowhere"], 2),
        (["--tablespace", "/not/there=/new"], 2),
        (["--to", "latest", "--to-xid", "5"], 2),
    ],
    ids=lambda value: "-".join(value).strip("-{}") if isinstance(value, list) else None,
)
def test_row_21_what_cannot_be_reached_is_refused_and_no_byte_is_written(
    story: Story, flags: list[str], code: int
) -> None:
    data = story.fresh("refused")
    found, error = story.refusal("restore", "--into", data, *(flag.format(**story.points) for flag in flags))
    assert found == code, error
    assert not data.exists()


def test_row_21_destinations_that_are_in_use_or_foreign_are_refused(story: Story) -> None:
    code, error = story.refusal("restore", "--into", story.server.data)
    assert code == 4 and "postmaster.pid" in error
    assert story.refusal("restore", "--into", story.server.data, "--delta")[0] == 4
    foreign = story.fresh("foreign")
    foreign.mkdir()
    (foreign / "letters.txt").write_text("dear")
    give(foreign)
    for flags in ([], ["--delta"]):
        code, error = story.refusal("restore", "--into", foreign, *flags)
        assert code == 4 and "letters.txt" in error
    assert [path.name for path in foreign.iterdir()] == ["letters.txt"]


def test_a_folder_of_another_cluster_is_refused(story: Story) -> None:
    other = new_server(story.server.major)
    try:
        code, error = story.refusal("restore", "--into", other.data, "--delta")
        assert code == 4 and "another cluster" in error
        assert (other.data / "global/pg_control").exists()
    finally:
        other.close()


def test_a_wrong_key_is_told_before_anything_is_touched(story: Story) -> None:
    key = story.root / "master.key"
    right = key.read_text()
    key.unlink()
    try:
        run([DRKIT, "key", "new", key])
        data = story.fresh("locked")
        assert story.refusal("restore", "--into", data)[0] == 8
        assert not data.exists()
    finally:
        key.write_text(right)
        give(key)
        key.chmod(0o600)
