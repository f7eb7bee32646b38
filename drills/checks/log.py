"""V3: the server's log. It is clean, recovery stopped where it was meant to, and promotion left the right timeline.

Messages are those of src/backend in English (lc_messages = C). A server's line is `prefix SEVERITY:  text`; lines of
restore commands carry no severity and are not judged here: what they got wrong shows in the server's own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from drills.checks.api import Scene
from drills.checks.findings import LIMIT_S, Caught, Findings, all_caught, caught, conduct
from drills.report.model import CheckResult
from drkit.core.cancel import CancelToken
from drkit.engines.postgres.phases import Phase, phase_of
from drkit.engines.postgres.timeline import HistoryDamaged, parse_history

# The first tag in a line is the line's own: what a statement or a detail quotes comes after.
_LINE = re.compile(
    r"^[^\t].*?\b(DEBUG\d?|LOG|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC"
    r"|DETAIL|HINT|QUERY|CONTEXT|STATEMENT|LOCATION):  (.*)$"
)
_SEVERE = frozenset({"LOG", "WARNING", "ERROR", "FATAL", "PANIC"})
_HARMLESS_FATAL = re.compile(
    r"the database system is (starting up|shutting down|not yet accepting connections|not accepting connections)"
    r"|terminating .* due to administrator command|connection to client lost"
    r'|(role|database) ".*" does not exist|no pg_hba\.conf entry|password authentication failed'
    r"|.*too many clients already|remaining connection slots"
)
# Words that mean damage or trouble at whatever severity they come.
_TROUBLE = re.compile(
    r"invalid page|could not|page verification failed|checksum (verification|mismatch)|was terminated by signal"
    r"|because of crash of another server process|unexpected data beyond EOF|is missing in|missing chunk number"
    r"|not properly shut down|has been corrupted|contains unexpected zero page"
)
# 'could not' that tells of clients that left, of addresses, and of statistics (rebuilt by themselves).
_HARMLESS = re.compile(
    r"could not (receive data from|send data to) client|could not (bind|translate|accept SSL|open statistics file)"
    r"|could not (serialize|obtain lock)|using stale statistics"
)
_STOPPING = "recovery stopping "
_MOST_LINES = 15


@dataclass(frozen=True, slots=True)
class LogCheck:
    name: str = "V3"
    title: str = "The server's log is clean"
    limit_s: float = LIMIT_S

    def run(self, scene: Scene, *, required: bool) -> CheckResult:
        return conduct(
            self.name, self.title, scene, required=required, limit_s=self.limit_s, look=_look, sabotage=_sabotage
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """timeline: the one to follow · stopped_for: words of the stop, "" for the end of WAL · data_dir: for histories."""

    timeline: int
    stopped_for: str
    data_dir: Path


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What a log says: lines that no healthy server writes, warnings, the last stop and the last new timeline."""

    bad: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: int
    stopped: str
    new_timeline: int | None


def read_lines(log: Path, token: CancelToken) -> Iterator[str]:
    """The log's lines, one at a time: it may be large. Raises OSError, Cancelled."""
    with log.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            if number % 1000 == 0:
                token.check()
            yield line.rstrip("\n")


def read_log(lines: Iterable[str]) -> LogFacts:
    bad: list[str] = []
    warnings: list[str] = []
    errors, stopped, new_timeline = 0, "", None
    for line in lines:
        match = _LINE.match(line)
        if match is None or match[1] not in _SEVERE:
            continue
        severity, text = match[1], match[2]
        if _is_bad(severity, text):
            bad.append(f"{severity}: {text}")
        elif severity == "WARNING":
            warnings.append(f"{severity}: {text}")
        errors += severity == "ERROR"
        phase = phase_of(line, 0.0)
        if phase is not None and phase.phase is Phase.STOPPING:
            stopped = text
        elif phase is not None and phase.phase is Phase.NEW_TIMELINE:
            new_timeline = int(phase.detail)
        elif phase is not None and phase.phase is Phase.RECOVERY_BEGINS:
            stopped, new_timeline = "", None
    return LogFacts(tuple(bad), tuple(warnings), errors, stopped, new_timeline)


def judge_log(facts: LogFacts, wanted: Wanted) -> list[str]:
    """What is wrong. Reads the new timeline's history file."""
    problems = list(facts.bad)
    if wanted.stopped_for and wanted.stopped_for not in facts.stopped:
        told = f"the log says {facts.stopped!r}" if facts.stopped else "it ran to the end of WAL"
        problems.append(f"recovery was to stop for {wanted.stopped_for!r}, but {told}")
    if not wanted.stopped_for and facts.stopped:
        problems.append(f"recovery was to run to the end of WAL, but the log says {facts.stopped!r}")
    return problems + _timeline_problems(facts, wanted)


def _timeline_problems(facts: LogFacts, wanted: Wanted) -> list[str]:
    if facts.new_timeline is None:
        return ["the log tells of no promotion"]
    history = wanted.data_dir / "pg_wal" / f"{facts.new_timeline:08X}.history"
    try:
        path = parse_history(facts.new_timeline, history.read_bytes())
    except FileNotFoundError:
        return [f"timeline {facts.new_timeline} has no history file"]
    except HistoryDamaged as error:
        return [f"timeline {facts.new_timeline}: {error}"]
    parent = path.ancestors[-1].timeline if path.ancestors else 0
    if parent != wanted.timeline:
        return [f"recovery was to follow timeline {wanted.timeline}, but timeline {path.id} branches off {parent}"]
    return []


def _is_bad(severity: str, text: str) -> bool:
    if severity == "PANIC":
        return True
    if severity == "FATAL":
        return _HARMLESS_FATAL.match(text) is None
    return _TROUBLE.search(text) is not None and _HARMLESS.search(text) is None


def _wanted(scene: Scene) -> Wanted:
    return Wanted(scene.timeline, scene.stopped_for, scene.data_dir)


def _expected(scene: Scene) -> str:
    stop = f"stopped for {scene.stopped_for!r}" if scene.stopped_for else "ran to the end of WAL"
    return f"nothing but a recovery along timeline {scene.timeline} that {stop}"


def _look(scene: Scene) -> Findings:
    facts = read_log(read_lines(scene.log, scene.token))
    told = [*facts.warnings[:_MOST_LINES]]
    if len(facts.warnings) > _MOST_LINES:
        told.append(f"and {len(facts.warnings) - _MOST_LINES} more warnings")
    if facts.errors:
        told.append(f"{facts.errors} statements of clients failed")
    told.append(f"the log says {facts.stopped!r}" if facts.stopped else "recovery ran to the end of WAL")
    actual = f"clean, {len(facts.warnings)} warnings, now on timeline {facts.new_timeline}"
    return Findings(_expected(scene), actual, tuple(judge_log(facts, _wanted(scene))), tuple(told))


def _sabotage(scene: Scene, seen: Findings) -> Caught:
    """The same reading of the log with a line more, and of the log as it is with another timeline asked for."""
    panic = "1970-01-01 00:00:00.000 UTC [1] PANIC:  could not locate a valid checkpoint record (negative control)"
    wanted = _wanted(scene)
    broken = read_log(chain(read_lines(scene.log, scene.token), [panic]))
    found = read_log(read_lines(scene.log, scene.token))
    elsewhere = Wanted(wanted.timeline + 1, wanted.stopped_for, wanted.data_dir)
    return all_caught(
        [
            caught("a PANIC line added", seen.problems, judge_log(broken, wanted)),
            caught("another timeline wanted", seen.problems, judge_log(found, elsewhere)),
        ]
    )
