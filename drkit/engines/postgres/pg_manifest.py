"""Writes PostgreSQL's own `backup_manifest`, so that pg_verifybackup can judge a restored folder.

Format: the documentation's chapter 'Backup Manifest Format' and `src/backend/backup/backup_manifest.c`. JSON with fixed
line breaks; the last line carries the SHA-256 of every byte before it. Version 1 for 13 to 16; version 2 since 17
adds the system identifier. A CRC32C checksum is the value's four bytes in memory order (little-endian) as
hexadecimal digits (`src/common/checksum_helper.c`). A path that is no UTF-8 goes as hexadecimal 'Encoded-Path'.
The manifest lists all files except itself and the content of pg_wal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.version import facts_of

MANIFEST_NAME = "backup_manifest"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """`path` is relative, tablespaces below pg_tblspc/<oid>; `mtime_s` seconds since 1970; `crc32c` of the content."""

    path: str
    size: int
    mtime_s: float
    crc32c: int


@dataclass(frozen=True, slots=True)
class WalRange:
    """The WAL of one timeline, [start, end), that makes the backup consistent."""

    timeline: int
    start: Lsn
    end: Lsn


def manifest_lines(
    major: int, system_identifier: int, files: Iterable[ManifestFile], ranges: Iterable[WalRange]
) -> Iterator[bytes]:
    """Yield the manifest in pieces, a line or so each; memory does not grow with the number of files.

    `files` may be a stream, in any order. Raises UnknownVersion.
    """
    digest = hashlib.sha256()
    for piece in _body(major, system_identifier, files, ranges):
        digest.update(piece)
        yield piece
    yield f'"Manifest-Checksum": "{digest.hexdigest()}"}}\n'.encode("ascii")


def _body(
    major: int, system_identifier: int, files: Iterable[ManifestFile], ranges: Iterable[WalRange]
) -> Iterator[bytes]:
    version = facts_of(major).manifest_version
    yield f'{{ "PostgreSQL-Backup-Manifest-Version": {version},\n'.encode("ascii")
    if version >= 2:
        yield f'"System-Identifier": {system_identifier},\n'.encode("ascii")
    yield b'"Files": ['
    separator = b"\n"
    for file in files:
        yield separator + _file_line(file)
        separator = b",\n"
    yield b'\n],\n"WAL-Ranges": ['
    separator = b"\n"
    for one in ranges:
        text = f'{{ "Timeline": {one.timeline}, "Start-LSN": "{one.start}", "End-LSN": "{one.end}" }}'
        yield separator + text.encode("ascii")
        separator = b",\n"
    yield b"\n],\n"


def _file_line(file: ManifestFile) -> bytes:
    raw = os.fsencode(file.path)
    try:
        path = f'"Path": {json.dumps(raw.decode("utf-8"), ensure_ascii=False)}'
    except UnicodeDecodeError:
        path = f'"Encoded-Path": "{raw.hex()}"'
    changed = datetime.fromtimestamp(int(file.mtime_s), UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
    crc = file.crc32c.to_bytes(4, "little").hex()
    return (
        f'{{ {path}, "Size": {file.size}, "Last-Modified": "{changed}", '
        f'"Checksum-Algorithm": "CRC32C", "Checksum": "{crc}" }}'
    ).encode()
