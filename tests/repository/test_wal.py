"""WAL objects: equal input seals equally, nothing that was changed opens, what is there stays."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import random

import pytest
import zstandard

from drkit.core.errors import Damage
from drkit.crypto.container import CODEC_STORED, FRAME, HEADER_BYTES, DataKey, check_digest, parse_open_section
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.leases import entomb
from drkit.repository.wal import (
    PIECE_BYTES,
    Blob,
    Outcome,
    Packed,
    meet,
    open_wal,
    pack,
    quarantine,
    read_facts,
    seal,
    store,
)
from storage_backends.api import Key
from storage_backends.errors import NotFound, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.jobs.wal_world import (
    MIB,
    RING,
    SYSTEM,
    TestClock,
    entropy,
    flip,
    make_target,
    replace_object,
    segment_bytes_of,
)

LAYOUT = ClusterLayout(SYSTEM)
NAME = "0000000100000002000000FE"
KEY = LAYOUT.wal(NAME)


def packed(content: bytes, *, level: int = 3, name: str = NAME) -> Packed:
    return pack(RING, name, io.BytesIO(content), MIB, level)


def sealed(content: bytes, *, level: int = 3) -> Blob:
    return seal(RING, packed(content, level=level), KEY, Kind.WAL)


def joined(blob: Blob) -> bytes:
    return b"".join(blob.parts)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend("t")


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 5])
def test_what_was_sealed_comes_back_whatever_its_size(size: int, backend: MemoryBackend) -> None:
    content = random.Random(size).randbytes(size)
    target = make_target("t", backend)
    blob = sealed(content)
    target.write(KEY, blob.parts, blob.size_bytes)
    with open_wal(RING, target, KEY, Kind.WAL) as found:
        assert b"".join(found.pieces()) == content
    assert found.facts.size_bytes == size
    assert len(joined(blob)) == blob.size_bytes


def test_equal_input_is_sealed_equally_and_other_input_has_another_key() -> None:
    content = segment_bytes_of(NAME)
    assert joined(sealed(content)) == joined(sealed(content))
    other = parse_open_section(joined(sealed(content[:-1] + b"x")), "")[0]
    first = parse_open_section(joined(sealed(content)), "")[0]
    assert other.wrap != first.wrap and other.object_id != first.object_id


def test_the_seed_is_the_one_of_the_format() -> None:
    """Derived here from the specification alone; a change breaks every archive's idempotence."""
    content = b"x" * 1000
    data = joined(sealed(content))
    header, value, _ = parse_open_section(data, "")
    payload = zstandard.ZstdCompressor(level=3).compress(content)
    frame = FRAME.pack(len(payload) + 16, 1000, 0, 0, 1, 0, 0) + payload
    opened = data[HEADER_BYTES : HEADER_BYTES + header.json_bytes]
    message = b"drkit wal" + RING.repository + hashlib.sha256(opened).digest() + hashlib.sha256(frame).digest()
    seed = hmac.digest(RING.wal_key(1), message, "sha512")
    assert header.object_id == seed[32:48]
    assert opened == json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    assert set(value) == {"name", "file", "size", "identity", "segment_bytes"}
    check_digest(data, "")


def test_facts_are_read_by_range_without_reading_the_content(backend: MemoryBackend) -> None:
    target = make_target("t", backend)
    blob = sealed(segment_bytes_of(NAME))
    target.write(KEY, blob.parts, blob.size_bytes)
    facts = read_facts(target, KEY)
    assert (facts.file, facts.size_bytes, facts.segment_bytes) == (NAME, MIB, MIB)
    with pytest.raises(NotFound):
        read_facts(target, Key("clusters/1/wal/none"))


def test_no_flipped_bit_and_no_cut_opens() -> None:
    content = segment_bytes_of(NAME)[: 64 << 10]
    data = joined(sealed(content))
    chance = random.Random(7)
    places = sorted({*range(HEADER_BYTES), *(chance.randrange(len(data)) for _ in range(300)), len(data) - 1})
    backend = MemoryBackend("t")
    target = make_target("t", backend)
    identity = packed(content).facts.identity
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        replace_object(backend, KEY, bytes(changed))
        met = meet(RING, target, LAYOUT, NAME, identity)
        assert met is not None and met.outcome is Outcome.DAMAGED, place
    for cut in [*range(200), *(chance.randrange(len(data)) for _ in range(100))]:
        replace_object(backend, KEY, data[:cut])
        met = meet(RING, target, LAYOUT, NAME, identity)
        assert met is not None and met.outcome is Outcome.DAMAGED, cut
    replace_object(backend, KEY, data + b"x")
    met = meet(RING, target, LAYOUT, NAME, identity)
    assert met is not None and met.outcome is Outcome.DAMAGED


