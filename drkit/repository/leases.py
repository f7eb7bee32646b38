"""Leases, tombstones and verdicts on one target (docs/format.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from drkit.core.clock import Clock
from drkit.core.errors import Conflict
from drkit.crypto.container import DataKey, Json, open_object, seal_json
from drkit.crypto.keys import Entropy, Ring
from drkit.repository.graves import buried, pack_names, read_rounds
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, NotFound


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """job: backup, repair, replicate or expire; via: backups or runs through which objects may be adopted.

    rounds: of an expirer, what the names of its rounds of tombstones begin with (`ClusterLayout.rounds`).
    """

    job: str
    run: RunId | None
    via: Sequence[RunId]
    host: str
    lasts_s: int
    rounds: str = ""


class Lease:
    """One job's lease on one target. Not thread-safe.

    Liveness is judged by the host's *monotonic* clock since the moment before the newest epoch was written:
    the store stamps it later, so the host always gives up no later than an expirer may.
    """

    def __init__(
        self,
        target: Target,
        layout: ClusterLayout,
        terms: LeaseTerms,
        data_key: DataKey,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._target, self._layout, self._terms = target, layout, terms
        self._data_key, self._clock, self._entropy = data_key, clock, entropy
        self._id = entropy(8).hex()
        self._epoch = 0
        self._since = 0.0
        self._lapsed = False
        self._write(1)

    @property
    def live(self) -> bool:
        """False for ever once it ran out, even where it was renewed too late: an expirer may have looked between."""
        return not self._lapsed and self._clock.monotonic() - self._since < self._terms.lasts_s

    def renew_if_due(self) -> None:
        """Renew when a third of the term has passed; raises what kept it from being renewed."""
        if self._clock.monotonic() - self._since > self._terms.lasts_s / 3:
            self.renew()

    def renew(self) -> None:
        """Create the next epoch, then delete the one before the last: no listing, in whatever order, misses both.

        Raises Conflict when someone holds a higher one.
        """
        self._lapsed = not self.live
        self._write(self._epoch + 1)
        prefix = f"{self._layout.folder('leases')}{self._id}-"
        newest = max((info.key for info in self._target.backend.list(prefix)), default="")
        if newest > self._layout.lease(self._id, self._epoch):
            raise Conflict("another holder renewed this lease", where=self._target.where, why=newest)
        self._delete(self._epoch - 2)

    def release(self) -> None:
        """Delete the lease; idempotent."""
        self._delete(self._epoch - 1)
        self._delete(self._epoch)

    def _delete(self, epoch: int) -> None:
        if epoch >= 1:
            self._target.backend.delete(self._layout.lease(self._id, epoch))

    def _write(self, epoch: int) -> None:
        key = self._layout.lease(self._id, epoch)
        value: Json = {
            "name": key,
            "lease": self._id,
            "epoch": epoch,
            "job": self._terms.job,
            "run": str(self._terms.run) if self._terms.run else None,
            "via": [str(run) for run in self._terms.via],
            "host": self._terms.host,
            "started_at": self._clock.now().isoformat(timespec="microseconds"),
            "lasts_s": self._terms.lasts_s,
        }
        if self._terms.rounds:
            value["rounds"] = self._terms.rounds
        since = self._clock.monotonic()
        try:
            self._target.put(key, seal_json(self._data_key, Kind.LEASE, self._entropy(16), value))
        except AlreadyExists:
            raise Conflict("another holder renewed this lease", where=self._target.where, why=key) from None
        self._since, self._epoch = since, epoch


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as it stands on a target: its newest epoch. started_at: of that epoch, on its holder's clock."""

    lease: str
    job: str
    run: str
    host: str
    started_at: datetime
    lasts_s: int


def held(target: Target, layout: ClusterLayout, ring: Ring) -> list[Held]:
    """The leases on a target, also those that ran out. Raises Damage where one does not open, StorageError."""
    found: dict[str, Held] = {}
    for info in target.backend.list(layout.folder("leases")):
        try:
            value = open_object(ring, target.read(info.key), kind=Kind.LEASE, name=info.key).json
        except NotFound:
            continue  # released meanwhile
        lease, job, run, host = (str(value.get(name) or "") for name in ("lease", "job", "run", "host"))
        started_at = datetime.fromisoformat(str(value["started_at"]))
        found[lease] = Held(lease, job, run, host, started_at, int(str(value["lasts_s"])))
    return list(found.values())


def tombstones(target: Target, layout: ClusterLayout, ring: Ring) -> frozenset[str]:
    """Keys of all objects that have a tombstone on this target; a manifest's stands for its backup and its run.

    Raises Damage where a round does not open: nobody knows then what may still be adopted here.
    """
    return buried(read_rounds(target, layout, ring))


def entomb(
    target: Target,
    name: Key,
    keys: Iterable[str],
    reason: str,
    *,
    data_key: DataKey,
    clock: Clock,
    entropy: Entropy,
) -> None:
    """Create one round of tombstones; durable on return, and final. Memory: the keys.

    name: by `ClusterLayout.tombstones`. Raises AlreadyExists where it is taken.
    """
    value: Json = {
        "name": name,
        "round": name.rpartition("-")[2],
        "reason": reason,
        "created_at": clock.now().isoformat(timespec="microseconds"),
    }
    target.put(name, seal_json(data_key, Kind.TOMBSTONE, entropy(16), value, pack_names(keys)))


ROUNDS = 3
"""So many rounds of tombstones an expirer creates at most: of backups, of data, and one of older ones joined."""


def stop_rounds(
    target: Target, layout: ClusterLayout, rounds: str, *, data_key: DataKey, clock: Clock, entropy: Entropy
) -> None:
    """Take the names of all rounds that an expirer whose lease has run out might still create, by empty ones.

    On return (durable) either its rounds are there to be seen, or its next create meets one of these and it ends.
    """
    for number in range(ROUNDS):
        with suppress(AlreadyExists):
            name, why = layout.tombstones(rounds, number), "the lease of this expiry ran out"
            entomb(target, name, (), why, data_key=data_key, clock=clock, entropy=entropy)


class Verdict(StrEnum):
    """What was decided about a run on one target, once and for all. A backup is good only with GOOD."""

    GOOD = "good"
    WITHDRAWN = "withdrawn"


def decide(
    target: Target,
    layout: ClusterLayout,
    run: RunId,
    verdict: Verdict,
    reason: str,
    *,
    ring: Ring,
    data_key: DataKey,
    clock: Clock,
    entropy: Entropy,
) -> Verdict:
    """Create the run's verdict on this target, and return the one that stands: who comes second obeys the first.

    Durable on return. Safety rests on the store's conditional create: a writer and an expirer may meet here.
    """
    key = layout.verdict(run)
    value: Json = {
        "name": key,
        "run": str(run),
        "verdict": verdict.value,
        "reason": reason,
        "created_at": clock.now().isoformat(timespec="microseconds"),
    }
    try:
        target.put(key, seal_json(data_key, Kind.VERDICT, entropy(16), value))
    except AlreadyExists:
        return read_verdict(target, layout, run, ring)
    return verdict


def read_verdict(target: Target, layout: ClusterLayout, run: RunId, ring: Ring) -> Verdict:
    """The verdict that stands. Raises NotFound where none was made yet, Damage where it does not open."""
    key = layout.verdict(run)
    opened = open_object(ring, target.read(key), kind=Kind.VERDICT, name=key)
    return Verdict(str(opened.json.get("verdict")))
