"""Backups of a standby: its WAL is its primary's to archive."""

from __future__ import annotations

import pytest

from tests.acceptance.scene import DRKIT, as_server, newest_major, scene
from tests.acceptance.test_failover import standby_of

pytestmark = pytest.mark.real


def test_a_backup_from_a_standby_says_what_it_waits_for_and_is_restored_exactly() -> None:
    with scene(newest_major(), segment_mb=1) as one:
        one.server.query("create table t as select g n from generate_series(1, 20000) g")
        with standby_of(one) as (standby, _):
            # exit 4: servers of tests run with fsync off
            found = {f["about"]: f for f in standby.answer("check", code=4)["findings"]}
            assert found["standby"]["level"] == "warn" and "archive_timeout" in found["standby"]["cure"]
            with as_server([DRKIT, "--config", standby.config, "backup"]) as running:
                assert running.stderr is not None
                waits = any("only the primary can archive" in line for line in running.stderr)
                one.switch()
                rest = running.stderr.read()
            assert waits and running.returncode == 0, rest
            one.server.query("insert into t values (0)")
            one.switch()
            with standby.restored("restored") as (_, session):
                assert session.execute("select count(*), min(n), max(n) from t").fetchone() == (20001, 0, 20000)
