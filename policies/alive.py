"""Does anything still happen: the daemon's heartbeat, the runs of scheduled jobs, what waits to be archived. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.objectives import Promises
from policies.protection import Finding, Level

FRESH = timedelta(seconds=60)
"""A heartbeat is written every 10 s; one that is older is no sign of life."""
OVERDUE = timedelta(minutes=10)
"""How long after its time a run may begin: the schedule looks every minute, and a failed look is repeated."""

_WATCHED: dict[str, Callable[[Promises], timedelta | None]] = {
    "backup": lambda promised: promised.max_backup_age,
    "drill": lambda promised: promised.max_drill_age,
    "verify": lambda promised: promised.max_verify_age,
}


@dataclass(frozen=True, slots=True)
class RunSeen:
    """The latest run of a bell. outcome: running, done, failed, killed or missed."""

    bell: str
    job: str
    cluster: str
    due: datetime
    outcome: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class BellSeen:
    """When a job is due next."""

    bell: str
    cluster: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DaemonSeen:
    """expected: one should run on this host · beat: its last sign of life, None without any · answers: whether it
    answered on its socket, None where it was not asked · stopped: it ended in order · why: what is wrong with it."""

    expected: bool
    beat: datetime | None = None
    answers: bool | None = None
    stopped: bool = False
    why: str = ""


def judge_daemon(seen: DaemonSeen, now: datetime) -> Iterator[Finding]:
    """At most one finding."""
    cure = "systemctl status drkit, or start `drkit daemon`"
    if seen.beat is None:
        if seen.expected:
            text = "a schedule is configured and no daemon was ever seen on this host"
            text += f": {seen.why}" if seen.why else ""
            yield Finding("daemon.down", Level.BAD, text, cure=cure)
        elif not seen.answers:
            text = f"the daemon's sign of life cannot be read: {seen.why}" if seen.why else "no daemon runs"
            yield Finding("daemon.none", Level.UNKNOWN if seen.why else Level.NOTE, text)
        return
    age = now - seen.beat
    if seen.stopped:
        yield Finding("daemon.down", Level.BAD, "the daemon was stopped", cure=cure, since=seen.beat)
    elif age < -FRESH:
        text = "the daemon's sign of life is from the future: is a clock wrong?"
        yield Finding("daemon.down", Level.BAD, text, cure="check the clocks", since=seen.beat)
    elif age > FRESH:
        text = "the daemon gives no sign of life" + ("" if seen.answers is not True else " though it answers")
        yield Finding("daemon.down", Level.BAD, text, cure=cure, since=seen.beat)
    elif seen.answers is False:
        text = f"the daemon does not answer on its socket: {seen.why}"
        yield Finding("daemon.silent", Level.BAD, text, cure=cure)


def judge_runs(latest: Sequence[RunSeen], promises: Mapping[str, Promises]) -> Iterator[Finding]:
    """latest: the newest run of each bell. A failure is bad where no promise of an age watches over that job."""
    for run in latest:
        if run.outcome in ("running", "done"):
            continue
        watched = _WATCHED.get(run.job)
        promised = watched(promises.get(run.cluster, Promises())) if watched else None
        word = "missed" if run.outcome == "missed" else "failed"
        text = {"missed": "its run was missed", "killed": "its run was ended"}.get(run.outcome, "its run failed")
        text = f"{run.job}: {text}" + (f": {run.why}" if run.why else "")
        level = Level.BAD if promised is None else Level.WARNING
        yield Finding(f"{run.job}.{word}", level, text, run.cluster, about=run.bell, since=run.due)


def judge_bells(bells: Sequence[BellSeen], busy: Collection[str], now: datetime) -> Iterator[Finding]:
    """A time that went by, though no job runs for that cluster (busy: those for which one does): nobody rings."""
    for bell in bells:
        if now - bell.at > OVERDUE and bell.cluster not in busy:
            text = f"{bell.bell} is overdue: nobody rang"
            yield Finding("schedule.overdue", Level.BAD, text, bell.cluster, about=bell.bell, since=bell.at)


def latest_runs(runs: Sequence[RunSeen]) -> list[RunSeen]:
    """The newest run of each bell, by when it was due."""
    newest: dict[str, RunSeen] = {}
    for run in runs:
        known = newest.get(run.bell)
        if known is None or run.due >= known.due:
            newest[run.bell] = run
    return [newest[bell] for bell in sorted(newest)]
