"""The map codec: what it returns holds together, whatever it was given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Damage
from drkit.pipeline.mapping import EXTENTS, FRAMES, PACKS, RUNS, ZEROS, Map, decode, encode, expand, pack_row
from drkit.pipeline.stager import decode_marks
from tests.pipeline.rebuild import read_tables

CHUNK = 16


@st.composite
def maps(draw: st.DrawFn) -> Map:
    packs = draw(st.integers(0, 3))
    frames = draw(st.integers(0, 4)) if packs else 0
    rows = [(draw(st.integers(0, 2**40)), draw(st.integers(0, packs - 1)), n, 40, 400) for n in range(frames)]
    extents: list[tuple[object, ...]] = []
    runs: list[tuple[int, int, int, int]] = []
    for _ in range(draw(st.integers(0, 4))):
        first, chunk = len(runs), 0
        for _ in range(draw(st.integers(1, 4))):
            chunks = draw(st.integers(1, 5))
            frame = draw(st.sampled_from([ZEROS, *range(frames)]))
            runs.append((chunk, chunks, frame, 0 if frame == ZEROS else draw(st.integers(0, 399))))
            chunk += chunks
        length = chunk * CHUNK - draw(st.integers(0, CHUNK - 1))
        digest = np.void(draw(st.binary(min_size=32, max_size=32)))
        extents.append((digest, draw(st.integers(0, 2**32 - 1)), length, first, len(runs) - first))
    made = [pack_row(bytes([n]) * 16, 1, bytes([n]) * 40) for n in range(packs)]
    return Map(
        np.concatenate(made) if made else np.empty(0, dtype=PACKS),
        np.array(rows, dtype=FRAMES),
        np.array(extents, dtype=EXTENTS),
        np.array(runs, dtype=RUNS),
    )


def follow(found: Map) -> None:
    """Walk every reference of a map as its readers do: nothing may be out of range."""
    found.uses(np.arange(len(found.extents)), CHUNK)
    found.touching(np.ones(len(found.frames), dtype=np.bool_))
    for index in range(len(found.extents)):
        extent = found.extent(index)
        assert len(extent.digest) == 32 and len(extent.runs)
        assert int(extent.runs["chunks"].astype(np.int64).sum()) <= extent.length
        if extent.length <= 1 << 20:
            frames, offsets = expand(extent.runs, CHUNK)
            assert len(frames) == len(offsets)
        for run in extent.runs:
            if run["frame"] != ZEROS:
                frame = found.frames[int(run["frame"])]
                assert int(run["offset"]) < int(frame["raw"])
                _ = found.packs[int(frame["pack"])]


@given(maps())
def test_a_map_comes_back(made: Map) -> None:
    data = encode(made)
    found = decode(data, "m")
    for before, after in zip(
        (made.packs, made.frames, made.extents, made.runs),
        (found.packs, found.frames, found.extents, found.runs),
        strict=True,
    ):
        assert before.tobytes() == after.tobytes()
    assert len(read_tables(data).runs) == len(made.runs)
    follow(found)


@given(maps(), st.data())
@settings(max_examples=300)
def test_a_map_with_a_bit_turned_round_is_damage_or_holds_together(made: Map, data: st.DataObject) -> None:
    broken = bytearray(encode(made))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, len(broken) * 8 - 1))
        broken[bit // 8] ^= 1 << bit % 8
    try:
        found = decode(bytes(broken), "m")
    except Damage:
        return
    follow(found)


@given(maps())
def test_a_map_cut_or_continued_is_damage(made: Map) -> None:
    data = encode(made)
    for length in range(len(data)):
        with pytest.raises(Damage):
            decode(data[:length], "m")
    with pytest.raises(Damage):
        decode(data + b"\0", "m")


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_arbitrary_bytes_are_damage_or_a_map(data: bytes) -> None:
    try:
        follow(decode(data, "m"))
    except Damage:
        pass


def extent_map(runs: list[tuple[int, int, int, int]], length: int, raw: int = 64) -> bytes:
    frames = np.array([(128, 0, 0, 40, raw)], dtype=FRAMES)
    extents = np.array([(np.void(bytes(32)), 0, length, 0, len(runs))], dtype=EXTENTS)
    return encode(Map(pack_row(bytes(16), 1, bytes(40)), frames, extents, np.array(runs, dtype=RUNS)))


@pytest.mark.parametrize(
    ("runs", "length"),
    [
        ([(1, 1, 0, 0)], 64),
        ([(0, 1, 0, 0), (2, 1, 0, 0)], 64),
        ([(0, 2, 0, 0), (1, 1, 0, 0)], 64),
        ([(0, 0, 0, 0)], 64),
        ([(0, 1, 1, 0)], 64),
        ([(0, 1, 0, 64)], 64),
        ([(0, 65, ZEROS, 0)], 64),
        ([(0, 2**32 - 1, ZEROS, 0), (2**32 - 1, 1, ZEROS, 0)], 64),
        ([], 64),
    ],
)
def test_runs_that_do_not_cover_an_extent_are_damage(runs: list[tuple[int, int, int, int]], length: int) -> None:
    assert decode(extent_map([(0, 4, 0, 0)], 64), "m")
    with pytest.raises(Damage):
        decode(extent_map(runs, length), "m")


@given(st.binary(max_size=200))
def test_fingerprints_that_do_not_fit_are_a_value_error(content: bytes) -> None:
    try:
        found = decode_marks(content)
    except ValueError:
        return
    assert sum(map(len, found)) * 8 + len(found) * 4 + 8 == len(content)
