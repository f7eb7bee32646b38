"""Is a cluster protected, per target and as a whole: base backup, unbroken WAL, a key that opens, a drill that passed.

Facts in, findings out. What was not seen is never good: it is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from policies import cures
from policies.decision import State
from policies.sights import ClusterSeen, TargetSeen, Trouble, newest_window

SETTLING = timedelta(minutes=1)
"""A WAL file goes to the targets one by one: what one has for less than this is no lack of another."""


class Level(StrEnum):
    """Weakest first. UNKNOWN: nobody could look, which is not good."""

    NOTE = "note"
    WARNING = "warning"
    UNKNOWN = "unknown"
    BAD = "bad"


class Protection(StrEnum):
    """AT_RISK: the newest instant can be restored from a target, yet a promise is broken or not known to be kept.
    UNPROTECTED: no target can restore the newest instant."""

    PROTECTED = "protected"
    AT_RISK = "at risk"
    UNPROTECTED = "not protected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an operator should know. kind: a stable word · about: what it is about, where there may be several.

    The four of `identity` stay the same while it lasts; text and since may change.
    """

    kind: str
    level: Level
    text: str
    cluster: str = ""
    target: str = ""
    about: str = ""
    cure: str = ""
    since: datetime | None = None

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.kind, self.cluster, self.target, self.about


# --- verdicts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """newest: can it restore the newest instant? · protected: that, and nothing about it is bad. None: unknown."""

    name: str
    protected: bool | None
    newest: bool | None
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterVerdict:
    """findings: the worst first."""

    name: str
    state: Protection
    findings: tuple[Finding, ...]
    targets: tuple[TargetVerdict, ...]


def judge_cluster(seen: ClusterSeen, now: datetime) -> ClusterVerdict:
    """Pure. What the repository and the server show; runs and the daemon are `policies.alive`."""
    found: list[Finding] = []
    if seen.trouble is not None:
        found.append(_trouble(seen, seen.trouble))
    else:
        for target in seen.targets:
            found += _of_target(seen, target, now)
    found += [*_of_server(seen, now), *_of_drills(seen), *_of_promises(seen)]
    verdicts = tuple(_verdict(seen, target, found, now) for target in seen.targets)
    return ClusterVerdict(seen.name, _state(seen, verdicts, found), worst_first(found), verdicts)


def judge_archiving(seen: ClusterSeen, now: datetime) -> list[Finding]:
    """Only what waits at the server and in the spool: it needs no target."""
    lag = [one for target in seen.targets for one in _of_lag(seen, target, now)]
    return [*lag, *_of_server(seen, now)]


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = list(reversed(Level))
    return tuple(sorted(findings, key=lambda one: order.index(one.level)))


def _state(seen: ClusterSeen, verdicts: Sequence[TargetVerdict], found: Sequence[Finding]) -> Protection:
    if seen.trouble is not None:
        return Protection.UNPROTECTED
    newest = [verdict.newest for verdict in verdicts]
    if True not in newest:
        return Protection.UNKNOWN if None in newest else Protection.UNPROTECTED
    poor = any(one.level in (Level.BAD, Level.UNKNOWN) for one in found)
    return Protection.AT_RISK if poor else Protection.PROTECTED


def _verdict(seen: ClusterSeen, target: TargetSeen, found: Sequence[Finding], now: datetime) -> TargetVerdict:
    if seen.trouble is not None:
        return TargetVerdict(target.name, False, False, (seen.trouble.why,))
    mine = [one for one in found if one.target == target.name and one.level in (Level.BAD, Level.UNKNOWN)]
    why = tuple(one.text for one in mine)
    if target.unreadable:
        return TargetVerdict(target.name, None, None, why)
    window = newest_window(target)
    whole = window is not None and all(gap.bridge is not None for gap in window.gaps)
    newest = whole and not target.key_fault and not _behind(seen, target, now)
    drill = next((one.text for one in found if one.kind == "objective.max_drill_age"), None)
    if drill is not None:
        why += (drill,)
    return TargetVerdict(target.name, newest and not why, newest, why)


def _behind(seen: ClusterSeen, target: TargetSeen, now: datetime) -> bool:
    """It lacks WAL for longer than may be."""
    since = [at for at in (target.owed_since, target.lack.since if target.lack else None) if at is not None]
    unknown = target.lack is not None and target.lack.since is None
    return unknown or any(now - at > seen.allowed_lag for at in since)


# --- findings -----------------------------------------------------------------------------------------------------


def _trouble(seen: ClusterSeen, trouble: Trouble) -> Finding:
    kind = "key.missing" if trouble.kind == "key" else "repository.damaged"
    return Finding(kind, Level.BAD, trouble.why, seen.name, cure=trouble.cure)


def _of_target(seen: ClusterSeen, target: TargetSeen, now: datetime) -> Iterator[Finding]:
    cluster, name = seen.name, target.name
    if target.unreadable:
        text = f"it cannot be read: {target.unreadable}"
        yield Finding("target.unreadable", Level.UNKNOWN, text, cluster, name, cure=target.cure or cures.LOOK)
    else:
        if target.key_fault:
            text = f"it cannot be opened alone: {target.key_fault}"
            yield Finding("key.slot", Level.BAD, text, cluster, name, cure="copy keys/ from a target that has it whole")
        yield from _of_backups(seen, target, now)
        yield from _of_gaps(seen, target, now)
    yield from _of_lag(seen, target, now)


