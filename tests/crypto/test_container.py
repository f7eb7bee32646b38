"""The container: what is sealed comes back; anything else is refused as Damage, whichever bit was turned round."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Damage, DrkitError, KeyMissing
from drkit.crypto.container import (
    DIGEST_BYTES,
    END_BYTES,
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    LAST,
    MAX_RAW_BYTES,
    DataKey,
    Frame,
    Opener,
    check_digest,
    compress,
    open_object,
    parse_header,
    parse_open_section,
    seal_json,
)
from drkit.crypto.keys import Ring
from tests.crypto.rings import REPOSITORY, finished, ring, seeded, writer

KIND = 15
ID = b"\x07" * 16
NAME = "clusters/1/evidence/a"
Frames = list[tuple[int, bytes]]

frames_strategy = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=400)), max_size=5)


def sealed(frames: Frames, *, references: bytes = b"", level: int = 3, keys: Ring | None = None) -> bytes:
    made = writer(KIND, ID, NAME, references, keys=keys)
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
    for type_, raw in frames:
        payload, codec = compress(compressor, raw)
        made.frame(payload, len(raw), codec=codec, type=type_)
    return finished(made)


def small() -> bytes:
    return sealed([(1, b"some bytes"), (2, bytes(300))], references=b"R" * 80)


@given(frames_strategy, st.binary(max_size=200))
def test_what_was_sealed_comes_back(frames: Frames, references: bytes) -> None:
    data = sealed(frames, references=references)

    opened = open_object(ring(), data, kind=KIND, name=NAME)

    assert list(opened.frames) == frames
    assert opened.references == references
    assert opened.json == {"name": NAME}
    assert opened.digest == data[-DIGEST_BYTES:] == check_digest(data, NAME)


def test_every_single_bit_turned_round_is_refused() -> None:
    data = small()
    keys = ring()
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damage, KeyMissing)):
            open_object(keys, bytes(broken), kind=KIND, name=NAME)
        with pytest.raises(Damage):
            check_digest(bytes(broken), NAME)


def test_every_truncation_is_refused() -> None:
    data = small()
    for length in range(len(data)):
        with pytest.raises(Damage):
            open_object(ring(), data[:length], kind=KIND, name=NAME)
        with pytest.raises(Damage):
            check_digest(data[:length], NAME)


@given(st.binary(min_size=1, max_size=100))
def test_bytes_behind_the_object_are_refused(more: bytes) -> None:
    with pytest.raises(Damage):
        open_object(ring(), small() + more, kind=KIND, name=NAME)


@given(st.binary(max_size=600))
def test_no_bytes_at_all_make_it_fail_otherwise(data: bytes) -> None:
    for candidate in (data, small()[: len(data)] + data, small()[:HEADER_BYTES] + data):
        with pytest.raises((Damage, KeyMissing)):
            open_object(ring(), candidate, kind=KIND, name=NAME)


def test_an_open_section_nested_beyond_reason_is_damage() -> None:
    bomb = b"[" * 200_000
    header = DataKey(ring(), seeded(1)).header(KIND, ID, len(bomb)).pack()

    with pytest.raises(Damage, match="JSON"):
        parse_open_section(header + bomb, NAME)


def test_an_open_section_is_authenticated_by_every_frame() -> None:
    data = small()
    changed = data.replace(NAME.encode(), NAME.encode()[:-1] + b"b")

    with pytest.raises(Damage, match="authenticate"):
        open_object(ring(), changed, kind=KIND, name=NAME[:-1] + "b")


def test_an_object_of_another_repository_kind_or_name_is_refused() -> None:
    data = small()
    with pytest.raises(Damage, match="another kind"):
        open_object(ring(), data, kind=KIND + 1, name=NAME)
    with pytest.raises(Damage, match="another name"):
        open_object(ring(), data, kind=KIND, name=NAME + "b")
    with pytest.raises(Damage, match="another name"):
        open_object(ring(), data, kind=KIND, name=NAME, object_id=b"\x08" * 16)
    with pytest.raises(Damage, match="another repository"):
        open_object(ring(repository=b"x" * 16), data, kind=KIND, name=NAME)
    with pytest.raises(KeyMissing):
        open_object(ring(2), data, kind=KIND, name=NAME)
    with pytest.raises(Damage, match="key wrap"):
        open_object(ring(seed=2), data, kind=KIND, name=NAME)


@pytest.mark.parametrize(("version", "cure"), [(2, "newer drkit"), (0, "a new repository")])
def test_another_version_is_named_with_its_cure(version: int, cure: str) -> None:
    data = bytearray(small())
    data[8] = version
    with pytest.raises(Damage) as found:
        parse_header(bytes(data), NAME)
    assert f"version {version}" in str(found.value) and cure in found.value.cure


def frame_spans(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of every frame of an object, the last one included."""
    at, spans = parse_header(data, NAME).open_bytes, []
    while at < len(data) - DIGEST_BYTES:
        end = at + FRAME_BYTES + struct.unpack_from("<I", data, at)[0]
        spans.append((at, end))
        at = end
    return spans


def rebuilt(data: bytes, frames: list[bytes]) -> bytes:
    """The object with other frames and a digest that holds."""
    import blake3

    body = data[: parse_header(data, NAME).open_bytes] + b"".join(frames)
    return body + blake3.blake3(body).digest()


