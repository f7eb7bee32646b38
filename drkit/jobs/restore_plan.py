"""The plan of a restore: gathered facts, the decided course, the destination; printable, and what `restore` runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from drkit.core.errors import Missing, UsageError
from drkit.core.progress import Tally
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import RestorePoint, Transaction
from drkit.engines.postgres.recovery import TargetKind
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.archive import Archived, known_timelines, list_archived, read_histories
from drkit.jobs.means import Means
from drkit.jobs.rates import Rates
from drkit.jobs.restore_choose import Reporter, choose_catalogue, choose_course
from drkit.jobs.restore_folder import (
    FolderFacts,
    Link,
    Owner,
    Room,
    check_folder,
    check_rooms,
    choose_owner,
    look_at,
    place_tablespaces,
    rooms,
    unreadable_notes,
)
from drkit.jobs.restore_points import Course, Facts, Wish, stop_of
from drkit.jobs.restore_skipped import told
from drkit.jobs.wal_scan import WalScan
from drkit.repository.catalogue import Backup, Catalogue, State
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.manifest import Head, Manifest
from drkit.repository.sources import Sources
from storage_backends.errors import StorageError

_KEPT_SEGMENTS = 4  # recovery keeps the segment at hand and, at its end, the first of the new timeline


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """What was asked for.

    destination: absolute · tablespaces: (OLD, NEW) · config: the configuration that recovery reads, absolute
    wal_program: the drkit-wal of this installation, absolute · home: the configured data folder, where known
    machine: id of this machine · owner: a user's name, "": by rule · euid: of this process
    secrets: further files that the server's user must read for `drkit-wal get`, as the key file
    tablespace_root: a folder in which each tablespace that is not named gets its own, by oid
    """

    cluster: str
    destination: Path
    wish: Wish
    config: Path
    wal_program: Path
    machine: str
    workers: int
    euid: int
    home: Path | None = None
    delta: bool = False
    tablespaces: tuple[tuple[str, str], ...] = ()
    resume_archiving: bool = False
    owner: str = ""
    secrets: tuple[Path, ...] = ()
    tablespace_root: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a restore will do. Sizes in bytes; seconds of the estimate are None where nothing was measured.

    wal_bytes: plain WAL that recovery reads, at most · histories: names of all history files · archiving: whether the
    restored server keeps its archive settings · failures: (target, object, why) of reads that another target served
    lacking: keys of what some target lacks of the backup, or is known to hold damaged: it is not read for it.
    """

    order: RestoreOrder
    course: Course
    manifest: Manifest
    layout: ClusterLayout
    folder: FolderFacts
    owner: Owner
    links: Sequence[Link]
    rooms: Sequence[Room]
    histories: Sequence[str]
    archiving: bool
    fetch_bytes: int
    wal_bytes: int
    fetch_s: float | None
    replay_s: float | None
    notes: Sequence[str]
    failures: Sequence[tuple[str, str, str]] = ()
    lacking: frozenset[str] = frozenset()

    @property
    def first_wal(self) -> str:
        return self._name(self.course.reach.first)

    @property
    def last_wal(self) -> str:
        return self._name(self.course.reach.last)

    def _name(self, number: int) -> str:
        return self.course.path.segment(number, self.manifest.summary.segment_bytes).text


class Evidence:
    """`Look` over real targets: listings and scans, each kept. `report` hears of targets that fail."""

    def __init__(self, catalogue: Catalogue, readable: Sequence[str], scan: WalScan, segment_bytes: int) -> None:
        self._inventories = {name: catalogue.inventories[name] for name in readable}
        self._scan, self._segment_bytes = scan, segment_bytes
        self._listed: dict[tuple[Timeline, int], Archived] = {}

    def archived(self, path: Timeline, first: int) -> Archived:
        if (path, first) not in self._listed:
            self._listed[path, first] = list_archived(self._inventories, path, first, self._segment_bytes)
        return self._listed[path, first]

    def last_transaction(self, path: Timeline, first: int, last: int) -> Transaction | None:
        return self._scan.last_transaction(path, first, last)

    def record_at_or_after(self, path: Timeline, lsn: Lsn, last: int) -> Lsn | None:
        return self._scan.record_at_or_after(path, lsn, last)

    def ends_of(self, path: Timeline, first: int, last: int, xid: int) -> Iterator[Transaction]:
        return self._scan.ends_of(path, first, last, xid)

    def restore_points(self, path: Timeline, first: int, last: int) -> Iterator[RestorePoint]:
        return self._scan.restore_points(path, first, last)

    def stored_at(self, path: Timeline, number: int) -> datetime | None:
        return self._scan.stored_at(path, number)