def _of_backups(seen: ClusterSeen, target: TargetSeen, now: datetime) -> Iterator[Finding]:
    cluster, name, backup = seen.name, target.name, target.backup
    for fault in target.faults:
        kind, level = ("backup.damaged", Level.BAD) if fault.damaged else ("backup.pending", Level.WARNING)
        cure = cures.of_fault(fault, name)
        yield Finding(kind, level, f"backup {fault.backup}: {fault.why}", cluster, name, fault.backup, cure)
    if backup is None:
        yield Finding("backup.none", Level.BAD, "no good backup is there", cluster, name, cure="drkit backup")
        return
    if not target.windows:
        text = f"nothing can be restored: WAL that backup {backup.id} needs is missing"
        yield Finding("window.none", Level.BAD, text, cluster, name, cure="drkit backup")
    most = seen.promises.max_backup_age
    others = [one.backup.stopped for one in seen.targets if one.backup is not None]
    if most is not None and now - backup.stopped > most and now - max(others) <= most:
        text = f"its newest good backup, {backup.id}, is older than promised; another target has a newer one"
        yield Finding("backup.old", Level.BAD, text, cluster, name, cure="drkit backup", since=backup.stopped + most)


def _of_gaps(seen: ClusterSeen, target: TargetSeen, now: datetime) -> Iterator[Finding]:
    """A gap that is bridged for longer than instants must be kept is what expiry leaves."""
    told: set[str] = set()
    for window in sorted(target.windows, key=lambda one: -one.timeline):
        for gap in window.gaps:
            if gap.first in told:
                continue  # a child timeline shares its parent's WAL
            told.add(gap.first)
            if gap.bridged is not None and seen.kept_for is not None and gap.bridged < now - seen.kept_for:
                continue
            which = gap.first if gap.missing == 1 else f"{gap.first} to {gap.last}, {gap.missing} files"
            rest = f"backup {gap.bridge} goes on behind it" if gap.bridge else "what lies behind it is out of reach"
            cure = cures.of_gap(gap, target.name)
            yield Finding("wal.gap", Level.BAD, f"WAL {which} missing; {rest}", seen.name, target.name, gap.first, cure)


def _of_lag(seen: ClusterSeen, target: TargetSeen, now: datetime) -> Iterator[Finding]:
    level = Level.BAD if _behind(seen, target, now) else Level.WARNING
    if target.owed:
        text = f"{target.owed} WAL files wait in the spool for it" + (f": {target.resting}" if target.resting else "")
        cure = "`drkit wal status --pay` brings them once it answers"
        yield Finding("wal.owed", level, text, seen.name, target.name, "", cure, target.owed_since)
    elif target.lack is not None:
        lack = target.lack
        if level is Level.WARNING and lack.since is not None and now - lack.since < SETTLING:
            return
        which = lack.first if lack.count == 1 else f"{lack.count} WAL files from {lack.first} on"
        text = f"it lacks {which}, and nobody owes it"
        cure = cures.of_lack(lack, target.name)
        yield Finding("wal.lacking", level, text, seen.name, target.name, "", cure, lack.since)


def _of_server(seen: ClusterSeen, now: datetime) -> Iterator[Finding]:
    server = seen.server
    if server.reachable is not True:
        text = f"the server cannot be asked: {server.why or 'no answer'}"
        yield Finding("server.unreachable", Level.WARNING, text, seen.name)
    waiting = server.oldest_ready
    if waiting is not None and now - waiting > seen.allowed_lag:
        text = f"archiving stands still: {server.ready} WAL files wait at the server"
        text += f", the archiver fails with {server.failing}" if server.failing else ""
        cure = "what does the server's log say of archive_command? `drkit check`"
        yield Finding("archive.waiting", Level.BAD, text, seen.name, cure=cure, since=waiting)
    elif server.failing:
        yield Finding("archive.failing", Level.WARNING, f"archive_command failed with {server.failing}", seen.name)


def _of_drills(seen: ClusterSeen) -> Iterator[Finding]:
    last = seen.last_drill
    if last is not None and last.verdict != "pass":
        level = Level.BAD if last.verdict == "fail" else Level.WARNING
        text = f"the last drill, {last.drill}, ended {last.verdict}"
        yield Finding("drill.verdict", level, text, seen.name, cure=f"drkit drill show {last.id}", since=last.at)


def _of_promises(seen: ClusterSeen) -> Iterator[Finding]:
    """Of breaches with one name the first is told: the others follow from it. Where nothing could be opened, what is
    not known for that reason alone is not told again."""
    told: set[str] = set()
    for breach in seen.breaches:
        if breach.promise not in told and not (seen.trouble and breach.actual is None):
            told.add(breach.promise)
            level = Level.UNKNOWN if breach.actual is None else Level.BAD
            text = f"{breach.promise}: {breach.why}"
            yield Finding(f"objective.{breach.promise}", level, text, seen.name, cure=breach.cure)
    for decision in seen.decisions:
        if decision.state is not State.KEPT and not (seen.trouble and decision.state is State.UNKNOWN):
            level = Level.BAD if decision.state is State.BROKEN else Level.UNKNOWN
            count = f"{decision.found} of {decision.needed}" if decision.needed else "none allowed"
            text = f"rule of copies, {decision.name}: {count}"
            text += f": {'; '.join(decision.reasons)}" if decision.reasons else ""
            yield Finding(f"copies.{decision.name}", level, text, seen.name, cure="drkit policy check")
