"""Replace what is damaged, create what is missing: with bytes of another target that were verified on their way.

Nothing is ever deleted. A tombstone is final: what has one is not brought back. The damaged bytes are kept on this
host, not on the target: there they would be an object that no one could verify and that expiry would not know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from drkit.core.errors import DrkitError
from drkit.jobs.means import Means
from drkit.jobs.verify_facts import Finding, Ground, Outcome, VerifyOrder
from drkit.jobs.verify_sight import mark
from drkit.repository.holds import is_release
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, tombstones
from drkit.repository.names import Sharing
from drkit.repository.scrub import STEP_BYTES, Fault, Sound, Unsound, examine
from drkit.repository.target import Target
from storage_backends import durable
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, Damaged, NotFound, StorageError

LEASE_S = 900
_KEPT_BYTES = 1 << 30  # of damaged objects, the oldest go first
_LAST = 9
_RANK = {Kind.MANIFEST: _LAST, Kind.EPOCH: 0, Kind.SLOT: 0}

CURES = {
    Kind.DESCRIPTOR: "each target has its own: put the object back from a copy of this very target",
    Kind.VERDICT: "it is true for its target alone: remove it there by hand, then `drkit replicate` decides anew",
    Kind.LEASE: "it is true for its target alone: remove it there by hand when no backup, copy or repair runs",
    Kind.TOMBSTONE: "it is true for its target alone: put it back from a copy of this very target; without one, fill a "
    "new target (`drkit init`, `drkit replicate`) and retire this one",
}
UNDECIDED = "`drkit replicate` completes it, or decides that it is withdrawn"


class Repair:
    """One run of repairs. Not thread-safe."""

    def __init__(self, ground: Ground, order: VerifyOrder, means: Means) -> None:
        self._ground, self._order, self._means = ground, order, means
        self._layouts: dict[int, ClusterLayout] = {}
        self._leases: dict[tuple[str, int], Lease] = {}
        self._needing: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        self._run = RunId.new(means.clock.now(), means.entropy(4))

    def run(self, findings: Sequence[Finding]) -> list[Finding]:
        """Repair what can be: data first, manifests last. Every finding comes back with what became of it."""
        done = [one for one in findings if one.outcome is not Outcome.LEFT]
        todo = [one for one in findings if one.outcome is Outcome.LEFT]
        for one in todo:
            if one.place.system is not None:
                self._needing[one.target, one.place.system].update(one.needed_by)
        try:
            for one in sorted(todo, key=_turn):
                self._means.token.check()
                done.append(self._repair(one, done))
        finally:
            self._release()
        return done

    def _repair(self, one: Finding, done: Sequence[Finding]) -> Finding:
        if why := self._unfit(one, done):
            return one.became(Outcome.LEFT, why)
        target = self._ground.target(one.target)
        try:
            if self._is_buried(one, target):
                return one.became(Outcome.FADED, "it has a tombstone there, which is final")
            kept = self._keep_aside(one, target)
            mended = self._mend(one, target, kept)
            if mended.outcome is Outcome.REPAIRED and self._is_buried(one, target, again=True):
                return mended.became(Outcome.FADED, "it was expired while it was repaired; expiry removes it")
            return mended
        except (StorageError, DrkitError) as error:
            return one.became(Outcome.LEFT, str(error))

    def _unfit(self, one: Finding, done: Sequence[Finding]) -> str:
        """Why a finding is not repaired; "" where it may be."""
        kind = one.place.kind
        if one.fault is Fault.UNREADABLE:
            return "it cannot be read"
        if one.place.sharing is Sharing.OWN:
            return UNDECIDED if one.fault is Fault.MISSING else CURES.get(kind or Kind.LEASE, "")
        if one.target in self._ground.hurt:
            return "the target's own descriptor is damaged: nothing is written there"
        if one.fault is Fault.OTHER and kind in (Kind.WAL, Kind.HISTORY):
            return "both contents are sound: a valid segment is never overwritten; which one is right is for you to say"
        if not one.sources:
            return "the copies differ and nothing tells which one is right"
        if kind is Kind.MANIFEST:
            broken = [f.key for f in done if f.target == one.target and one.place.last in f.needed_by and _is_left(f)]
            if broken:
                return f"its closure is not whole there: {broken[0]}"
        return ""

    # --- the protocol of section 8 ---

    def _is_buried(self, one: Finding, target: Target, *, again: bool = False) -> bool:
        """Lease first, then tombstones. Of what lies below no cluster there are none. Raises as they do."""
        if one.place.system is None:
            return False
        layout = self._layouts.setdefault(one.place.system, ClusterLayout(one.place.system))
        lease = self._leases.get((target.name, one.place.system))
        if lease is None:
            lease = self._lease(target, layout)
        elif not again:
            lease.renew_if_due()
        repository = self._means.repository
        buried = tombstones(target, layout, repository.ring)
        return one.key in buried or (
            bool(one.needed_by) and all(layout.manifest(RunId.parse(run)) in buried for run in one.needed_by)
        )

    def _lease(self, target: Target, layout: ClusterLayout) -> Lease:
        """One for all that is to be repaired there: it names every backup that needs any of it. Its run is one of its
        own, so that an expirer can decide about it when this process dies."""
        means, place = self._means, (target.name, layout.system_identifier)
        via = [RunId.parse(run) for run in sorted(self._needing[place])]
        terms = LeaseTerms("repair", self._run, via, self._order.host, LEASE_S)
        lease = Lease(target, layout, terms, means.repository.data_key, means.clock, means.entropy)
        self._leases[place] = lease
        return lease

    def _release(self) -> None:
        """Best effort: a lease that stays runs out by itself."""
        for (name, _), lease in self._leases.items():
            try:
                lease.release()
            except StorageError as error:
                self._means.log.warn("lease stays until it runs out", target=name, why=str(error))

    # --- one object ---

    def _mend(self, one: Finding, target: Target, kept: str) -> Finding:
        problems: list[str] = []
        for source in one.sources:
            try:
                self._transfer(one, self._ground.target(source), target)
            except (AlreadyExists, NotFound) as error:
                return self._met(one, target, str(error))
            except (Unsound, StorageError) as error:
                problems.append(f"{source}: {error}")
                continue
            return self._proven(one, target, kept, source)
        return one.became(Outcome.LEFT, "; ".join(problems), kept)

    def _transfer(self, one: Finding, source: Target, target: Target) -> None:
        """Verified while it is copied; it appears only when it has turned out to be sound and the right one."""
        key = Key(one.key)
        size_bytes = source.backend.stat(key).size_bytes
        with target.backend.create(key, size_bytes, replacing=one.info) as upload:
            found = examine(source, key, one.place, self._ground.repository, take=upload.write)
            self._must_be_right(one, found, source)
            upload.commit()

    def _must_be_right(self, one: Finding, found: Sound, source: Target) -> None:
        if one.digest and mark(found, one.place.kind) != one.digest:
            raise Unsound(Fault.OTHER, "the source has another content", where=f"{source.where}: {one.key}")

    def _met(self, one: Finding, target: Target, why: str) -> Finding:
        """Somebody else was there between: a healthy object is what was wanted."""
        try:
            self._must_be_right(one, examine(target, Key(one.key), one.place, self._ground.repository), target)
        except (Unsound, StorageError) as error:
            return one.became(Outcome.LEFT, f"{why}; now: {error}")
        return one.became(Outcome.FADED, "someone else repaired it")

    def _proven(self, one: Finding, target: Target, kept: str, source: str) -> Finding:
        """By reading it back whole."""
        try:
            self._must_be_right(one, examine(target, Key(one.key), one.place, self._ground.repository), target)
        except (Unsound, StorageError) as error:
            return one.became(Outcome.LEFT, f"it was replaced, and reads back wrongly: {error}", kept)
        self._means.log.info("object repaired", target=one.target, key=one.key, source=source, fault=one.fault.value)
        return one.became(Outcome.REPAIRED, f"from {source}", kept)

    # --- what was damaged ---

    def _keep_aside(self, one: Finding, target: Target) -> str:
        """The damaged bytes in a file of this host, its path; "" where there are none or they cannot be kept.

        A repair does not wait for room: the copy is for who asks why, the repository is for who restores.
        """
        if one.info is None:
            return ""
        folder = self._order.quarantine / one.target
        path = folder / f"{one.key.replace('/', '~')}.{self._means.entropy(4).hex()}"
        try:
            if one.info.size_bytes > _KEPT_BYTES:
                raise Damaged("it is too large to be kept")
            durable.make_dirs(folder)
            _make_room(self._order.quarantine, one.info.size_bytes)
            durable.write_new(path, _bytes_of(target, Key(one.key)))
        except (StorageError, OSError) as error:
            self._means.log.warn("damaged bytes not kept", target=one.target, key=one.key, why=str(error))
            return ""
        return str(path)


def _turn(one: Finding) -> tuple[int, bool, str, str]:
    """Data before manifests; the release of a hold before the hold, so that none comes back in force."""
    rank = _RANK.get(one.place.kind or Kind.PACK, 1)
    return rank, one.place.kind is Kind.HOLD and not is_release(one.key), one.key, one.target


def _is_left(one: Finding) -> bool:
    return one.outcome in (Outcome.LEFT, Outcome.LOST)


def _bytes_of(target: Target, key: Key) -> Iterator[bytes]:
    with target.backend.open(key) as reader:
        while piece := reader.read(STEP_BYTES):
            yield piece


def _make_room(folder: Path, size_bytes: int) -> None:
    """Remove the oldest until so much more may be kept."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    held = sum(path.stat().st_size for path in files)
    for path in files:
        if held + size_bytes <= _KEPT_BYTES:
            return
        held -= path.stat().st_size
        path.unlink()