def plan_restore(order: RestoreOrder, means: Means, catalogues: Sequence[Catalogue], rates: Rates) -> Plan:
    """Decide everything; reads targets and looks at the destination, changes nothing.

    Raises Refused, Missing, UsageError, or what kept a needed target from being read.
    """
    notes: list[str] = []
    catalogue, wish = choose_catalogue(catalogues, order.wish, means.repository.absent, notes)
    order = replace(order, wish=wish)
    _known_targets(order, means)
    present = [t for t in means.repository.targets if t.name in catalogue.inventories]
    readable = [t for t in present if t.name not in wish.without]
    if order.wish.source and order.wish.source not in {t.name for t in readable}:
        raise means.repository.absent.get(order.wish.source) or Missing(
            f"target {order.wish.source!r} cannot be read",
            why=catalogue.unreadable.get(order.wish.source, "given up"),
            cure="leave --from out to read from the others; `drkit check` tries each target",
        )
    layout = catalogue.layout
    check = Reporter(means.log)
    asked = [t for t in readable if t.name == order.wish.source] if order.wish.source else readable
    histories = read_histories(means.repository.ring, {t.name: catalogue.inventories[t.name] for t in readable}, check)
    segment_bytes = catalogue.backups[-1].summary.segment_bytes
    facts = Facts(
        backups=catalogue.backups,
        timelines=known_timelines(histories.timelines, {b.summary.timeline for b in catalogue.backups}),
        segment_bytes=segment_bytes,
        readable=[t.name for t in readable],
        doubtful={n: w for n, w in catalogue.unreadable.items() if n not in order.wish.without},
        unread=histories.unread,
        unopened=catalogue.unopened,
    )
    tally = Tally(means.progress, "looking into WAL", clock=means.clock)
    ring = means.repository.ring
    scan = WalScan(ring, layout, Sources(asked, layout, ring, check), segment_bytes, means.token, tally)
    look = Evidence(catalogue, [t.name for t in readable], scan, segment_bytes)
    course, manifest = choose_course(facts, order.wish, look, means, layout, check)
    tally.finish()
    for one in course.skipped:
        instead = manifest.summary.backup
        means.log.warn("newer backup is passed over", backup=one.backup, instead=instead, why=told(one.standings))
    notes += course.notes
    broken = {name: one.why for name, one in course.backup.standings.items() if one.state is State.BROKEN}
    notes += [f"{name} does not have the backup whole, and is not read for it: {why}" for name, why in broken.items()]
    plan = _complete(order, means, course, manifest, layout, histories.names, rates, notes, check)
    return replace(plan, lacking=frozenset(_lacking(catalogue, course.backup, broken)))


def _lacking(catalogue: Catalogue, backup: Backup, broken: Iterable[str]) -> Iterator[str]:
    for name in broken:
        yield catalogue.layout.manifest(backup.summary.run)
        try:
            yield from (one.key for one in catalogue.inventories[name].lacking(backup.references, backup.summary))
        except (KeyError, StorageError):
            continue  # it answers no more: a verification will tell


def _known_targets(order: RestoreOrder, means: Means) -> None:
    known = {t.name for t in means.repository.targets} | set(means.repository.absent)
    for name in {order.wish.source, *order.wish.without} - {""}:
        if name not in known:
            why = f"configured are {', '.join(sorted(known))}"
            raise UsageError(f"there is no target {name!r}", why=why, cure=f"name one of them, or add [target.{name}]")
    if order.wish.source in order.wish.without:
        what = f"target {order.wish.source} is both given up and to be read"
        raise UsageError(what, cure="leave out --from or --without")


def _complete(
    order: RestoreOrder,
    means: Means,
    course: Course,
    manifest: Manifest,
    layout: ClusterLayout,
    histories: Sequence[str],
    rates: Rates,
    notes: list[str],
    check: Reporter,
) -> Plan:
    backup = course.backup
    folder = look_at(order.destination, measure=order.delta)
    check_folder(folder, layout.system_identifier, delta=order.delta)
    owner = choose_owner(folder, order.owner, order.euid)
    mapping = [*order.tablespaces, *_below_root(order, backup.head)]
    links = place_tablespaces(backup.head, order.destination, mapping, order.machine, delta=order.delta)
    wal_bytes = _wal_bytes(course, backup.summary.segment_bytes)
    spaces = {link.oid: look_at(Path(link.location), measure=order.delta) for link in links}
    kept = _KEPT_SEGMENTS * backup.summary.segment_bytes
    room = rooms(folder, spaces, manifest.entries, kept)
    check_rooms(room)
    fetch_bytes = sum(r.live for r in backup.references if r.kind == Kind.PACK)
    fetch_bytes += sum(r.size for r in backup.references if r.kind == Kind.MAP)
    _more_notes(manifest, order, notes)
    notes += [f"{name} could not serve {key}: {why}" for name, key, why in check.failures]
    notes += unreadable_notes([order.config, *order.secrets], owner, order.euid)
    return Plan(
        order=order,
        course=course,
        manifest=manifest,
        layout=layout,
        folder=folder,
        owner=owner,
        links=links,
        rooms=room,
        histories=histories,
        archiving=order.resume_archiving or order.destination == order.home,
        fetch_bytes=fetch_bytes,
        wal_bytes=wal_bytes,
        fetch_s=manifest.summary.size_bytes / rates.fetch if rates.fetch else None,
        replay_s=wal_bytes / rates.replay if rates.replay else None,
        notes=tuple(notes),
        failures=check.failures,
    )


