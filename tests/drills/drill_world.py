"""A server with a repository at two sites, and drills on it: by the command line, or with parts that were sabotaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drills.checks.api import Check, Scene
from drills.definition import Definition
from drills.order import DrillMeans
from drills.report.model import CheckResult, DrillReport, State
from drills.runner import run_drill
from drills.scenarios.api import Scenario
from drkit.cli import drill_run
from drkit.cli.context import Context
from drkit.cli.wire import open_wiring
from drkit.config.drill import Drill
from tests.acceptance.scene import Scene as World
from tests.acceptance.scene import newest_major, scene

_MORE = """
[cluster.main.objectives]
rpo = "60s"
rto = "10m"
[drill.quick-table]
scenario = "dropped-table"
ledger = true
load = "1s"
[drill.quick-disk]
scenario = "disk-lost"
ledger = true
load = "6s"
[drill.quick-region]
scenario = "region-loss"
ledger = true
load = "6s"
[drill.quick-gap]
scenario = "wal-gap"
ledger = true
load = "1s"
"""
ROWS = 2000


@dataclass
class DrillWorld:
    world: World

    @property
    def staging(self) -> Path:
        return self.world.root / "staging"

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """`drkit drill run`, as the server's user: the report as JSON."""
        return self.world.answer("drill", "run", *words, code=code)

    def run_with(
        self,
        name: str,
        *,
        scenario: Scenario | None = None,
        first: Sequence[Check] = (),
        alter: Callable[[DrillMeans], DrillMeans] = lambda means: means,
        **keys: object,
    ) -> DrillReport:
        """A configured drill in this process. first: checks before the usual ones · keys: of the definition."""
        with open_wiring(Context(self.world.config, verbosity=-1)) as wiring:
            cluster, config = wiring.cluster(None)
            drill = wiring.config.drill[name]
            written = Drill.model_validate({"scenario": drill.scenario, "ledger": True} | keys)
            found = Definition(name, drill.changed({key: getattr(written, key) for key in keys}), "a test")
            order = drill_run.order_of(wiring, found, cluster, config, seed=1, keep=None)
            means = alter(drill_run.means_of(wiring, found, cluster))
            means = replace(means, scenario=scenario or means.scenario, checks=(*first, *means.checks))
            return run_drill(order, means)

    def clean(self) -> None:
        """Nothing of a drill is left: no sandbox, no server, no schema."""
        assert not list(self.staging.iterdir())
        assert not self.world.server.query("select 1 from pg_namespace where nspname like 'drkit%'")

    def objects(self) -> dict[str, bytes]:
        """Everything below clusters/ on both targets."""
        tops = [self.world.place(target.name) / "clusters" for target in self.world.targets]
        return {str(path): path.read_bytes() for top in tops for path in top.rglob("*") if path.is_file()}


@contextmanager
def drill_world(extra: str = "", *, cluster: str = "") -> Iterator[DrillWorld]:
    """The newest PostgreSQL, a table with ROWS rows, one backup. cluster: lines for [cluster.main].

    What is written under load is archived while it goes on, also on a busy machine: less would prove nothing.
    """
    settings = {"archive_timeout": "1s", "max_wal_size": "4GB"}
    with scene(newest_major(), segment_mb=1, settings=settings) as one:
        text = one.config.read_text()
        head = f'[cluster.main]\nsite = "site-a"\nstaging = "{one.root}/staging"\n{cluster}'
        one.config.write_text(text.replace("[cluster.main]\n", head) + _MORE + extra)
        one.server.query("create table t (n int primary key, note text not null)")
        one.server.query(f"insert into t select n, md5(n::text) from generate_series(1, {ROWS}) n")
        one.backup()
        yield DrillWorld(one)


def states(report: dict[str, Any]) -> dict[str, str]:
    """Check -> state, of a report as JSON."""
    return {one["check"]: one["state"] for one in report["checks"]}


@dataclass(frozen=True)
class Saboteur:
    """Not a check: it spoils the restored server before the checks look at it."""

    sql: str
    name: str = "saboteur"
    title: str = "spoils the server"

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        with scene.connect(scene.reference.database) as session:
            session.rows(self.sql)
        return CheckResult(self.name, self.title, State.PASSED, required, "", "")


def as_json(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
