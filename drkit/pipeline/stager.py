"""The stager: one worker's open frame, pack and map.

It takes extents, stores only the chunks that the one before does not have, and hands finished packs, maps and
fingerprints on. One stager belongs to one thread; stagers share nothing but the numbering.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from drkit.core.errors import Damage
from drkit.pipeline.adopting import Adoptable, Before, Sizes, adoptable
from drkit.pipeline.digests import Buffer, Fingerprints, extent_digest, fingerprints
from drkit.pipeline.mapping import EXTENTS, FRAMES, PACKS, RUNS, ZEROS, Map, Table, encode, marked, pack_row

KIND_PACK, KIND_MAP, KIND_FINGERPRINTS = 3, 4, 5


class PlacedFrame(Protocol):
    @property
    def offset(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def sealed_bytes(self) -> int: ...


class ObjectHeader(Protocol):
    @property
    def epoch(self) -> int: ...
    @property
    def wrap(self) -> bytes: ...


class SealedObject(Protocol):
    """A finished object: parts to be written in order; digest: its last 32 bytes."""

    @property
    def parts(self) -> Sequence[bytes]: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def digest(self) -> bytes: ...


class ObjectWriter(Protocol):
    """What the stager needs of an object being sealed."""

    size_bytes: int

    def frame(
        self, payload: bytes | memoryview, raw_bytes: int, *, codec: int, type: int = 0, flags: int = 0
    ) -> PlacedFrame: ...
    def finish(self) -> SealedObject: ...


class Numbers:
    """Counts objects of a run from 0, apart for packs and maps. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = {KIND_PACK: 0, KIND_MAP: 0}

    def take(self, kind: int) -> int:
        with self._lock:
            number = self._next[kind]
            self._next[kind] = number + 1
            return number


