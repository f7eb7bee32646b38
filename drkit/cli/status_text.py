"""`drkit status` and `drkit check --liveness` in words, for a person at three in the morning: the verdict first, then
what is wrong and its cure, then the figures. A state is always a word; colour only underlines it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from drkit.cli.render import table, use_color
from drkit.core.log import redact
from drkit.core.units import format_duration
from drkit.daemon.seen import Seen
from drkit.daemon.status import DaemonView, Status
from policies.protection import ClusterVerdict, Finding, Level, Protection, TargetVerdict
from policies.sights import DrillSeen, Lack, TargetSeen, WindowSeen, newest_window

_GREEN, _YELLOW, _RED = "32", "33", "1;31"
_STATES = {
    Protection.PROTECTED: ("protected", _GREEN),
    Protection.AT_RISK: ("AT RISK", _RED),
    Protection.UNPROTECTED: ("NOT PROTECTED", _RED),
    Protection.UNKNOWN: ("UNKNOWN", _YELLOW),
}
_LEVELS = {
    Level.BAD: ("BAD", _RED),
    Level.UNKNOWN: ("UNKNOWN", _YELLOW),
    Level.WARNING: ("WARNING", _YELLOW),
    Level.NOTE: ("note", ""),
}
_RUNS_SHOWN = 8


class Screen:
    """Lines on stdout."""

    def __init__(self, color: bool) -> None:
        self.color = color
        self._paint = use_color(sys.stdout, color)

    def paint(self, word: str, code: str, width: int = 0) -> str:
        padded = f"{word:<{width}}"
        return f"\x1b[{code}m{padded}\x1b[0m" if self._paint and code else padded

    def line(self, text: str = "") -> None:
        sys.stdout.write(text.rstrip() + "\n")

    def findings(self, found: Iterable[Finding], at: datetime) -> None:
        for one in found:
            word, code = _LEVELS[one.level]
            about = f"{one.target}: " if one.target else ""
            since = f", since {ago(one.since, at)}" if one.since is not None else ""
            self.line(f"  {self.paint(word, code, 8)} {redact(about + one.text)}{since}")
            if one.cure and one.level is not Level.NOTE:
                self.line(f"  {'':<8}   {one.cure}")


def show(status: Status, *, color: bool) -> None:
    screen, at = Screen(color), status.at
    for seen, verdict in status.clusters:
        word, code = _STATES[verdict.state]
        screen.line(f"{seen.cluster.name}: {screen.paint(word, code)}")
        live = [one for one in status.live if one.cluster == seen.cluster.name]
        screen.findings([*verdict.findings, *live], at)
        screen.line()
        _targets(screen, seen, verdict, at)
        for text in _facts(seen, at):
            screen.line(text)
        screen.line()
    _daemon(screen, status)


def show_liveness(found: Iterable[Finding], status: Status, *, well: bool, color: bool) -> None:
    screen = Screen(color)
    word, code = ("alive", _GREEN) if well else ("NOT WELL", _RED)
    screen.line(f"{', '.join(seen.cluster.name for seen, _ in status.clusters)}: {screen.paint(word, code)}")
    screen.findings(found, status.at)
    for text in _signs(status):
        screen.line(text)


def _signs(status: Status) -> Iterator[str]:
    """What a watcher sees even where all is well."""
    beat, at = status.daemon.beat, status.at
    yield f"{'daemon':<10} " + (f"gave a sign of life {ago(beat.at, at)} ago" if beat else "none was seen on this host")
    for seen, _ in status.clusters:
        backups = [one.backup.stopped for one in seen.cluster.targets if one.backup is not None]
        newest = f"{ago(max(backups), at)} old" if backups else "none"
        exposed = (
            "not known" if seen.exposure is None else format_duration(seen.exposure) if seen.exposure else "nothing"
        )
        yield f"{seen.cluster.name:<10} newest backup {newest}, exposed: {exposed}"


# --- a cluster ----------------------------------------------------------------------------------------------------


def _targets(screen: Screen, seen: Seen, verdict: ClusterVerdict, at: datetime) -> None:
    """What each target has; a column has no figure where nothing is known."""
    verdicts = {one.name: one for one in verdict.targets}
    columns = ("target", "protected", "newest backup", "age", "WAL up to", "stored", "owed", "drill")
    rows = [_row(one, verdicts[one.name], at) for one in seen.cluster.targets]
    table(columns, rows, right=frozenset({"age", "stored", "owed"}), color=screen.color)
    for target in seen.cluster.targets:
        for window in sorted(target.windows, key=lambda one: one.timeline):
            missing = sum(gap.missing for gap in window.gaps)
            gaps = f", {missing} WAL FILES MISSING in between" if window.gaps else ""
            if target.lack is not None and window is newest_window(target):
                gaps += f", {_lacking(target.lack)}"
            screen.line(f"  {target.name}, timeline {window.timeline}: {_span(window)}{gaps or ', without a gap'}")


def _lacking(lack: Lack) -> str:
    """Behind the end of a window."""
    if lack.since is not None:
        return f"{lack.count} WAL FILES behind another target"
    return f"{lack.count} WAL FILES MISSING behind it, from {lack.first} on"


def _span(window: WindowSeen) -> str:
    """To an LSN where no commit was found near the end."""
    start = _minute(window.start)
    return f"from {start} to {_minute(window.end)} UTC" if window.end else f"from {start} UTC to LSN {window.end_lsn}"


def _row(seen: TargetSeen, verdict: TargetVerdict, at: datetime) -> tuple[str, ...]:
    word = {True: "yes", False: "NO", None: "UNKNOWN"}[verdict.protected]
    if seen.unreadable:
        return seen.name, word, "?", "?", "?", "?", str(seen.owed), "?"
    backup = seen.backup
    return (
        seen.name,
        word,
        backup.id if backup else "none",
        ago(backup.stopped, at) if backup else "-",
        seen.last_file or "-",
        f"{ago(seen.last_at, at)} ago" if seen.last_at else "-",
        str(seen.owed) if seen.owed else "-",
        f"{ago(seen.drilled.at, at)} ago" if seen.drilled else "never",
    )


def _facts(seen: Seen, at: datetime) -> Iterator[str]:
    """Each promise beside what is."""
    cluster, server = seen.cluster, seen.cluster.server
    promises = cluster.promises
    answers = {True: "answers", False: "does not answer", None: "is no primary"}[server.reachable]
    if server.ready is None:
        waiting = "what waits to be archived cannot be seen"
    else:
        waiting = f"{server.ready} WAL files wait to be archived"
        waiting += f", the oldest for {ago(server.oldest_ready, at)}" if server.oldest_ready else ""
    yield f"{'server':<10} {answers}, {waiting}"
    backups = [one.backup.stopped for one in cluster.targets if one.backup is not None]
    age = at - max(backups) if backups else None
    yield _figure("backup", age, "old", promises.max_backup_age)
    if seen.exposure == timedelta(0):
        yield f"{'exposure':<10} nothing would be lost with the server{_promised(promises.rpo)}"
    else:
        yield _figure("exposure", seen.exposure, "would be lost with the server", promises.rpo)
    yield _figure("restore", seen.rto_forecast, "is the forecast", promises.rto)
    passed = cluster.passed_drill
    if passed is None:
        yield f"{'drill':<10} none has passed" + _promised(promises.max_drill_age)
    else:
        yield f"{'drill':<10} {_drill(passed)}, passed {ago(passed.at, at)} ago" + _promised(promises.max_drill_age)


def _figure(name: str, actual: timedelta | None, words: str, promised: timedelta | None) -> str:
    known = "not known" if actual is None else f"{format_duration(max(actual, timedelta(0)))} {words}"
    return f"{name:<10} {known}{_promised(promised)}"


def _promised(length: timedelta | None) -> str:
    return "" if length is None else f"; promised: at most {format_duration(length)}"


def _drill(one: DrillSeen) -> str:
    figures = [("RTO", one.rto_s), ("RPO", one.rpo_s)]
    known = [f"{name} {format_duration(timedelta(seconds=value))}" for name, value in figures if value is not None]
    return f"{one.drill} ({', '.join(known)})" if known else one.drill


# --- the daemon ---------------------------------------------------------------------------------------------------


def _daemon(screen: Screen, status: Status) -> None:
    at, facts = status.at, status.daemon.facts
    code = _GREEN if status.daemon.alive else _RED if status.daemon.expected else ""
    screen.line(f"daemon: {screen.paint(_daemon_words(status.daemon, at), code)}")
    screen.findings([one for one in status.live if not one.cluster and one.level is not Level.NOTE], at)
    for run in facts.running if facts else ():
        since = f" for {ago(run.started, at)}" if run.started else ""
        screen.line(f"  running  {run.job} {run.cluster}{since}")
    for run in status.runs[:_RUNS_SHOWN]:
        when = run.ended or run.started or run.due
        screen.line(f"  last     {run.job} {run.cluster}: {run.outcome.value} {ago(when, at)} ago")
    for bell in sorted(facts.next_runs, key=lambda one: one.at)[:_RUNS_SHOWN] if facts else ():
        wait = f"in {ago(at, bell.at)}" if bell.at > at else "waits for its turn"
        screen.line(f"  next     {bell.job} {bell.cluster}: {_minute(bell.at)} UTC, {wait}")


def _daemon_words(daemon: DaemonView, at: datetime) -> str:
    if daemon.facts is not None:
        return f"alive, process {daemon.facts.pid}, for {ago(daemon.facts.started, at)}"
    if daemon.beat is None:
        return "no daemon runs"
    word = "no daemon runs, was stopped" if daemon.beat.stopped else "does not answer, last sign of life"
    return f"{word} {ago(daemon.beat.at, at)} ago"


def ago(moment: datetime, at: datetime) -> str:
    return format_duration(at - moment)


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
