"""Which chunks of an extent stay where the backup before has them: the unchanged ones that are not thin. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from drkit.pipeline.digests import Fingerprints
from drkit.pipeline.mapping import ZEROS, Map, Marked, expand, marked


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in bytes (fields of the format, chosen in docs/decisions); extents are whole multiples of chunks.

    A map is closed at `map_extents` or `map_bytes`, whichever comes first: a restore keeps some of them in memory.
    """

    chunk: int = 8192
    extent: int = 16 << 20
    frame: int = 1 << 20
    pack: int = 24 << 20
    map_extents: int = 256
    map_bytes: int = 1 << 20

    @property
    def extent_frames(self) -> int:
        """An extent on more frames than that is stored on fewer: four times as many as a fresh one has."""
        return max(8, 4 * self.extent // self.frame)

    @property
    def extent_runs(self) -> int:
        """An extent in more runs than that is stored whole: three of four chunks lie apart from their neighbours."""
        return max(64, self.extent // self.chunk * 3 // 4)


@dataclass(frozen=True, slots=True)
class Before:
    """An extent as the parent has it: its map, its index there, the map's id, and its fingerprints where known.

    thin: for each frame of the map whether its content is to be stored again (empty: none) · renew: the map is to go
    """

    map: Map
    map_id: bytes
    index: int
    marks: Fingerprints | None
    thin: Marked = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    renew: bool = False


@dataclass(frozen=True, slots=True)
class Adoptable:
    """same: for each chunk whether it stays · frames, offsets: where the parent has it, valid for those

    again_bytes: raw bytes of those that are unchanged and do not stay.
    """

    same: Marked
    frames: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    again_bytes: int


def adoptable(
    before: Before, marks: Fingerprints, length: int, wanted: Marked, sizes: Sizes, *, equal: bool
) -> Adoptable | None:
    """Of the chunks `wanted` of an extent of `length` bytes with these fingerprints; None: all is stored.

    equal: its bytes are the parent's; else its fingerprints there must be known.
    """
    old_marks = marks if equal else before.marks
    if old_marks is None:
        return None
    old = before.map.extent(before.index)
    common = min(length, old.length) // sizes.chunk  # a short last chunk is stored again
    if length == old.length:
        common = len(marks)
    common = min(common, len(old_marks), len(marks))
    frames, offsets = expand(old.runs, sizes.chunk)
    unchanged = np.zeros(len(marks), dtype=np.bool_)
    unchanged[:common] = (marks[:common] == old_marks[:common]) & wanted[:common] & (frames[:common] != ZEROS)
    if not unchanged.any():
        return None
    same = unchanged.copy()
    same[:common] &= ~marked(frames[:common], before.thin)
    _keep_together(same[:common], frames[:common], offsets[:common], sizes)
    dropped = unchanged & ~same
    short = len(marks) * sizes.chunk - length if dropped[-1] else 0
    return Adoptable(same, frames, offsets, int(np.count_nonzero(dropped)) * sizes.chunk - short)


def _keep_together(same: Marked, frames: npt.NDArray[np.uint32], offsets: npt.NDArray[np.uint32], sizes: Sizes) -> None:
    """Clear `same` where an extent would lie on too many frames, the least used first, or in too many runs."""
    chosen = np.flatnonzero(same)
    indices, inverse, counts = np.unique(frames[chosen], return_inverse=True, return_counts=True)
    if len(indices) > sizes.extent_frames:
        fewest = np.argsort(counts, kind="stable")[: len(indices) - sizes.extent_frames // 2]
        same[chosen[np.isin(inverse, fewest)]] = False
    follows = (frames[1:] == frames[:-1]) & (offsets[1:].astype(np.int64) - offsets[:-1] == sizes.chunk)
    joined = (same[1:] == same[:-1]) & (~same[1:] | follows)
    if len(same) - int(np.count_nonzero(joined)) > sizes.extent_runs:
        same[:] = False
