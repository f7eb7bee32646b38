"""[drill.NAME]: a drill as it is defined, in the configuration or in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from drkit.config.section import Section
from drkit.config.values import AbsolutePath, Duration, Site, Size

SCENARIOS = ("dropped-table", "disk-lost", "region-loss", "wal-gap")
ScenarioName = Literal["dropped-table", "disk-lost", "region-loss", "wal-gap"]
Oracle = Literal["V1", "V2", "V3", "V4", "V5", "V6"]


class Question(Section):
    """A question in SQL, which answers one row with one value."""

    name: str
    """What it is called in the report."""
    sql: str
    """The query."""
    expected: str | None = None
    """The value that is right, as text. Not set: it must be true."""
    database: str = ""
    """The database to ask. Empty: the one of the cluster's connection."""


class Deadlines(Section):
    """How long each step of a drill may take. A step of the recovery that takes longer fails the drill."""

    steady: Duration = timedelta(minutes=5)
    """Looking at the steady state before."""
    fault: Duration = timedelta(minutes=15)
    """The load, the fault and its proof."""
    restore: Duration = timedelta(hours=4)
    """Choosing the point and restoring the files."""
    recovery: Duration = timedelta(hours=4)
    """Replaying WAL, to the first write."""
    checks: Duration = timedelta(hours=2)
    """The checks of the restored server, with their negative controls."""


class Drill(Section):
    """A drill: a disaster, the point to restore, and what must hold afterwards. What it restores from is only read; of
    the cluster it asks questions, and ends a WAL segment to see that archiving works."""

    scenario: ScenarioName
    """The disaster."""
    title: str = ""
    """One line about it."""
    version: Annotated[int, Field(ge=1)] = 1
    """Of this definition: raise it when the meaning changes, so that reports can be compared."""
    owner: str = ""
    """Who answers for it."""
    cluster: str | None = None
    """Which cluster. Not set: the only one, or the one named on the command line."""
    point: str = "latest"
    """The point to restore: `latest`, `oldest`, `random-instant:14d`, `least-recently-drilled`, `backup:ID`, a time
    with zone, `lsn:X/Y`, `xid:N`, `name:NAME`. A dropped table and a WAL gap find their own."""
    tests: tuple[Literal["rpo", "rto"], ...] | None = None
    """The objectives that it is judged by. Not set: `rto`, and with a ledger `rpo`, which nothing else can measure."""
    rpo: Duration | None = None
    """The most that may be lost. Not set: what the cluster's objectives say."""
    rto: Duration | None = None
    """The longest that it may take until writes are accepted. Not set: what the cluster's objectives say."""
    allowance: Duration = timedelta(0)
    """What detecting and deciding are declared to take. It counts into the time, and is shown apart."""
    allow_targets: tuple[str, ...] = ()
    """The targets that it may read from. Empty: all."""
    deny_targets: tuple[str, ...] = ()
    """Targets that it takes for lost."""
    allow_sites: tuple[Site, ...] = ()
    """The sites that it may read from. Empty: all."""
    deny_sites: tuple[Site, ...] = ()
    """Sites that it takes for lost. Empty, for a lost region: the site of the cluster."""
    key_file: AbsolutePath | None = None
    """The escrowed copy of the master key, to restore with this one. Not set: the configured key."""
    ledger: bool = False
    """Whether the drill may write to the cluster: rows of a ledger, in a schema of its own (drkit_drill), removed at
    the end. Without it the loss is not measured, and no table can be dropped."""
    writers: Annotated[int, Field(ge=1, le=64)] = 4
    """How many connections write the ledger."""
    pace: Duration = timedelta(milliseconds=20)
    """The rest between two rows of one writer."""
    load: Duration | None = None
    """How long they write before the fault. No more than that can be lost: with a `load` shorter than the rpo, the rpo
    cannot be broken, and a drill that loses all of it is inconclusive. Not set: 10 s; where a server or a site is lost
    and an rpo is promised, a quarter longer than the rpo, unless that is more than half of `deadlines.fault`."""
    compare: bool = True
    """Whether what the cluster holds is recorded before, and compared: reads every table (of one over 1 GiB a sample),
    before the fault and again, to tell those that nobody changed."""
    checks: tuple[Oracle, ...] | None = None
    """The checks that must pass. Not set: all that apply."""
    min_rows: Annotated[int, Field(ge=0)] = 0
    """The fewest acknowledged rows of the ledger that prove anything."""
    min_size: Size = 0
    """The smallest restore that proves anything."""
    probe: tuple[Question, ...] = ()
    """What must be true on the source before: else the drill is inconclusive."""
    assertion: tuple[Question, ...] = ()
    """What must be true on the restored server: else the drill fails."""
    deadlines: Deadlines = Deadlines()
    """How long each step may take."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        if self.scenario == "dropped-table" and not self.ledger:
            raise ValueError("a dropped table is the drill's own: it needs ledger = true")
        if not self.ledger and (self.rpo is not None or "rpo" in (self.tests or ())):
            raise ValueError("rpo is measured by the ledger: set ledger = true, or leave it out")
        if self.scenario in ("dropped-table", "wal-gap") and self.point != "latest":
            raise ValueError(f"point: {self.scenario} finds its own; leave it out")
        for kind in ("targets", "sites"):
            both = set(getattr(self, f"allow_{kind}")) & set(getattr(self, f"deny_{kind}"))
            if both:
                raise ValueError(f"{', '.join(sorted(both))} stands in allow_{kind} and in deny_{kind}")
        names = [one.name for one in (*self.probe, *self.assertion)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two questions are called {', '.join(twice)}")

    def changed(self, changes: Mapping[str, object]) -> Self:
        """Other values in some keys, of the types that they have here. Raises ValueError where it makes no sense."""
        made = self.model_copy(update=changes)
        made._check()
        return made

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of those that it is judged by."""
        wanted = dict.fromkeys(self.tests or ("rpo", "rto"))
        return tuple(name for name in wanted if name != "rpo" or self.ledger)
