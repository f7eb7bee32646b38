"""Content read back: any extents in any order, from whichever target has them sound, each frame once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Damage, Missing, Unreachable
from drkit.crypto.container import DataKey
from drkit.pipeline.adopting import Before, Sizes
from drkit.pipeline.digests import fingerprints
from drkit.pipeline.stager import Numbers, Placed, Product, Stager
from drkit.repository.content import ContentReader
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.repository import Problem
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.api import Key, Reader, StorageBackend
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough
from tests.crypto.rings import ring, seeded

LAYOUT = ClusterLayout(7_300_000_000_000_000_001)
SIZES = Sizes(chunk=16, extent=512, frame=128, pack=700, map_extents=7)


class Counting(Passthrough):
    """Notes every ranged read."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.reads: Counter[tuple[str, int]] = Counter()
        self.lock = threading.Lock()

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        with self.lock:
            self.reads[key, start] += 1
        return super().open(key, start, length)


class Sample:
    """Generations of extents, stored on one or two targets; `data[i]` is what `placed[i]` must read back as."""

    def __init__(self, seed: int = 1, extents: int = 20, generations: int = 3) -> None:
        self.ring = ring()
        self.stores: dict[str, StorageBackend] = {"a": MemoryBackend("a"), "b": MemoryBackend("b")}
        self.placed: list[Placed] = []
        self.data: list[bytes] = []
        draw = random.Random(seed)
        now = [self._extent(draw) for _ in range(extents)]
        before: list[Before | None] = [None] * extents
        for number in range(generations):
            placed, before = self._store(number, now, before)
            self.placed, self.data = self.placed + placed, self.data + now
            now = [self._changed(draw, data) for data in now]

    @staticmethod
    def _extent(draw: random.Random) -> bytes:
        length = draw.choice([SIZES.extent, SIZES.extent, draw.randrange(1, SIZES.extent)])
        data = bytearray(draw.randbytes(length))
        hole = draw.randrange(length)
        data[hole : hole + 150] = bytes(len(data[hole : hole + 150]))
        return bytes(data)

    @staticmethod
    def _changed(draw: random.Random, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(draw.randrange(3)):
            at = draw.randrange(len(changed))
            changed[at : at + 9] = draw.randbytes(len(changed[at : at + 9]))
        return bytes(changed)

    def _store(
        self, number: int, extents: Sequence[bytes], before: Sequence[Before | None]
    ) -> tuple[list[Placed], list[Before | None]]:
        run = RunId(1_770_000_000 + number, bytes([number] * 4))
        key = DataKey(self.ring, seeded(number))
        products: list[Product] = []
        stager = Stager(
            run=run.binary,
            numbers=Numbers(),
            seal=key.writer,
            header=key.header(Kind.PACK, bytes(16)),
            emit=products.append,
            level=1,
            fingerprint_key=self.ring.fingerprint_key,
            sizes=SIZES,
        )
        placed = [stager.place(data, old) for data, old in zip(extents, before, strict=True)]
        stager.finish()
        maps = {}
        for product in products:
            object_id = run.binary + product.number.to_bytes(4, "big")
            for name in self.stores:
                self.target(name).write(
                    LAYOUT.data(Kind(product.kind), object_id), product.sealed.parts, product.sealed.size_bytes
                )
            if product.map is not None:
                maps[object_id] = product.map
        old = {b.map_id: b.map for b in before if b is not None}
        every = old | maps
        marks = [fingerprints(data, self.ring.fingerprint_key, SIZES.chunk) for data in extents]
        return placed, [Before(every[p.map_id], p.map_id, p.index, m) for p, m in zip(placed, marks, strict=True)]

    def target(self, name: str) -> Target:
        return Target(name, self.stores[name], "here", "disk")

    def reader(
        self, *names: str, cache: int = 1 << 20, report: list[tuple[str, str]] | None = None
    ) -> tuple[ContentReader, Sources]:
        def note(target: Target, key: str, problem: Problem) -> None:
            if report is not None:
                report.append((target.name, type(problem).__name__))

        sources = Sources([self.target(name) for name in names], LAYOUT, self.ring, note)
        return ContentReader(self.ring, LAYOUT, sources, chunk_bytes=SIZES.chunk, frame_cache_bytes=cache), sources

    def packs(self, name: str) -> list[Key]:
        return [info.key for info in self.stores[name].list(LAYOUT.folder("packs"))]


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_extents_in_any_order_read_back_as_they_were(data: st.DataObject) -> None:
    sample = SHARED
    cache = data.draw(st.sampled_from([1, 300, 1 << 20]))
    reader, _ = sample.reader("a", cache=cache)
    for _ in range(2):
        wanted = data.draw(st.lists(st.integers(0, len(sample.placed) - 1), max_size=12))
        found = reader.read([(sample.placed[i].map_id, sample.placed[i].index) for i in wanted])
        assert [bytes(one.data) for one in found] == [sample.data[i] for i in wanted]
        for one in found:
            assert all(not any(one.data[start:stop]) for start, stop in one.holes)


SHARED = Sample()


def test_each_frame_is_fetched_once(sample: Sample) -> None:
    counting = Counting(sample.stores["a"])
    sources = Sources([Target("a", counting, "here", "disk")], LAYOUT, sample.ring)
    reader = ContentReader(sample.ring, LAYOUT, sources, chunk_bytes=SIZES.chunk)
    wanted = [(placed.map_id, placed.index) for placed in sample.placed]
    threads = [threading.Thread(target=reader.read, args=([one],)) for one in wanted for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(counting.reads.values()) == 1
    stored = sum(info.size_bytes for info in sample.stores["a"].list(LAYOUT.folder("packs")))
    assert sources.fetched_bytes["a"] <= stored + 200_000  # the rest are the decoded maps


def test_neighbouring_frames_come_in_one_request(sample: Sample) -> None:
    counting = Counting(sample.stores["a"])
    sources = Sources([Target("a", counting, "here", "disk")], LAYOUT, sample.ring)
    reader = ContentReader(sample.ring, LAYOUT, sources, chunk_bytes=SIZES.chunk)
    reader.read([(placed.map_id, placed.index) for placed in sample.placed[:20]])
    reads = sum(count for (key, _), count in counting.reads.items() if "/packs/" in key)
    assert reads <= len(sample.packs("a"))


def test_damage_on_one_target_is_reported_and_the_other_serves() -> None:
    sample = Sample(seed=2)
    for key in sample.packs("a"):
        data = bytearray(sample.target("a").read(key))
        data[160] ^= 1
        sample.stores["a"].delete(key)
        sample.target("a").write(key, [bytes(data)], len(data))
    report: list[tuple[str, str]] = []
    reader, sources = sample.reader("a", "b", report=report)
    for placed, data_ in zip(sample.placed, sample.data, strict=True):
        assert bytes(reader.read([(placed.map_id, placed.index)])[0].data) == data_
    assert set(report) == {("a", "Damage")}
    assert sources.fetched_bytes["b"] > 0
    alone, _ = sample.reader("a")
    with pytest.raises(Damage, match="no target has a sound copy"):
        for placed in sample.placed:
            alone.read([(placed.map_id, placed.index)])


def test_a_target_that_goes_away_moves_to_the_end_and_stays_there() -> None:
    sample = Sample(seed=3)
    sample.stores["a"] = Faulty(sample.stores["a"], "open:ok,ok,503*", sleep=lambda s: None)
    report: list[tuple[str, str]] = []
    reader, _ = sample.reader("a", "b", report=report)
    for placed, data in zip(sample.placed, sample.data, strict=True):
        assert bytes(reader.read([(placed.map_id, placed.index)])[0].data) == data
    assert len(report) == 1, "it is asked last from then on, so it fails once"


def test_absence_and_silence_are_told_apart() -> None:
    sample = Sample(seed=4)
    placed = sample.placed[0]
    for name in ("a", "b"):
        for key in sample.packs(name):
            sample.stores[name].delete(key)
    reader, _ = sample.reader("a", "b")
    with pytest.raises(Missing, match="no target has an object"):
        reader.read([(placed.map_id, placed.index)])
    sample.stores["b"] = Faulty(sample.stores["b"], "open:503*", sleep=lambda s: None)
    reader, _ = sample.reader("a", "b")
    with pytest.raises(Unreachable):
        reader.read([(placed.map_id, placed.index)])


def test_the_cache_keeps_its_bound() -> None:
    sample = Sample(seed=5, extents=60)
    reader, _ = sample.reader("a", cache=1000)
    for placed in sample.placed:
        reader.read([(placed.map_id, placed.index)])
        assert reader._frames.held_bytes <= 1000 + SIZES.frame
