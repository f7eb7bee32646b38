"""What the policy's judgement rests on, gathered from targets, server and data folder (judged in `policy_judge`).

An unreachable target or server is a fact among others. What was not measured is None: never taken for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.errors import DrkitError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.wal import LONG_HEADER_BYTES
from drkit.jobs.means import Means
from drkit.jobs.policy_server import Server, oldest_unarchived
from drkit.jobs.rates import Rates
from drkit.jobs.windows import Window as WalWindow
from drkit.jobs.windows import read_windows
from drkit.repository.catalogue import Backup, Catalogue, read_catalogue, systems
from drkit.repository.evidence import NOTHING_KNOWN, Known, read_known
from drkit.repository.layout import KEYS
from drkit.repository.reports import PASSED, newest_first
from drkit.repository.target import Target
from policies.acks import Wanted, rule_for
from policies.copies import Situation
from policies.facts import ClusterFacts, Evidence, Grade, TargetFacts, Terms, Window
from policies.objectives import Facts, Promises
from policies.rule import Rule
from storage_backends.errors import StorageError

SKEW = timedelta(minutes=1)
"""So far apart may two hosts' clocks be before a time counts as one of the future."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A target as configured. credential: who may delete there, by name; "" where unknown."""

    name: str
    site: str
    medium: str
    credential: str = ""


@dataclass(frozen=True, slots=True)
class PolicyOrder:
    """What was promised for one cluster. rates: of earlier restores, for the forecast of the rto."""

    cluster: str
    site: str
    connection: str
    data_dir: Path | None
    targets: tuple[Declared, ...]
    rule: Rule
    wal_ack: Wanted
    promises: Promises
    terms: Terms
    rates: Rates


# --- the targets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """What the targets hold of one system. catalogue None: no target holds anything of it.

    unreadable: target -> why it could not be asked · devices: by target, as observed · keys: the newest epoch's slots
    drilled_at: when the newest drill that passed ended; None: none did, or no report can be read
    verified: what verifications left as evidence
    """

    catalogue: Catalogue | None
    windows: Sequence[WalWindow] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    drilled_at: datetime | None = None
    verified: Known = NOTHING_KNOWN

    @property
    def backups(self) -> Sequence[Backup]:
        return self.catalogue.backups if self.catalogue else ()

    def newest(self, target: str | None = None) -> Backup | None:
        """The newest good backup, on one target or on any."""
        good = (b for b in reversed(self.backups) if (b.good_on if target is None else target in b.good_on))
        return next(good, None)


def nothing_answers(order: PolicyOrder, why: str) -> Stored:
    return Stored(None, unreadable={declared.name: why for declared in order.targets})


def read_stored(order: PolicyOrder, means: Means, system_identifier: int | None) -> Stored:
    """List the targets; one that fails is in `unreadable`.

    system_identifier None: that of the newest backup under the cluster's name.
    """
    repository = means.repository
    unreadable = {name: str(error) for name, error in repository.absent.items()}
    devices = {target.name: target.backend.traits.device for target in repository.targets}
    try:
        catalogue = _catalogue(order, means, system_identifier)
    except StorageError as error:
        return Stored(None, (), unreadable | {t.name: str(error) for t in repository.targets}, devices)
    keys: dict[str, frozenset[str]] = {}
    for target in repository.targets:
        try:
            keys[target.name] = _slots(target)
        except StorageError as error:
            unreadable[target.name] = str(error)
    if catalogue is None:
        return Stored(None, (), unreadable, devices, keys)
    found = read_windows(catalogue, means)
    drilled_at = last_passed(order.cluster, catalogue.layout.system_identifier, means)
    verified = read_known(repository, catalogue.layout.system_identifier, means.clock.now())
    return Stored(catalogue, found.windows, unreadable | found.unreadable, devices, keys, drilled_at, verified)


def last_passed(cluster: str, system_identifier: int, means: Means) -> datetime | None:
    """When the newest passed drill of a cluster ended, from the reports on the targets; one from the future proves
    no age."""
    latest = means.clock.now() + SKEW
    try:
        for head in newest_first(means.repository, system_identifier):
            if head.verdict == PASSED and head.cluster == cluster and head.at <= latest:
                return head.at
    except (StorageError, DrkitError):
        pass  # nothing is known then; of a target that fails the listings tell
    return None


def _catalogue(order: PolicyOrder, means: Means, system_identifier: int | None) -> Catalogue | None:
    known = systems(means.repository)
    if system_identifier is not None:
        return read_catalogue(means.repository, system_identifier) if known else None
    found = [read_catalogue(means.repository, one) for one in sorted(known)]
    stops = {
        number: max((b.summary.stopped for b in one.backups if b.summary.cluster == order.cluster), default=None)
        for number, one in enumerate(found)
    }
    mine = [(stop, number) for number, stop in stops.items() if stop is not None]
    return found[max(mine)[1]] if mine else None


def _slots(target: Target) -> frozenset[str]:
    """Names of the newest epoch's key slots (`keys/<epoch>/<slot>`)."""
    found: dict[str, set[str]] = {}
    for info in target.backend.list(KEYS):
        epoch, _, name = info.key.removeprefix(KEYS).partition("/")
        if name != "epoch":
            found.setdefault(epoch, set()).add(name)
    return frozenset(found[max(found)]) if found else frozenset()


# --- facts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """All of it, at one instant. scan_why: why the primary's page scan is not clean."""

    situation: Situation
    objectives: Facts
    stored: Stored
    server: Server
    scan_why: str


