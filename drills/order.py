"""What a drill is asked to do, and with what means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drills.checks.api import Check
from drills.definition import Definition
from drills.scenarios.api import Scenario
from drills.stage import Doors
from drkit.config.drill import Drill
from drkit.config.model import Cluster
from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import UsageError
from drkit.core.log import Log
from drkit.core.progress import Progress
from drkit.crypto.keys import Entropy
from drkit.jobs.rates import Rates
from drkit.repository.layout import RunId


@dataclass(frozen=True, slots=True)
class DrillOrder:
    """definition: with what the command line changed in it, and its `load` · seed: of every choice made at random

    staging: the folder for the sandbox, existing or not · keep: where the sandbox is left, None: it is removed
    """

    id: RunId
    definition: Definition
    cluster: str
    config: Cluster
    seed: int
    staging: Path
    keep: Path | None = None

    @property
    def drill(self) -> Drill:
        return self.definition.drill


@dataclass(frozen=True, slots=True)
class DrillMeans:
    """checks: by name, in the order to run them · drilled: backup id -> when a drill of it last passed, asked for only
    where the point wants it · keep_rates: hears how fast files and WAL came back, must not raise
    secrets: files that recovery must read · version: of drkit.
    """

    doors: Doors
    scenario: Scenario
    checks: Sequence[Check]
    drilled: Callable[[], Mapping[str, datetime]]
    keep_rates: Callable[[Rates], None]
    wal_program: Path
    secrets: tuple[Path, ...]
    workers: int
    clock: Clock
    entropy: Entropy
    token: CancelToken
    progress: Progress
    log: Log
    version: str


@dataclass(frozen=True, slots=True)
class Sides:
    """The targets that the recovery may read, and those that are taken for lost; sites: that are denied by name."""

    allowed: tuple[str, ...]
    denied: tuple[str, ...]
    sites: tuple[str, ...]


def sides(drill: Drill, cluster_site: str, sites: Mapping[str, str]) -> Sides:
    """sites: site by target. Raises UsageError for a name that is not there, or where no target is left."""
    for kind, known in (("targets", set(sites)), ("sites", {*sites.values(), cluster_site})):
        for name in (*getattr(drill, f"allow_{kind}"), *getattr(drill, f"deny_{kind}")):
            if name not in known:
                why = f"there are {', '.join(sorted(known))}"
                raise UsageError(f"there is no {kind.removesuffix('s')} {name!r}", why=why, cure="name one of them")
    lost = drill.deny_sites
    if not lost and drill.scenario == "region-loss":
        lost = (cluster_site,)
    denied = [
        name
        for name, site in sites.items()
        if name in drill.deny_targets
        or site in lost
        or (drill.allow_targets and name not in drill.allow_targets)
        or (drill.allow_sites and site not in drill.allow_sites)
    ]
    allowed = tuple(name for name in sites if name not in denied)
    if not allowed:
        raise UsageError(
            "no target is left that the drill may read",
            why=f"denied are {', '.join(denied)}",
            cure="configure a target at another site, or deny less",
        )
    return Sides(allowed, tuple(denied), tuple(lost))
