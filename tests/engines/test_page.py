"""Page checksums: against an independent scalar version, and against real servers."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from drkit.engines.postgres.files import relation_file
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.page import _BASE, PageChecker, page_lsn
from tests.real.postgres import MakeServer

PAGE = 8192


def scalar(page: bytes, block: int) -> int:
    """pg_checksum_page, word by word."""
    words = list(struct.unpack(f"<{len(page) // 4}I", page))
    words[2] &= 0xFFFF0000
    sums = [int(base) for base in _BASE]
    for row in range(len(words) // 32 + 2):
        for column in range(32):
            word = words[row * 32 + column] if row < len(words) // 32 else 0
            mixed = sums[column] ^ word
            sums[column] = (mixed * 16777619 & 0xFFFFFFFF) ^ (mixed >> 17)
    result = block
    for one in sums:
        result ^= one
    return result % 65535 + 1


def pages(count: int, first_block: int, size: int = PAGE, seed: int = 1) -> bytearray:
    """Random pages with right checksums; pd_upper is never 0."""
    source = random.Random(seed)
    data = bytearray()
    for index in range(count):
        page = bytearray(source.randbytes(size))
        struct.pack_into("<H", page, 14, size)
        struct.pack_into("<H", page, 8, scalar(bytes(page), (first_block + index) & 0xFFFFFFFF))
        data += page
    return data


@pytest.mark.parametrize("size", [1024, 8192, 32768])
@pytest.mark.parametrize("first_block", [0, 131072, (1 << 32) - 8])
def test_agrees_with_the_scalar_version(size: int, first_block: int) -> None:
    data = pages(5, first_block, size)
    checker = PageChecker(size)
    assert checker.bad_blocks(data, first_block) == []
    found = checker.checksums(memoryview(data), first_block)
    for index in range(5):
        assert found[index] == scalar(bytes(data[index * size : (index + 1) * size]), first_block + index)


def test_long_buffers_are_checked_to_the_end() -> None:
    one = bytes(pages(1, 5))
    many = one * 1300
    bad = PageChecker().bad_blocks(many, 5)
    assert bad == list(range(6, 1305))


def test_a_flipped_bit_is_found_wherever_it_is() -> None:
    good = pages(3, 100)
    checker = PageChecker()
    source = random.Random(2)
    for _ in range(300):
        data = bytearray(good)
        at = source.randrange(len(data))
        data[at] ^= 1 << source.randrange(8)
        assert checker.bad_blocks(data, 100) == [100 + at // PAGE]


def test_a_shifted_page_is_found() -> None:
    data = pages(4, 0)
    assert PageChecker().bad_blocks(data, 1) == [1, 2, 3, 4]
    shifted = data[64:PAGE] + bytes(64)
    assert PageChecker().bad_blocks(shifted, 0) == [0]


def test_zeros_are_valid_and_other_new_pages_are_not() -> None:
    data = bytearray(3 * PAGE)
    assert PageChecker().bad_blocks(data, 0) == []
    data[2 * PAGE + 5000] = 1
    assert PageChecker().bad_blocks(data, 10) == [12]


def test_only_whole_pages_are_taken() -> None:
    with pytest.raises(ValueError, match="whole pages"):
        PageChecker().bad_blocks(bytes(PAGE + 1), 0)
    with pytest.raises(ValueError, match="page size"):
        PageChecker(1000)
    assert PageChecker().bad_blocks(b"", 0) == []


def test_positions_are_read_from_the_header() -> None:
    page = struct.pack("<II", 0x16, 0xB374D848).ljust(PAGE, b"\0")
    assert page_lsn(page) == Lsn.parse("16/B374D848")
    assert [int(one) for one in PageChecker().lsns(page * 2)] == [0x16B374D848] * 2


def relation_files(data: Path) -> list[Path]:
    return [path for path in [*data.glob("base/*/*"), *data.glob("global/*")] if relation_file(path.name)]


@pytest.mark.real
def test_a_servers_own_pages_are_right(pg_server: MakeServer) -> None:
    server = pg_server()
    server.query("create table t as select generate_series(1, 100000) a")
    server.query("create index on t (a)")
    server.query("vacuum t")
    server.stop()
    checker = PageChecker()
    checked = 0
    for path in relation_files(server.data):
        content = path.read_bytes()
        assert checker.bad_blocks(content, 0) == [], path
        checked += len(content) // PAGE
    assert checked > 3000
    found = server.tool("pg_checksums", "--check", "-D", server.data).stdout
    assert f"Blocks scanned:   {checked}" in found or f"Blocks scanned:  {checked}" in found
    assert "Bad checksums:    0" in found or "Bad checksums:  0" in found


@pytest.mark.real
def test_later_files_of_a_relation_are_salted_with_the_whole_number(pg_server: MakeServer) -> None:
    """A relation of more than 1 GiB, sparse: its first file is grown by hand, the server adds the second."""
    server = pg_server()
    server.query("create table t (a int)")
    path = server.data / server.value("select pg_relation_filepath('t')")
    server.stop()
    with path.open("wb") as first:
        first.truncate(1 << 30)
    server.start()
    server.query("insert into t select generate_series(1, 1000)")
    server.stop()
    second = path.with_name(path.name + ".1").read_bytes()
    file = relation_file(path.name + ".1")
    assert file is not None
    assert second
    assert PageChecker().bad_blocks(second, file.first_block(131072)) == []
    blocks = len(second) // PAGE
    assert PageChecker().bad_blocks(second, 0) == list(range(blocks))


@pytest.mark.real
def test_damage_is_found_where_pg_checksums_finds_it(pg_server: MakeServer) -> None:
    server = pg_server()
    server.query("create table t as select generate_series(1, 10000) a")
    path = server.data / server.value("select pg_relation_filepath('t')")
    server.stop()
    content = bytearray(path.read_bytes())
    content[3 * PAGE + 4000] ^= 0xFF
    content[7 * PAGE : 9 * PAGE] = content[7 * PAGE + 512 : 9 * PAGE] + bytes(512)
    path.write_bytes(content)
    assert PageChecker().bad_blocks(content, 0) == [3, 7, 8]
    done = server.tool("pg_checksums", "--check", "-D", server.data, check=False)
    for block in (3, 7, 8):
        assert f"block {block}:" in done.stderr
