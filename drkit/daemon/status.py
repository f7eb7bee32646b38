"""Is all well? Everything that `drkit status` and `drkit check --liveness` tell, judged, with or without a daemon."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.errors import DrkitError, UsageError
from drkit.daemon import protocol
from drkit.daemon.api import ArchiveFacts, DaemonFacts, RunRecord
from drkit.daemon.ask import NoDaemon, ask
from drkit.daemon.facts_json import from_text, run_of
from drkit.daemon.heartbeat import Beat, read_beat
from drkit.daemon.outbox import Outbox
from drkit.daemon.seen import Seen
from policies.alive import BellSeen, DaemonSeen, RunSeen, judge_bells, judge_daemon, judge_runs, latest_runs
from policies.objectives import Promises
from policies.protection import ClusterVerdict, Finding, Level, Protection, judge_archiving, judge_cluster, worst_first
from policies.sights import ClusterSeen, ServerSeen, TargetSeen

LIVE = ("daemon.", "schedule.", "archive.", "notify.", "wal.owed")
"""Kinds of findings that need no target: they start with one of these, or are of a run."""
_DELIVERY = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class DaemonView:
    """What is seen of the daemon. expected: one should run here · unread: why its sign of life cannot be read ·
    refused: why it gives no answer though somebody listens."""

    expected: bool
    beat: Beat | None = None
    facts: DaemonFacts | None = None
    unread: str = ""
    refused: str = ""

    @property
    def why(self) -> str:
        return "; ".join(text for text in (self.unread, self.refused) if text)

    @property
    def alive(self) -> bool:
        return self.facts is not None


@dataclass(frozen=True, slots=True)
class Mail:
    """Notifications of one channel. since: when the oldest began to wait · lost: how many were given up, ever."""

    channel: str
    waiting: int
    since: datetime | None
    lost: int


@dataclass(frozen=True, slots=True)
class Status:
    """live: what concerns the daemon, runs and the schedule · runs: the newest of each bell."""

    at: datetime
    daemon: DaemonView
    clusters: tuple[tuple[Seen, ClusterVerdict], ...]
    live: tuple[Finding, ...]
    runs: tuple[RunRecord, ...]
    mail: tuple[Mail, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All, the worst first."""
        return worst_first([*self.live, *(one for _, verdict in self.clusters for one in verdict.findings)])

    @property
    def state(self) -> Protection:
        """The worst of the clusters; what concerns the daemon alone puts them at risk."""
        order = (Protection.UNPROTECTED, Protection.UNKNOWN, Protection.AT_RISK)
        states = {verdict.state for _, verdict in self.clusters}
        if any(one.level in (Level.BAD, Level.UNKNOWN) for one in self.live):
            states.add(Protection.AT_RISK)
        return next((state for state in order if state in states), Protection.PROTECTED)


def judge_status(
    at: datetime,
    daemon: DaemonView,
    seen: Sequence[Seen],
    recorded: Sequence[RunRecord] = (),
    mail: Sequence[Mail] = (),
    broken: Sequence[Finding] = (),
) -> Status:
    """Pure. recorded: runs as the spool has them, for when no daemon answers · broken: what the schedule asks for and
    cannot have now."""
    facts = daemon.facts
    archives = {one.cluster: one for one in facts.archives} if facts else {}
    clusters = tuple(
        (one, judge_cluster(with_archive(one.cluster, archives.get(one.cluster.name)), at)) for one in seen
    )
    names = {one.cluster.name for one in seen}
    runs = [run for run in (facts.recent if facts else recorded) if run.cluster in names]
    promises = {one.cluster.name: one.cluster.promises for one in seen}
    live = [
        *judge_daemon(_daemon_seen(daemon), at),
        *judge_work(runs, facts, daemon.beat, promises, at),
        *undelivered(mail, at),
        *broken,
        *(problem for name in names if name in archives for problem in archive_problems(archives[name])),
    ]
    newest = {run.bell: run for run in sorted(runs, key=lambda run: run.due)}
    return Status(at, daemon, clusters, worst_first(live), tuple(newest[bell] for bell in sorted(newest)), tuple(mail))


def undelivered(mail: Sequence[Mail], at: datetime) -> Iterator[Finding]:
    """Nobody hears: what waits for longer than a delivery may take."""
    for one in mail:
        if one.since is not None and at - one.since > _DELIVERY:
            text = f"{one.waiting} notifications wait to be delivered by {one.channel}"
            cure = "the daemon's log says why the last try failed"
            yield Finding("notify.waiting", Level.WARNING, text, about=one.channel, cure=cure, since=one.since)


def read_mail(spool: Path, channels: Iterable[str]) -> list[Mail]:
    boxes = [(name, Outbox(spool, name)) for name in channels]
    return [Mail(name, box.count(), box.since(), box.lost()) for name, box in boxes]


def _daemon_seen(daemon: DaemonView) -> DaemonSeen:
    beat, facts = daemon.beat, daemon.facts
    at = beat.at if beat else facts.beat if facts else None
    answers = True if facts else False if beat is not None else None
    return DaemonSeen(daemon.expected, at, answers, stopped=beat.stopped if beat else False, why=daemon.why)


