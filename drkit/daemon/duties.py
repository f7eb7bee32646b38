"""What the schedule asks for: one duty per bell and cluster, as the command line that does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from drills.definition import IDS, find_definition, writes_too_little
from drkit.config.model import Config, Schedule
from drkit.core.errors import ConfigError, Missing
from policies.cron import Cron
from policies.protection import Finding, Level
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


@dataclass(frozen=True, slots=True)
class Impossible:
    """text: names the entry and what is wrong with it · cure: what to do · drill: which one cannot be run, "" for a job
    that there is not."""

    text: str
    cure: str
    drill: str = ""


def impossible(config: Config, known: Collection[str]) -> Iterator[Impossible]:
    """The entries whose job is none of the `known`, or whose drill there is not; a drill whose section is wrong is one
    of `Config.wrong_drills`."""
    jobs = [job for job in get_args(Schedule.model_fields["job"].annotation) if job in known]
    for number, entry in enumerate(config.schedule, start=1):
        if entry.job not in known:
            verb = "drill run" if entry.job == "drill" else entry.job
            text = f"schedule[{number}].job = {entry.job!r}: `drkit {verb}` is not part of this version"
            yield Impossible(text, f"remove it, or schedule one of {', '.join(jobs)}")
        elif entry.job == "drill":
            key, wrong = f"schedule[{number}].scenario = {entry.scenario!r}", _no_drill(entry.scenario or "", config)
            if wrong is not None:
                yield replace(wrong, text=f"{key}: {wrong.text}")


def _no_drill(wanted: str, config: Config) -> Impossible | None:
    """What is wrong with the name of a drill. A file is looked at too; the daemon runs in no folder of the user's."""
    if wanted in config.wrong_drills:
        return None
    is_file = wanted.endswith(".toml") and wanted not in config.drill
    if is_file and not Path(wanted).is_absolute():
        cure = f"write {Path(wanted).absolute()}, if that is it"
        return Impossible("a file is named by its whole path here", cure, wanted)
    try:
        find_definition(wanted, config)
    except (Missing, ConfigError) as error:
        if is_file:
            return Impossible(str(error), error.cure or "mend the file, or remove the entry", wanted)
        known = ", ".join([*config.drill, *(f"{name} ({ident})" for name, ident in IDS.items())])
        return Impossible(f"no such drill; there are {known}", "name one of them, or the whole path of a file", wanted)
    return None


def broken_drills(config: Config) -> list[Finding]:
    """Drills that cannot be run, as the configuration and the files of scheduled ones are now; all else goes on
    meanwhile: whoever breaks a drill must not stop archiving by that."""
    found = {one.drill: one for one in impossible(config, {"drill"}) if one.drill}
    for name, why in config.wrong_drills.items():
        text = f"a drill is defined wrongly: {why}"
        found[name] = Impossible(text, "set it right; until then it cannot be run, everything else can", name)
    return [Finding("schedule.drill", Level.BAD, one.text, about=name, cure=one.cure) for name, one in found.items()]


def short_drills(config: Config, cluster: str) -> Iterator[str]:
    """Scheduled drills of a cluster that would not see that its rpo is broken, and why."""
    for number, entry in enumerate(config.schedule, start=1):
        if entry.job != "drill" or entry.cluster not in (None, cluster):
            continue
        try:
            found = find_definition(entry.scenario or "", config)
        except (Missing, ConfigError):
            continue  # `broken_drills` tells of it
        if entry.point is not None:
            found = replace(found, drill=found.drill.changed({"point": entry.point}))
        why = writes_too_little(found, config.cluster[cluster].objectives.rpo)
        if why:
            yield f"schedule[{number}].scenario = {entry.scenario!r}: {why}"


def refuse_impossible(config: Config, known: Collection[str], path: Path) -> None:
    """Raises ConfigError naming every entry whose job this version has not; drills that cannot be run are told."""
    found = [one for one in impossible(config, known) if not one.drill]
    if not found:
        return
    why = found[0].text if len(found) == 1 else "".join(f"\n  {one.text}" for one in found)
    cure = "; ".join(dict.fromkeys(one.cure for one in found))
    raise ConfigError("the schedule asks for what cannot be done", where=str(path), why=why, cure=cure)


def _words(entry: Schedule, cluster: str) -> Iterator[str]:
    if entry.job != "drill":
        yield from (entry.job, cluster)
        if entry.job == "expire":
            yield "--apply"  # never with --removes: a plan that removes much waits for a person
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
