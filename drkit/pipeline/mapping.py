"""The map: where the chunks of extents lie in packs (docs/format.md, section 5, to the byte).

A decoded map is four numpy tables; nothing of a map that does not hold together is ever returned.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drkit.core.errors import Damage

PACKS = np.dtype([("id", "V16"), ("epoch", "<u4"), ("zero", "<u4"), ("wrap", "V40")])
FRAMES = np.dtype([("offset", "<u8"), ("pack", "<u4"), ("number", "<u4"), ("sealed", "<u4"), ("raw", "<u4")])
EXTENTS = np.dtype([("digest", "V32"), ("crc", "<u4"), ("length", "<u4"), ("run", "<u4"), ("runs", "<u4")])
RUNS = np.dtype([("chunk", "<u4"), ("chunks", "<u4"), ("frame", "<u4"), ("offset", "<u4")])
ZEROS = 0xFFFFFFFF
_HEAD = struct.Struct("<IIII")

Table = npt.NDArray[np.void]
Indices = npt.NDArray[np.int64]
Marked = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Extent:
    """One extent of a map: digest (32 bytes), CRC-32C, length in bytes, and its runs."""

    digest: bytes
    crc: int
    length: int
    runs: Table


@dataclass(frozen=True, slots=True)
class Uses:
    """What some extents use of frames. frame: index in the map; used: raw bytes; extents: how many of them use it."""

    frame: Indices
    used: Indices
    extents: Indices


@dataclass(frozen=True, slots=True)
class Map:
    packs: Table
    frames: Table
    extents: Table
    runs: Table

    @property
    def size_bytes(self) -> int:
        """Of its tables in memory."""
        return int(self.packs.nbytes + self.frames.nbytes + self.extents.nbytes + self.runs.nbytes)

    def extent(self, index: int) -> Extent:
        row = self.extents[index]
        first = int(row["run"])
        return Extent(
            row["digest"].tobytes(), int(row["crc"]), int(row["length"]), self.runs[first : first + int(row["runs"])]
        )

    def uses(self, extents: Indices, chunk_bytes: int) -> Uses:
        """What these extents use of each frame; frames that they do not use are left out."""
        rows = self.extents[extents]
        owner, runs = self._runs_of(rows)
        length = rows["length"].astype(np.int64)[owner]
        size = np.minimum(runs["chunks"] * np.int64(chunk_bytes), length - runs["chunk"] * np.int64(chunk_bytes))
        real = runs["frame"] != ZEROS
        frame = runs["frame"][real].astype(np.int64)
        used = np.bincount(frame, weights=np.maximum(size[real], 0), minlength=len(self.frames)).astype(np.int64)
        pairs = np.unique(owner[real] << 32 | frame)
        count = np.bincount(pairs & 0xFFFFFFFF, minlength=len(self.frames))
        found = np.flatnonzero(count)
        return Uses(found, np.minimum(used[found], self.frames["raw"][found]), count[found])

    def touching(self, frames: Marked) -> Marked:
        """For each extent whether it uses any of the marked frames."""
        owner, runs = self._runs_of(self.extents)
        hit = marked(runs["frame"], frames)
        found: Marked = np.bincount(owner[hit], minlength=len(self.extents)) > 0
        return found

    def _runs_of(self, rows: Table) -> tuple[Indices, Table]:
        """The runs of some extents, and for each the position of its extent in `rows`."""
        counts = rows["runs"].astype(np.int64)
        owner = np.repeat(np.arange(len(rows)), counts)
        starts = rows["run"].astype(np.int64) - (np.cumsum(counts) - counts)
        return owner, self.runs[starts[owner] + np.arange(len(owner))]


def marked(frames: npt.NDArray[np.uint32], marks: Marked) -> Marked:
    """For each of these indices of frames whether it is marked; zeros lie in no frame."""
    if not len(marks):
        return np.zeros(len(frames), dtype=np.bool_)
    real = frames != ZEROS
    found: Marked = real & marks[np.where(real, frames, 0)]
    return found


def encode(m: Map) -> bytes:
    tables = (m.packs, m.frames, m.extents, m.runs)
    return b"".join([_HEAD.pack(*map(len, tables)), *(np.ascontiguousarray(t).tobytes() for t in tables)])


def decode(data: bytes, where: str) -> Map:
    """Read a map's joined frames; raises Damage when counts, references between tables or the cover do not hold.

    What it returns may be followed without further checks: every index lies within its table, the runs of an extent
    begin at chunk 0 and leave no gap, and none names more chunks than the extent has bytes.
    """
    if len(data) < _HEAD.size:
        raise Damage("a map is shorter than its head", where=where)
    counts = _HEAD.unpack_from(data)
    tables: list[Table] = []
    position = _HEAD.size
    for dtype, count in zip((PACKS, FRAMES, EXTENTS, RUNS), counts, strict=True):
        end = position + dtype.itemsize * count
        if end > len(data):
            raise Damage("a map ends inside a table", where=where)
        tables.append(np.frombuffer(data, dtype=dtype, count=count, offset=position))
        position = end
    if position != len(data):
        raise Damage("a map has bytes after its tables", where=where)
    result = Map(*tables)
    _check(result, where)
    return result


def _check(m: Map, where: str) -> None:
    ends = m.extents["run"].astype(np.int64) + m.extents["runs"]
    real = m.runs[m.runs["frame"] != ZEROS]
    if (
        (len(ends) and int(ends.max()) > len(m.runs))
        or (len(real) and int(real["frame"].max()) >= len(m.frames))
        or (len(m.frames) and int(m.frames["pack"].max()) >= len(m.packs))
    ):
        raise Damage("a map refers past its own tables", where=where)
    if len(real) and bool((real["offset"] >= m.frames[real["frame"]]["raw"]).any()):
        raise Damage("a map refers past a frame", where=where)
    counts = m.extents["runs"].astype(np.int64)
    owner, runs = m._runs_of(m.extents)
    chunks = runs["chunks"].astype(np.int64)
    after = np.cumsum(chunks)
    first = np.cumsum(counts) - counts  # of each extent, among `runs`
    before = np.concatenate(([0], after))
    starts = after - chunks - before[first][owner]
    if bool((counts < 1).any()) or bool((runs["chunk"] != starts).any()) or bool((chunks < 1).any()):
        raise Damage("the runs of an extent do not cover it", where=where)
    if bool((before[first + counts] - before[first] > m.extents["length"]).any()):
        raise Damage("an extent has more chunks than bytes", where=where)


def pack_row(object_id: bytes, epoch: int, wrap: bytes) -> Table:
    row = np.zeros(1, dtype=PACKS)
    row["id"], row["epoch"], row["wrap"] = np.void(object_id), epoch, np.void(wrap)
    return row


def expand(runs: Table, chunk_bytes: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Frame and raw offset of every chunk of an extent, from its runs."""
    counts = runs["chunks"].astype(np.int64)
    frames = np.repeat(runs["frame"], counts)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    steps = (np.arange(len(frames), dtype=np.int64) - starts) * chunk_bytes
    return frames, (np.repeat(runs["offset"], counts) + steps).astype(np.uint32)
