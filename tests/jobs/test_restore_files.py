"""Files written back from extents: whole, in parallel, sparse where they were zeros; by content in a delta."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import Cancelled, Damage
from drkit.core.progress import Silent, Tally
from drkit.jobs.restore_files import FileWriter, _Piece
from drkit.pipeline.digests import file_digest
from drkit.repository.manifest import FILE, Entry
from tests.repository.test_content import Sample

EXTENTS = 24


def entries_of(sample: Sample) -> tuple[list[Entry], list[bytes], dict[bytes, bytes]]:
    """Files of 0, 1 and 5 extents over the first generation; their maps, and what each must hold."""
    maps: list[bytes] = []
    entries, contents = [], {}
    start = 0
    for number, count in enumerate([0, 1, 5, 1, 5, 0, 5, 2]):
        placed = sample.placed[start : start + count]
        for one in placed:
            if one.map_id not in maps:
                maps.append(one.map_id)
        digest, crc = file_digest((p.digest, p.crc, p.length) for p in placed)
        path = b"base/%d" % number
        contents[path] = b"".join(sample.data[start : start + count])
        extents = tuple((maps.index(p.map_id), p.index) for p in placed)
        size = len(contents[path])
        entries.append(Entry(FILE, 0, 0o640, size, 10**18 + 7, 0, 0, 0, digest, crc, path, extents))
        start += count
    return entries, maps, contents


def writer(sample: Sample, maps: Sequence[bytes], root: Path, *, delta: bool = False) -> FileWriter:
    reader, _ = sample.reader("a")
    (root / "base").mkdir(exist_ok=True)

    def resolve(path: bytes) -> bytes:
        return os.fsencode(root) + b"/" + path

    tally = Tally(Silent(), "files", clock=SystemClock())
    return FileWriter(
        reader=reader,
        maps=maps,
        resolve=resolve,
        owner=None,
        workers=3,
        delta=delta,
        tally=tally,
        written=lambda descriptor, offset, size_bytes: None,
    )


def check(root: Path, contents: dict[bytes, bytes]) -> None:
    for path, content in contents.items():
        place = root / os.fsdecode(path)
        assert place.read_bytes() == content
        assert place.stat().st_mode & 0o777 == 0o640 and place.stat().st_mtime_ns == 10**18 + 7


def test_files_come_back_with_content_mode_and_time(tmp_path: Path) -> None:
    sample = Sample(seed=11, extents=EXTENTS)
    entries, maps, contents = entries_of(sample)
    made = writer(sample, maps, tmp_path)
    made.run(entries, CancelToken())
    check(tmp_path, contents)
    assert made.written_bytes == sum(map(len, contents.values())) and made.kept_bytes == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes() + b"tail"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
        lambda path: path.chmod(0o600),
    ],
    ids=["gone", "longer", "shorter", "other bytes", "other mode"],
)
def test_delta_makes_any_local_state_right(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    sample = Sample(seed=12, extents=EXTENTS)
    entries, maps, contents = entries_of(sample)
    writer(sample, maps, tmp_path).run(entries, CancelToken())
    victim = tmp_path / "base/4"
    spoil(victim)
    if victim.exists():
        os.utime(victim, ns=(10**18 + 7, 10**18 + 7))
    made = writer(sample, maps, tmp_path, delta=True)
    made.run(entries, CancelToken())
    check(tmp_path, contents)
    assert made.written_bytes <= len(contents[b"base/4"])
    assert made.kept_bytes + made.written_bytes == sum(map(len, contents.values()))


def test_a_file_whose_parts_do_not_make_up_its_digest_is_damage(tmp_path: Path) -> None:
    sample = Sample(seed=13, extents=EXTENTS)
    entries, maps, _ = entries_of(sample)
    for wrong in (replace(entries[2], digest=bytes(32)), replace(entries[2], crc=1), replace(entries[2], size=5)):
        with pytest.raises(Damage):
            writer(sample, maps, tmp_path).run([entries[1], wrong], CancelToken())


def test_a_cancelled_restore_ends(tmp_path: Path) -> None:
    sample = Sample(seed=14, extents=EXTENTS)
    entries, maps, _ = entries_of(sample)
    token = CancelToken()
    token.cancel("enough")
    with pytest.raises(Cancelled):
        writer(sample, maps, tmp_path).run(entries, token)


def test_zeros_stay_holes(tmp_path: Path) -> None:
    sample = Sample(seed=15, extents=EXTENTS)
    entries, maps, _ = entries_of(sample)
    made = writer(sample, maps, tmp_path)
    content = made._reader.read([(maps[0], entries[2].extents[0][1])])[0]
    whole = replace(content, data=memoryview(bytearray(1 << 20)), holes=[(4096, 1 << 20)])
    descriptor = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    try:
        file = made._file(entries[1])
        made._write(descriptor, _Piece(file, 0, 0), whole)
        os.ftruncate(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    assert (tmp_path / "sparse").stat().st_blocks * 512 <= 8192
