"""Working data outside of memory: what went in comes out, in order, on both sides of the bound."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.core.scratch import HELD_BYTES, Pieces, Rows, Scratch, in_order
from storage_backends.errors import OutOfSpace
from tests.storage_backends.mounts import tmpfs


@pytest.mark.parametrize("size", [1000, HELD_BYTES // 3, HELD_BYTES])
def test_bytes_are_read_at_any_place(size: int, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(size)
    scratch = Scratch(tmp_path)
    assert [scratch.append(data) for _ in range(3)] == [0, size, 2 * size]
    assert scratch.read(0, 3 * size) == 3 * data and scratch.size_bytes == 3 * size
    assert scratch.read(size - 1, 2) == data[-1:] + data[:1]
    assert scratch.read(3 * size - 1, 10) == data[-1:] and scratch.read(3 * size, 1) == b""
    assert scratch.read(1, 2**63) == (3 * data)[1:], "whatever somebody claims that there is"
    assert list(tmp_path.iterdir()) == [], "no name is left, whoever dies"
    scratch.close()


def test_pieces_are_a_sequence(tmp_path: Path) -> None:
    made = [b"", b"a" * HELD_BYTES, b"bc", b""]
    pieces = Pieces(tmp_path)
    for piece in made:
        pieces.append(piece)
    assert len(pieces) == 4 and list(pieces) == made and pieces[-2] == b"bc" and list(pieces[1:3]) == made[1:3]
    assert b"".join(pieces) == b"".join(made)


def test_rows_come_back_in_order_as_often_as_wanted(tmp_path: Path) -> None:
    rows: Rows[tuple[bytes, int, tuple[int, ...]]] = Rows(tmp_path)
    wanted = [(b"%d" % n * 20, n, (n,) * (n % 3)) for n in range(100_000)]
    for row in wanted:
        rows.append(row)
    assert len(rows) == 100_000
    assert list(rows) == wanted == list(rows)
    rows.append(wanted[0])
    assert list(rows) == [*wanted, wanted[0]]


@pytest.mark.parametrize("count", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_many_rows_are_sorted(count: int, tmp_path: Path) -> None:
    rows = list(range(count))
    random.Random(2).shuffle(rows)
    assert list(in_order(iter(rows), tmp_path)) == list(range(count))


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        scratch = Scratch(folder)
        with pytest.raises(OutOfSpace, match="working data"):
            for _ in range(64):
                scratch.append(bytes(1 << 20))