def see_daemon(spool: Path, socket: Path, *, expected: bool) -> DaemonView:
    """Read its sign of life and ask it."""
    beat, unread = read_beat(spool)
    try:
        answer = ask(socket, protocol.Request("status"))
        if answer.status is not protocol.Status.OK:
            return DaemonView(expected, beat, None, unread, answer.text)
        return DaemonView(expected, beat, from_text(answer.text), unread)
    except NoDaemon as error:
        return DaemonView(expected, beat, None, unread, str(error) if beat is not None else "")
    except DrkitError as error:
        return DaemonView(expected, beat, None, unread, str(error))


def recorded_runs(spool: Path, bells: Collection[str]) -> list[RunRecord]:
    """What a daemon wrote down of the runs of these bells; a file that cannot be read is left out."""
    found: list[RunRecord] = []
    for bell in bells:
        try:
            rows = json.loads((spool / "runs" / f"{bell}.json").read_bytes())["records"]
            found += [run_of(row) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            continue
    return found


def judge_work(
    runs: Iterable[RunRecord],
    facts: DaemonFacts | None,
    beat: Beat | None,
    promises: dict[str, Promises],
    at: datetime,
) -> Iterator[Finding]:
    """Runs that failed or were missed, and times that went by."""
    yield from judge_runs(latest_runs([run_seen(run) for run in runs]), promises)
    if facts is not None:
        bells = [BellSeen(one.bell, one.cluster, one.at) for one in facts.next_runs]
        busy = {run.cluster for run in facts.running}
    else:
        bells, busy = (list(beat.bells), set(beat.busy)) if beat is not None else ([], set())
    yield from judge_bells([bell for bell in bells if bell.cluster in promises], busy, at)


def run_seen(run: RunRecord) -> RunSeen:
    return RunSeen(run.bell, run.job, run.cluster, run.due, run.outcome.value, run.why)


# --- what the daemon alone knows ----------------------------------------------------------------------------------


def judge_live(facts: DaemonFacts, promises: dict[str, Promises], at: datetime) -> list[Finding]:
    """What a daemon can tell of itself without asking a target."""
    found = list(judge_work(facts.recent, facts, None, promises, at))
    for archive in facts.archives:
        seen = with_archive(_nothing_seen(archive.cluster, promises), archive)
        found += [*judge_archiving(seen, at), *archive_problems(archive)]
    return found


def _nothing_seen(cluster: str, promises: dict[str, Promises]) -> ClusterSeen:
    return ClusterSeen(cluster, ServerSeen(True), (), promises.get(cluster, Promises()))


def with_archive(seen: ClusterSeen, archive: ArchiveFacts | None) -> ClusterSeen:
    """With what the daemon knows where it was not seen from here."""
    if archive is None:
        return seen
    if seen.server.ready is None:
        server = replace(seen.server, ready=archive.ready, oldest_ready=archive.oldest_ready_at)
        seen = replace(seen, server=server)
    if not seen.targets:
        targets = tuple(
            TargetSeen(one.name, owed=one.owed, owed_since=one.owed_since, resting=one.resting)
            for one in archive.targets
        )
        seen = replace(seen, targets=targets)
    return seen


def archive_problems(archive: ArchiveFacts) -> Iterator[Finding]:
    if archive.problem:
        text = f"the daemon cannot archive: {archive.problem}"
        yield Finding("archive.problem", Level.BAD, text, archive.cluster, cure="drkit check")


def is_live(kind: str) -> bool:
    """Whether a finding of this kind is one of `judge_live`."""
    return kind.startswith(LIVE) or (kind.endswith((".failed", ".missed")))


# --- liveness -----------------------------------------------------------------------------------------------------

_LIVENESS = (*LIVE, "backup.none", "backup.old", "key.", "repository.", "target.", "wal.", "window.")
_LIVENESS_PROMISES = ("objective.rpo", "objective.max_backup_age")


def liveness(status: Status) -> tuple[Finding, ...]:
    """What an outside watcher must hear of, the worst first: signs of life, runs, archiving and the age of backups.

    Nothing that is promised, expected or seen is no sign of life either.
    """
    found = [
        one
        for one in status.findings
        if one.kind.startswith(_LIVENESS) or one.kind in _LIVENESS_PROMISES or is_live(one.kind)
    ]
    promised = any(seen.cluster.promises.rpo or seen.cluster.promises.max_backup_age for seen, _ in status.clusters)
    if status.daemon.beat is None and not status.daemon.alive and not promised:
        text = "there is nothing to judge by: no daemon was seen here, and neither rpo nor max_backup_age is promised"
        cure = "add [cluster.NAME.objectives] with rpo and max_backup_age"
        found.append(Finding("liveness.blind", Level.UNKNOWN, text, cure=cure))
    return worst_first(found)


def alarming(finding: Finding) -> bool:
    """Of `liveness`: a run that failed or was missed is one too, though a promise may still be kept."""
    return finding.level in (Level.BAD, Level.UNKNOWN) or finding.kind.endswith((".failed", ".missed"))
