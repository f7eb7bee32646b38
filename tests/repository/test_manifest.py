"""The manifest codec: what is committed comes back, and nothing else is believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Damage, KeyMissing
from drkit.core.scratch import Scratch
from drkit.crypto.container import DataKey, canonical, open_object, parse_open_section
from drkit.repository.layout import Kind, RunId
from drkit.repository.manifest import (
    FILE,
    FOLDER,
    FRAME_ENTRIES,
    FRAME_HEAD,
    FRAME_MAPS,
    REFERENCE_BYTES,
    Entry,
    Head,
    Manifest,
    Reference,
    Summary,
    _pack_entry,
    pack_references,
    parse_head,
    seal_manifest,
    unpack_entries,
    unpack_references,
)
from drkit.repository.manifest_open import open_manifest
from drkit.repository.target import Target
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring, seeded
from tests.repository.samples import LAYOUT, sample, sample_head, sample_summary

RUN = RunId(1_772_368_259, b"\x00\x01\xab\xff")
digests = st.binary(min_size=32, max_size=32)
u64 = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1)
u32 = st.integers(0, 2**32 - 1)
entries = st.builds(
    Entry,
    type=st.sampled_from([FILE, FOLDER]),
    flags=st.integers(0, 1),
    mode=st.integers(0, 0o7777),
    size=u64,
    mtime=times,
    ctime=times,
    inode=u64,
    device=u64,
    digest=digests,
    crc=u32,
    path=st.binary(min_size=1, max_size=40),
    extents=st.lists(st.tuples(st.integers(0, 2), u32), max_size=5).map(tuple),
)
data_ids = st.builds(
    lambda seconds, random, number: RunId(seconds, random).binary + number.to_bytes(4, "big"),
    st.integers(0, 4 * 10**9), st.binary(min_size=4, max_size=4), u32,
)  # fmt: skip
references = st.one_of(
    st.builds(Reference, st.sampled_from([3, 4]), data_ids, u64, u64, digests),
    st.builds(Reference, st.just(7), u32.map(lambda n: b"00000001%08X%08X" % (n, n)), u64, u64, digests),
    st.builds(Reference, st.just(8), u32.map(lambda n: b"%08X.history" % n), u64, u64, digests),
)


def summary() -> Summary:
    return sample_summary(RUN)


def manifest_bytes(listed: list[Entry], refs: list[Reference], maps: list[bytes]) -> bytes:
    return seal_manifest(DataKey(ring(), seeded(1)), LAYOUT, summary(), sample_head(), refs, maps, listed).joined()


def opened(data: bytes, run: RunId = RUN) -> Manifest:
    sealed = Scratch()
    sealed.append(data)
    return open_manifest(ring(), sealed, LAYOUT, run)


@given(st.lists(entries, max_size=20), st.lists(references, max_size=8))
@settings(deadline=None)
def test_a_manifest_comes_back(listed: list[Entry], refs: list[Reference]) -> None:
    maps = [bytes([n]) * 16 for n in range(3)]

    found = opened(manifest_bytes(listed, refs, maps))

    assert found.summary == summary() and found.head == sample_head()
    assert list(found.entries) == listed and list(found.maps) == maps
    assert set(found.references) == set(refs)
    assert pack_references(found.references) == pack_references(refs)


@given(st.lists(references, max_size=12))
def test_references_are_sorted_as_bytes_and_unique(refs: list[Reference]) -> None:
    data = pack_references(refs + refs)
    rows = [data[at : at + REFERENCE_BYTES] for at in range(0, len(data), REFERENCE_BYTES)]
    assert rows == sorted(set(rows)) and len(rows) == len(set(refs))
    assert set(unpack_references(data, "m")) == set(refs)


@given(st.lists(references, min_size=2, max_size=5, unique=True))
def test_references_out_of_order_or_twice_are_damage(refs: list[Reference]) -> None:
    data = pack_references(refs)
    first, second = data[:REFERENCE_BYTES], data[REFERENCE_BYTES : 2 * REFERENCE_BYTES]
    for wrong in (second + first, first + first, data[:-1], data + b"\0"):
        with pytest.raises(Damage):
            unpack_references(wrong, "m")


@given(st.binary(max_size=3 * REFERENCE_BYTES))
def test_arbitrary_references_are_damage_or_make_keys(data: bytes) -> None:
    for candidate in (data, data[: len(data) // REFERENCE_BYTES * REFERENCE_BYTES], b"\7" + bytes(7) + data[:72]):
        try:
            found = unpack_references(candidate, "m")
        except Damage:
            continue
        for reference in found:
            reference.key(LAYOUT)


def test_a_reference_lies_where_the_format_says() -> None:
    wal = Reference(7, b"000000010000000000000001", 5, 6, b"d" * 32)
    pack = Reference(3, RUN.binary + b"\0\0\0\2", 7, 8, b"e" * 32)
    data = pack_references([wal, pack])
    assert data == (
        b"\x03" + bytes(7) + RUN.binary + b"\0\0\0\2" + bytes(8) + struct.pack("<QQ", 7, 8) + b"e" * 32
        + b"\x07" + bytes(7) + b"000000010000000000000001" + struct.pack("<QQ", 5, 6) + b"d" * 32
    )  # fmt: skip
    assert pack.key(LAYOUT) == LAYOUT.data(Kind.PACK, pack.name)
    assert wal.key(LAYOUT) == LAYOUT.wal("000000010000000000000001")


@given(st.lists(entries, max_size=12), st.data())
def test_entries_are_read_as_a_stream_however_they_are_cut(listed: list[Entry], data: st.DataObject) -> None:
    joined = b"".join(map(_pack_entry, listed))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(joined)), max_size=8)))
    pieces = [joined[a:b] for a, b in zip([0, *cuts], [*cuts, len(joined)], strict=True)]
    assert list(unpack_entries(pieces, "m")) == listed


@given(st.lists(entries, min_size=1, max_size=4), st.data())
def test_entries_cut_short_are_damage(listed: list[Entry], data: st.DataObject) -> None:
    joined = [_pack_entry(entry) for entry in listed]
    keep = data.draw(st.integers(1, len(joined[-1]) - 1))
    with pytest.raises(Damage):
        list(unpack_entries([*joined[:-1], joined[-1][:keep]], "m"))


@given(st.lists(entries, min_size=1, max_size=3), st.data())
@settings(max_examples=200)
def test_entries_with_bits_turned_round_are_damage_or_entries(listed: list[Entry], data: st.DataObject) -> None:
    broken = bytearray(b"".join(map(_pack_entry, listed)))
    bit = data.draw(st.integers(0, len(broken) * 8 - 1))
    broken[bit // 8] ^= 1 << bit % 8
    try:
        list(unpack_entries([bytes(broken)], "m"))
    except Damage:
        pass


def test_an_entry_lies_where_the_format_says() -> None:
    entry = Entry(1, 1, 0o600, 2, -3, 4, 5, 6, b"d" * 32, 7, b"base/1", ((8, 9), (10, 11)))
    assert _pack_entry(entry) == (
        struct.pack("<BBHIQqqQQ", 1, 1, 6, 0o600, 2, -3, 4, 5, 6) + b"d" * 32
        + struct.pack("<II", 7, 2) + b"base/1" + struct.pack("<IIII", 8, 9, 10, 11)
    )  # fmt: skip
    assert len(_pack_entry(entry)) == 88 + 6 + 16


def test_a_manifest_of_many_entries_is_cut_into_frames() -> None:
    listed = [Entry(1, 0, 0, 0, 0, 0, n, 0, seeded(n)(32), 0, b"p%d" % n, ((0, n),)) for n in range(30_000)]
    data = manifest_bytes(listed, [], [bytes(16)])
    whole = open_object(ring(), data, kind=Kind.MANIFEST, name=LAYOUT.manifest(RUN))
    types = [type_ for type_, _ in whole.frames]
    assert types == sorted(types) and types.count(FRAME_ENTRIES) > 2 and {FRAME_HEAD, FRAME_MAPS} <= set(types)
    found = opened(data)
    assert list(found.entries) == listed == list(found.entries), "as often as wanted"


def test_every_truncation_and_many_flips_of_a_manifest_are_refused() -> None:
    made = sample(ring())
    data = made.manifest.joined()
    assert opened(data, made.run)
    for length in range(len(data)):
        with pytest.raises(Damage):
            opened(data[:length], made.run)
    for bit in range(0, len(data) * 8, 3):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damage, KeyMissing)):
            opened(bytes(broken), made.run)


def test_a_manifest_under_another_name_is_refused() -> None:
    one, other = sample(ring(), 1), sample(ring(), 2)
    with pytest.raises(Damage, match="another name"):
        opened(one.manifest.joined(), other.run)


def test_objects_swapped_within_a_target_are_refused() -> None:
    from drkit.repository.maps import load_map, load_marks

    one, other = sample(ring(), 1), sample(ring(), 2)
    where = Target("t", MemoryBackend(), "here", "disk")
    ids = [next(r.name for r in s.references if r.kind == Kind.MAP) for s in (one, other)]
    for kind in (Kind.MAP, Kind.FINGERPRINTS):
        where.write(LAYOUT.data(kind, ids[0]), [other.objects[LAYOUT.data(kind, ids[1])]], 0)
    with pytest.raises(Damage, match="another name"):
        load_map(ring(), where, LAYOUT, ids[0])
    with pytest.raises(Damage, match="another name"):
        load_marks(ring(), where, LAYOUT, ids[0])


def test_a_manifest_whose_entries_point_nowhere_is_damage() -> None:
    entry = Entry(1, 0, 0, 1, 0, 0, 0, 0, bytes(32), 0, b"p", ((1, 0),))
    with pytest.raises(Damage, match="map"):
        opened(manifest_bytes([entry], [], [bytes(16)]))
    with pytest.raises(Damage, match="maps"):
        opened(manifest_bytes([], [], [bytes(15)]))


@pytest.mark.parametrize("member", list(Head.__slots__))
def test_a_head_that_lacks_a_member_is_damage(member: str) -> None:
    value = sample_head().to_json()
    del value[member]
    with pytest.raises(Damage):
        parse_head(canonical(value), "m")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"label":1}', b"\xff"])
def test_a_head_that_is_none_is_damage(data: bytes) -> None:
    with pytest.raises(Damage):
        parse_head(data, "m")


def test_members_that_nobody_knows_are_ignored() -> None:
    value = sample_head().to_json() | {"tomorrow": 1}
    assert parse_head(canonical(value), "m") == sample_head()


def test_at_most_ten_thousand_damaged_pages_are_named() -> None:
    many = replace(sample_head(), damaged=tuple(("base/1/2", n) for n in range(10_001)))
    assert len(parse_head(canonical(many.to_json()), "m").damaged) == 10_000


def test_the_open_section_needs_no_key_and_holds_what_the_format_says() -> None:
    made = sample(ring())
    header, value, refs = parse_open_section(made.manifest.joined(), "m")
    assert header.object_id == made.run.binary + bytes(4) and header.kind == 6
    assert set(value) == {
        "name", "backup", "cluster", "system_identifier", "timeline", "start_lsn", "stop_lsn", "start_wal", "stop_wal",
        "segment_bytes", "started_at", "stopped_at", "parent", "engine", "engine_version", "size_bytes",
        "stored_bytes", "useful_bytes", "new_bytes", "files", "page_errors", "epochs",
    }  # fmt: skip
    assert refs == pack_references(made.references)
