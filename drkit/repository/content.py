"""Reads extents back: maps, frames by coalesced ranges, each once, from the first target that has them sound."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import blake3
import numpy as np

from drkit.core.cancel import CancelToken
from drkit.core.errors import Damage, DrkitError
from drkit.crypto.container import FRAME_BYTES, Header, Opener
from drkit.crypto.keys import Ring
from drkit.pipeline.mapping import ZEROS, Extent, Map
from drkit.pipeline.usage import Countdown, FrameUsage, used_extents
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.maps import open_map
from drkit.repository.readahead import FrameKey, ReadAhead, Span
from drkit.repository.shared import Shared, Slot
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import StorageError

FRAME_CACHE_BYTES = 256 << 20  # a frame for each worker of each of the backups on which an extent draws, at most 33
MAP_CACHE_BYTES = 128 << 20
RANGE_BYTES = 8 << 20
_MAX_GAP_BYTES = 128 << 10
_MAPS_AHEAD = 8
_NOWHERE = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Content:
    """An extent's bytes, verified. holes: half-open byte spans that hold only zeros, sorted."""

    data: memoryview
    extent: Extent
    holes: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Need:
    """A frame and what is copied out of it: (buffer, position there, position in the frame, bytes).

    extents: positions, among those read together, of the extents that use it.
    """

    pack: bytes
    epoch: int
    wrap: bytes
    offset: int
    number: int
    sealed: int
    raw: int
    copies: list[tuple[memoryview, int, int, int]] = field(default_factory=list)
    extents: set[int] = field(default_factory=set)

    def lay(self, raw: memoryview) -> None:
        """Copy from the opened frame to where its bytes belong; raises Damage where it is too short for that."""
        for data, position, offset, length in self.copies:
            if offset + length > self.raw:
                raise Damage("a map refers past a frame", why=f"pack {self.pack.hex()}, frame {self.number}")
            data[position : position + length] = raw[offset : offset + length]

    @property
    def place(self) -> memoryview | None:
        """Where the whole frame belongs as it is, if it does so at one place."""
        data, position, offset, length = self.copies[0]
        if len(self.copies) > 1 or offset or length != self.raw:
            return None
        return data[position : position + length]

    @property
    def key(self) -> FrameKey:
        return self.pack, self.number

    @property
    def end(self) -> int:
        return self.offset + FRAME_BYTES + self.sealed

    @property
    def span(self) -> Span:
        return Span(self.key, self.offset, self.end)


