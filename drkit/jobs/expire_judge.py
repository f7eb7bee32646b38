"""Which runs are dead and which backups go, on one target: facts for `policies.retention`, and its answer.

Reads only. Where another target cannot be asked nothing is judged: a backup that is good there may need what lies here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from drkit.core.errors import DrkitError, UsageError
from drkit.core.log import Log
from drkit.engines.postgres.lsn import Lsn
from drkit.jobs.archive import known_timelines, read_histories
from drkit.jobs.expire_survey import Survey, stored_manifests
from drkit.jobs.means import Means
from drkit.repository.catalogue import Backup, Catalogue, State, read_catalogue
from drkit.repository.fences import EXPIRE, Fence, read_fences
from drkit.repository.holds import Holds, read_holds
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import Verdict
from drkit.repository.reports import JSON_FILE, PASSED, newest_first, read
from drkit.repository.repository import Repository
from policies.lineage import Lines, Path, Step
from policies.retention import Copy, Plan, Windows, decide
from storage_backends.errors import StorageError

_DECIDED = (State.GOOD, State.BROKEN)
_THERE = (*_DECIDED, State.UNKNOWN)  # good, or would be but for damage that a repair may mend with what lies here
_REPORTS = 400  # so many drills that passed are asked which backup they restored, the newest first


@dataclass(frozen=True, slots=True)
class Terms:
    """What is kept on one target. grace: how long an expired object stays · skew: how far clocks may be apart

    cap: how many backups may go in one run.
    """

    windows: Windows
    grace: timedelta
    skew: timedelta
    cap: int = 100


@dataclass(frozen=True, slots=True)
class Others:
    """What is known of the repository beside the survey. unknown: why something could not be asked, "" if all could.

    fences: leases on the other targets · stored: backup -> the earliest that any target's store tells of its manifest
    proven: backups that a drill restored and passed
    """

    catalogue: Catalogue
    holds: Holds
    fences: Sequence[Fence]
    stored: Mapping[str, datetime]
    proven: frozenset[str]
    unknown: str = ""


def ask_others(means: Means, layout: ClusterLayout, mine: str) -> Others:
    """Holds first: the expirer's own lease is there by now, so a hold made later waits for it. Then leases, then
    what is good: a run whose lease is gone by then has decided. Raises only for this target's own failures.
    """
    holds = read_holds(means.repository, layout)
    unknown = [f"{name}: {why}" for name, why in {**means.repository.absent, **holds.unreadable}.items()]
    unknown += [f"hold {ident} opens nowhere: {why}" for ident, why in holds.unopened.items()]
    fences: list[Fence] = []
    stored: dict[str, datetime] = {}
    for target in means.repository.targets:
        try:
            if target.name != mine:
                fences += read_fences(target, layout, means.repository.ring)
            for run, at in stored_manifests(target, layout).items():
                stored[run] = min(at, stored.get(run, at))
        except (StorageError, DrkitError) as error:
            unknown.append(f"{target.name}: {error}")
    catalogue = read_catalogue(means.repository, layout.system_identifier)
    unknown += [f"{name}: {why}" for name, why in catalogue.unreadable.items()]
    states = [(b, t, s) for b in catalogue.backups for t, s in b.standings.items() if s.state is State.UNKNOWN]
    unknown += [f"{target}: backup {b.summary.backup}: {s.why}" for b, target, s in states]
    proven = _proven(means.repository, layout.system_identifier, means.log)
    return Others(catalogue, holds, fences, stored, proven, "; ".join(dict.fromkeys(unknown)))


def _proven(repository: Repository, system: int, log: Log) -> frozenset[str]:
    """Backups that drills restored: evidence that makes one of them worth more than its neighbours."""
    found: set[str] = set()
    asked = 0
    try:
        for head in newest_first(repository, system):
            if head.verdict != PASSED or asked >= _REPORTS:
                continue
            asked += 1
            try:
                found.add(str(json.loads(read(repository, head)[JSON_FILE]).get("backup") or ""))
            except (DrkitError, ValueError, AttributeError) as error:
                log.warn("a drill report cannot be read", report=head.id, why=str(error))
    except (DrkitError, StorageError) as error:
        log.warn("drill reports cannot be listed", why=str(error))
    return frozenset(found - {""})


@dataclass(frozen=True, slots=True)
class Judgement:
    """dead: runs that never got good here, to be withdrawn, with why · settled: runs decided as good, here or elsewhere

    elsewhere: backups that are good on another target, or damaged there
    blocked: why data may not be judged, "" if it may
    abroad: live leases on other targets · held: keys that holds of backups reach · cluster: its name, by the newest
    backup
    """

    plan: Plan
    dead: Mapping[str, str]
    settled: frozenset[str]
    elsewhere: frozenset[str]
    held: frozenset[str]
    abroad: tuple[Fence, ...]
    lines: Lines
    references: Mapping[str, frozenset[str]] = field(repr=False)
    segment_bytes: int | None = None
    cluster: str = ""
    blocked: str = ""
    unknown: str = ""


def judge(found: Survey, others: Others, terms: Terms, means: Means) -> Judgement:
    """Step 1 but for its verdicts and tombstones."""
    mine, layout = found.target.name, found.layout
    backups = {b.summary.backup: b for b in others.catalogue.backups}
    references = {name: frozenset(r.key(layout) for r in b.references) for name, b in backups.items()}
    elsewhere = {name for name, b in backups.items() if any(t != mine for t in _stands_on(b, *_THERE))}
    # What a target that is away may have decided nobody knows: its lease protects on.
    decided = {name for name, b in backups.items() if any(t != mine for t in _stands_on(b, *_DECIDED))}
    here = {name for name, verdict in found.verdicts.items() if verdict is Verdict.GOOD}
    in_force = {hold.backup: hold.id for hold in others.holds.holds if hold.backup}
    tombs = found.buried
    pending = {n for n in elsewhere if mine not in backups[n].good_on and not found.is_buried(n, tombs)}
    waiting = frozenset[str]().union(*(references[name] for name in pending))
    copies = []
    for name in sorted(here & found.manifests.keys() & backups.keys()):
        if found.is_buried(name, tombs):
            continue
        spared = list(_spared(name, found, others, in_force))
        if name not in pending and references[name] & waiting:
            spared.append("a backup that is not complete here yet shares its data")
        hurt = [t for t, one in backups[name].standings.items() if t != mine and one.state is State.BROKEN]
        if hurt:
            spared.append(f"its copy on {', '.join(hurt)} is damaged: a repair may need this one")
        copies.append(_copy(backups[name], mine, others, tuple(spared)))
    lines = _lines(found, others, means)
    system = str(layout.system_identifier)
    plan = decide(copies, terms.windows, {system: lines}, skew=terms.skew, latest=found.now)
    held = frozenset[str]().union(*(references.get(name, frozenset()) for name in in_force))
    return Judgement(
        plan=plan,
        dead={} if others.unknown else dict(_dead(found, others, elsewhere)),
        settled=frozenset(here | decided),
        elsewhere=frozenset(elsewhere),
        held=held,
        abroad=tuple(f for f in others.fences if f.job != EXPIRE and f.live(found.now)),
        lines=lines,
        references=references,
        segment_bytes=next((b.summary.segment_bytes for b in reversed(others.catalogue.backups)), None),
        cluster=others.catalogue.backups[-1].summary.cluster if others.catalogue.backups else "",
        blocked=_blocked(found, backups),
        unknown=others.unknown,
    )


def _stands_on(backup: Backup, *states: State) -> list[str]:
    return [target for target, standing in backup.standings.items() if standing.state in states]


def _copy(backup: Backup, mine: str, others: Others, spared: tuple[str, ...]) -> Copy:
    summary = backup.summary
    return Copy(
        id=summary.backup,
        system=summary.system_identifier,
        timeline=summary.timeline,
        start=Lsn.parse(summary.start_lsn).value,
        stop=Lsn.parse(summary.stop_lsn).value,
        stopped=summary.stopped,
        stored=others.stored.get(summary.backup),
        whole=mine in backup.good_on,
        proven=summary.backup in others.proven,
        clean=not summary.page_errors,
        spared=spared,
    )


def _spared(name: str, found: Survey, others: Others, in_force: Mapping[str, str]) -> Iterable[str]:
    if name in in_force:
        yield f"on hold ({in_force[name]})"
    for fence in (*found.fences, *others.fences):
        if fence.job != EXPIRE and name in fence.names and fence.live(found.now):
            yield f"in use by a {fence.job} on {fence.host}"


def _dead(found: Survey, others: Others, elsewhere: set[str]) -> Iterable[tuple[str, str]]:
    """Runs that no one works on and that are good nowhere. A live lease anywhere spares a run: what is dropped on one
    target may get good on another and come back.
    """
    runs = {found.run_of(key) for key in (*found.data, *found.marks)} | set(found.manifests)
    runs |= {fence.run for fence in found.fences if fence.run}
    live = [fence for fence in (*found.fences, *others.fences) if fence.job != EXPIRE and fence.live(found.now)]
    spared = elsewhere.union(*(fence.names for fence in live))
    tombs = found.buried
    for run in sorted(runs - spared):
        verdict = found.verdicts.get(run, Verdict.WITHDRAWN)
        if verdict is not Verdict.WITHDRAWN or found.is_buried(run, tombs) or not _is_run(run):
            continue
        if run in found.verdicts:
            yield run, "it was withdrawn"
        elif run in found.manifests:
            yield run, "its writer ended before the last look"
        else:
            yield run, "it never got a manifest here and nobody works on it"


def _is_run(text: str) -> bool:
    try:
        RunId.parse(text)
    except UsageError:
        return False
    return True


def _blocked(found: Survey, backups: Mapping[str, Backup]) -> str:
    """Why nobody can say what is still needed here: a backup that was decided on, and whose manifest opens nowhere."""
    tombs = found.buried
    for run, verdict in sorted(found.verdicts.items()):
        if verdict is Verdict.WITHDRAWN or run in backups or found.is_buried(run, tombs):
            continue
        where, decided = (f"{found.layout.folder(kind)}{run}" for kind in ("manifests", "verdicts"))
        cure = f"put it back from a copy; where none is left, delete {decided} by hand: then its data goes"
        return f"nobody can say what backup {run} needs: {where} opens on no target; {cure}"
    return ""


def _lines(found: Survey, others: Others, means: Means) -> Lines:
    """Timelines as the histories on all targets tell them, and when each got WAL here last."""
    alive = {timeline: held.newest for timeline, held in found.wal.items() if held.newest is not None}
    failures: list[str] = []
    histories = read_histories(
        means.repository.ring, others.catalogue.inventories, lambda t, k, why: failures.append(f"{t.name}: {k}: {why}")
    )
    if histories.unread:
        return Lines((), alive, "; ".join(f"{name}: {why}" for name, why in histories.unread.items()))
    also = {b.summary.timeline for b in others.catalogue.backups} | set(found.wal)
    told = {one.id for one in histories.timelines} | {a.timeline for one in histories.timelines for a in one.ancestors}
    lost = sorted(t for t in also - told if t != 1 and len(also | told) > 1)
    if lost:
        return Lines((), alive, f"no history tells where timeline {lost[0]} comes from")
    paths = []
    for one in known_timelines(histories.timelines, also):
        ends = {ancestor.timeline: ancestor.switch.value for ancestor in one.ancestors}
        steps = tuple(Step(t, one.begin_of(t).value, ends.get(t)) for t in one.path)
        paths.append(Path(one.id, steps))
    return Lines(tuple(paths), alive)