def test_an_object_under_another_name_is_damage(backend: MemoryBackend) -> None:
    target = make_target("t", backend)
    blob = sealed(segment_bytes_of(NAME))
    other = LAYOUT.wal("0000000100000002000000FD")
    target.write(other, blob.parts, blob.size_bytes)
    with pytest.raises(Damage, match="another name"), open_wal(RING, target, other, Kind.WAL):
        pass


def test_twins_are_the_same_and_the_first_bytes_stay(backend: MemoryBackend) -> None:
    target, content = make_target("t", backend), segment_bytes_of(NAME)
    first, twin = sealed(content, level=1), sealed(content, level=19)
    assert joined(first) != joined(twin)
    identity = packed(content).facts.identity
    assert store(RING, target, LAYOUT, NAME, first, identity).outcome is Outcome.STORED
    met = store(RING, target, LAYOUT, NAME, twin, identity)
    assert met.outcome is Outcome.SAME and met.blob is not None
    assert joined(met.blob) == joined(first) == target.read(KEY)


def test_other_content_is_a_conflict_and_goes_to_quarantine_beside_what_stays(backend: MemoryBackend) -> None:
    target, content = make_target("t", backend), segment_bytes_of(NAME)
    newcomer = packed(content[:-1] + b"!")
    store(RING, target, LAYOUT, NAME, sealed(content), packed(content).facts.identity)
    met = store(RING, target, LAYOUT, NAME, sealed(content[:-1] + b"!"), newcomer.facts.identity)
    assert met.outcome is Outcome.CONFLICT and met.rival == packed(content).facts.identity
    key = quarantine(RING, target, LAYOUT, newcomer, met.rival)
    assert quarantine(RING, target, LAYOUT, newcomer, met.rival) == key
    with open_wal(RING, target, key, Kind.QUARANTINE) as found:
        assert b"".join(found.pieces()) == content[:-1] + b"!"
    assert parse_open_section(target.read(key), "")[1]["rival"] == met.rival.hex()
    assert target.read(KEY) == joined(sealed(content))


def test_damage_is_no_conflict(backend: MemoryBackend) -> None:
    target, content = make_target("t", backend), segment_bytes_of(NAME)
    blob, identity = sealed(content), packed(content).facts.identity
    store(RING, target, LAYOUT, NAME, blob, identity)
    flip(backend, KEY)
    before = target.read(KEY)
    assert store(RING, target, LAYOUT, NAME, blob, identity).outcome is Outcome.DAMAGED
    assert target.read(KEY) == before


def test_a_store_that_cannot_be_asked_is_neither(backend: MemoryBackend) -> None:
    target = make_target("t", Faulty(backend, "open:503*"))
    with pytest.raises(Unavailable):
        meet(RING, target, LAYOUT, NAME, bytes(32))


def test_what_has_a_tombstone_is_not_created_again(backend: MemoryBackend) -> None:
    target = make_target("t", backend)
    name = LAYOUT.tombstones(LAYOUT.rounds(TestClock().now(), bytes(3)), 0)
    entomb(target, name, [KEY], "test", data_key=DataKey(RING, entropy), clock=TestClock(), entropy=entropy)
    met = meet(RING, target, LAYOUT, NAME, bytes(32))
    assert met is not None and met.outcome is Outcome.EXPIRED
    assert meet(RING, target, LAYOUT, "0000000100000002000000FD", bytes(32)) is None


def test_without_compression_the_bytes_are_stored_as_they_are() -> None:
    content = bytes(MIB)
    found = packed(content, level=0)
    assert [(bytes(payload), codec) for payload, _, codec in found.payloads] == [(content, CODEC_STORED)]
    assert len(joined(sealed(content, level=0))) > MIB
