"""The stager: whatever happened to the files, each version is rebuilt from its maps and packs, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.crypto.container import DataKey
from drkit.pipeline.adopting import Before, Sizes
from drkit.pipeline.digests import fingerprints
from drkit.pipeline.mapping import Map, Marked, decode
from drkit.pipeline.stager import Numbers, Placed, Product, Stager, decode_marks
from tests.crypto.rings import ring, seeded
from tests.pipeline.rebuild import FINGERPRINTS, MAP, PACK, Store

RING = ring()
Version = Mapping[str, bytes]


@dataclass
class Repository:
    """Backups one after another, each built on the one before."""

    sizes: Sizes
    objects: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    maps: dict[bytes, Map] = field(default_factory=dict)
    thin: dict[bytes, Marked] = field(default_factory=dict)
    renew: set[bytes] = field(default_factory=set)
    runs: int = 0

    @property
    def store(self) -> Store:
        return Store(RING, self.sizes.chunk, self.objects)

    def _keep(self, run: bytes, product: Product) -> None:
        object_id = run + product.number.to_bytes(4, "big")
        assert (product.kind, object_id) not in self.objects, "a name is given once"
        self.objects[product.kind, object_id] = b"".join(product.sealed.parts)
        self.products.append(product)
        if product.map is not None:
            self.maps[object_id] = product.map

    def backup(
        self, files: Version, parent: Mapping[str, Sequence[Placed]], *, marks: bool = True, workers: int = 1
    ) -> dict[str, list[Placed]]:
        """Place every file; extents go round between `workers` stagers as threads would take them."""
        run = self.runs.to_bytes(12, "big")
        self.runs += 1
        key, numbers = DataKey(RING, seeded(self.runs)), Numbers()

        def stager() -> Stager:
            return Stager(
                run=run,
                numbers=numbers,
                seal=key.writer,
                header=key.header(PACK, bytes(16)),
                emit=lambda product: self._keep(run, product),
                level=1,
                fingerprint_key=RING.fingerprint_key,
                sizes=self.sizes,
            )

        stagers = [stager() for _ in range(workers)]
        placed: dict[str, list[Placed]] = {}
        turn = 0
        for path, data in sorted(files.items()):
            placed[path] = []
            for number, at in enumerate(range(0, len(data), self.sizes.extent)):
                before = self._before(parent.get(path, ()), number, marks)
                turn += 1
                piece = data[at : at + self.sizes.extent]
                placed[path].append(stagers[turn % workers].place(piece, before))
        for one in stagers:
            one.finish()
        return placed

    def _before(self, old: Sequence[Placed], number: int, marks: bool) -> Before | None:
        """As a parent is read back: its map and its fingerprints from their stored bytes."""
        if number >= len(old):
            return None
        map_id, index = old[number].map_id, old[number].index
        found = None
        if marks:
            flat = self.store.marks(map_id)[index]
            content = (1).to_bytes(4, "little") + bytes(4) + len(flat).to_bytes(4, "little") + b"".join(flat)
            found = decode_marks(content)[0]
        thin = self.thin.get(map_id, np.zeros(0, dtype=np.bool_))
        return Before(self.maps[map_id], map_id, index, found, thin, map_id in self.renew)

    def check(self, files: Version, placed: Mapping[str, Sequence[Placed]]) -> None:
        for path, data in files.items():
            assert b"".join(self.store.extent(p.map_id, p.index) for p in placed[path]) == data, path


CHUNK = 16
tiny_sizes = st.builds(
    Sizes,
    chunk=st.just(CHUNK),
    extent=st.sampled_from([CHUNK, 4 * CHUNK, 7 * CHUNK]),
    frame=st.sampled_from([1, CHUNK, 3 * CHUNK, 5 * CHUNK + 3, 1000]),
    pack=st.sampled_from([1, 400, 4000]),
    map_extents=st.sampled_from([1, 2, 5, 1000]),
)
seeds = st.integers(0, 2**32)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """What happens to a file between two backups."""
    kind = rng.choice(["same", "chunks", "grow", "shrink", "zero", "shift", "new", "byte"])
    changed = bytearray(data)
    if kind == "chunks":
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(0, len(data) // CHUNK + 1) * CHUNK
            changed[at : at + CHUNK] = rng.randbytes(len(changed[at : at + CHUNK]))
    elif kind == "grow":
        more = rng.randint(1, 5 * CHUNK)
        changed += rng.choice([bytes(more), rng.randbytes(more)])
    elif kind == "shrink":
        del changed[rng.randint(0, len(data)) :]
    elif kind == "zero" and data:
        at = rng.randrange(0, len(data))
        stop = min(len(data), at + rng.randint(1, 4 * CHUNK))
        changed[at:stop] = bytes(stop - at)
    elif kind == "shift":
        changed[0:0] = rng.randbytes(rng.choice([1, CHUNK]))
    elif kind == "new":
        changed = bytearray(rng.randbytes(rng.randint(0, 20 * CHUNK)))
    elif kind == "byte" and data:
        changed[rng.randrange(len(data))] ^= 1
    return bytes(changed)


def next_version(rng: random.Random, files: Version) -> dict[str, bytes]:
    found = {path: mutated(rng, data) for path, data in files.items() if rng.random() > 0.1}
    if rng.random() < 0.4:
        found[f"f{rng.randrange(6)}"] = rng.randbytes(rng.randint(0, 12 * CHUNK)) + bytes(rng.randint(0, 3 * CHUNK))
    return found


@given(tiny_sizes, seeds, st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_version_of_the_files_is_rebuilt_from_packs(sizes: Sizes, seed: int, workers: int) -> None:
    rng = random.Random(seed)
    repository = Repository(sizes)
    files: Version = {f"f{n}": rng.randbytes(rng.randint(0, 15 * CHUNK)) for n in range(3)}
    versions = []
    placed: Mapping[str, Sequence[Placed]] = {}
    for _ in range(5):
        placed = repository.backup(files, placed, marks=rng.random() < 0.8, workers=workers)
        versions.append((files, placed))
        files = next_version(rng, files)
    for old, where in versions:
        repository.check(old, where)


@given(tiny_sizes, seeds, st.booleans())
@settings(max_examples=100, deadline=None)
def test_nothing_new_refers_to_a_thin_frame_or_lies_in_a_map_that_goes(sizes: Sizes, seed: int, marks: bool) -> None:
    rng = random.Random(seed)
    repository = Repository(sizes)
    files = {f"f{n}": rng.randbytes(rng.randint(0, 15 * CHUNK)) for n in range(3)}
    parent = repository.backup(files, {})
    for map_id, table in repository.maps.items():
        repository.thin[map_id] = np.array([rng.random() < 0.4 for _ in range(len(table.frames))], dtype=np.bool_)
    repository.renew = {map_id for map_id in repository.maps if rng.random() < 0.3}
    thin = {
        (table.packs[int(row["pack"])]["id"].tobytes(), int(row["number"]))
        for map_id, table in repository.maps.items()
        for row in table.frames[repository.thin[map_id]]
    }
    if rng.random() < 0.5:
        files = next_version(rng, files)

    placed = repository.backup(files, parent, marks=marks)

    repository.check(files, placed)
    for extents in placed.values():
        for one in extents:
            assert one.map_id not in repository.renew
            table = repository.maps[one.map_id]
            for index in table.uses(np.array([one.index]), CHUNK).frame:
                row = table.frames[index]
                assert (table.packs[int(row["pack"])]["id"].tobytes(), int(row["number"])) not in thin
            assert 0 <= one.again_bytes <= one.new_bytes


def test_what_did_not_change_is_stored_again_only_from_thin_frames() -> None:
    sizes = Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=2 * CHUNK, pack=1000, map_extents=10)
    repository = Repository(sizes)
    files = {"f": random.Random(1).randbytes(8 * CHUNK)}
    parent = repository.backup(files, {})
    (map_id,) = repository.maps
    repository.thin[map_id] = np.array([False, True, False, False])

    placed = repository.backup(files, parent, marks=False)["f"]

    assert [(p.new_bytes, p.again_bytes) for p in placed] == [(2 * CHUNK, 2 * CHUNK), (0, 0)]
    assert placed[1].map_id == map_id, "an extent that touches nothing thin stays where it is"


def test_an_extent_is_gathered_before_it_lies_on_too_many_frames() -> None:
    sizes = Sizes(chunk=CHUNK, extent=64 * CHUNK, frame=16 * CHUNK, pack=100_000, map_extents=10)
    assert sizes.extent_frames == 16
    rng, repository = random.Random(1), Repository(sizes)
    data = bytearray(rng.randbytes(64 * CHUNK))
    placed: Mapping[str, Sequence[Placed]] = {}
    frames, again = [], 0
    for number in range(60):
        data[number * CHUNK : (number + 1) * CHUNK] = rng.randbytes(CHUNK)
        placed = repository.backup({"f": bytes(data)}, placed)
        table = repository.maps[placed["f"][0].map_id]
        frames.append(len(table.uses(np.array([placed["f"][0].index]), CHUNK).frame))
        again += placed["f"][0].again_bytes
    repository.check({"f": bytes(data)}, placed)
    assert max(frames) <= sizes.extent_frames + 1
    assert again <= 3 * 60 * CHUNK


def chunks_of(data: bytes, sizes: Sizes) -> list[bytes]:
    return [data[at : at + sizes.chunk] for at in range(0, len(data), sizes.chunk)]


@given(tiny_sizes, seeds)
@settings(max_examples=150, deadline=None)
def test_only_chunks_that_changed_are_stored(sizes: Sizes, seed: int) -> None:
    rng = random.Random(seed)
    repository = Repository(sizes)
    before = {"f": rng.randbytes(rng.randint(0, 20 * CHUNK)) + bytes(rng.choice([0, 2 * CHUNK]))}
    after = {"f": mutated(rng, before["f"])}
    parent = repository.backup(before, {})

    placed = repository.backup(after, parent)

    old, new = chunks_of(before["f"], sizes), chunks_of(after["f"], sizes)
    changed = [
        chunk
        for number, chunk in enumerate(new)
        if chunk != bytes(CHUNK) and (number >= len(old) or old[number] != chunk)
    ]
    # a short last chunk of an extent whose length changed is stored again even where it is equal
    most = sum(map(len, changed)) + CHUNK
    assert sum(map(len, changed)) <= sum(p.new_bytes for p in placed["f"]) <= most
    repository.check(after, placed)


def test_an_unchanged_file_costs_nothing_and_needs_no_fingerprints() -> None:
    sizes = Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=3 * CHUNK, pack=100, map_extents=2)
    repository = Repository(sizes)
    files = {"a": random.Random(1).randbytes(11 * CHUNK + 5), "z": bytes(9 * CHUNK)}
    parent = repository.backup(files, {})
    objects = len(repository.objects)

    placed = repository.backup(files, parent, marks=False)

    assert placed == {path: [_without_news(p) for p in extents] for path, extents in parent.items()}
    assert len(repository.objects) == objects


def _without_news(p: Placed) -> Placed:
    return Placed(p.map_id, p.index, p.digest, p.crc, p.length, 0)


def test_zeros_are_never_stored() -> None:
    repository = Repository(Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=1000, pack=1000, map_extents=10))
    files = {"zeros": bytes(40 * CHUNK), "mixed": bytes(3 * CHUNK) + b"x" + bytes(5 * CHUNK)}
    placed = repository.backup(files, {})
    repository.check(files, placed)
    assert sum(p.new_bytes for p in placed["zeros"]) == 0
    assert sum(p.new_bytes for p in placed["mixed"]) <= 2 * CHUNK
    assert all(not len(m.packs) or len(m.frames) for m in repository.maps.values())


def test_chunks_that_became_zeros_and_came_back_are_rebuilt() -> None:
    repository = Repository(Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=1000, pack=1000, map_extents=10))
    data = random.Random(1).randbytes(4 * CHUNK)
    versions = [data, bytes(4 * CHUNK), data, data[:CHUNK] + bytes(CHUNK) + data[2 * CHUNK :], data]
    placed: dict[str, list[Placed]] = {}
    for version in versions:
        placed = repository.backup({"f": version}, placed)
        repository.check({"f": version}, placed)


def test_frames_packs_and_maps_close_at_their_sizes() -> None:
    sizes = Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=4 * CHUNK, pack=600, map_extents=3)
    repository = Repository(sizes)
    repository.backup({"f": random.Random(1).randbytes(400 * CHUNK)}, {})

    kinds = [kind for kind, _ in repository.objects]
    assert kinds.count(MAP) == kinds.count(FINGERPRINTS) == -(-100 // 3)
    assert kinds.count(PACK) > 10
    for (kind, _), data in repository.objects.items():
        if kind == PACK:
            assert len(data) <= sizes.pack + 200 + sizes.frame
    for found in repository.maps.values():
        assert int(found.frames["raw"].max()) <= sizes.frame


def test_the_parents_fingerprints_are_what_the_format_says() -> None:
    sizes = Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=1000, pack=1000, map_extents=10)
    repository = Repository(sizes)
    data = random.Random(1).randbytes(6 * CHUNK + 3)
    placed = repository.backup({"f": data}, {})["f"]
    for number, p in enumerate(placed):
        piece = data[number * sizes.extent :][: sizes.extent]
        assert (
            b"".join(repository.store.marks(p.map_id)[p.index])
            == fingerprints(piece, RING.fingerprint_key, CHUNK).tobytes()
        )


def test_numbers_of_several_stagers_never_meet() -> None:
    sizes = Sizes(chunk=CHUNK, extent=CHUNK, frame=CHUNK, pack=1, map_extents=1)
    repository = Repository(sizes)
    files = {f"f{n}": random.Random(n).randbytes(5 * CHUNK) for n in range(5)}
    repository.check(files, repository.backup(files, {}, workers=4))


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, (1 << 20) + 1])
def test_real_sizes(size: int) -> None:
    repository = Repository(Sizes())
    data = random.Random(size).randbytes(size)
    parent = repository.backup({"f": data}, {})
    changed = data[:-1] + bytes([data[-1] ^ 1])
    placed = repository.backup({"f": changed}, parent)
    repository.check({"f": data}, parent)
    repository.check({"f": changed}, placed)
    assert sum(p.new_bytes for p in placed["f"]) <= 8192


def test_what_a_map_says_is_what_its_object_holds() -> None:
    repository = Repository(Sizes(chunk=CHUNK, extent=4 * CHUNK, frame=40, pack=200, map_extents=2))
    repository.backup({"f": random.Random(1).randbytes(50 * CHUNK)}, {})
    from drkit.crypto.container import open_object
    from drkit.pipeline.mapping import encode

    for map_id, tables in repository.maps.items():
        opened = open_object(RING, repository.objects[MAP, map_id], kind=MAP, name="m", object_id=map_id)
        assert opened.joined() == encode(tables) == encode(decode(opened.joined(), "m"))


@pytest.mark.parametrize(("level", "stored"), [(0, True), (1, False)])
def test_at_level_0_nothing_is_compressed(level: int, stored: bool) -> None:
    """`compression = "none"`: what a filesystem that compresses, or a user, asks for."""
    key, made = DataKey(RING, seeded(1)), list[Product]()
    stager = Stager(
        run=bytes(12),
        numbers=Numbers(),
        seal=key.writer,
        header=key.header(PACK, bytes(16)),
        emit=made.append,
        level=level,
        fingerprint_key=RING.fingerprint_key,
        sizes=Sizes(chunk=CHUNK, extent=1600, frame=1600),
    )
    stager.place(b"the same again.." * 100, None)
    stager.finish()
    packs = [product.sealed.size_bytes for product in made if product.kind == PACK]
    assert (sum(packs) > 1600) is stored