@dataclass(frozen=True, slots=True)
class Product:
    """A finished object of the run: kind, number within the run, its sealed bytes, and for a map its tables."""

    kind: int
    number: int
    sealed: SealedObject
    map: Map | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an extent went: map id (16 bytes) and index in it; new_bytes: raw bytes stored for it.

    again_bytes: of those the ones that the parent has too, where it takes too much to fetch
    """

    map_id: bytes
    index: int
    digest: bytes
    crc: int
    length: int
    new_bytes: int
    again_bytes: int = 0


@dataclass(slots=True)
class _OpenMap:
    number: int
    packs: list[Table] = field(default_factory=list)
    pack_index: dict[bytes, int] = field(default_factory=dict)
    frames: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    frame_index: dict[tuple[bytes, int], int] = field(default_factory=dict)
    extents: list[tuple[bytes, int, int, int, int]] = field(default_factory=list)
    runs: list[Table] = field(default_factory=list)
    run_count: int = 0
    marks: list[Fingerprints] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        counts = (len(self.packs), len(self.frames), len(self.extents), self.run_count)
        return sum(n * t.itemsize for n, t in zip(counts, (PACKS, FRAMES, EXTENTS, RUNS), strict=True))


class Stager:
    """See the module. `emit` may block (bounded queues) and may raise (the run is cancelled).

    run: 12 bytes of the backup's id. seal(kind, object id): begins an object. header: epoch and wrap of the run's key.
    level: of zstd; 0: content is stored as it is.
    """

    def __init__(
        self,
        *,
        run: bytes,
        numbers: Numbers,
        seal: Callable[[int, bytes], ObjectWriter],
        header: ObjectHeader,
        emit: Callable[[Product], None],
        level: int,
        fingerprint_key: bytes,
        sizes: Sizes,
    ) -> None:
        self._run, self._numbers, self._seal, self._header, self._emit = run, numbers, seal, header, emit
        self._sizes = sizes
        self._key = fingerprint_key
        self._level = level
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        self._zero_mark = int(fingerprints(bytes(sizes.chunk), fingerprint_key, sizes.chunk)[0])
        self._proof = Proof(max(sizes.frame, sizes.chunk))
        self._raw = bytearray(max(sizes.frame, sizes.chunk))
        self._filled = 0  # bytes of _raw
        self._open_frame = -1  # index in the open map of the frame that _raw becomes
        self._pack: tuple[int, bytes, ObjectWriter] | None = None
        self._map: _OpenMap | None = None

    def place(self, data: Buffer, before: Before | None) -> Placed:
        """Store one extent (1 to `sizes.extent` bytes), or find that the parent has it already."""
        digest, crc = extent_digest(data)
        equal = False
        if before is not None:
            old = before.map.extent(before.index)
            equal = old.length == len(data) and old.digest == digest
            if equal and not before.renew and not marked(old.runs["frame"], before.thin).any():
                return Placed(before.map_id, before.index, digest, crc, len(data), 0)
        marks = fingerprints(data, self._key, self._sizes.chunk)
        opened = self._map
        if opened is None:
            opened = self._map = _OpenMap(self._numbers.take(KIND_MAP))
        frames, offsets, new_bytes, again_bytes = self._lay(opened, data, marks, before, equal)
        first = opened.run_count
        runs = _runs(frames, offsets, self._sizes.chunk)
        opened.runs.append(runs)
        opened.run_count += len(runs)
        opened.extents.append((digest, crc, len(data), first, len(runs)))
        opened.marks.append(marks)
        at = len(opened.extents) - 1
        placed = Placed(self._id(opened.number), at, digest, crc, len(data), new_bytes, again_bytes)
        if len(opened.extents) >= self._sizes.map_extents or opened.size_bytes >= self._sizes.map_bytes:
            self._close_map()
        return placed

    def finish(self) -> None:
        """Close what is open and emit it. The stager may be used again afterwards."""
        self._close_map()
        self._close_pack()

    def _id(self, number: int) -> bytes:
        return self._run + number.to_bytes(4, "big")

    def _lay(
        self, opened: _OpenMap, data: Buffer, marks: Fingerprints, before: Before | None, equal: bool
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], int, int]:
        """For each chunk the frame (index in the open map) and the raw offset where it lies; bytes new, bytes again."""
        chunk, count = self._sizes.chunk, len(marks)
        frames = np.full(count, ZEROS, dtype=np.uint32)
        offsets = np.zeros(count, dtype=np.uint32)
        todo = ~_zeros(data, marks, chunk, self._zero_mark)
        again_bytes = 0
        if before is not None:
            found = adoptable(before, marks, len(data), todo, self._sizes, equal=equal)
            if found is not None:
                self._adopt(opened, before, found, todo, frames, offsets)
                again_bytes = found.again_bytes
        view, new_bytes = memoryview(data), 0
        for start, stop in _spans(todo):
            position = start
            while position < stop:
                take = min(max(1, (self._sizes.frame - self._filled) // chunk), stop - position)
                frames[position : position + take] = self._reserve(opened)
                offsets[position : position + take] = self._filled + np.arange(take, dtype=np.uint32) * chunk
                piece = view[position * chunk : (position + take) * chunk]
                self._fill(opened, piece)
                new_bytes += len(piece)
                position += take
        return frames, offsets, new_bytes, again_bytes

    def _reserve(self, opened: _OpenMap) -> int:
        """Index of the frame that is being filled."""
        if self._open_frame < 0:
            self._open_frame = len(opened.frames)
            opened.frames.append((0, 0, 0, 0, 0))
        return self._open_frame

    def _fill(self, opened: _OpenMap, piece: memoryview) -> None:
        """Append to the open frame, and close it when it is full. What fills a whole frame is not copied."""
        full = self._filled + len(piece) + self._sizes.chunk > self._sizes.frame
        if full and not self._filled:
            self._seal_frame(opened, piece)
            return
        self._raw[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)
        if full:
            self._close_frame(opened)

    def _adopt(
        self,
        opened: _OpenMap,
        before: Before,
        found: Adoptable,
        todo: npt.NDArray[np.bool_],
        frames: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.uint32],
    ) -> None:
        """Point chunks at the parent's frames and clear their `todo`."""
        chosen = np.flatnonzero(found.same)
        indices, inverse = np.unique(found.frames[chosen], return_inverse=True)
        table = np.array([self._foreign_frame(opened, before.map, i) for i in indices.tolist()], dtype=np.uint32)
        frames[chosen] = table[inverse]
        offsets[chosen] = found.offsets[chosen]
        todo &= ~found.same

    def _foreign_frame(self, opened: _OpenMap, source: Map, index: int) -> int:
        row = source.frames[index]
        pack = source.packs[int(row["pack"])]
        pack_id = pack["id"].tobytes()
        key = (pack_id, int(row["number"]))
        found = opened.frame_index.get(key)
        if found is None:
            found = opened.frame_index[key] = len(opened.frames)
            pack_at = self._pack_index(opened, pack_id, int(pack["epoch"]), pack["wrap"].tobytes())
            opened.frames.append((int(row["offset"]), pack_at, int(row["number"]), int(row["sealed"]), int(row["raw"])))
        return found

    @staticmethod
    def _pack_index(opened: _OpenMap, pack_id: bytes, epoch: int, wrap: bytes) -> int:
        at = opened.pack_index.get(pack_id)
        if at is None:
            at = opened.pack_index[pack_id] = len(opened.packs)
            opened.packs.append(pack_row(pack_id, epoch, wrap))
        return at

    def _close_frame(self, opened: _OpenMap) -> None:
        if self._filled:
            with memoryview(self._raw) as view:
                self._seal_frame(opened, view[: self._filled])
            self._filled = 0

    def _seal_frame(self, opened: _OpenMap, raw: memoryview) -> None:
        """The open frame gets this content."""
        if self._pack is None:
            number = self._numbers.take(KIND_PACK)
            self._pack = (number, self._id(number), self._seal(KIND_PACK, self._id(number)))
        _, pack_id, writer = self._pack
        payload, codec = self._compress(raw)
        if codec and not self._proof(payload, raw):
            raise Damage("a frame did not decompress to what was read", cure="test this machine's memory")
        placed = writer.frame(payload, len(raw), codec=codec)
        at = self._pack_index(opened, pack_id, self._header.epoch, self._header.wrap)
        opened.frames[self._open_frame] = (placed.offset, at, placed.number, placed.sealed_bytes, len(raw))
        self._open_frame = -1
        if writer.size_bytes >= self._sizes.pack:
            self._close_pack()

    def _compress(self, raw: Buffer) -> tuple[bytes, int]:
        if not self._level:
            return bytes(raw), 0
        packed = self._compressor.compress(raw)
        return (packed, 1) if len(packed) < len(raw) else (bytes(raw), 0)

    def _close_pack(self) -> None:
        if self._pack is None:
            return
        number, _, writer = self._pack
        self._pack = None
        self._emit(Product(KIND_PACK, number, writer.finish()))

    def _close_map(self) -> None:
        opened = self._map
        if opened is None:
            return
        self._close_frame(opened)
        self._map = None
        made = Map(
            np.concatenate(opened.packs) if opened.packs else np.empty(0, dtype=PACKS),
            np.array(opened.frames, dtype=FRAMES),
            np.array([(np.void(d), c, n, r, k) for d, c, n, r, k in opened.extents], dtype=EXTENTS),
            np.concatenate(opened.runs) if opened.runs else np.empty(0, dtype=RUNS),
        )
        heads = np.array([len(m) for m in opened.marks], dtype="<u4").tobytes()
        marks = len(opened.marks).to_bytes(4, "little") + bytes(4) + heads + b"".join(m.tobytes() for m in opened.marks)
        self._emit_table(KIND_FINGERPRINTS, opened.number, marks, None)
        self._emit_table(KIND_MAP, opened.number, encode(made), made)

    def _emit_table(self, kind: int, number: int, content: bytes, made: Map | None) -> None:
        writer = self._seal(kind, self._id(number))
        step = 4 << 20
        for start in range(0, len(content), step):
            piece = content[start : start + step]
            payload, codec = self._compress(piece)
            writer.frame(payload, len(piece), codec=codec)
        self._emit(Product(kind, number, writer.finish(), made))


