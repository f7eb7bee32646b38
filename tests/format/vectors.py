"""Makes docs/format-vectors.json: one object of each kind under fixed keys.

    python -m tests.format.vectors > docs/format-vectors.json

Everything random is drawn from a seeded generator, so that the same code makes the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from io import BytesIO

import zstandard

from drkit.core.clock import Clock
from drkit.crypto.container import DataKey, open_object, parse_header, parse_open_section
from drkit.crypto.keys import Ring, format_key_file
from drkit.crypto.slots import Secret, seal_slot
from drkit.repository import evidence
from drkit.repository.evidence import Evidence, Looked
from drkit.repository.graves import unpack_names
from drkit.repository.holds import Hold, add_hold
from drkit.repository.identity import found as found_repository
from drkit.repository.layout import Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, Verdict, decide, entomb
from drkit.repository.reports import Note, keep
from drkit.repository.repository import Repository
from drkit.repository.target import Target
from drkit.repository.wal import pack, seal
from storage_backends.api import Key
from storage_backends.memory import MemoryBackend
from tests.core.clocks import HandClock
from tests.crypto.rings import seeded
from tests.repository.samples import AT, LAYOUT, SECRET, SYSTEM, target
from tests.repository.samples import sample as backup

WORDS = Secret("passphrase", b"correct horse battery staple", "a passphrase")
HISTORY = "00000002.history"
HISTORY_BYTES = b"1\t0/2000000\tno recovery target specified\n"


def objects() -> tuple[Ring, dict[str, bytes]]:
    """The newest ring, and all objects by key, as they would lie on one target."""
    where = target("vectors", MemoryBackend("vectors"))
    first, _ = found_repository([where], SECRET, now=AT, entropy=seeded(1))
    ring = dataclasses.replace(first, masters={**first.masters, 2: seeded(2)(32)})
    for number, secret in enumerate((SECRET, WORDS)):
        name, sealed = seal_slot(ring, secret, created_at=AT, entropy=seeded(3 + number))
        where.put(Key(name), sealed)
    made = backup(first)
    made.store(where, good=False)
    _archive(where, ring)
    clock: Clock = HandClock()
    data_key = DataKey(ring, seeded(6))
    Lease(where, LAYOUT, LeaseTerms("backup", made.run, [made.run], "db1", 900), data_key, clock, seeded(7))
    decide(
        where, LAYOUT, made.run, Verdict.GOOD, "its closure was whole",
        ring=ring, data_key=data_key, clock=clock, entropy=seeded(8),
    )  # fmt: skip
    name = LAYOUT.tombstones(LAYOUT.rounds(clock.now(), bytes(3)), 0)
    entomb(where, name, [made.key], "an example", data_key=data_key, clock=clock, entropy=seeded(9))
    _report(where, Repository(ring, [where], {}, DataKey(ring, seeded(10))), clock)
    _evidence(where, Repository(ring, [where], {}, DataKey(ring, seeded(13))), made.key, clock)
    hold = Hold(str(made.run), str(made.run), None, "an example", clock.now())
    assert add_hold(Repository(ring, [where], {}, DataKey(ring, seeded(15))), LAYOUT, hold, entropy=seeded(16)).targets
    return ring, {info.key: where.read(info.key) for info in where.backend.list()}


def _archive(where: Target, ring: Ring) -> None:
    """A history file, and a segment of other content that met the archived one."""
    history = pack(ring, HISTORY, BytesIO(HISTORY_BYTES), 1 << 20, 3)
    rival = pack(ring, "000000010000000000000001", BytesIO(b"other" * 100), 1 << 20, 3)
    for packed, key, kind, met in (
        (history, LAYOUT.history(HISTORY), Kind.HISTORY, None),
        (rival, LAYOUT.quarantine(rival.facts.file, rival.facts.identity), Kind.QUARANTINE, history.facts.identity),
    ):
        blob = seal(ring, packed, key, kind, met)
        where.write(key, blob.parts, blob.size_bytes)


def _report(where: Target, repository: Repository, clock: Clock) -> None:
    """Of a drill: two of its files are enough to see how they are stored."""
    ident = RunId.new(clock.now(), seeded(11)(4))
    before = hashlib.sha256(b"the report before").hexdigest()
    note = Note(str(ident), SYSTEM, clock.now(), "region-loss", "D09", "orders", "pass", before)
    files = {"report.json": '{"schema": "drkit.drill.report/1"}\n', "report.txt": "PASSED\n" * 20}
    assert keep(repository, note, files, entropy=seeded(12)).targets == (where.name,)


def _evidence(where: Target, repository: Repository, damaged: Key, clock: Clock) -> None:
    """Of a verification that read a twentieth, and found one object damaged."""
    looked = Looked(whole=True, findings=1, unsound={damaged: "a store's version"})
    found = Evidence(clock.now(), SYSTEM, "orders", False, (0.95, 1.0), {where.name: looked})
    assert not evidence.keep(repository, found, entropy=seeded(14))[1]


def contents(ring: Ring, key: str, data: bytes) -> list[dict[str, object]]:
    """Type and plain bytes of every frame but the last."""
    header = parse_header(data, key)
    named = bool(parse_open_section(data, key)[1])
    opened = open_object(ring, data, kind=header.kind, name=key, object_id=None if named else header.object_id)
    return [{"type": type_, "hex": raw.hex()} for type_, raw in opened.frames]


def described(ring: Ring, key: str, data: bytes) -> dict[str, object]:
    """One object; of a round of tombstones also the keys that it names."""
    kind = parse_header(data, key).kind
    found: dict[str, object] = {"kind": kind, "hex": data.hex(), "frames": contents(ring, key, data)}
    if kind == Kind.TOMBSTONE:
        found["names"] = sorted(unpack_names(parse_open_section(data, key)[2], key))
    return found


def document() -> dict[str, object]:
    ring, made = objects()
    derived = {
        "fingerprint key": ring.fingerprint_key.hex(),
        "identity key": ring.identity_key.hex(),
        **{f"wrap key {e}": ring.wrap_key(e).hex() for e in ring.masters},
        **{f"WAL derivation key {e}": ring.wal_key(e).hex() for e in ring.masters},
        **{f"successor key {e}": ring.successor_key(e).hex() for e in ring.masters},
        **{f"key id {e}": ring.key_id(e) for e in ring.masters},
    }
    return {
        "format": 1,
        "zstandard": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "key file": format_key_file(SECRET.value, "of the test vectors").splitlines(),
        "passphrase": WORDS.value.decode(),
        "repository": ring.repository.hex(),
        "master keys": {str(epoch): master.hex() for epoch, master in ring.masters.items()},
        "lifetime key": ring.lifetime.hex(),
        "derived": derived,
        "objects": {key: described(ring, key, data) for key, data in made.items()},
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
