"""Three targets in folders with an object of every kind, made by hand, and verifications of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.log import NoLog
from drkit.core.progress import Silent
from drkit.crypto.container import DataKey
from drkit.crypto.keys import Ring
from drkit.crypto.slots import Secret, seal_slot
from drkit.jobs.restore_repair import Mended, mend
from drkit.jobs.verify import Surroundings, verify
from drkit.jobs.verify_facts import Finding, Ground, VerifyOrder, VerifyResult, stand
from drkit.repository.holds import Hold, add_hold, release_hold
from drkit.repository.identity import found
from drkit.repository.layout import Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, Verdict, decide, entomb
from drkit.repository.pins import Pins
from drkit.repository.reports import Note, keep
from drkit.repository.repository import Repository, open_repository
from drkit.repository.retirement import Retirement, retire
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from drkit.repository.wal import Packed, pack, seal
from storage_backends.api import Key, StorageBackend
from storage_backends.posix import PosixBackend
from tests.core.clocks import HandClock
from tests.crypto.rings import seeded
from tests.repository.samples import AT, LAYOUT, SECRET, SYSTEM, Sample, target
from tests.repository.samples import sample as backup

NAMES = ("a", "b", "c")
HISTORY = "00000002.history"
FOLLOWING = [
    f"0000000100000000000000{number:02X}" for number in range(0x10, 0x16)
]  # from the backups' start, 0/1000028
Wrap = Callable[[str, StorageBackend], StorageBackend]


def _bare(name: str, backend: StorageBackend) -> StorageBackend:
    return backend


@dataclass
class VerifyWorld:
    """Two good backups, six segments, a history file, a report, and what else there is, the same on a, b and c."""

    root: Path
    ring: Ring = field(init=False)
    made: list[Sample] = field(default_factory=list)
    clock: HandClock = field(default_factory=HandClock)
    wrap: Wrap = _bare
    seed: int = 100

    def __post_init__(self) -> None:
        self.targets = [target(name, PosixBackend(self.root / name, create_root=True)) for name in NAMES]
        self.ring, _ = found(self.targets, SECRET, now=AT, entropy=seeded(1))
        name, sealed = seal_slot(self.ring, Secret("passphrase", b"words", "w"), created_at=AT, entropy=seeded(2))
        self.made = [backup(self.ring, 1), backup(self.ring, 2)]
        for where in self.targets:
            where.put(Key(name), sealed)
            for one in self.made:
                one.store(where, good=False)
                self.decide(where, one.run, Verdict.GOOD)
            self._archive(where)
        self.retire(*self.targets)
        run = self.made[0].run
        for where in self.targets:
            draw = seeded(40)
            Lease(where, LAYOUT, LeaseTerms("backup", run, [run], "db1", 900), self.data_key, self.clock, draw)
            name = LAYOUT.tombstones(LAYOUT.rounds(self.clock.now(), bytes(3)), 0)
            entomb(
                where, name, [f"{LAYOUT.folder('packs')}20200101T000000Z-00000000/00000000"], "an old one",
                data_key=self.data_key, clock=self.clock, entropy=seeded(41),
            )  # fmt: skip
        before = hashlib.sha256(b"before").hexdigest()
        ident = RunId.new(self.clock.now(), b"\0\0\0\1")
        note = Note(str(ident), SYSTEM, self.clock.now(), "drill", "D09", "orders", "pass", before)
        keep(self.repository(), note, {"report.json": "{}"}, entropy=seeded(42))
        hold = Hold(str(run), str(run), None, "audit", self.clock.now())
        add_hold(self.repository(), LAYOUT, hold, entropy=seeded(43))
        release_hold(self.repository(), LAYOUT, hold.id, now=self.clock.now(), entropy=seeded(44))

    @property
    def data_key(self) -> DataKey:
        return DataKey(self.ring, seeded(3))

    def decide(self, where: Target, run: RunId, verdict: Verdict) -> None:
        decide(
            where, LAYOUT, run, verdict, "whole",
            ring=self.ring, data_key=self.data_key, clock=self.clock, entropy=seeded(4 + run.random[-1]),
        )  # fmt: skip

    def retire(self, *on: Target, seed: int = 43) -> None:
        """A record on these targets that a fourth one must not be used again."""
        gone = Retirement("ab" * 16, "gone", "its disk was sold", AT)
        retire(gone, on, data_key=DataKey(self.ring, seeded(seed)), ring=self.ring, entropy=seeded(seed + 1))

    def _archive(self, where: Target) -> None:
        packed = pack(self.ring, HISTORY, BytesIO(b"1\t0/7000000\tno recovery target specified\n"), 1 << 20, 3)
        rival = pack(self.ring, FOLLOWING[0], BytesIO(b"other" * 100), 1 << 20, 3)
        objects: list[tuple[Packed, Key, Kind, bytes | None]] = [(packed, LAYOUT.history(HISTORY), Kind.HISTORY, None)]
        quarantined = LAYOUT.quarantine(rival.facts.file, rival.facts.identity)
        objects.append((rival, quarantined, Kind.QUARANTINE, packed.facts.identity))
        for name in FOLLOWING:
            one = pack(self.ring, name, BytesIO(name.encode() * 50), 1 << 20, 3)
            objects.append((one, LAYOUT.wal(name), Kind.WAL, None))
        for one, key, kind, met in objects:
            blob = seal(self.ring, one, key, kind, met)
            where.write(key, blob.parts, blob.size_bytes)

    # --- opening and running ---

    def opened(self) -> list[Target]:
        return [replace(one, backend=self.wrap(one.name, PosixBackend(self.root / one.name))) for one in self.targets]

    def repository(self, targets: Sequence[Target] | None = None) -> Repository:
        self.seed += 1
        pins = Pins(self.root / "spool")
        return open_repository(targets or self.opened(), {}, SECRET, pins, entropy=seeded(self.seed))

    def verify(
        self,
        *,
        keyed: bool = True,
        repair: bool = False,
        deep: bool = False,
        part: float = 1.0,
        only: Sequence[str] = (),
        suspects: Sequence[str] = (),
    ) -> VerifyResult:
        targets = self.opened()
        repository = self.repository(targets) if keyed else None
        order = VerifyOrder("", frozenset(only), deep, part, repair, 2, "host", self.root / "spool" / "damaged")
        order = replace(order, suspects=frozenset(suspects))
        ground = stand(targets, {}, Pins(self.root / "spool"), repository, "" if keyed else "no key in this test")
        return verify(order, ground, self.around())

    def around(self) -> Surroundings:
        self.seed += 1
        return Surroundings(self.clock, seeded(self.seed), CancelToken(), Silent(), NoLog())

    def mend(self, *keys: str, repair: bool = True) -> list[Mended]:
        """As a restore does that met these objects."""
        folder = self.root / "spool"
        order = VerifyOrder("", frozenset(), False, 1.0, repair, 2, "host", folder / "damaged", frozenset(keys))

        def ground() -> Ground:
            targets = self.opened()
            return stand(targets, {}, Pins(folder), self.repository(targets))

        return mend(ground, order, self.around(), self.spool)

    @property
    def spool(self) -> Spool:
        return Spool(self.root / "spool")

    # --- objects ---

    def path(self, name: str, key: str) -> Path:
        return self.root / name / key

    def stored(self, name: str = "a") -> list[str]:
        return [info.key for info in self.targets[NAMES.index(name)].backend.list()]

    def one(self, part: str, name: str = "a") -> str:
        """The first key that holds `part`."""
        return next(key for key in self.stored(name) if part in key)

    def flip(self, name: str, key: str, at: float = 0.6) -> None:
        path = self.path(name, key)
        data = bytearray(path.read_bytes())
        data[int(len(data) * at)] ^= 4
        path.write_bytes(data)

    def lose(self, name: str, key: str) -> None:
        self.path(name, key).unlink()

    def everything(self, name: str) -> dict[str, bytes]:
        """Every object but evidence, which each verification adds to."""
        return {key: self.path(name, key).read_bytes() for key in self.stored(name) if not key.startswith("evidence/")}


def told(result: VerifyResult) -> set[tuple[str, str, str]]:
    """(target, key, fault) of what is left."""
    return {(f.target, f.key, f.fault.value) for f in result.left}


def at(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)


def only(result: VerifyResult) -> Finding:
    (found,) = result.findings
    return found
