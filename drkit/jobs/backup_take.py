"""The database's part of a backup: from the server's backup start to its stop, every file read and on its way.

Steps 2 to 4 of the writer's protocol (docs/format.md, section 8): adopt, write, look for tombstones again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from drkit.core.cancel import CancelToken
from drkit.core.errors import Failed, Refused, Unreachable
from drkit.core.flow import Group
from drkit.core.progress import Tally
from drkit.core.units import format_size
from drkit.engines.postgres.control import CONTROL_PATH, ControlFile, read_control
from drkit.engines.postgres.files import WAL_FOLDER
from drkit.engines.postgres.session import BackupSession, BackupStart, BackupStop, ServerFacts
from drkit.engines.postgres.timeline import Timeline
from drkit.engines.postgres.walk import Entry as Found
from drkit.engines.postgres.walk import EntryKind, walk
from drkit.jobs.backup_copy import UNREADABLE, Copier, Pace, PageRules
from drkit.jobs.backup_files import ADOPTED, LATE, SETTLED, UNCHANGED, UNREAD, Files, OwnMaps, Row, row_of
from drkit.jobs.backup_journal import Journal
from drkit.jobs.backup_parent import Earlier, buried
from drkit.jobs.backup_record import Taken
from drkit.jobs.backup_sample import sample, spoiled
from drkit.jobs.backup_targets import Participants
from drkit.jobs.backup_usage import Stored
from drkit.jobs.means import Means
from drkit.pipeline.adopting import Sizes
from drkit.pipeline.fanout import FanOut, Parcel
from drkit.pipeline.mapping import Marked
from drkit.pipeline.stager import Numbers, Product, Stager
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.manifest import FILE, Source, Tablespace
from policies.compaction import Limits

_SETTLED_NS = 2_000_000_000
_RECHECKS = 5
_RENEW_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """What to back up and how. required: targets that must hold it; rate: bytes read a second, None: no limit.

    data_dir None: the server is asked. spool: this host's state folder. wal_timeout_s: how long the last WAL may take.
    """

    cluster: str
    connection: str
    data_dir: Path | None
    label: str
    rehash: bool
    workers: int
    level: int
    rate: int | None
    required: int
    machine: str
    host: str
    writer: str
    spool: Path
    wal_timeout_s: float = 600.0
    fast: bool = True
    sizes: Sizes = field(default_factory=Sizes)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the copy left behind, beside the record: objects stored, maps made, bytes sent and read.

    again_bytes: raw bytes stored although the backup before has them, where it takes too much to fetch.
    """

    stored: Mapping[tuple[int, bytes], Stored]
    maps: OwnMaps
    sent_bytes: Mapping[str, int]
    read_bytes: int
    again_bytes: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The server that is read. folder: its data folder; source: what makes adopting its files unread safe."""

    session: BackupSession
    facts: ServerFacts
    folder: Path
    control: ControlFile
    source: Source


class _Collector:
    """Takes finished objects from the stagers: hands them to the fan-out and keeps what the manifest needs."""

    def __init__(self, layout: ClusterLayout, run: RunId, fan: FanOut, journal: Journal, room: Path) -> None:
        self._layout, self._run, self._fan, self._journal = layout, run, fan, journal
        self.stored: dict[tuple[int, bytes], Stored] = {}
        self.maps = OwnMaps(room)
        self.new_bytes = 0

    def take(self, product: Product) -> None:
        object_id = self._run.binary + product.number.to_bytes(4, "big")
        sealed = product.sealed
        facts = Stored(sealed.size_bytes, sealed.digest)
        uses = () if product.map is None else tuple(p.tobytes() for p in product.map.packs["id"])
        if product.map is not None:
            self.maps.add(object_id, product.map)
        if product.kind != Kind.FINGERPRINTS:
            self.stored[(product.kind, object_id)] = facts
            self.new_bytes += sealed.size_bytes
            self._journal.stored(product.kind, object_id, facts, uses)
        self._fan.send(Parcel(self._layout.data(Kind(product.kind), object_id), sealed.parts, sealed.size_bytes))


class Taking:
    """One run's reading. Used once, by one thread; the threads that it starts have ended when `take` returns."""

    def __init__(
        self,
        order: BackupOrder,
        means: Means,
        origin: Origin,
        participants: Participants,
        run: RunId,
        started_at: datetime,
    ) -> None:
        self._order, self._means, self._origin = order, means, origin
        self._participants, self._id, self._started = participants, run, started_at
        self._session, self._facts, self._folder = origin.session, origin.facts, origin.folder
        self._control, self._source = origin.control, origin.source
        self._layout = ClusterLayout(origin.facts.system_identifier)
        self._room = order.spool
        self._late: Row | None = None
        self._tablespaces: list[Tablespace] = []
        self._wal_link: str | None = None

    def take(self, earlier: Earlier, parent: str | None, timeline: Timeline, journal: Journal) -> tuple[Taken, Parts]:
        """From the server's backup start to its stop: everything but the manifest is durable on return."""
        order, means = self._order, self._means
        started = self._session.start(f"drkit {self._id}", fast=order.fast)
        if started.timeline != timeline.id:
            raise Refused(f"the server is on timeline {started.timeline} now, it was on {timeline.id} a moment ago")
        listing, total = self._plan(earlier)
        tally = Tally(means.progress, "backup", clock=means.clock, total_bytes=total)
        with Group(means.token, name="backup") as group:
            backends = {t.name: t.backend for t in self._participants.targets}
            fan = FanOut(backends, required=order.required, group=group)
            collector = _Collector(self._layout, self._id, fan, journal, self._room)
            copier = self._copier(collector, earlier, started, tally, journal)
            with self._kept_alive(group):
                files, stop = self._copy(group, copier, listing, earlier, collector)
            fan.finish()
        for name, error in fan.failures.items():
            self._participants.drop(name, error)
        again_bytes = files.again_bytes
        tally.finish(f"{format_size(again_bytes)} unchanged, stored again" if again_bytes else "")
        taken = Taken(
            run=self._id,
            cluster=order.cluster,
            label=order.label,
            writer=order.writer,
            facts=self._facts,
            control=self._control,
            source=self._source,
            sizes=order.sizes,
            started_at=self._started,
            start=started,
            stop=stop,
            files=files,
            tablespaces=self._tablespaces,
            wal_link=self._wal_link,
            vanished=copier.vanished,
            damaged=self._damaged(copier, stop, earlier, files),
            parent=parent,
            new_bytes=collector.new_bytes,
        )
        return taken, Parts(collector.stored, collector.maps, fan.sent_bytes, copier.read_bytes, again_bytes)

    def _listed(self) -> Iterator[Found]:
        try:
            yield from walk(self._folder, self._facts.major, self._control.tablespace_folder, self._room)
        except Unreachable as error:
            cure = error.cure or UNREADABLE
            raise Unreachable(error.what, where=error.where, why=error.why, cure=cure) from error

    @staticmethod
    def _damaged(copier: Copier, stop: BackupStop, earlier: Earlier, files: Files) -> list[tuple[str, int]]:
        """What was found now, and what the earlier run found in files that were adopted unread."""
        known = {os.fsencode(path) for path, _ in earlier.damaged}
        rows = (row for row in files if row.state & UNCHANGED and row.path in known) if known else ()
        adopted = {os.fsdecode(row.path) for row in rows}
        return sorted({*copier.damaged(stop.lsn), *(d for d in earlier.damaged if d[0] in adopted)})

    def _plan(self, earlier: Earlier) -> tuple[Files, int]:
        """What there is, that which is unchanged adopted already; and the bytes to be read.

        pg_control is LATE: it comes last.
        """
        listed_at = int(self._means.clock.now().timestamp() * 1e9)
        listing, total = Files(self._room), 0
        for found in self._listed():
            self._means.token.check()
            if found.kind is EntryKind.SPECIAL:
                event = "left out: a link or special file of the data folder"
                self._means.log.warn(event, path=found.path)
                continue
            row = row_of(found, 0)
            if found.kind is EntryKind.FILE:
                settled = max(found.mtime_ns, found.ctime_ns) + _SETTLED_NS <= listed_at
                row, unread = self._planned(row._replace(state=SETTLED * settled | UNREAD), earlier)
                total += unread
            elif found.kind is EntryKind.TABLESPACE:
                self._tablespaces.append(Tablespace(found.oid, found.location or "", found.location is None))
            elif found.path == WAL_FOLDER:
                self._wal_link = found.location
            listing.append(row)
        return listing, total

    def _planned(self, row: Row, earlier: Earlier) -> tuple[Row, int]:
        """A file as it goes into the listing, and how many bytes of it are to be read."""
        if row.path == CONTROL_PATH.encode():
            self._late = row._replace(state=row.state | LATE)
            return self._late, 0
        row, placed = earlier.look(row, self._source)
        adopted = [one for one in placed if one is not None]
        if row.base >= 0 and len(adopted) == len(placed):
            return row._replace(state=row.state | ADOPTED).done(adopted), 0
        return row, row.size - sum(one.length for one in adopted)

    def _copier(
        self, collector: _Collector, earlier: Earlier, started: BackupStart, tally: Tally, journal: Journal
    ) -> Copier:
        order, control, repository = self._order, self._control, self._means.repository
        numbers = Numbers()

        def stager() -> Stager:
            return Stager(
                run=self._id.binary,
                numbers=numbers,
                seal=repository.data_key.writer,
                header=repository.data_key.header(Kind.PACK, bytes(16)),
                emit=collector.take,
                level=order.level,
                fingerprint_key=repository.ring.fingerprint_key,
                sizes=order.sizes,
            )

        return Copier(
            root=self._folder,
            room=self._room,
            workers=order.workers,
            stager=stager,
            earlier=earlier,
            extent_bytes=order.sizes.extent,
            pages=PageRules(
                self._facts.data_checksums, control.block_size, control.relation_segment_blocks, started.lsn
            ),
            tally=tally,
            pace=Pace(order.rate, self._means.clock, self._means.token),
            journal=journal,
        )

    def _copy(
        self, group: Group, copier: Copier, listing: Files, earlier: Earlier, collector: _Collector
    ) -> tuple[Files, BackupStop]:
        """Read all files, re-check tombstones, read pg_control last, stop the backup on the server."""
        files = copier.run(group, listing)
        listing.close()
        files = self._recheck(group, copier, files, earlier, collector)
        files = self._sample(group, copier, files)
        data, _ = read_control(self._folder, self._means.clock.sleep)
        if self._late is None:
            raise Failed("the data folder lists no pg_control", where=str(self._folder))
        files.settle(copier.one(self._late, data))
        return files, self._session.stop()

    @contextmanager
    def _kept_alive(self, group: Group) -> Iterator[None]:
        """Renew leases while the copy runs; the thread ends with the block."""
        done = CancelToken(parent=group.token)

        def renew() -> None:
            while not done.wait(_RENEW_EVERY_S):
                self._participants.renew()

        group.start("leases", renew)
        try:
            yield
        finally:
            done.cancel("copied")

    def _recheck(self, group: Group, copier: Copier, files: Files, earlier: Earlier, collector: _Collector) -> Files:
        """Step 4: what was adopted from something that got a tombstone meanwhile is read and stored anew."""
        if not earlier.parents:
            return files
        for _ in range(_RECHECKS):
            hit = self._participants.tombstones()
            stale = self._stale(earlier, collector, hit)
            count = sum(map(stale, files)) if hit else 0
            if not count:
                return files
            self._means.log.warn("expiry met this backup; reading files again", files=count)
            copier.forget_earlier()
            files = self._again(group, copier, files, stale)
        raise Failed("expiry on a target removes what this backup needs again and again", cure="is a clock wrong?")

    def _again(self, group: Group, copier: Copier, files: Files, stale: Callable[[Row], bool]) -> Files:
        """The files, those that are stale read and stored anew."""
        found = copier.run(group, (row.anew() if stale(row) else row for row in files))
        files.close()
        return found

    def _sample(self, group: Group, copier: Copier, files: Files) -> Files:
        """Rebuild some of what was adopted; where it does not hold, trust nothing of the past and store all anew."""
        drawn = sample(files, self._means)
        wrong = spoiled(drawn, self._participants.targets, self._layout, self._order.sizes.chunk, self._means)
        if not wrong:
            return files
        event = "what this backup builds on is damaged or not there; storing everything anew"
        for name, why in wrong.items():
            self._means.log.error(event, target=name, why=why)
        copier.forget_earlier()
        return self._again(group, copier, files, lambda row: row.type == FILE and not row.state & LATE)

    def _stale(self, earlier: Earlier, collector: _Collector, hit: frozenset[str]) -> Callable[[Row], bool]:
        """Whether a file lies, in any part, on something of an earlier run that got a tombstone."""
        via_hit = any(key in hit for key in earlier.keys)
        lost: dict[bytes, Marked] = {}

        def extents(map_id: bytes) -> Marked:
            """For each extent of a map whether it may not be relied on."""
            own = map_id in collector.maps
            table = collector.maps[map_id] if own else earlier.load(map_id)
            if not own and (via_hit or self._layout.data(Kind.MAP, map_id) in hit):
                return np.ones(len(table.extents), dtype=np.bool_)
            ids = [pack for pack in table.packs["id"].tolist() if RunId.of_object(pack) != self._id]
            foreign = frozenset(self._layout.data(Kind.PACK, pack) for pack in ids)
            return table.touching(buried(table, self._layout, foreign if via_hit else foreign & hit))

        def stale(row: Row) -> bool:
            for map_id, index in row.extents:
                if map_id not in lost:
                    lost[map_id] = extents(map_id)
                if lost[map_id][index]:
                    return True
            return False

        return stale
