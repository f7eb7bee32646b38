"""Chooses what a restore reads: the cluster, the course, and a manifest that was read whole beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from drkit.core.errors import Damage, Missing, Unreachable
from drkit.core.log import Log
from drkit.crypto.keys import Ring
from drkit.jobs.means import Means
from drkit.jobs.restore_decide import decide
from drkit.jobs.restore_points import Course, Facts, Look, Wish
from drkit.jobs.restore_skipped import told
from drkit.repository.catalogue import Catalogue, State, load_manifest
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.manifest import Manifest
from drkit.repository.repository import Problem
from drkit.repository.sources import Sources
from drkit.repository.target import Target


def choose_catalogue(
    catalogues: Sequence[Catalogue], wish: Wish, absent: Mapping[str, Problem], notes: list[str]
) -> tuple[Catalogue, Wish]:
    """The system identifier of the named backup, whose id is made whole, else the one with the newest backup.

    absent: targets that could not be opened. Raises Missing; Damage where backups are there and none can be opened,
    Unreachable where none was seen and not every target could be asked.
    """
    having = [c for c in catalogues if c.backups]
    if not having:
        for name, standings in ((n, s) for c in catalogues for n, s in c.unopened.items()):
            if State.BROKEN in {one.state for one in standings.values()}:
                cure = "`drkit verify --repair` mends it where any target, also one not asked now, has it whole"
                raise Damage("no backup's manifest can be opened", where=name, why=told(standings), cure=cure)
        unread = {n: str(w) for n, w in absent.items()} | {n: w for c in catalogues for n, w in c.unreadable.items()}
        doubt = "; ".join(f"{n}: {w}" for n, w in unread.items() if n not in wish.without)
        if doubt:
            raise Unreachable("no backup was found on the targets that can be read", why=doubt, cure="bring them back")
        raise Missing("there is no backup to restore", why="no target has one", cure="`drkit list` shows the backups")
    if wish.backup:
        for catalogue in having:
            try:
                return catalogue, replace(wish, backup=catalogue.backup(wish.backup).summary.backup)
            except Missing:
                continue
        _not_damaged(catalogues, wish.backup)
        raise Missing(f"no backup {wish.backup!r}", cure="`drkit list` shows the backups")
    chosen = max(having, key=lambda c: max(b.summary.stopped for b in c.backups))
    if len(having) > 1:
        others = ", ".join(str(c.layout.system_identifier) for c in having if c is not chosen)
        newest = chosen.layout.system_identifier
        notes.append(f"the newest backup is of system {newest}; there are others of {others}: --backup chooses")
    return chosen, wish


def _not_damaged(catalogues: Sequence[Catalogue], ident: str) -> None:
    """Raises Damage where `ident` names a backup whose manifest opens nowhere: it is not 'no such backup'."""
    for name, standings in ((n, s) for c in catalogues for n, s in c.unopened.items()):
        if name.startswith(ident) or name.endswith(ident):
            cure = "leave --backup out to use the best one that is whole; `drkit list` shows which are"
            raise Damage(f"backup {name} cannot be opened on any target", where=name, why=told(standings), cure=cure)


class Reporter:
    """Keeps the reads that failed; warns once for each target and kind: a scan would repeat it for every segment."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said: set[tuple[str, str]] = set()
        self._failed: dict[tuple[str, str], Problem] = {}

    @property
    def failures(self) -> tuple[tuple[str, str, str], ...]:
        """(target, object, why), in the order met."""
        return tuple((target, key, str(problem)) for (target, key), problem in self._failed.items())

    def take(self, key: str) -> list[tuple[str, Problem]]:
        """What failed for an object, by target; it is no longer among the failures."""
        found = [(target, one) for (target, failed), one in self._failed.items() if failed == key]
        for target, _ in found:
            del self._failed[target, key]
        return found

    def __call__(self, target: Target, key: str, problem: Problem) -> None:
        self._failed.setdefault((target.name, key), problem)
        event = "object is damaged" if isinstance(problem, Damage) else "target could not serve"
        if (target.name, event) not in self._said:
            self._said.add((target.name, event))
            self._log.warn(event, target=target.name, key=key, why=str(problem))


def choose_course(
    facts: Facts, wish: Wish, look: Look, means: Means, layout: ClusterLayout, reporter: Reporter
) -> tuple[Course, Manifest]:
    """The course, and its backup's manifest read whole: a catalogue opens only its head and its end.

    A backup whose manifest turns out to be damaged wherever it was good is broken, and it is decided again without it.
    Raises as `decide`, or what kept every target from serving the manifest.
    """
    ring = means.repository.ring
    while True:
        course = decide(facts, wish, look, means.clock.now())
        run = course.backup.summary.run
        key = layout.manifest(run)
        sources = Sources([means.repository.target(name) for name in course.sources], layout, ring, reporter)
        try:
            return course, sources.attempt(key, partial(_load, ring, layout, run))
        except (Damage, Missing):
            broken = course.backup.after(dict(reporter.take(key)))
            known = [broken if one is course.backup else one for one in facts.backups]
            facts = replace(facts, backups=known)


def _load(ring: Ring, layout: ClusterLayout, run: RunId, target: Target) -> Manifest:
    return load_manifest(ring, target, layout, run)
