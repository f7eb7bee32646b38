"""Rows 7 and 8 of the failures that users reported: what retention took that it must not, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scene import DRKIT, DRKIT_WAL, Scene, as_server, scene
from tests.real.postgres import Server, give, new_server, require, run

pytestmark = pytest.mark.real

SHORT = '[retention]\ndaily = "0s"\nmin_full = 1\ngrace = "0s"\n'
"""All but the newest may go, at once."""


def expire(one: Scene, config: Path | None = None, *, code: int = 0) -> list[dict[str, Any]]:
    """Plan, and apply with the number that the plan names."""
    plan = one.answer("expire", config=config)["targets"]
    count = sum(row["goes"] for target in plan for row in target.get("backups", ()))
    done: list[dict[str, Any]] = one.answer("expire", "--apply", "--removes", str(count), config=config, code=code)[
        "targets"
    ]
    return done


def good(one: Scene, config: Path | None = None) -> dict[str, set[str]]:
    """Backup id -> targets where it is good."""
    states = one.states(config)
    return {ident: {t for t, state in found.items() if state == "good"} for ident, found in states.items()}


def to_timeline(server: Server, wanted: int) -> None:
    """Promote the server, again and again."""
    for _ in range(1, wanted):
        server.stop()
        signal = server.data / "standby.signal"
        signal.touch()
        give(signal)
        server.start()
        server.promote()
        server.query("checkpoint")


@contextmanager
def upgraded(one: Scene) -> Iterator[tuple[Scene, Path]]:
    """Another server on timeline 1, as pg_upgrade leaves it: the same repository, another system identifier."""
    server = new_server(15, segment_mb=1)
    try:
        after = Scene(server, one.targets, SHORT)
        (server.root / "spool").mkdir()
        give(server.root / "spool")
        config = after.write_config(key=one.root / "master.key")
        config.write_text(config.read_text().replace("[cluster.main]", "[cluster.after]"))
        server.set(archive_mode="on", archive_command=f"{DRKIT_WAL} push --config {config} %p")
        server.start()
        yield after, config
    finally:
        server.close()


def test_row_07_a_reset_timeline_costs_no_backup() -> None:
    """Timeline 11, then a new system on timeline 1: of each the newest stays, whatever names and timelines say."""
    require(15)
    with scene(15, segment_mb=1, extra=SHORT) as one:
        one.server.query("create table t as select 11 as n")
        first = one.backup()
        to_timeline(one.server, 11)
        old = [one.backup() for _ in range(2)]
        assert old[-1]["timeline"] == 11
        with upgraded(one) as (after, config):
            after.server.query("create table t as select 1 as n")
            new = [after.backup() for _ in range(2)]
            assert new[-1]["timeline"] == 1 and new[-1]["system_identifier"] != old[-1]["system_identifier"]
            for scene_, backups in ((one, [first, *old]), (after, new)):
                expire(scene_, config if scene_ is after else None)
                left = good(scene_)
                assert left[backups[-1]["id"]] == {"a", "b"}
                assert not any(left.get(gone["id"]) for gone in backups[:-1])
            expire(one)
            with one.restored("old", "--to", "latest") as (_, session):
                assert session.execute("select n from t").fetchone() == (11,)
            with after.restored("new", "--to", "latest") as (_, session):
                assert session.execute("select n from t").fetchone() == (1,)


def test_row_08_expiry_from_a_second_host_beside_a_running_backup() -> None:
    """The backup adopts from one that goes meanwhile; the WAL that it needs is not taken; what it reports is true."""
    require(15)
    with scene(15, segment_mb=1, extra=SHORT) as one:
        second = one.root / "second"
        second.mkdir()
        give(second)
        config = one.write_config(second / "drkit.toml", spool=second / "spool")
        rows = "select g as n, repeat(md5(g::text), 20) as text from generate_series(1, 60000) g"
        one.server.query(f"create table t as {rows}")
        for _ in range(2):
            one.backup()
        for round_ in range(3):
            one.server.query(f"update t set n = n + 1000000 where n % 50 = {round_}")
            before = one.server.value("select sum(n) from t")
            running = as_server([DRKIT, "--config", one.config, "-q", "backup", "--rate", "8MB"])
            passes = 0
            while running.poll() is None:
                done = one.drkit("expire", "--apply", config=config, check=False)
                assert done.returncode in (0, 4), done.stderr
                passes += 1
            assert running.returncode == 0, running.stderr.read() if running.stderr else ""
            assert passes > 1
            newest = max(good(one))
            assert good(one)[newest] == {"a", "b"}
            expire(one, config)
            expire(one, config)
            assert good(one) == {newest: {"a", "b"}}
            for target in ("a", "b"):
                with one.restored(f"{target}{round_}", "--to", "end", "--from", target) as (answer, session):
                    assert answer["plan"]["backup"] == newest
                    assert session.execute("select sum(n) from t").fetchone() == (before,)
                run(["rm", "-rf", one.root / f"{target}{round_}"])
