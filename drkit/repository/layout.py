"""Names and kinds of objects (docs/format.md, section 1): the only place that builds or takes apart a key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from drkit.core.errors import UsageError
from storage_backends.api import Key

DESCRIPTOR = Key("repository")
KEYS = "keys/"
CLUSTERS = "clusters/"
REPORTS = "reports/"


class Kind(IntEnum):
    """Kind codes of the container's header."""

    DESCRIPTOR = 1
    SLOT = 2
    PACK = 3
    MAP = 4
    FINGERPRINTS = 5
    MANIFEST = 6
    WAL = 7
    HISTORY = 8
    SLICE = 9
    SUMMARY = 10
    LEASE = 11
    TOMBSTONE = 12
    VERDICT = 13
    QUARANTINE = 14
    EVIDENCE = 15
    REPORT = 16
    CANARY = 17
    RETIREMENT = 18
    BINDING = 19
    EPOCH = 20
    HOLD = 21


_FOLDERS = {Kind.PACK: "packs", Kind.MAP: "maps", Kind.FINGERPRINTS: "fingerprints"}
_RUN = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{8})\Z")
_RUN_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class RunId:
    """A backup's id: the second it began and 4 random bytes. Says nothing about order."""

    seconds: int
    random: bytes

    def __str__(self) -> str:
        return f"{datetime.fromtimestamp(self.seconds, UTC).strftime(_RUN_TIME)}-{self.random.hex()}"

    @property
    def binary(self) -> bytes:
        """12 bytes: seconds, big-endian, then the random bytes."""
        return self.seconds.to_bytes(8, "big") + self.random

    @classmethod
    def new(cls, now: datetime, random: bytes) -> RunId:
        return cls(int(now.timestamp()), random)

    @classmethod
    def parse(cls, text: str) -> RunId:
        found = _RUN.match(text)
        if not found:
            raise UsageError(f"{text!r} is not a backup id", cure="`drkit list` shows them")
        try:
            at = datetime.strptime(found[1], _RUN_TIME).replace(tzinfo=UTC)
        except ValueError as error:
            cure = "`drkit list` shows them"
            raise UsageError(f"{text!r} is not a backup id", why=str(error), cure=cure) from None
        return cls(int(at.timestamp()), bytes.fromhex(found[2]))

    @classmethod
    def of_object(cls, object_id: bytes) -> RunId:
        """The run within the id of a pack, map or fingerprints object (its first 12 bytes)."""
        return cls(int.from_bytes(object_id[:8], "big"), object_id[8:12])


def report_folder(system_identifier: int) -> str:
    """Drill reports lie outside of `clusters/`: a drill leaves what it was made from untouched."""
    return f"{REPORTS}{system_identifier}/"


def report_key(system_identifier: int, report: RunId) -> Key:
    """A report's id has the form of a backup's: the second the drill began and 4 random bytes."""
    return Key(f"{report_folder(system_identifier)}{report}")


@dataclass(frozen=True, slots=True)
class ClusterLayout:
    """Keys under one system identifier."""

    system_identifier: int

    @property
    def root(self) -> str:
        return f"{CLUSTERS}{self.system_identifier}/"

    def folder(self, name: str) -> str:
        """Prefix of one kind: packs, maps, fingerprints, manifests, wal, history, leases, tombstones, verdicts."""
        return f"{self.root}{name}/"

    def data(self, kind: Kind, object_id: bytes) -> Key:
        """A pack, map or fingerprints object by its 16-byte id."""
        number = int.from_bytes(object_id[12:16], "big")
        return Key(f"{self.root}{_FOLDERS[kind]}/{RunId.of_object(object_id)}/{number:08x}")

    def manifest(self, run: RunId) -> Key:
        return Key(f"{self.root}manifests/{run}")

    def verdict(self, run: RunId) -> Key:
        return Key(f"{self.root}verdicts/{run}")

    def wal_folder(self, timeline: int, log: int | None = None) -> str:
        base = f"{self.root}wal/{timeline:08X}/"
        return base if log is None else f"{base}{log:08X}/"

    def wal(self, file: str) -> Key:
        """A segment, `.partial` or `.backup` file by PostgreSQL's name."""
        return Key(f"{self.root}wal/{file[:8]}/{file[8:16]}/{file}")

    def history(self, file: str) -> Key:
        return Key(f"{self.root}history/{file}")

    def archived(self, file: str) -> Key:
        """Where a file that PostgreSQL hands to archive_command belongs."""
        return self.history(file) if file.endswith(".history") else self.wal(file)

    def quarantine(self, file: str, identity: bytes) -> Key:
        return Key(f"{self.root}quarantine/{file}-{identity[:8].hex()}")

    def lease(self, lease: str, epoch: int) -> Key:
        return Key(f"{self.root}leases/{lease}-{epoch:08x}")

    def rounds(self, moment: datetime, random: bytes) -> str:
        """What the names of one expirer's rounds begin with; random: 3 bytes."""
        return f"{moment.astimezone(UTC).strftime(_RUN_TIME)}-{random.hex()}"

    def tombstones(self, rounds: str, number: int) -> Key:
        """A round of tombstones; number: below 256, counted by its expirer."""
        return Key(f"{self.root}tombstones/{rounds}{number:02x}")
