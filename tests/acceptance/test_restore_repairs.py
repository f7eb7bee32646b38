"""A restore that meets damage reads from another target, repairs and reports; a recovery only remembers it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.every_kind import rgw_or_none
from tests.acceptance.scene import Scene, folder, newest_major, stop_strays
from tests.acceptance.shelves import BucketShelf, FolderShelf, Hurt, Shelf, flip, flipped, hurt, last, lost
from tests.acceptance.stores import s3_target
from tests.acceptance.test_rows import fill
from tests.real.postgres import free_port, give, new_server, run
from tests.real.rgw import RgwServer
from tests.real.wal_archive import until

pytestmark = pytest.mark.real

ROWS = 6
REPAIR = "drkit verify --repair"


@dataclass
class Past:
    """A backup and ROWS segments of a row each on `c` (a bucket where there is one), a and b; restores ask c first."""

    scene: Scene
    rgw: RgwServer | None
    segments: list[str]
    shelves: dict[str, Shelf]

    def key(self, kind: str) -> str:
        return last(self.shelves["c"], f"clusters/*/{kind}/*")

    def segment(self, number: int) -> str:
        return last(self.shelves["c"], f"clusters/*/wal/*/{self.segments[number]}")

    def suspects(self) -> set[str]:
        return {path.name.replace("~", "/") for path in (self.scene.root / "spool/suspects").glob("*")}

    def sampled(self, *flags: str) -> tuple[int, set[str]]:
        """`drkit verify` of next to nothing: its exit status and the keys that it tells of."""
        done = self.scene.drkit("verify", "--sample", "0.001%", *flags, "--json", check=False)
        return done.returncode, {one["key"] for one in json.loads(done.stdout)["findings"]}


@pytest.fixture(scope="module")
def past(request: pytest.FixtureRequest) -> Iterator[Past]:
    rgw = rgw_or_none(request)
    server = new_server(newest_major(), segment_mb=1)
    try:
        root = server.root
        first = s3_target(rgw, root, "c") if rgw else folder(root, "c", "site-c")
        one = Scene(server, [first, folder(root, "a", "site-a"), folder(root, "b", "site-b")])
        one.start()
        server.query("create table t (n int)")
        one.backup()
        segments = fill(one, ROWS)
        shelves: dict[str, Shelf] = {name: FolderShelf(one.place(name)) for name in "ab"}
        shelves["c"] = BucketShelf(rgw, first.url) if rgw else FolderShelf(one.place("c"))
        yield Past(one, rgw, segments, shelves)
    finally:
        stop_strays(server.root)
        server.close()


def rows(session: Any) -> list[int]:
    return [row[0] for row in session.execute("select n from t order by n").fetchall()]


@pytest.mark.parametrize("how", [flipped, lost])
def test_what_a_restore_met_is_repaired_when_the_data_are_there(past: Past, how: Hurt) -> None:
    one, shelf = past.scene, past.shelves["c"]
    keys = [past.key("packs"), past.key("maps"), past.segment(2)]
    with hurt(how, *((shelf, key) for key in keys)) as sound:
        with one.restored("mended") as (answer, session):
            assert rows(session) == list(range(1, ROWS + 1))
            found = {(repair["target"], repair["object"]): repair for repair in answer["repairs"]}
            assert set(found) == {("c", key) for key in keys}, answer["repairs"]
            assert {repair["outcome"] for repair in found.values()} == {"repaired"}
            if how is flipped:
                assert all(Path(found["c", key]["kept"]).read_bytes() == flip(sound[key]) for key in keys)
                assert {failure["object"] for failure in answer["failures"]} == {past.key("packs"), past.key("maps")}
                assert [event["file"] for event in answer["wal_events"]] == [past.segments[2]]
            else:
                assert any("c does not have the backup whole" in note for note in answer["plan"]["notes"])
        assert {key: shelf.read(key) for key in keys} == sound
        assert one.drkit("verify", "--deep", check=False).returncode == 0 and not past.suspects()


def test_it_can_be_left_and_the_next_verification_looks_there_first(past: Past) -> None:
    one, shelf, key = past.scene, past.shelves["c"], past.key("packs")
    with hurt(flipped, (shelf, key)) as sound:
        done = one.drkit("restore", "--into", one.fresh("left"), "--no-repair")
        assert f"not repaired: {key}" in done.stdout and f"left to do: `{REPAIR}`" in done.stdout
        assert shelf.read(key) == flip(sound[key]) and past.suspects() == {key}
        assert past.sampled() == (9, {key}) and not past.suspects()
        assert past.sampled("--repair") == (0, {key}), "its evidence remembers it"
        assert shelf.read(key) == sound[key]
        assert past.sampled() == (0, set())


def test_credentials_that_only_read_restore_and_name_the_command(past: Past) -> None:
    if past.rgw is None:
        pytest.skip("the folders here are the user's own")
    one, shelf, key = past.scene, past.shelves["c"], past.key("packs")
    reading = _reading(past, past.rgw)
    with hurt(flipped, (shelf, key)) as sound:
        before = {name: past.shelves[name].listed() for name in "abc"}
        with one.restored("read-only", config=reading) as (answer, session):
            assert rows(session) == list(range(1, ROWS + 1))
        (repair,) = answer["repairs"]
        assert (repair["target"], repair["object"], repair["outcome"]) == ("c", key, "left")
        assert repair["cure"] == f"{REPAIR} --target c" and "denied" in repair["why"].lower()
        assert shelf.read(key) == flip(sound[key])
        assert {name: past.shelves[name].listed() for name in "abc"} == before
        text = one.drkit("restore", "--into", one.fresh("read-only"), config=reading).stdout
        assert f"not repaired on c: {key}" in text and f"left to do: `{REPAIR} --target c`" in text
        assert text.index("all synced before pg_control") < text.index("not repaired"), "the data come first"
        one.drkit("verify", "--repair", "--target", "c")
        assert shelf.read(key) == sound[key]


def _reading(past: Past, rgw: RgwServer) -> Path:
    """A configuration whose credentials may read the bucket and nothing else, with a spool of its own."""
    one = past.scene
    target = one.targets[0]
    bucket = target.url.split("/")[2]
    user, access_key, secret_key = rgw.add_user()
    rule = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    rgw.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
    for name, key in (("access_key_file", access_key), ("secret_key_file", secret_key)):
        path = one.root / f"reader.{name}"
        path.write_text(key)
        path.chmod(0o600)
        give(path)
    reader = replace(target, lines=tuple(line.replace("/c.", "/reader.") for line in target.lines))
    spool = one.root / "reader-spool"
    spool.mkdir()
    give(spool)
    return one.write_config(one.root / "reader.toml", [reader, *one.targets[1:]], spool=spool)


def test_a_recovery_repairs_nothing_and_remembers_what_it_met(past: Past) -> None:
    """Started by hand, as an operator does: nobody waits for its end."""
    one, shelf, key = past.scene, past.shelves["c"], past.segment(2)
    data = one.fresh("by-hand")
    answer = one.answer("restore", "--into", data)
    assert answer["repairs"] == []
    with hurt(flipped, (shelf, key)) as sound:
        log, port = data.with_name("by-hand.log"), free_port()
        options = f"-p {port} -k {one.root} -c listen_addresses="
        run([one.server.bin / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start"])
        until(lambda: "archive recovery complete" in log.read_text(), one.server)
        run([one.server.bin / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"])
        assert shelf.read(key) == flip(sound[key]) and past.suspects() == {key}
        assert past.sampled("--repair") == (0, {key}) and shelf.read(key) == sound[key]
        assert not past.suspects()
