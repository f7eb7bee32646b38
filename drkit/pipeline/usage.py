"""Which frames some extents use, and how much of each, added up over many maps.

Memory: 16 bytes for each frame of the packs used, half as much again while a table grows, and some 150 bytes for each
pack; nothing for each chunk or extent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from drkit.pipeline.mapping import Indices, Map

FRAME_USES = np.dtype([(name, "<u4") for name in ("pack", "number", "sealed", "raw", "used", "extents")])
_COLUMNS = ("sealed", "raw", "used", "extents")
_ROUND = 16  # places are given to packs in such steps

UseTable = npt.NDArray[np.void]
Counts = npt.NDArray[np.uint32]


class FrameUsage:
    """Not thread-safe. The frames of a pack have places in the tables, one after another."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._index: dict[bytes, int] = {}
        self._first = np.zeros(0, dtype=np.int64)  # of each pack, its first place
        self._room = np.zeros(0, dtype=np.int64)  # and how many it has
        self._table: dict[str, Counts] = {name: np.zeros(0, dtype=np.uint32) for name in _COLUMNS}
        self._end = 0
        self.epochs: set[int] = set()

    @property
    def packs(self) -> list[bytes]:
        """Object ids of the packs used; `pack` of a row is a position in it."""
        return list(self._index)

    def place(self, pack_id: bytes, number: int) -> int | None:
        """In the tables; None for a frame of a pack that is not used, or past those of it that are."""
        at = self._index.get(pack_id)
        return None if at is None or number >= self._room[at] else int(self._first[at]) + number

    def keep_extents(self) -> Counts:
        """By place: how many extents use the frame. Forgets all else but the places; nothing can be added any more."""
        kept = self._table["extents"][: self._end].copy()
        self._table.clear()
        return kept

    def add(self, table: Map, extents: Indices) -> None:
        """Count what these extents of a map use; each extent of a map is to be counted once."""
        uses = table.uses(extents, self._chunk_bytes)
        frames = table.frames[uses.frame]
        position = np.zeros(len(table.packs), dtype=np.int64)
        for index in np.unique(frames["pack"]).tolist():
            pack = table.packs[index]
            position[index] = self._index.setdefault(pack["id"].tobytes(), len(self._index))
            self.epochs.add(int(pack["epoch"]))
        packs, numbers = position[frames["pack"]], frames["number"].astype(np.int64)
        self._make_room(packs, numbers)
        places = self._first[packs] + numbers
        sealed, raw, used, count = (self._table[name] for name in _COLUMNS)
        sealed[places], raw[places] = frames["sealed"], frames["raw"]
        np.add.at(used, places, uses.used.astype(np.uint32))
        used[places] = np.minimum(used[places], raw[places])
        np.add.at(count, places, uses.extents.astype(np.uint32))

    def frames(self) -> UseTable:
        """One row for each frame used; `used` is at most `raw`."""
        owner = np.zeros(self._end, dtype=np.uint32)
        number = np.zeros(self._end, dtype=np.uint32)
        for at, (first, room) in enumerate(zip(self._first.tolist(), self._room.tolist(), strict=True)):
            owner[first : first + room] = at
            number[first : first + room] = np.arange(room)
        there = np.flatnonzero(self._table["extents"][: self._end])
        found = np.empty(len(there), dtype=FRAME_USES)
        found["pack"], found["number"] = owner[there], number[there]
        for name in _COLUMNS:
            found[name] = self._table[name][there]
        return found

    def _make_room(self, packs: Indices, numbers: Indices) -> None:
        """Places for these frames; a pack that outgrows its own gets new ones."""
        count = len(self._index)
        new = np.zeros(count - len(self._room), dtype=np.int64)
        self._first, self._room = np.concatenate((self._first, new)), np.concatenate((self._room, new))
        needed = np.zeros(count, dtype=np.int64)
        np.maximum.at(needed, packs, numbers + 1)
        for at in np.flatnonzero(needed > self._room).tolist():
            first, room = int(self._first[at]), int(self._room[at])
            wanted = max(2 * room, -(-int(needed[at]) // _ROUND) * _ROUND)
            self._first[at], self._room[at] = self._end, wanted
            self._end += wanted
            self._grow()
            for column in self._table.values():
                column[self._end - wanted : self._end - wanted + room] = column[first : first + room]
                column[first : first + room] = 0

    def _grow(self) -> None:
        for name, column in self._table.items():
            if len(column) < self._end:
                self._table[name] = np.zeros(self._end + self._end // 2, dtype=np.uint32)
                self._table[name][: len(column)] = column


def useful(frames: UseTable) -> npt.NDArray[np.float64]:
    """Of each frame the sealed bytes that its used part would have alone: what storing it again would send."""
    sealed: npt.NDArray[np.float64] = frames["sealed"] * (frames["used"] / np.maximum(frames["raw"], 1))
    return sealed


class Countdown:
    """How often each frame is still to be used, from a plan made in advance. Thread-safe.

    Memory: 4 bytes for each frame of the packs used.
    """

    def __init__(self, usage: FrameUsage) -> None:
        self._place, self._left, self._lock = usage.place, usage.keep_extents(), threading.Lock()

    def last(self, pack_id: bytes, number: int, extents: int) -> bool:
        """Whether nobody but so many extents that are read now needs a frame any more."""
        at = self._place(pack_id, number)
        return at is not None and int(self._left[at]) == extents

    def used(self, pack_id: bytes, number: int, extents: int) -> bool:
        """Count that so many extents have had what they need of a frame; whether it is needed no more."""
        at = self._place(pack_id, number)
        if at is None:
            return False
        with self._lock:
            self._left[at] -= min(extents, int(self._left[at]))
            return not self._left[at]


def used_extents(placements: Iterable[tuple[bytes, int]]) -> dict[bytes, Indices]:
    """Extents used of each map, sorted and without duplicates, from (map id, extent) pairs.

    Memory: 16 bytes for each pair, and for each map its id.
    """
    index: dict[bytes, int] = {}
    flat = (index.setdefault(map_id, len(index)) << 32 | extent for map_id, extent in placements)
    pairs: npt.NDArray[np.int64] = np.unique(np.fromiter(flat, dtype=np.int64))
    extents = pairs & 0xFFFFFFFF
    cuts = np.searchsorted(pairs >> 32, np.arange(1, len(index)))
    return dict(zip(index, np.split(extents, cuts), strict=True)) if index else {}