def test_frames_cannot_be_exchanged_dropped_or_repeated() -> None:
    data = sealed([(0, b"a" * 50), (0, b"b" * 50)])
    first, second, last = (data[a:b] for a, b in frame_spans(data))
    assert open_object(ring(), rebuilt(data, [first, second, last]), kind=KIND, name=NAME)

    for frames in ([second, first, last], [first, last], [first, second], [first, first, second, last], [last], []):
        with pytest.raises(Damage):
            open_object(ring(), rebuilt(data, frames), kind=KIND, name=NAME)


def test_frames_of_another_object_under_the_same_data_key_do_not_open() -> None:
    key = DataKey(ring(), seeded(1))
    objects = []
    for number in range(2):
        made = key.writer(3, bytes(15) + bytes([number]))
        made.frame(b"a" * 50, 50, codec=0)
        objects.append(finished(made))
    one, other = objects
    spans = frame_spans(one)
    swapped = one[: spans[0][0]] + other[slice(*spans[0])] + one[spans[1][0] :]

    with pytest.raises(Damage, match="authenticate"):
        open_object(ring(), swapped, kind=3, name="p", object_id=bytes(16))


@pytest.mark.parametrize(
    ("payload", "raw_bytes", "codec"),
    [
        (b"abc", 4, 0),
        (b"abc", 2, 0),
        (b"abc", 3, 2),
        (b"abc", 3, 1),
        (zstandard.ZstdCompressor().compress(bytes(1 << 20)), 100, 1),
        (zstandard.ZstdCompressor().compress(b"abc"), 4, 1),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(9)), 9, 1),
        (zstandard.ZstdCompressor().compress(bytes(MAX_RAW_BYTES + 1)), MAX_RAW_BYTES + 1, 1),
        (b"", 0, 1),
    ],
)
def test_a_frame_that_says_another_size_is_damage(payload: bytes, raw_bytes: int, codec: int) -> None:
    """Whoever holds the key can seal such a frame; a reader still never unpacks more than it was told."""
    made = writer(KIND, ID, NAME)
    made.frame(payload, raw_bytes, codec=codec)
    with pytest.raises(Damage):
        open_object(ring(), finished(made), kind=KIND, name=NAME)


@pytest.mark.parametrize(
    ("payload", "flags", "type_"), [(b"x", LAST, 0), (b"", 2, 0), (b"", LAST, 1), (b"", LAST | 4, 0)]
)
def test_a_last_frame_that_is_not_empty_and_flags_that_nobody_knows_are_damage(
    payload: bytes, flags: int, type_: int
) -> None:
    made = writer(KIND, ID, NAME)
    made.frame(payload, len(payload), codec=0, flags=flags, type=type_)
    data = b"".join(made._parts)
    import blake3

    with pytest.raises(Damage):
        open_object(ring(), data + blake3.blake3(data).digest(), kind=KIND, name=NAME)


@given(frames_strategy)
@settings(max_examples=30)
def test_frames_are_read_by_range_where_the_writer_said(frames: Frames) -> None:
    made = writer(3, ID)
    placed: list[Frame] = [made.frame(raw, len(raw), codec=0, type=type_) for type_, raw in frames]
    data = finished(made)
    header = parse_header(data, "p")
    opener = Opener(ring(), header, header.pack(), "p")

    for at, (type_, raw) in zip(placed, frames, strict=True):
        piece = data[at.offset : at.offset + FRAME_BYTES + at.sealed_bytes]
        assert opener.frame(memoryview(piece), at.number) == (raw, type_, 0, len(piece))
        with pytest.raises(Damage):
            opener.frame(memoryview(piece), at.number + 1)


def test_the_end_alone_authenticates_the_open_section() -> None:
    data = small()
    header = parse_header(data, NAME)
    opener = Opener(ring(), header, data[: header.open_bytes], NAME)
    assert opener.authenticate_end(data[-END_BYTES:]) == data[-DIGEST_BYTES:]

    for tail in (data[-END_BYTES - 1 : -1], data[-END_BYTES + 1 :], data[-10:], b"", data[:END_BYTES]):
        with pytest.raises(DrkitError):
            opener.authenticate_end(tail)
    forged = Opener(ring(), header, data[: header.open_bytes].replace(b"R", b"Q"), NAME)
    with pytest.raises(DrkitError):
        forged.authenticate_end(data[-END_BYTES:])


def test_the_header_lies_where_the_format_says() -> None:
    data = seal_json(DataKey(ring(7), seeded(1)), KIND, ID, {"name": NAME}, b"r" * 80).joined()

    assert data[:8] == bytes.fromhex("64 72 6B 69 74 00 1A 0A")
    assert struct.unpack_from("<HBBI", data, 8) == (1, KIND, 0, 128)
    assert data[16:32] == REPOSITORY and data[32:48] == ID
    assert struct.unpack_from("<IIQ", data, 48) == (7, len('{"name":""}') + len(NAME), 80)
    assert data[104:128] == bytes(24)
    end = FRAME.unpack_from(data, len(data) - END_BYTES)
    assert end == (16, 0, 0, 0, 0, LAST, 0)
