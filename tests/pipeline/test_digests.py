"""CRC-32C combined from parts, file digests and fingerprints."""

from __future__ import annotations

import blake3
import google_crc32c
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given
from hypothesis import strategies as st

from drkit.pipeline.digests import crc32c_combine, extent_digest, file_digest, fingerprints


@given(st.binary(max_size=5000), st.binary(max_size=5000))
@example(b"", b"")
@example(b"a", b"")
@example(b"", b"a")
@example(bytes(4096), bytes(4096))
def test_the_crc_of_joined_bytes_comes_from_the_crcs_of_the_parts(first: bytes, second: bytes) -> None:
    combined = crc32c_combine(google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert combined == google_crc32c.value(first + second)


def test_crcs_of_parts_of_many_mebibytes_combine() -> None:
    first, second = bytes(range(256)) * (1 << 16), b"\xff" * ((1 << 24) - 3)
    combined = crc32c_combine(google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert combined == google_crc32c.value(first + second)


def test_combining_past_four_gibibytes_is_associative() -> None:
    """No test reads terabytes; zeros appended in one step or in two must agree."""
    half, crc = (1 << 41) + 12345, google_crc32c.value(b"abc")
    twice = crc32c_combine(crc32c_combine(crc, 0, half), 0, half)
    assert twice == crc32c_combine(crc, 0, 2 * half)


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_a_file_digest_is_of_the_digests_of_its_extents(data: bytes, extent_bytes: int) -> None:
    pieces = [data[at : at + extent_bytes] for at in range(0, len(data), extent_bytes)]
    digest, crc = file_digest((*extent_digest(piece), len(piece)) for piece in pieces)

    assert crc == google_crc32c.value(data)
    assert digest == blake3.blake3(b"".join(blake3.blake3(piece).digest() for piece in pieces)).digest()


def test_an_empty_file_has_the_digest_of_nothing() -> None:
    assert file_digest([]) == (blake3.blake3(b"").digest(), 0)


@given(st.binary(max_size=2000), st.binary(min_size=32, max_size=32), st.integers(1, 600))
def test_a_fingerprint_is_keyed_and_of_one_chunk(data: bytes, key: bytes, chunk_bytes: int) -> None:
    found = fingerprints(data, key, chunk_bytes)
    pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    cipher = Cipher(algorithms.AES(key), modes.GCM(bytes(12)))
    tags = []
    for piece in pieces:
        context = cipher.encryptor()
        context.authenticate_additional_data(piece)
        context.finalize()
        tags.append(context.tag[:8])
    assert found.tobytes() == b"".join(tags)
