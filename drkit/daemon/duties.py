"""What the schedule asks for: one duty per bell and cluster, as the command line that does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from drkit.config.model import Config, Schedule
from drkit.core.errors import ConfigError
from policies.cron import Cron
from policies.schedule import Bell


@dataclass(frozen=True, slots=True)
class Duty:
    """words: behind `drkit --config FILE --json` · scenario: of a drill, else empty · deadline_s: of one run."""

    bell: Bell
    job: str
    cluster: str
    words: tuple[str, ...]
    deadline_s: float
    scenario: str = ""

    @property
    def terms(self) -> str:
        """What its ticks depend on: with other terms it is a new bell, which owes nothing of before."""
        bell = self.bell
        return f"{bell.cron.text} | {bell.zone} | {int(bell.jitter.total_seconds())} | {' '.join(self.words)}"


def duties(config: Config) -> list[Duty]:
    """In the order of the configuration; an entry without a cluster is one duty for each cluster.

    Ids count the entries of one job and cluster: `backup.orders.1`.
    """
    found: list[Duty] = []
    counted: Counter[tuple[str, str]] = Counter()
    for entry in config.schedule:
        for cluster in config.cluster if entry.cluster is None else [entry.cluster]:
            counted[entry.job, cluster] += 1
            bell = Bell(
                f"{entry.job}.{cluster}.{counted[entry.job, cluster]}",
                Cron.parse(entry.cron),
                entry.timezone,
                entry.jitter,
            )
            deadline = entry.deadline if entry.deadline is not None else config.daemon.job_deadline
            words = tuple(_words(entry, cluster))
            found.append(Duty(bell, entry.job, cluster, words, deadline.total_seconds(), entry.scenario or ""))
    return found


def impossible(schedule: Sequence[Schedule], known: Collection[str]) -> Iterator[str]:
    """A line for each entry whose job is none of the `known`."""
    for number, entry in enumerate(schedule, start=1):
        if entry.job not in known:
            verb = "drill run" if entry.job == "drill" else entry.job
            yield f"schedule[{number}].job = {entry.job!r}: `drkit {verb}` is not part of this version"


def refuse_impossible(config: Config, known: Collection[str], path: Path) -> None:
    """Raises ConfigError naming every entry whose job this version cannot do."""
    lines = list(impossible(config.schedule, known))
    if not lines:
        return
    jobs = [job for job in get_args(Schedule.model_fields["job"].annotation) if job in known]
    cure = f"remove the entries, or schedule one of {', '.join(jobs)}"
    why = lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
    raise ConfigError("the schedule asks for what this version cannot do", where=str(path), why=why, cure=cure)


def _words(entry: Schedule, cluster: str) -> Iterator[str]:
    if entry.job != "drill":
        yield from (entry.job, cluster)
        if entry.sample is not None:
            yield from ("--sample", entry.sample)
        if entry.deep:
            yield "--deep"
        return
    yield from ("drill", "run", entry.scenario or "", cluster)
    if entry.point is not None:
        yield from ("--point", entry.point)
    for site in entry.allow_sites:
        yield from ("--allow-site", site)
    for site in entry.deny_sites:
        yield from ("--deny-site", site)