class Proof:
    """Whether a compressed frame gives back what was read.

    size_bytes: of the largest frame. One to a thread. Its buffer is used again: a fresh one costs more than the work.
    """

    def __init__(self, size_bytes: int) -> None:
        self._decompressor = zstandard.ZstdDecompressor()
        self._buffer = bytearray(size_bytes)

    def __call__(self, payload: bytes, raw: memoryview) -> bool:
        with self._decompressor.stream_reader(payload) as reader:
            got = reader.readinto(self._buffer)
            whole = got == len(raw) and not reader.read(1)
        return whole and (self._buffer if got == len(self._buffer) else self._buffer[:got]) == raw


def decode_marks(content: bytes) -> list[Fingerprints]:
    """The fingerprints of each extent of a map, from the joined frames of its fingerprints object.

    Raises ValueError where the sizes do not hold.
    """
    extents = int.from_bytes(content[:4], "little")
    counts = np.frombuffer(content, dtype="<u4", count=extents, offset=8).astype(np.int64)
    ends = np.cumsum(counts)
    if len(content) != 8 + 4 * extents + 8 * int(counts.sum()):
        raise ValueError("the counts do not fit the size")
    values = np.frombuffer(content, dtype="<u8", offset=8 + 4 * extents, count=int(ends[-1]) if extents else 0)
    return [values[end - n : end] for n, end in zip(counts.tolist(), ends.tolist(), strict=True)]


def _zeros(data: Buffer, marks: Fingerprints, chunk_bytes: int, zero_mark: int) -> npt.NDArray[np.bool_]:
    """For each chunk whether it is whole and all zeros: by its fingerprint, then by looking."""
    found: npt.NDArray[np.bool_] = marks == np.uint64(zero_mark)
    for at in np.flatnonzero(found).tolist():
        found[at] = not np.frombuffer(data, np.uint8)[at * chunk_bytes : (at + 1) * chunk_bytes].any()
    return found


def _spans(wanted: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open spans of consecutive True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], wanted.view(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _runs(frames: npt.NDArray[np.uint32], offsets: npt.NDArray[np.uint32], chunk_bytes: int) -> Table:
    """Join neighbouring chunks that lie one after another in one frame (or are both zeros)."""
    count = len(frames)
    cut = np.ones(count, dtype=np.bool_)
    if count > 1:
        follows = (frames[1:] == frames[:-1]) & (
            (frames[1:] == ZEROS) | (offsets[1:].astype(np.int64) - offsets[:-1] == chunk_bytes)
        )
        cut[1:] = ~follows
    starts = np.flatnonzero(cut)
    table = np.zeros(len(starts), dtype=RUNS)
    table["chunk"] = starts
    table["chunks"] = np.diff(np.append(starts, count))
    table["frame"] = frames[starts]
    table["offset"] = np.where(frames[starts] == ZEROS, 0, offsets[starts])
    return table
