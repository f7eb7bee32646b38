"""`drkit replicate` and `drkit target` from the command line, without a server: what they answer and how they end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.app import main
from drkit.cli.verbs import jobs
from drkit.repository.layout import ClusterLayout
from drkit.repository.spool import Debt, Spool
from drkit.repository.wal import Blob
from storage_backends.api import Key
from tests.docs.json_page import Member, differences, read_page
from tests.faults.test_kill_replicate import Scene
from tests.jobs.wal_world import flip
from tests.repository.samples import LAYOUT, SEGMENT


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def drkit(scene: Scene, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line; (exit status, the JSON answer)."""
    page = read_page()

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main(["--config", str(scene.config), "-q", "--json", *words])
        out = capsys.readouterr()
        answer: dict[str, Any] = json.loads(out.out) if out.out else json.loads(out.err.splitlines()[-1])
        told = page[answer["schema"]]
        told.parts["schema"] = Member(("text",))
        assert list(differences(answer, told)) == []
        return status, answer

    return run


def add_target(scene: Scene, name: str) -> None:
    scene.config.write_text(
        scene.config.read_text() + f'[target.{name}]\nurl = "file://{scene.root}/{name}"\nsite = "{name}"\n'
    )


def test_it_is_a_job_that_can_be_scheduled() -> None:
    assert "replicate" in jobs()


def test_a_plan_and_then_the_work(drkit: Any, scene: Scene) -> None:
    status, plan = drkit("replicate", "--plan")
    planned = {row["name"]: row for row in plan["targets"]}
    assert status == 0 and plan["plan"] and len(planned["b"]["backups"]) == 2 and planned["a"]["backups"] == []
    assert not list((scene.root / "b").rglob("manifests/*"))
    status, done = drkit("replicate", "orders")
    rows = {row["name"]: row for row in done["targets"]}
    assert (
        status == 0
        and rows["b"]["state"] == "done"
        and sorted(rows["b"]["backups"]) == sorted(plan["targets"][1]["backups"])
    )
    assert rows["b"]["kinds"]["manifests"] == 2 and rows["b"]["bytes"] > 0
    assert rows["b"]["objects"] == sum(rows["b"]["kinds"].values()) == planned["b"]["objects"]
    assert rows["a"]["objects"] == planned["a"]["objects"] == 0
    status, again = drkit("replicate")
    assert status == 0 and [row["objects"] for row in again["targets"]] == [0, 0]


def test_people_read_it_too(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(scene.config), "-q", "replicate", "--plan"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["--config", str(scene.config), "-q", "replicate"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_target_that_is_away_is_7_and_the_others_are_served(drkit: Any, scene: Scene) -> None:
    add_target(scene, "c")
    assert main(["--config", str(scene.config), "-q", "init", "--yes"]) == 0
    (scene.root / "c").rename(scene.root / "c.away")
    status, done = drkit("replicate")
    assert status == 7 and set(done["unreachable"]) == {"c"}
    assert {row["name"]: len(row["backups"]) for row in done["targets"]} == {"a": 0, "b": 2}
    (scene.root / "c.away").rename(scene.root / "c")
    status, done = drkit("replicate", "--from", "b")
    assert status == 0 and {row["name"]: len(row["backups"]) for row in done["targets"]} == {"a": 0, "b": 0, "c": 2}


def test_what_is_damaged_on_all_that_have_it_is_9(drkit: Any, scene: Scene) -> None:
    pack = next(key for key in scene.samples[0].objects if "/packs/" in key)
    flip(scene.target("a").backend, Key(pack))
    status, done = drkit("replicate")
    row = done["targets"][1]
    assert status == 9 and set(row["lost"]) == {pack} and row["state"] == "done"
    assert [left["state"] for left in row["left"]] == ["pending"] and len(row["backups"]) == 1
    assert {(one["target"], one["key"]) for one in done["damaged"]} == {("a", pack)}


def test_a_source_that_nobody_configured_is_a_usage_error(drkit: Any) -> None:
    status, answer = drkit("replicate", "--from", "z")
    assert status == 2 and "'z'" in answer["error"]["what"]


def test_a_debt_is_paid_first(drkit: Any, scene: Scene) -> None:
    layout = ClusterLayout(LAYOUT.system_identifier)
    data = scene.target("a").read(layout.wal(SEGMENT))
    blob = Blob((data[:-32], data[-32:]), len(data), data[-32:])
    from drkit.repository.wal import read_facts

    identity = read_facts(scene.target("a"), layout.wal(SEGMENT)).identity.hex()
    debt = Debt(
        "b", LAYOUT.system_identifier, SEGMENT, identity, data[-32:].hex(), len(data), "2026-01-01T00:00:00Z", "away"
    )
    Spool(scene.root / "spool").owe([debt], blob)
    status, done = drkit("replicate")
    assert status == 0 and done["debts"] == {"paid": 1, "left": []}
    assert Spool(scene.root / "spool").count("b") == 0


def test_a_target_is_retired_and_refused_when_it_returns(drkit: Any, scene: Scene) -> None:
    add_target(scene, "c")
    assert main(["--config", str(scene.config), "-q", "init", "--yes"]) == 0
    drkit("replicate", "--to", "c")
    status, plan = drkit("target", "retire", "a")
    assert status == 0 and not plan["retired"] and plan["on"] == ["b", "c"] and plan["only_there"] == []
    assert drkit("target", "list")[1]["retired"] == []
    (scene.root / "b").rename(scene.root / "b.away")
    status, done = drkit("target", "retire", "a", "--reason", "sold", "--yes")
    assert status == 7 and done["retired"] and done["on"] == ["c"] and done["untold"] == ["b"]
    (scene.root / "b.away").rename(scene.root / "b")
    status, listed = drkit("target", "list")
    assert status == 7 and {row["name"]: row["state"] for row in listed["targets"]} == {
        "a": "retired",
        "b": "open",
        "c": "open",
    }
    assert [(one["name"], one["reason"], one["on"]) for one in listed["retired"]] == [("a", "sold", ["c"])]
    status, done = drkit("replicate")
    assert status == 7 and "retired" in done["unreachable"]["a"]
    assert drkit("target", "list")[1]["retired"][0]["on"] == ["b", "c"], "replication tells who was away"


def test_what_only_one_target_has_is_named_before_it_is_retired(drkit: Any, scene: Scene) -> None:
    status, plan = drkit("target", "retire", "a")
    assert status == 0 and sorted(plan["only_there"]) == sorted(str(one.run) for one in scene.samples)


def test_the_last_target_cannot_be_retired(drkit: Any, scene: Scene) -> None:
    shutil.rmtree(scene.root / "b")
    status, answer = drkit("target", "retire", "a", "--yes")
    assert status == 4 and answer["error"]["code"] == "refused"


def test_debts_of_a_retired_target_are_forgotten(drkit: Any, scene: Scene) -> None:
    data = scene.target("a").read(LAYOUT.wal(SEGMENT))
    blob = Blob((data[:-32], data[-32:]), len(data), data[-32:])
    debt = Debt("b", LAYOUT.system_identifier, SEGMENT, "00" * 32, data[-32:].hex(), len(data), "2026-01-01", "away")
    Spool(scene.root / "spool").owe([debt], blob)
    status, done = drkit("target", "retire", "b", "--yes")
    assert status == 0 and done["forgotten_debts"] == 1
    assert not list((scene.root / "spool/wal/sealed").iterdir())
