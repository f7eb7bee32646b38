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


@dataclass(frozen=True, slots=True)
class Extent:
    """One extent of a map: digest (32 bytes), CRC-32C, length in bytes, and its runs."""

    digest: bytes
    crc: int
    length: int
    runs: Table


@dataclass(frozen=True, slots=True)
class Map:
    packs: Table
    frames: Table
    extents: Table
    runs: Table

    def extent(self, index: int) -> Extent:
        row = self.extents[index]
        first = int(row["run"])
        return Extent(
            row["digest"].tobytes(), int(row["crc"]), int(row["length"]), self.runs[first : first + int(row["runs"])]
        )

    def frames_of(self, extent_indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Indices of the frames that these extents use, without duplicates, sorted."""
        rows = self.extents[extent_indices]
        used = [self.runs[int(r["run"]) : int(r["run"]) + int(r["runs"])]["frame"] for r in rows]
        if not used:
            return np.empty(0, dtype=np.int64)
        found: npt.NDArray[np.int64] = np.unique(np.concatenate(used)).astype(np.int64)
        real: npt.NDArray[np.int64] = found[found != ZEROS]
        return real


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
    for row in m.extents:
        runs = m.runs[int(row["run"]) : int(row["run"]) + int(row["runs"])]
        chunks = runs["chunks"].astype(np.int64)
        starts = np.cumsum(chunks) - chunks
        if not len(runs) or bool((runs["chunk"] != starts).any()) or int(chunks.min()) < 1:
            raise Damage("the runs of an extent do not cover it", where=where)
        if int(chunks.sum()) > int(row["length"]):
            raise Damage("an extent has more chunks than bytes", where=where)


def pack_row(object_id: bytes, epoch: int, wrap: bytes) -> Table:
    row = np.zeros(1, dtype=PACKS)
    row["id"], row["epoch"], row["wrap"] = np.void(object_id), epoch, np.void(wrap)
    return row