class ContentReader:
    """Extents of one cluster's backups. Thread-safe.

    Memory: the caches, and for each thread in `read` the extents asked for, and one range of at most 8 MiB
    with those of its frames that others need too; of a store far away, besides, what `ReadAhead` may hold, once for
    all threads, and 8 maps. Every frame is opened (authenticated), every extent's BLAKE3 and length checked.
    """

    def __init__(
        self,
        ring: Ring,
        layout: ClusterLayout,
        sources: Sources,
        *,
        chunk_bytes: int,
        frame_cache_bytes: int = FRAME_CACHE_BYTES,
        map_cache_bytes: int = MAP_CACHE_BYTES,
    ) -> None:
        self._ring, self._layout, self._sources = ring, layout, sources
        self._chunk_bytes = chunk_bytes
        self._frames: Shared[FrameKey, memoryview] = Shared(frame_cache_bytes, len)
        self._maps: Shared[bytes, Map] = Shared(map_cache_bytes, lambda found: found.size_bytes)
        self._countdown: Countdown | None = None
        self._scratch = threading.local()
        self._ahead = ReadAhead(sources)

    @property
    def ahead_bytes(self) -> int:
        """Of packs, read ahead and not used yet."""
        return self._ahead.held_bytes

    def expect(self, wanted: Iterable[tuple[bytes, int]], token: CancelToken) -> None:
        """Say what will be read, each extent once and in any order: a frame is then kept as long as one of them needs
        it, as far as the cache reaches, and no longer. Reads the maps. Raises as `Sources.attempt`, Cancelled.
        """
        usage = FrameUsage(self._chunk_bytes)
        used = used_extents(wanted)
        early = iter(used)
        for map_id in islice(early, _MAPS_AHEAD):
            self._map_early(map_id)
        for map_id, extents in used.items():
            token.check()
            found = self.map(map_id)
            for later in islice(early, 1):
                self._map_early(later)
            if int(extents[-1]) >= len(found.extents):
                raise _lacking(self._layout.data(Kind.MAP, map_id), int(extents[-1]))
            usage.add(found, extents)
        self._countdown = Countdown(usage)

    def map(self, map_id: bytes) -> Map:
        """A map by its id. Raises as `Sources.attempt`."""
        key = self._layout.data(Kind.MAP, map_id)

        def load(target: Target) -> Map:
            return open_map(self._ring, self._sources.read(target, key), key, map_id, target.where)

        return self._maps.get(map_id, lambda: self._sources.attempt(key, load))

    def _map_early(self, map_id: bytes) -> None:
        """Have a map of a store far away read by a thread of its own; who wants it waits, and meets its errors."""
        if not self._sources.far:
            return

        def root() -> None:
            with suppress(DrkitError, StorageError):
                self.map(map_id)

        threading.Thread(target=root, name="map", daemon=True).start()

    def extent(self, map_id: bytes, index: int) -> Extent:
        """What a map says of an extent; raises Damage where it has no such extent."""
        found = self.map(map_id)
        if index >= len(found.extents):
            raise _lacking(self._layout.data(Kind.MAP, map_id), index)
        return found.extent(index)

    def ahead(self, wanted: Sequence[tuple[bytes, int]]) -> None:
        """Have what a `read` of these extents will need fetched from a store far away, as far as there is room; this
        does not wait for it. The `read` must come, in the order of these calls. Raises as `extent`.
        """
        if not self._sources.far:  # nor are maps looked up in vain
            return
        needs: dict[FrameKey, _Need] = {}
        for map_id, index in wanted:
            self._lay(self.map(map_id), self.extent(map_id, index), _NOWHERE, needs, 0)
        self._begin(needs.values())

    def _begin(self, needs: Iterable[_Need]) -> None:
        if not self._sources.far:
            return
        missing = [need for need in needs if need.key not in self._frames]
        for group in _groups(missing, {need.key for need in missing}):
            key = self._layout.data(Kind.PACK, group[0].pack)
            target = next(iter(self._sources.order(key)), None)
            if target is not None and target.far:
                parts = _ranges(group, _gap_bytes(target))
                self._ahead.begin(target, key, ([need.span for need in part] for part in parts))

    def read(self, wanted: Sequence[tuple[bytes, int]], slab: memoryview | None = None) -> list[Content]:
        """The extents (map id, index), in the order asked for; the caller bounds their sum.

        slab: memory for them, where they fit; the contents lie in it until it is used again.
        Raises Damage where an extent is not what the backup read; else as `Sources.attempt`.
        """
        extents = [self.extent(map_id, index) for map_id, index in wanted]
        total = sum(extent.length for extent in extents)
        if slab is None or len(slab) < total:
            slab = np.empty(total, dtype=np.uint8).data
        contents: list[Content] = []
        needs: dict[FrameKey, _Need] = {}
        at = 0
        for (map_id, _), extent in zip(wanted, extents, strict=True):
            data = slab[at : at + extent.length]
            at += extent.length
            holes = self._lay(self.map(map_id), extent, data, needs, len(contents))
            for start, stop in holes:
                np.frombuffer(data, np.uint8)[start:stop] = 0
            contents.append(Content(data, extent, holes))
        alone = {key for key, need in needs.items() if self._is_ours(need)}
        self._begin(needs.values())
        try:
            for group in _groups(needs.values(), alone):
                self._fill(group, alone)
        finally:
            self._ahead.drop(needs)
        for (map_id, index), content in zip(wanted, contents, strict=True):
            if blake3.blake3(content.data).digest() != content.extent.digest:
                where = f"{self._layout.data(Kind.MAP, map_id)}, extent {index}"
                raise Damage("an extent is not what the backup read", where=where, why="its BLAKE3 differs")
        return contents

    def _lay(
        self, source: Map, extent: Extent, data: memoryview, needs: dict[FrameKey, _Need], number: int
    ) -> list[tuple[int, int]]:
        """Note for each run where its bytes come from; returns the zero spans."""
        holes: list[tuple[int, int]] = []
        chunk = self._chunk_bytes
        for run in extent.runs:
            start = int(run["chunk"]) * chunk
            stop = min(start + int(run["chunks"]) * chunk, extent.length)
            index = int(run["frame"])
            if index == ZEROS:
                holes.append((start, stop))
                continue
            frame = source.frames[index]
            pack = source.packs[int(frame["pack"])]
            key = (pack["id"].tobytes(), int(frame["number"]))
            need = needs.get(key)
            if need is None:
                need = needs[key] = _Need(
                    key[0], int(pack["epoch"]), pack["wrap"].tobytes(),
                    int(frame["offset"]), key[1], int(frame["sealed"]), int(frame["raw"]),
                )  # fmt: skip
            need.copies.append((data, start, int(run["offset"]), stop - start))
            need.extents.add(number)
        return holes

    def _fill(self, group: Sequence[_Need], alone: Collection[FrameKey]) -> None:
        """Fetch the frames of one pack that nobody has or fetches, then take the others' results."""
        shared: list[tuple[_Need, Slot[memoryview]]] = []
        mine: dict[FrameKey, _Need] = {}
        for need in group:
            if need.key in alone:
                mine[need.key] = need
                continue
            slot, claimed = self._frames.claim(need.key)
            shared.append((need, slot))
            if claimed:
                mine[need.key] = need
        key = self._layout.data(Kind.PACK, group[0].pack)
        try:
            if mine:
                self._sources.attempt(key, lambda target: self._fetch(target, key, mine, alone))
        except BaseException as error:
            for frame in mine:
                if frame not in alone:
                    self._frames.fail(frame, error)
            raise
        for need, slot in shared:
            need.lay(slot.result())
        for need in group:
            if self._countdown is not None and self._countdown.used(*need.key, len(need.extents)):
                self._frames.drop(need.key)

    def _is_ours(self, need: _Need) -> bool:
        """Whether nobody else needs the frame: it goes to its place at once, and no one keeps it."""
        return (
            self._countdown is not None
            and self._countdown.last(*need.key, len(need.extents))
            and need.key not in self._frames
        )

    def _fetch(self, target: Target, key: Key, left: dict[FrameKey, _Need], alone: Collection[FrameKey]) -> None:
        """Read and open the frames in `left` from one target; those that opened leave it even where others fail."""
        first = next(iter(left.values()))
        header = Header(Kind.PACK, self._ring.repository, first.pack, first.epoch, 0, 0, first.wrap)
        opener = Opener(self._ring, header, header.pack(), f"{target.where}: {key}")
        damage: Damage | None = None
        for need, sealed in self._sealed(target, key, list(left.values())):
            try:
                if need.key in alone:
                    self._open_at_place(opener, sealed, need)
                else:
                    raw = np.empty(need.raw, dtype=np.uint8)
                    opener.frame_into(sealed, need.number, raw.data)
                    self._frames.fill(need.key, raw.data)
            except Damage as error:
                damage = damage or error
                continue
            del left[need.key]
        if damage is not None:
            raise damage

    def _sealed(self, target: Target, key: Key, needs: Sequence[_Need]) -> Iterator[tuple[_Need, memoryview]]:
        """The frames of one pack as they are stored, from one target: first what was read ahead."""
        others = []
        for need in needs:
            sealed = self._ahead.take(target, need.key)
            if sealed is None:
                others.append(need)
            else:
                yield need, sealed
        for part in _ranges(others, _gap_bytes(target)):
            first = part[0]
            data = memoryview(self._sources.read(target, key, first.offset, part[-1].end - first.offset))
            for need in part:
                yield need, data[need.offset - first.offset : need.end - first.offset]

    def _open_at_place(self, opener: Opener, sealed: memoryview, need: _Need) -> None:
        place = need.place
        if place is not None:
            opener.frame_into(sealed, need.number, place)
            return
        scratch = getattr(self._scratch, "frame", None)
        if scratch is None or len(scratch) < need.raw:
            scratch = self._scratch.frame = np.empty(need.raw, dtype=np.uint8).data
        opener.frame_into(sealed, need.number, scratch[: need.raw])
        need.lay(scratch)


