"""`verify` said ok with a damaged manifest, and with a WAL segment missing in the middle: here every kind of object is
damaged and lost on one of three targets, one of them a bucket, found without the key, repaired; and on all: named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import Lease, LeaseTerms
from tests.acceptance.every_kind import LOOSE, OWN, SHARED, TARGETS, Whole, every_kind, opened, rgw_or_none
from tests.acceptance.shelves import flip, flipped, hurt, last, lost
from tests.acceptance.test_rows_expiry import expire
from tests.real.postgres import give_tree

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> Iterator[Whole]:
    with every_kind(rgw_or_none(request)) as one:
        yield one


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


@pytest.mark.parametrize("target", ["b", "c"])
def test_row_19_a_flipped_byte_in_each_kind_on_one_target(whole: Whole, target: str) -> None:
    kinds = [*SHARED, *LOOSE]
    with hurt(flipped, *whole.here(*kinds, on=target)) as sound:
        code, answer = whole.verify(key=False)
        assert (code, left(answer)) == (9, {(target, kind, "flipped") for kind in kinds}), answer["findings"]
        assert keys(answer) == set(sound)
        code, answer = whole.verify("--repair")
        assert (code, left(answer)) == (0, set()), answer["findings"]
        assert {one["outcome"] for one in answer["findings"]} == {"repaired"} and keys(answer) == set(sound)
        for one in answer["findings"]:
            assert whole.shelves[target].read(one["key"]) == sound[one["key"]]
            assert Path(one["kept"]).read_bytes() == flip(sound[one["key"]])
        assert whole.verify(key=False)[:1] == (0,) and whole.verify()[0] == 0


@pytest.mark.parametrize("target", ["b", "c"])
def test_row_19_a_deletion_of_each_kind_on_one_target(whole: Whole, target: str) -> None:
    with hurt(lost, *whole.here(*SHARED, on=target)) as sound:
        code, answer = whole.verify(key=False)
        assert (code, left(answer)) == (9, {(target, kind, "missing") for kind in SHARED}), answer["findings"]
        assert keys(answer) == set(sound)
        code, answer = whole.verify("--repair")
        assert (code, left(answer)) == (0, set()), answer["findings"]
        assert {key: whole.shelves[target].read(key) for key in sound} == sound
        assert whole.verify(key=False)[0] == 0 and whole.verify()[0] == 0


def test_row_19_what_leaves_no_trace_is_not_found_and_harms_nothing(whole: Whole) -> None:
    with hurt(lost, *whole.here(*LOOSE, on="b")):
        assert whole.verify(key=False)[0] == 0 and whole.verify("--repair")[0] == 0


@pytest.mark.parametrize("target", ["b", "c"])
@pytest.mark.parametrize("kind", OWN)
def test_row_19_what_each_target_has_of_its_own(whole: Whole, kind: str, target: str) -> None:
    (one,) = whole.here(kind, on=target)
    with hurt(flipped, one):
        code, answer = whole.verify(key=False)
        assert (code, left(answer)) == (9, {(target, kind, "flipped")})
        code, answer = whole.verify("--repair")
        assert code == 9 and answer["findings"][0]["note"]
        assert one[0].read(one[1]) != whole.shelves["a"].read(one[1]), "no other target's takes its place"
    with hurt(lost, one):
        code, answer = whole.verify(key=False)
        assert code == (7 if kind == "descriptor" else 9), answer
    assert whole.verify(key=False)[0] == 0


def test_row_19_a_lease_that_is_damaged(whole: Whole) -> None:
    """Leases come and go: one that stays belongs to who is at work, or died."""
    with opened(whole.scene) as wiring:
        means = wiring.means()
        system = int(whole.key("manifest").split("/")[1])
        run = RunId.new(means.clock.now(), means.entropy(4))
        terms = LeaseTerms("backup", run, [], "elsewhere", 900)
        target = means.repository.target("b")
        lease = Lease(target, ClusterLayout(system), terms, means.repository.data_key, means.clock, means.entropy)
        give_tree(whole.scene.place("b"))
        try:
            key = last(whole.shelves["b"], "clusters/*/leases/*")
            assert whole.verify(key=False)[0] == 0
            with hurt(flipped, (whole.shelves["b"], key)):
                code, answer = whole.verify("--repair")
                assert (code, left(answer)) == (9, {("b", "lease", "flipped")})
                assert "remove it there by hand" in answer["findings"][0]["note"]
        finally:
            lease.release()
    assert whole.verify()[0] == 0


ON_ALL = {**SHARED, **LOOSE}
del ON_ALL["slot"]


def test_row_19_on_all_targets_exactly_what_is_lost_is_named(whole: Whole) -> None:
    """All but fingerprints are said to be lost with whoever needs them; nothing was put in their place."""
    with hurt(flipped, *whole.here(*ON_ALL, on="abc")) as sound:
        code, answer = whole.verify(key=False)
        assert code == 9 and left(answer) == {(name, kind, "flipped") for name in TARGETS for kind in ON_ALL}
        code, answer = whole.verify("--repair")
        assert code == 9 and left(answer) == {(name, kind, "flipped") for name in TARGETS for kind in ON_ALL}
        assert keys(answer) == set(sound)
        assert {one["outcome"] for one in answer["findings"]} == {"lost"}
        assert all(whole.shelves[name].read(key) == flip(data) for name in TARGETS for key, data in sound.items())
        text = whole.scene.drkit("verify", check=False).stdout
        assert all(f"LOST {key}" in text for key in sound)
    assert whole.verify()[0] == 0


@pytest.mark.parametrize("kind", ["pack", "map", "manifest", "history", "slot", "wal"])
@pytest.mark.parametrize("how", [flipped, lost])
def test_row_19_what_is_lost_everywhere_is_never_silently_done_without(whole: Whole, kind: str, how: Any) -> None:
    """A restore that needs it is refused, or stops, or takes an older backup to the same point: it says so."""
    one = whole.scene
    data = one.fresh("without")
    newest = whole.key("manifest").split("/")[-1]
    reach = one.answer("restore", "--plan", "--into", data)["plan"]["latest"]["lsn"]
    with hurt(how, *whole.here(kind, on="abc")) as sound:
        done = one.drkit("restore", "--into", data, "--json", *(["--start"] if kind == "wal" else []), check=False)
        if done.returncode == 0:
            answer = json.loads(done.stdout)
            assert kind in ("manifest", "pack", "map") and answer["plan"]["latest"]["lsn"] == reach, answer
            assert answer["backup"] != newest
            assert [one["backup"] for one in answer["plan"]["skipped"]] == [newest]
        else:
            error = json.loads(done.stderr.splitlines()[-1])["error"]
            assert done.returncode in (4, 5, 8, 9), error
            named = next(iter(sound)).split("/")[-1].removesuffix(".history")
            assert named in str(error) or (kind == "slot" and "keys/" in str(error)), error
            assert not (data / "postmaster.pid").exists()
            assert not (data / "global/pg_control").exists() or (data / "recovery.signal").exists()
    assert whole.verify()[0] == 0


def test_row_19_a_middle_segment_that_no_target_has_is_a_gap(whole: Whole) -> None:
    with hurt(lost, *whole.here("wal", on="abc")):
        code, answer = whole.verify(key=False)
        assert code == 9
        gaps = {(h["target"], h["from_segment"], h["to_segment"], h["missing"]) for h in answer["holes"]}
        assert gaps == {(name, whole.segments[2], whole.segments[2], 1) for name in TARGETS}
    assert whole.verify()[0] == 0


def test_row_19_a_damaged_segment_shows_in_the_windows_once_it_is_known(whole: Whole) -> None:
    def gaps() -> dict[str, list[str]]:
        done = whole.scene.drkit("windows", "--json", check=False)
        return {w["target"]: [g["from_segment"] for g in w["gaps"]] for w in json.loads(done.stdout)["windows"]}

    with hurt(flipped, *whole.here("wal", on="b")):
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


def test_row_19_a_round_of_tombstones_that_is_damaged_is_not_replaced_and_its_target_is_not_built_upon(
    whole: Whole,
) -> None:
    """The last of this file: the first backup goes."""
    one = whole.scene
    one.extra = '[retention]\ndaily = "0s"\nmin_full = 1\ngrace = "30d"\n'
    one.write_config()
    (hold,) = one.answer("hold", "list")["holds"]
    one.drkit("hold", "release", hold["id"])
    expire(one)
    key = last(whole.shelves["b"], "clusters/*/tombstones/*")
    assert whole.verify()[0] == 0
    with hurt(flipped, (whole.shelves["b"], key)):
        code, answer = whole.verify("--repair")
        assert (code, left(answer)) == (9, {("b", "tombstone", "flipped")}), answer["findings"]
        assert "copy of this very target" in answer["findings"][0]["note"]
    assert whole.verify()[0] == 0
