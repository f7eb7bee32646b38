"""False alarms from page checksums, and real damage missed: pages that pgbench writes alarm nobody, pages that a disk
spoiled are told by backup and verification, and the last backup without them outlives all windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scene import Scene, newest_major, scene
from tests.acceptance.test_rows_expiry import SHORT, expire
from tests.jobs.backup_world import load
from tests.jobs.test_backup import PAGE, flip_page, relation

pytestmark = pytest.mark.real

DAMAGE = 9


def deep(one: Scene) -> tuple[int, list[dict[str, Any]]]:
    done = one.drkit("verify", "--deep", "--json", check=False)
    answer = json.loads(done.stdout)
    assert answer["findings"] == answer["holes"] == answer["files"] == []
    pages: list[dict[str, Any]] = answer["pages"]
    return done.returncode, pages


def shift_page(file: Path, number: int) -> None:
    """A page in the place of the next one, as a disk that wrote to the wrong address leaves it."""
    with file.open("r+b") as stream:
        stream.seek(number * PAGE)
        page = stream.read(PAGE)
        stream.write(page)


def test_row_12_no_false_alarm_no_damage_missed_and_the_last_clean_backup_stays() -> None:
    # What a vacuum touched is written again, and would heal the pages that this test spoils.
    with scene(newest_major(), settings={"autovacuum": "off"}, extra=SHORT) as one:
        server = one.server
        server.pgbench("-i", "-s", "1", "-q")
        server.query("create table quiet as select g, repeat('x', 100) from generate_series(1, 20000) g")
        server.query("vacuum freeze quiet")
        with load(server, "-N"):
            clean = [one.backup("--rehash") for _ in range(2)]
        assert [(backup["page_errors"], backup["damaged"]) for backup in clean] == [(0, [])] * 2
        assert deep(one) == (0, [])

        path = flip_page(server, "quiet", 3)
        shift_page(server.data / relation(server, "quiet"), 20)
        with load(server, "-N"):
            spoiled = [one.backup(code=DAMAGE) for _ in range(2)]
        for backup in spoiled:
            assert backup["damaged"] == [{"path": path, "block": 3}, {"path": path, "block": 21}]
        code, pages = deep(one)
        assert code == 0, "the server's damage was told when it was met; what is stored is what was read"
        told = {(page["target"], page["backup"]) for page in pages}
        assert told == {(name, spoiled[-1]["id"]) for name in "ab"}, "what backups share is looked at once"
        assert all((page["path"], page["blocks"], page["known"]) == (path, [3, 21], True) for page in pages)

        for _ in range(2):
            for plan in one.answer("expire")["targets"]:
                reasons = {row["id"]: row["reasons"] for row in plan["backups"] if not row["goes"]}
                assert reasons == {
                    clean[-1]["id"]: ["the newest without damaged pages"],
                    spoiled[-1]["id"]: ["the newest good one"],
                }
            expire(one)
        kept = {ident for ident, states in one.states().items() if set(states.values()) == {"good"}}
        assert kept == {clean[-1]["id"], spoiled[-1]["id"]}
        with one.restored("clean", "--to", "end", "--backup", clean[-1]["id"]) as (_, session):
            assert session.execute("select count(*), sum(g) from quiet").fetchone() == (20000, 200010000)

        server.query("truncate quiet")
        server.query("checkpoint")
        healed = one.backup()
        assert healed["damaged"] == []
        expire(one)
        states = one.states()
        assert {ident for ident in states if set(states[ident].values()) == {"good"}} == {healed["id"]}
