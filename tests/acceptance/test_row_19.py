"""`verify` said ok with a damaged manifest, and with a WAL segment missing in the middle: here every kind of object is
damaged and lost on one of three targets, found without the key, repaired; and on all: named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scene import Scene, newest_major, scene
from tests.acceptance.test_row_14 import lost
from tests.acceptance.test_rows import fill
from tests.jobs.backup_world import load
from tests.real.postgres import give

pytestmark = pytest.mark.real

TARGETS = ("a", "b", "c")
KINDS = {
    "pack": "clusters/*/packs/*/*",
    "map": "clusters/*/maps/*/*",
    "fingerprints": "clusters/*/fingerprints/*/*",
    "manifest": "clusters/*/manifests/*",
    "slot": "keys/*/*",
    "wal": "clusters/*/wal/*/*/{segment}",
}
OWN = {"verdict": "clusters/*/verdicts/*", "descriptor": "repository"}


@dataclass
class Whole:
    """Two backups and WAL on three targets; every test leaves them whole."""

    scene: Scene
    segments: list[str]
    keyless: Path

    def path(self, target: str, kind: str) -> Path:
        pattern = (KINDS | OWN)[kind].format(segment=self.segments[2])
        return sorted(p for p in self.scene.place(target).glob(pattern) if p.is_file())[-1]

    def key(self, target: str, kind: str) -> str:
        return str(self.path(target, kind).relative_to(self.scene.place(target)))

    def verify(self, *words: str, key: bool = True) -> tuple[int, dict[str, Any]]:
        config = None if key else self.keyless
        done = self.scene.drkit("verify", *words, "--json", config=config, check=False)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, answer


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with scene(newest_major(), segment_mb=1, names=TARGETS) as one:
        one.server.query("create table t (n int)")
        one.server.pgbench("-i", "-s", "2", "-q")
        one.backup()
        with load(one.server):
            one.backup()
        segments = fill(one, 5)
        keyless = one.write_config(one.root / "keyless.toml", key=one.root / "no.key")
        yield Whole(one, segments, keyless)


@contextmanager
def flipped(*paths: Path) -> Iterator[None]:
    before = [(path, path.read_bytes()) for path in paths]
    for path, data in before:
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 8]) + data[len(data) // 2 + 1 :])
    try:
        yield
    finally:
        for path, data in before:
            path.write_bytes(data)
            give(path)


def left(answer: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (one["target"], one["kind"], one["fault"]) for one in answer["findings"] if one["outcome"] in ("left", "lost")
    }


def keys(answer: dict[str, Any]) -> set[str]:
    return {one["key"] for one in answer["findings"]}


def test_row_19_what_is_whole_is_called_whole(whole: Whole) -> None:
    code, answer = whole.verify()
    assert (code, answer["whole"], answer["findings"], answer["holes"]) == (0, True, [], []), answer
    assert [one["name"] for one in answer["targets"]] == list(TARGETS) and answer["evidence"]
    for one in answer["targets"]:
        assert one["read_bytes"] == one["stored_bytes"] > 0 and not one["extra_objects"] and not one["strange"]
    code, answer = whole.verify(key=False)
    assert (code, answer["whole"], answer["key"], answer["evidence"]) == (0, True, False, None)
    text = whole.scene.drkit("verify").stdout
    assert "whole: all of it was read" in text


def test_row_19_all_of_it_opens_and_rebuilds(whole: Whole) -> None:
    code, answer = whole.verify("--deep")
    assert (code, answer["findings"], answer["files"], answer["pages"]) == (0, [], [], []), answer


@pytest.mark.parametrize("kind", KINDS)
def test_row_19_a_flipped_byte_on_one_target(whole: Whole, kind: str) -> None:
    path, key = whole.path("b", kind), whole.key("b", kind)
    sound = path.read_bytes()
    with flipped(path):
        code, answer = whole.verify(key=False)
        assert (code, left(answer), keys(answer)) == (9, {("b", kind, "flipped")}, {key})
        code, answer = whole.verify("--repair")
        assert (code, left(answer)) == (0, set()), answer
        assert answer["findings"][0]["outcome"] == "repaired" and path.read_bytes() == sound
        assert Path(answer["findings"][0]["kept"]).read_bytes() != sound
    assert whole.verify(key=False)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_row_19_a_deletion_on_one_target(whole: Whole, kind: str) -> None:
    path, key = whole.path("b", kind), whole.key("b", kind)
    sound = path.read_bytes()
    with lost(path):
        code, answer = whole.verify(key=False)
        assert (code, left(answer), keys(answer)) == (9, {("b", kind, "missing")}, {key})
        code, answer = whole.verify("--repair")
        assert (code, left(answer)) == (0, set()), answer
        assert path.read_bytes() == sound
    assert whole.verify(key=False)[0] == 0


@pytest.mark.parametrize("kind", OWN)
def test_row_19_what_each_target_has_of_its_own(whole: Whole, kind: str) -> None:
    with flipped(whole.path("b", kind)):
        code, answer = whole.verify(key=False)
        assert (code, left(answer)) == (9, {("b", kind, "flipped")})
        code, answer = whole.verify("--repair")
        assert code == 9 and answer["findings"][0]["note"]
    with lost(whole.path("b", kind)):
        code, answer = whole.verify(key=False)
        assert code == (7 if kind == "descriptor" else 9), answer
    assert whole.verify(key=False)[0] == 0


@pytest.mark.parametrize("kind", ["pack", "map", "manifest", "wal"])
def test_row_19_on_all_targets_exactly_what_is_lost_is_named(whole: Whole, kind: str) -> None:
    with flipped(*(whole.path(name, kind) for name in TARGETS)):
        code, answer = whole.verify("--repair")
        assert code == 9 and left(answer) == {(name, kind, "flipped") for name in TARGETS}
        assert keys(answer) == {whole.key("a", kind)}
        assert {one["outcome"] for one in answer["findings"]} == {"lost"}
        text = whole.scene.drkit("verify", check=False).stdout
        assert f"LOST {whole.key('a', kind)}" in text
    assert whole.verify()[0] == 0


def test_row_19_a_middle_segment_that_no_target_has_is_a_gap(whole: Whole) -> None:
    with lost(*(whole.path(name, "wal") for name in TARGETS)):
        code, answer = whole.verify(key=False)
        assert code == 9
        gaps = {(h["target"], h["from_segment"], h["to_segment"], h["missing"]) for h in answer["holes"]}
        assert gaps == {(name, whole.segments[2], whole.segments[2], 1) for name in TARGETS}
    assert whole.verify()[0] == 0


def test_row_19_a_damaged_segment_shows_in_the_windows_once_it_is_known(whole: Whole) -> None:
    def gaps() -> dict[str, list[str]]:
        done = whole.scene.drkit("windows", "--json", check=False)
        return {w["target"]: [g["from_segment"] for g in w["gaps"]] for w in json.loads(done.stdout)["windows"]}

    with flipped(whole.path("b", "wal")):
        assert gaps() == {"a": [], "b": [], "c": []}
        assert whole.verify()[0] == 9
        assert gaps() == {"a": [], "b": [whole.segments[2]], "c": []}
        assert whole.verify("--repair")[0] == 0
        assert gaps() == {"a": [], "b": [], "c": []}


def test_row_19_parts_are_told_and_remembered(whole: Whole) -> None:
    first = whole.verify("--sample", "25%")[1]["part"]
    second = whole.verify("--sample", "0.25")[1]["part"]
    assert second["from"] == pytest.approx(first["to"] % 1)
    assert whole.scene.drkit("verify", "--sample", "5", check=False).returncode == 2
    code, error = whole.scene.refusal("verify", "--repair", config=whole.keyless)
    assert code == 8 and "tombstones" in error["why"]
    assert whole.scene.refusal("verify", "--target", "nowhere")[0] == 2
