"""What is seen of a cluster at one instant, as `policies.protection` judges it. What nobody saw is None or "", never a
good value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.decision import Breach, Decision
from policies.objectives import Promises

ALLOWED_LAG = timedelta(minutes=15)
"""How far a target or the archiver may be behind where no rpo is promised."""


@dataclass(frozen=True, slots=True)
class BackupSeen:
    """A good backup. Sizes in bytes: of the cluster, of all its objects, of those that were new."""

    id: str
    stopped: datetime
    size_bytes: int
    stored_bytes: int
    new_bytes: int


@dataclass(frozen=True, slots=True)
class BackupFault:
    """A backup that a target does not have whole. damaged: it had; else it was never completed there.

    elsewhere: a target that has it good, "" for none · manifest: its key, where it opens on no target.
    """

    backup: str
    why: str
    damaged: bool
    elsewhere: str = ""
    manifest: str = ""


@dataclass(frozen=True, slots=True)
class GapSeen:
    """WAL files first to last are missing. bridged: when the backup that goes on behind it stopped, if there is one ·
    elsewhere: a target that has them all, "" for none."""

    first: str
    last: str
    missing: int
    bridge: str | None
    bridged: datetime | None
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class WindowSeen:
    """What one target can restore on one timeline. end None: the last commit was not found cheaply."""

    timeline: int
    start: datetime
    end: datetime | None
    start_lsn: str
    end_lsn: str
    last_wal: str
    gaps: tuple[GapSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class Lack:
    """WAL at its end that this target lacks though another has it or the server archived it. since: when another one
    got the first of it, None where no target has it · damaged: the first of it is there and known to be damaged."""

    first: str
    count: int
    since: datetime | None
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class DrillSeen:
    """A drill. rto_s and rpo_s as measured, None where they were not · targets: those it read from."""

    id: str
    at: datetime
    drill: str
    verdict: str
    rto_s: float | None = None
    rpo_s: float | None = None
    targets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """unreadable: why nothing is known of it, "" where it was read · cure: of that · key_fault: why the key does not
    open it alone.

    last_file, last_at: the last WAL file of its newest window, and when the store got it · owed: WAL files that wait
    for it in the spool of this host.
    """

    name: str
    unreadable: str = ""
    cure: str = ""
    key_fault: str = ""
    backup: BackupSeen | None = None
    faults: tuple[BackupFault, ...] = ()
    windows: tuple[WindowSeen, ...] = ()
    last_file: str = ""
    last_at: datetime | None = None
    lack: Lack | None = None
    owed: int = 0
    owed_since: datetime | None = None
    resting: str = ""
    drilled: DrillSeen | None = None


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """reachable None: what answered says nothing of a primary · ready None: its folder cannot be seen from here.

    ready: WAL files that wait for archive_command · failing: the file that it failed with last, "" where all is well.
    """

    reachable: bool | None
    why: str = ""
    ready: int | None = None
    oldest_ready: datetime | None = None
    failing: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the repository as a whole cannot be opened though targets answer. kind: `key` or `damage`."""

    kind: str
    why: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """All that is known of a cluster at one instant.

    decisions: of the rule of copies · breaches: of the promises of time · kept_for: how far back every instant must
    stay restorable, None for as long as anything is there.
    """

    name: str
    server: ServerSeen
    targets: tuple[TargetSeen, ...]
    promises: Promises
    trouble: Trouble | None = None
    decisions: tuple[Decision, ...] = ()
    breaches: tuple[Breach, ...] = ()
    kept_for: timedelta | None = None
    last_drill: DrillSeen | None = None
    passed_drill: DrillSeen | None = None

    @property
    def allowed_lag(self) -> timedelta:
        return self.promises.rpo or ALLOWED_LAG


def newest_window(target: TargetSeen) -> WindowSeen | None:
    return max(target.windows, key=lambda one: one.timeline, default=None)
