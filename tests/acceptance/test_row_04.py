"""WAL was dropped when the queue was full, and success was reported: here the place for what a target lacks runs full.

Archiving fails then and nothing is forgotten; status says what waits and what is missing where; a restore into what
is not stored yet is refused; and when there is room again every row comes back.
"""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from drkit.engines.postgres.wal import next_name, parse_name
from tests.acceptance.scene import Scene
from tests.acceptance.stores import disk
from tests.acceptance.test_rows import fill, until_full
from tests.acceptance.test_target_away import two_targets
from tests.real.postgres import give_tree
from tests.storage_backends.mounts import mount, unmount

pytestmark = pytest.mark.real

MIB = 1 << 20


def ready(one: Scene) -> list[str]:
    """WAL that the server still holds for archiving, by its own word."""
    folder: Path = one.server.data / "pg_wal/archive_status"
    return sorted(path.stem for path in folder.glob("*.ready"))


def stored(one: Scene, target: str) -> list[str]:
    return sorted(name for name in one.wal_objects(target) if len(name) == 24)


def unbroken(names: list[str]) -> bool:
    """Whether these segments follow each other without a gap."""
    return all(next_name(parse_name(one), MIB).text == after for one, after in pairwise(names))


def test_row_04_a_full_queue_drops_nothing_and_says_what_waits() -> None:
    with two_targets(lambda root: disk(root, "b"), "") as (one, store):
        one.backup()
        fill(one, 2)
        before = stored(one, "a")
        assert stored(one, "b") == before
        small = one.root / "spool"
        mount(small, "size=4m,mode=0700")  # what is owed to b goes there
        give_tree(small)
        try:
            store.leave()
            until_full(one)
            one.server.stop("immediate")
            here, waiting = stored(one, "a"), ready(one)
            owed = [name for name in here if name not in before]
            assert owed and waiting
            assert unbroken(sorted({*here, *waiting})), "every segment is stored, or the server has it still"
            log = one.server.log.read_text()
            assert "archive command failed" in log and "space" in log and str(small) in log

            _is_told(one, owed, waiting)
            known = ("--from", "a", "--without", "b")
            assert _latest(one, *known) in str(_is_refused(one, waiting[-1], *known))
            store.return_()
            _is_refused(one, owed[-1], "--from", "b")
            _, latest = one.refusal("restore", "--into", one.fresh("refused"), "--from", "b")
            assert owed[0] in latest["why"] and f"--to-lsn {parse_name(owed[0]).start(MIB)}" in latest["cure"]
            assert stored(one, "b") == before and stored(one, "a") == here, "who asks changes nothing"

            subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
            one.server.start()
            one.until_archived(one.switch(wait=False))
            one.drkit("wal", "status", "--pay")
            assert one.answer("wal", "status")["waiting"] == []
            assert stored(one, "a") == stored(one, "b") and unbroken(stored(one, "b"))
            total = one.server.query("select (select count(*) from t), (select count(*) from noise)")
            for target in "ab":
                with one.restored(f"after-{target}", "--from", target) as (_, session):
                    found = session.execute("select (select count(*) from t), (select count(*) from noise)")
                    assert found.fetchall() == total
        finally:
            unmount(small, "--lazy")


def _is_told(one: Scene, owed: list[str], waiting: list[str]) -> None:
    facts = one.answer("wal", "status", code=10)
    a, b = facts["targets"]
    assert (a["name"], a["owed"], a["timelines"][0]["gaps"]) == ("a", 0, [])
    assert b["name"] == "b" and b["error"]
    # The last one may be stored and not acknowledged: the server hands it over again.
    assert b["owed"] in (len(owed), len(owed) - 1) and b["owed_first"] == owed[0]
    assert facts["waiting"] == waiting
    text = one.drkit("wal", "status", check=False).stdout
    assert f"b lacks {b['owed']} files, {owed[0]}" in text
    assert f"{len(waiting)} files to hand over, the oldest {waiting[0]}" in text


def _is_refused(one: Scene, beyond: str, *flags: str) -> dict[str, str]:
    """A point that only WAL which is not there leads to; the error."""
    point = str(parse_name(beyond).start(MIB) + 100)
    data = one.fresh("refused")
    code, error = one.refusal("restore", "--into", data, *flags, "--to-lsn", point)
    assert code in (4, 5) and not data.exists(), error
    return error


def _latest(one: Scene, *flags: str) -> str:
    plan = one.answer("restore", "--plan", "--into", one.root / "refused", *flags)["plan"]
    return str(plan["latest"]["lsn"])