def _below_root(order: RestoreOrder, head: Head) -> list[tuple[str, str]]:
    """(OLD, NEW) of the tablespaces that the order does not name, where it has a folder for them."""
    if order.tablespace_root is None:
        return []
    named = {old.rstrip("/") for old, _ in order.tablespaces}
    left = [t for t in head.tablespaces if not t.in_place and not {str(t.oid), t.location.rstrip("/")} & named]
    return [(str(t.oid), str(order.tablespace_root / str(t.oid))) for t in left]


def _wal_bytes(course: Course, segment_bytes: int) -> int:
    """WAL that recovery reads: to the end of the backup, to a position, or at most all that is proven."""
    last = course.reach.last
    if course.target.kind is TargetKind.END:
        last = stop_of(course.backup).segment_before(segment_bytes)
    elif isinstance(course.target.value, Lsn):
        last = min(last, course.target.value.segment(segment_bytes))
    return (last - course.reach.first + 1) * segment_bytes


def _more_notes(manifest: Manifest, order: RestoreOrder, notes: list[str]) -> None:
    head = manifest.head
    if head.wal_link:
        notes.append(f"pg_wal was a link to {head.wal_link}; it is restored as a plain folder")
    if not any(entry.path == b"postgresql.conf" for entry in manifest.entries):
        notes.append("the backup holds no postgresql.conf: the server's configuration was outside of the data folder")
    if manifest.summary.page_errors:
        pages = ", ".join(f"{path} block {block}" for path, block in head.damaged[:3])
        notes.append(f"the backup recorded {manifest.summary.page_errors} damaged pages: {pages}")
    if manifest.summary.cluster != order.cluster:
        notes.append(f"the backup was taken under the cluster name {manifest.summary.cluster!r}")


def plan_json(plan: Plan) -> Mapping[str, object]:
    """The plan as `--plan --json` answers it."""
    course, summary = plan.course, plan.manifest.summary
    return {
        "backup": summary.backup,
        "system_identifier": summary.system_identifier,
        "destination": str(plan.order.destination),
        "target": {
            "kind": course.target.kind.value,
            "value": course.target.value,
            "inclusive": course.target.inclusive,
            "action": course.target.action.value,
            "timeline": course.path.id,
        },
        "asked": {
            "kind": plan.order.wish.target.kind.value,
            "value": plan.order.wish.target.value,
            "text": plan.order.wish.text,
        },
        "timeline_path": [
            {"timeline": one, "until": None if end is None else str(end)}
            for one, end in ((one, course.path.end_of(one)) for one in course.path.path)
        ],
        "wal": {"first": plan.first_wal, "last": plan.last_wal, "bytes": plan.wal_bytes},
        "latest": {"lsn": str(course.reach.end), "last_commit": course.last_commit},
        "sources": list(course.sources),
        "wal_sources": list(course.wal_sources),
        "without": sorted(plan.order.wish.without),
        "fetch_bytes": plan.fetch_bytes,
        "size_bytes": summary.size_bytes,
        "space": [
            {"path": r.path, "needed_bytes": r.needed_bytes, "free_bytes": r.free_bytes, "reused_bytes": r.reused_bytes}
            for r in plan.rooms
        ],
        "tablespaces": [{"oid": x.oid, "original": x.original, "location": x.location} for x in plan.links],
        "owner": plan.owner.name,
        "archiving": plan.archiving,
        "delta": plan.order.delta,
        "estimate": {"fetch_s": plan.fetch_s, "replay_s": plan.replay_s, "measured": plan.fetch_s is not None},
        "skipped": [
            {
                "backup": one.backup,
                "targets": [{"name": n, "state": s.state.value, "why": s.why} for n, s in one.standings.items()],
            }
            for one in course.skipped
        ],
        "failures": [{"target": t, "object": o, "why": w} for t, o, w in plan.failures],
        "notes": list(plan.notes),
    }
