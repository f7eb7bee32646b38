"""The steady state before a drill: without it, whatever the drill shows would prove nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from drills.checks.api import Reference
from drills.checks.reference import record
from drills.order import DrillMeans, DrillOrder, Sides
from drills.report.model import Probe
from drills.source import Source
from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError
from drkit.engines.postgres.session import ServerFacts
from drkit.jobs.means import Means
from drkit.repository.catalogue import Catalogue, read_catalogue
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Repository
from storage_backends.api import Key, StorageBackend
from storage_backends.errors import NotFound, StorageError
from storage_backends.veil import ReadOnly

ANSWERS = "the cluster answers"
ARCHIVES = "archiving works"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Steady:
    """The world before. outside: handles that only read, on all targets · reference: None: nothing was recorded."""

    server: ServerFacts
    superuser: str
    database: str
    production_bytes: int
    outside: Means
    catalogue: Catalogue
    reference: Reference | None

    def left(self, sides: Sides) -> Means:
        """The same handles, of the targets that the recovery may read."""
        whole = self.outside.repository
        targets = tuple(target for target in whole.targets if target.name in sides.allowed)
        absent = {name: why for name, why in whole.absent.items() if name in sides.allowed}
        return replace(self.outside, repository=Repository(whole.ring, targets, absent, whole.data_key))


def look_around(
    order: DrillOrder, means: DrillMeans, source: Source, state: Path, token: CancelToken, *, compare: bool
) -> tuple[Steady | None, tuple[Probe, ...]]:
    """What there is, and whether all is as it must be; None where the cluster does not even answer.

    compare: record what the cluster holds. Raises what keeps the targets from being opened, Cancelled.
    """
    try:
        server = source.facts()
        superuser, database, size = source.superuser(), source.database(), source.size_bytes()
    except DrkitError as error:
        return None, (Probe(ANSWERS, False, str(error)),)
    outside = means.doors.open(list(means.doors.sites), _read_only, state, token, means.progress, escrowed=False)
    catalogue = read_catalogue(outside.repository, server.system_identifier)
    probes = [
        Probe(ANSWERS, True, f"PostgreSQL {server.version}, timeline {server.timeline}"),
        Probe("the connection leads to a primary", not server.in_recovery, f"as {server.user}"),
        _good_backup(catalogue),
    ]
    reference = None
    if not server.in_recovery:
        if compare:
            # Before the archiving is tried: what is recorded is then on a target when the disaster comes.
            reference = record(source.session, database, token, others=source.databases())
        probes.append(_archiving(source, outside, server, token))
    probes += [source.ask(question) for question in order.drill.probe]
    return Steady(server, superuser, database, size, outside, catalogue, reference), tuple(probes)


def _read_only(target: str, backend: StorageBackend) -> StorageBackend:
    return ReadOnly(backend)


def _good_backup(catalogue: Catalogue) -> Probe:
    good = [backup for backup in catalogue.backups if backup.good_on]
    if not good:
        return Probe("a good backup exists", False, f"of {len(catalogue.backups)} none is good on any target")
    newest = good[-1]
    text = f"{newest.summary.backup} on {', '.join(newest.good_on)}, of {newest.summary.stopped_at}"
    return Probe("a good backup exists", True, text)


def _archiving(source: Source, outside: Means, server: ServerFacts, token: CancelToken) -> Probe:
    """The whole way: a WAL segment is ended now, and gets to a target."""
    try:
        goes_on, _, told = source.archiver()
        if goes_on is False:
            return Probe(ARCHIVES, False, told)
        name, _, _ = source.end_segment()
    except DrkitError as error:
        return Probe(ARCHIVES, None, str(error))
    key = ClusterLayout(server.system_identifier).wal(name)
    while True:
        there = next(_holders(outside, key), "")
        if there:
            return Probe(ARCHIVES, True, f"{name} got to {there}")
        if token.wait(_POLL_S):
            break
    return Probe(ARCHIVES, False, f"{name} did not get to any target in time: {source.archiver()[2]}")


def _holders(outside: Means, key: Key) -> Iterator[str]:
    for target in outside.repository.targets:
        try:
            target.backend.stat(key)
            yield target.name
        except NotFound:
            continue
        except StorageError as error:
            outside.log.warn("target cannot be asked", target=target.name, why=str(error))