def gather(order: PolicyOrder, server: Server, stored: Stored, now: datetime) -> PolicyFacts:
    """now: taken after everything was read, or evidence would be from the future."""
    clean, scan_why = scan_of(stored.backups)
    cluster = ClusterFacts(order.cluster, order.site, server.reachable, clean, server.devices)
    targets = tuple(target_facts(declared, stored, now) for declared in order.targets)
    newest = stored.newest()
    objectives = Facts(
        exposure=exposure(order, server, stored, now),
        archive_timeout=server.archive_timeout,
        streaming=False,
        rto_forecast=forecast(newest, stored.windows, order.rates),
        backup_at=max(stops_of(stored.backups, now).values(), default=None),
        verified_at=verified_at(order, stored),
        drilled_at=stored.drilled_at,
    )
    return PolicyFacts(Situation(order.rule, order.terms, cluster, targets, now), objectives, stored, server, scan_why)


def verified_at(order: PolicyOrder, stored: Stored) -> datetime | None:
    """Since when everything on every target was read once; None where something on any never was."""
    known = [stored.verified.verified_at.get(declared.name) for declared in order.targets]
    moments = [at for at in known if at is not None]
    return min(moments) if moments and len(moments) == len(known) else None


def target_facts(declared: Declared, stored: Stored, now: datetime) -> TargetFacts:
    """Evidence is the listing made just now: every object of the closure is there, with its size."""
    name = declared.name
    windows: tuple[Window, ...] | None = None
    if name not in stored.unreadable:
        mine = [window for window in stored.windows if window.target == name]
        stops = stops_of(stored.backups, now)
        windows = tuple(span for one in mine for span in spans(one, stops, Evidence(Grade.LISTED, now)))
    return TargetFacts(
        name,
        declared.site,
        declared.medium,
        stored.devices.get(name),
        windows,
        findings=stored.verified.findings.get(name),
        credential=declared.credential,
        keys=stored.keys.get(name, frozenset()),
    )


def stops_of(backups: Sequence[Backup], now: datetime) -> dict[str, datetime]:
    """When each good backup stopped. One that stopped in the future proves no age and no instant: some clock was wrong
    when it was taken."""
    good = (backup.summary for backup in backups if backup.good_on)
    return {summary.backup: summary.stopped for summary in good if summary.stopped <= now + SKEW}


def spans(window: WalWindow, stops: Mapping[str, datetime], evidence: Evidence) -> list[Window]:
    """A window cut at its gaps. stops: when each backup stopped; those that are not in it count for nothing.

    Where the last commit before an end is not known, the span ends with the last backup before it: less, not more.
    """
    cuts = [gap.bridge for gap in window.gaps if gap.bridge is not None]
    parts: list[list[datetime]] = [[]]
    for backup in window.backups:
        if backup in cuts:
            parts.append([])
        if backup in stops:
            parts[-1].append(stops[backup])
    found = [Window(min(part), max(part), evidence) for part in parts if part]
    end = window.end_at
    if found and parts[-1] and end is not None and found[-1].end < end <= evidence.at + SKEW:
        found[-1] = replace(found[-1], end=end)
    return found


def scan_of(backups: Sequence[Backup]) -> tuple[bool | None, str]:
    """Whether the last page scan, which the newest backup made, was clean; and why not.

    A backup does not read again what did not change: damage that an ancestor met may still be there.
    """
    if not backups:
        return None, "no backup has read its pages yet"
    newest, known = backups[-1], {b.summary.backup: b for b in backups}
    if newest.summary.page_errors:
        return False, f"backup {newest.summary.backup} met {newest.summary.page_errors} damaged pages"
    if not newest.head.checksums:
        return None, "it has no page checksums"
    ancestor = known.get(newest.summary.parent or "")
    while ancestor is not None:
        if ancestor.summary.page_errors:
            return None, f"backup {ancestor.summary.backup} met damage; `drkit backup --rehash` reads all pages again"
        ancestor = known.get(ancestor.summary.parent or "")
    return True, ""


def exposure(order: PolicyOrder, server: Server, stored: Stored, now: datetime) -> timedelta | None:
    """How much would be lost with the server: the age of the oldest commit that is not durable by the rule of acks.

    Where neither the server's position nor pg_wal tells, the age of the newest one that is; None where none is known.
    """
    window = acknowledged(order, server, stored)
    if window is None:
        return None
    position = server.position if server.timeline == window.timeline else None
    if position is not None and position.value <= window.end.value + LONG_HEADER_BYTES:
        return timedelta(0)
    if server.folder is not None and server.timeline in (None, window.timeline):
        try:
            oldest = oldest_unarchived(server.folder, window, stored.backups[-1].summary.segment_bytes)
            return timedelta(0) if oldest is None else now - oldest
        except (DrkitError, OSError):
            pass  # then by what the archive alone tells
    return None if window.end_at is None or window.end_at > now + SKEW else now - window.end_at


def acknowledged(order: PolicyOrder, server: Server, stored: Stored) -> WalWindow | None:
    """The window that ends where WAL is durable on as many targets as `wal_ack` wants."""
    devices = {declared.name: stored.devices.get(declared.name) for declared in order.targets}
    rule = rule_for(order.wal_ack, devices, server.devices)
    have: set[str] = set()
    for window in sorted(stored.windows, key=lambda one: (one.timeline, one.end), reverse=True):
        have.add(window.target)
        if rule.met(have):
            return window
    return None


def forecast(newest: Backup | None, windows: Sequence[WalWindow], rates: Rates) -> timedelta | None:
    """Fetch the newest backup and replay all WAL behind it, at the rates of earlier restores on this host."""
    if newest is None or not rates.fetch or not rates.replay:
        return None
    start = Lsn.parse(newest.summary.start_lsn)
    ends = [window.end for window in windows if newest.summary.backup in window.backups]
    wal_bytes = max((end.value - start.value for end in ends), default=0)
    return timedelta(seconds=newest.summary.size_bytes / rates.fetch + max(0, wal_bytes) / rates.replay)
