"""Carrying out what was judged about one target: verdicts, tombstones, deletion; docs/format.md, section 8, 1 to 4.

Tombstones of backups come first, then leases and manifests are listed anew, then what nothing reaches gets its own.
Nothing is deleted before its tombstone has stood for the grace, by the target's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from drkit.core.errors import Failed
from drkit.core.progress import Tally
from drkit.jobs.expire_judge import Judgement, Terms
from drkit.jobs.expire_reach import counted, held_wal, present, reached, spent, unreached_wal, wal_name
from drkit.jobs.expire_survey import Survey, TargetTime, stored_manifests
from drkit.jobs.means import Means
from drkit.repository.catalogue import read_opening
from drkit.repository.fences import EXPIRE, Fence, read_fences
from drkit.repository.graves import Round, covered
from drkit.repository.holds import Hold
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import ROUNDS, Lease, Verdict, decide, entomb, stop_rounds
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, NotFound

MAX_OBJECTS = 200_000
"""So many objects get a tombstone in one run: a round is read whole by every backup."""
_JOINED = 32
_MOST_JOINED = 1_000_000  # objects: a round is read whole
_READERS = timedelta(days=1)  # who lists tombstones has read them by then
_STOPPED = timedelta(days=90)  # no process that was stopped so long goes on


@dataclass(frozen=True, slots=True)
class Done:
    """withdrawn: runs · backups: ids that got a tombstone · buried: data and WAL that got one · manifests, objects:
    how many were deleted · waiting: how many wait for their grace · leases, rounds: spent ones, deleted
    stopped: why only old tombstones were carried out, "" if all was done
    """

    withdrawn: tuple[str, ...]
    backups: tuple[str, ...]
    buried: int
    manifests: int
    objects: int
    waiting: int
    leases: int
    rounds: int
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class _Second:
    """Leases that count, then manifests; references of every one of them that has no tombstone."""

    fences: Sequence[Fence]
    all_fences: Sequence[Fence]
    manifests: frozenset[str]
    references: Mapping[str, frozenset[str]]


class Expirer:
    """One run on one target. lease: its own, under which it read the holds; it names `rounds`."""

    def __init__(
        self,
        means: Means,
        target: Target,
        layout: ClusterLayout,
        terms: Terms,
        time: TargetTime,
        lease: Lease,
        rounds: str,
        found: Survey,
        judgement: Judgement,
        holds: Sequence[Hold],
    ) -> None:
        self._means, self._target, self._layout, self._terms = means, target, layout, terms
        self._time, self._lease, self._found, self._judgement, self._holds = time, lease, found, judgement, holds
        self._own = (layout.tombstones(rounds, number) for number in range(ROUNDS))
        self._rounds: list[Round] = list(found.rounds)
        self._tombs = set(found.buried)
        self._references = dict(judgement.references)
        self._withdrawn: list[str] = []
        self._gone: set[str] = set()
        self._tally = Tally(means.progress, f"expiring on {target.name}", clock=means.clock)

    def run(self, allowed: frozenset[str]) -> Done:
        """allowed: the backups that may go. Raises StorageError, Damage, Failed where its own lease ran out."""
        stopped = self._judgement.unknown or self._judgement.blocked
        backups: tuple[str, ...] = ()
        buried = 0
        if not stopped:
            backups = self._bury_backups(allowed)
            buried = self._bury_data()
        manifests = objects = leases = 0
        if not self._judgement.blocked:
            manifests, objects, leases = self._delete()
        rounds = self._join()
        waiting = sum(key not in self._gone for key in present(self._found, self._tombs))
        self._tally.finish()
        return Done(tuple(self._withdrawn), backups, buried, manifests, objects, waiting, leases, rounds, stopped)

    # --- steps 1 to 3 ---

    def _bury_backups(self, allowed: frozenset[str]) -> tuple[str, ...]:
        for run, reason in self._judgement.dead.items():
            self._check()
            if self._withdraw(run, reason) is Verdict.WITHDRAWN:
                self._withdrawn.append(run)
        going = [item.copy.id for item in self._judgement.plan.going if item.copy.id in allowed]
        chosen = tuple(going[: self._terms.cap])
        self._bury([self._manifest(run) for run in (*self._withdrawn, *chosen)], "backups past retention, dead runs")
        return chosen

    def _withdraw(self, run: str, reason: str) -> Verdict:
        means = self._means
        return decide(
            self._target,
            self._layout,
            RunId.parse(run),
            Verdict.WITHDRAWN,
            f"expiry: {reason}",
            ring=means.repository.ring,
            data_key=means.repository.data_key,
            clock=means.clock,
            entropy=means.entropy,
        )

    def _bury_data(self) -> int:
        """Step 2, then 3: of the data listed at first what nothing reaches by now."""
        second = self._list_again()
        kept = self._reached(second)
        rubbish = sorted(key for key in self._found.data if key not in kept and key not in self._tombs)
        wal = unreached_wal(self._found, self._judgement, self._terms, self._holds, kept, second.fences)
        fresh = (key for key in wal if key not in self._tombs)
        chosen = rubbish[:MAX_OBJECTS]
        chosen += islice(fresh, MAX_OBJECTS - len(chosen))
        self._bury(chosen, "nothing reaches them")
        return len(chosen)

    def _list_again(self) -> _Second:
        self._check()
        found = read_fences(self._target, self._layout, self._means.repository.ring)
        manifests = stored_manifests(self._target, self._layout)
        fences = [*counted(found, self._judged, self._time.now()), *self._judgement.abroad]
        own = {fence.run for fence in fences}
        for name in manifests:
            if name not in self._references and self._manifest(name) not in self._tombs and name not in own:
                self._open(name)
        return _Second(fences, found, frozenset(manifests), self._references)

    def _open(self, name: str) -> None:
        """References of a manifest that came after the first look. Raises what keeps them from being known."""
        try:
            opening = read_opening(self._means.repository.ring, self._target, self._layout, RunId.parse(name))
        except NotFound:
            self._references[name] = frozenset()  # somebody else deleted it just now
            return
        self._references[name] = frozenset(one.key(self._layout) for one in opening[2])

    @property
    def _judged(self) -> frozenset[str]:
        prefix = self._layout.folder("manifests")
        over = {key.removeprefix(prefix) for key in self._tombs if key.startswith(prefix)}
        return self._judgement.settled | over | frozenset(self._withdrawn)

    def _reached(self, second: _Second) -> frozenset[str]:
        judged, tombs = self._judged, frozenset(self._tombs)
        return reached(self._found, self._judgement, second.references, second.manifests, second.fences, tombs, judged)

    # --- step 4 ---

    def _delete(self) -> tuple[int, int, int]:
        """What has waited its grace: manifests, then data, then fingerprints without their map, then spent leases."""
        second = self._list_again()
        due = frozenset[str]().union(*(r.keys for r in self._rounds if self._is_due(r)))
        named = frozenset[str]().union(*(fence.names for fence in second.fences))
        held = {hold.backup for hold in self._holds}
        over = [n for n in sorted(second.manifests) if self._manifest(n) in due and n not in named and n not in held]
        manifests = self._remove(self._manifest(name) for name in over)
        kept = self._reached(second)
        data = [key for key in present(self._found, due) if key not in kept and not self._spared(key, second)]
        objects = self._remove(sorted(data))
        objects += self._remove(sorted(self._orphans(named)))
        gone = spent(second.all_fences, self._judged, self._time.now(), self._terms)
        for fence in gone:
            self._stop(fence)
        leases = self._remove(key for fence in gone for key in fence.keys)
        return manifests, objects, leases

    def _stop(self, fence: Fence) -> None:
        """Before the lease of an expirer goes, which may only be stopped: nobody could tell then that it was there."""
        if fence.job == EXPIRE and fence.rounds:
            self._check()
            means = self._means
            key, clock, entropy = means.repository.data_key, means.clock, means.entropy
            stop_rounds(self._target, self._layout, fence.rounds, data_key=key, clock=clock, entropy=entropy)

    def _is_due(self, one: Round) -> bool:
        return one.stored_at + self._terms.grace <= self._time.now()

    def _spared(self, key: str, second: _Second) -> bool:
        """WAL that a lease, whoever's, or a hold may still want."""
        if not key.startswith(self._layout.folder("wal")):
            return False
        if second.fences:
            return True
        name, segment_bytes = wal_name(key), self._judgement.segment_bytes
        spans = [hold for hold in self._holds if hold.wal]
        if not spans:
            return False
        if name is None or segment_bytes is None:
            return True
        number = name.number(segment_bytes)
        stretches = (one for hold in spans for one in held_wal(hold, segment_bytes, self._found.wal))
        return any(one.holds(name.timeline, number) for one in stretches)

    def _orphans(self, named: frozenset[str]) -> Iterable[str]:
        """Fingerprints of decided runs whose map is not there, though listed after them."""
        judged, there = self._judged, self._found.data - self._gone
        for key in self._found.marks:
            run = self._found.run_of(key)
            if run in judged and run not in named and key.replace("/fingerprints/", "/maps/") not in there:
                yield key

    # --- rounds ---

    def _join(self) -> int:
        """Rounds whose objects are all gone become one; those that a later one covers are deleted."""
        waiting = frozenset(present(self._found, self._tombs))
        prefix, manifests = self._layout.folder("manifests"), self._found.manifests
        there = waiting | {f"{prefix}{name}" for name in manifests}
        spent_rounds = [one for one in self._rounds if self._is_due(one) and not one.keys & there]
        by = self._time.now() - _READERS
        needless = covered(self._found.rounds, by, self._time.now() - _STOPPED)
        left, total = list[Round](), 0
        for one in sorted(spent_rounds, key=lambda one: len(one.keys)):
            if one.keys and one.key not in needless and total + len(one.keys) <= _MOST_JOINED:
                left.append(one)
                total += len(one.keys)
        if len(left) >= _JOINED:
            self._bury(frozenset[str]().union(*(one.keys for one in left)), "older rounds, joined", again=True)
        return self._remove(needless)

    # --- effects ---

    def _bury(self, keys: Iterable[str], reason: str, *, again: bool = False) -> None:
        fresh = frozenset(keys) if again else frozenset(keys) - self._tombs
        if not fresh:
            return
        self._check()
        means = self._means
        name = next(self._own)
        try:
            entomb(
                self._target,
                name,
                fresh,
                reason,
                data_key=means.repository.data_key,
                clock=means.clock,
                entropy=means.entropy,
            )
        except AlreadyExists:
            raise _late(self._target) from None
        self._tombs |= fresh
        self._rounds.append(Round(name, self._time.now(), fresh))
        means.log.info("tombstones created", target=self._target.name, objects=len(fresh), why=reason)

    def _remove(self, keys: Iterable[str]) -> int:
        count = 0
        for key in keys:
            self._check()
            self._target.backend.delete(Key(key))
            self._gone.add(key)
            count += 1
        return count

    def _check(self) -> None:
        """Before every effect: who was stopped longer than its lease lasts knows nothing any more."""
        self._means.token.check()
        self._lease.renew_if_due()
        if not self._lease.live:
            raise _late(self._target)

    def _manifest(self, run: str) -> str:
        return f"{self._layout.folder('manifests')}{run}"


def _late(target: Target) -> Failed:
    what, cure = "expiry was stopped for longer than its lease lasts", "run it again: it goes on where it was"
    return Failed(what, where=target.where, cure=cure)