def _gap_bytes(target: Target) -> int:
    return min(target.backend.traits.range_read_min_bytes, _MAX_GAP_BYTES)


def _lacking(key: str, index: int) -> Damage:
    return Damage("a map lacks an extent", where=key, why=f"extent {index}")


def _groups(needs: Iterable[_Need], alone: Collection[FrameKey]) -> Iterator[list[_Need]]:
    """Frames of one pack in the order of their offsets, together at most RANGE_BYTES of what is held for them."""
    packs: dict[bytes, list[_Need]] = defaultdict(list)
    for need in needs:
        packs[need.pack].append(need)
    for members in packs.values():
        members.sort(key=lambda need: need.offset)
        group: list[_Need] = []
        size = 0
        for need in members:
            weight = need.sealed if need.key in alone else max(need.sealed, need.raw)
            if group and size + weight > RANGE_BYTES:
                yield group
                group, size = [], 0
            group.append(need)
            size += weight
        yield group


def _ranges(needs: Sequence[_Need], gap_bytes: int) -> Iterator[list[_Need]]:
    """Runs of frames that are read in one request: what lies between them costs less than another request."""
    part: list[_Need] = []
    for need in needs:
        if part and (need.offset - part[-1].end > gap_bytes or need.end - part[0].offset > 2 * RANGE_BYTES):
            yield part
            part = []
        part.append(need)
    if part:
        yield part
