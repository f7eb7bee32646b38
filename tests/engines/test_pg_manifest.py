"""PostgreSQL's backup_manifest: judged by pg_verifybackup, and by its own checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.pg_manifest import MANIFEST_NAME, ManifestFile, WalRange, manifest_lines
from tests.engines.copies import Copy, copy_of
from tests.real.postgres import MakeServer, Server, give


def files_of(root: Path) -> Iterator[ManifestFile]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = str(path.relative_to(root))
            if relative != MANIFEST_NAME and not relative.startswith("pg_wal/"):
                content = path.read_bytes()
                crc = google_crc32c.value(content)
                yield ManifestFile(relative, len(content), path.stat().st_mtime, crc)


def write(server: Server, copy: Copy) -> Path:
    wal = WalRange(copy.start.timeline, copy.start.lsn, copy.stop.lsn)
    lines = manifest_lines(server.major, copy.control.system_identifier, files_of(copy.data), [wal])
    path = copy.data / MANIFEST_NAME
    path.write_bytes(b"".join(lines))
    give(path)
    return path


def check_own_checksum(content: bytes) -> dict[str, object]:
    before, _, _ = content.rpartition(b'"Manifest-Checksum"')
    parsed: dict[str, object] = json.loads(content)
    assert parsed["Manifest-Checksum"] == hashlib.sha256(before).hexdigest()
    return parsed


@pytest.mark.real
def test_pg_verifybackup_agrees(pg_server: MakeServer) -> None:
    server = pg_server()
    server.query("create table t as select generate_series(1, 1000) a")
    copy = copy_of(server)
    content = write(server, copy).read_bytes()
    parsed = check_own_checksum(content)
    assert parsed["PostgreSQL-Backup-Manifest-Version"] == (2 if server.major >= 17 else 1)
    if server.major >= 17:
        assert parsed["System-Identifier"] == copy.control.system_identifier
        return  # this build's own pg_verifybackup cannot run
    done = server.tool("pg_verifybackup", "-n", copy.data)
    assert "backup successfully verified" in done.stdout
    victim = next(copy.data.glob("base/*/1259"))
    content_of = bytearray(victim.read_bytes())
    content_of[100] ^= 1
    victim.write_bytes(content_of)
    done = server.tool("pg_verifybackup", "-n", copy.data, check=False)
    assert done.returncode != 0
    assert "checksum mismatch" in done.stderr
    (copy.data / "stray").touch()
    done = server.tool("pg_verifybackup", "-n", copy.data, check=False)
    assert '"stray" is present on disk but not in the manifest' in done.stderr


@pytest.mark.real
def test_the_servers_own_manifest_has_the_same_checksums(pg_server: MakeServer) -> None:
    server = pg_server()
    target = server.root / "bb"
    args = ["-D", str(target), "-X", "none", "-c", "fast", "-h", str(server.sockets), "-p", str(server.port)]
    server.tool("pg_basebackup", *args, "-U", "postgres")
    theirs = json.loads((target / MANIFEST_NAME).read_text())
    wanted = {one["Path"]: (one["Size"], one["Checksum"]) for one in theirs["Files"]}
    ours = check_own_checksum(b"".join(manifest_lines(server.major, 1, files_of(target), [])))
    found = {one["Path"]: (one["Size"], one["Checksum"]) for one in ours["Files"]}  # type: ignore[attr-defined]
    assert found == wanted
    assert list(theirs["Files"][0]) == list(ours["Files"][0])  # type: ignore[index]


def test_strange_names_and_no_files() -> None:
    strange = [
        ManifestFile(os.fsdecode(b"b\xffd"), 0, 0.9, 0),
        ManifestFile('quote"back\\slash', 1, 86400, 0x01020304),
        ManifestFile("ümlaut\n", 1, 86400, 1),
    ]
    content = b"".join(manifest_lines(17, 7, strange, [WalRange(1, Lsn(40), Lsn(80)), WalRange(2, Lsn(80), Lsn(90))]))
    parsed = check_own_checksum(content)
    assert parsed["Files"] == [
        {
            "Encoded-Path": "62ff64",
            "Size": 0,
            "Last-Modified": "1970-01-01 00:00:00 GMT",
            "Checksum-Algorithm": "CRC32C",
            "Checksum": "00000000",
        },
        {
            "Path": 'quote"back\\slash',
            "Size": 1,
            "Last-Modified": "1970-01-02 00:00:00 GMT",
            "Checksum-Algorithm": "CRC32C",
            "Checksum": "04030201",
        },
        {
            "Path": "ümlaut\n",
            "Size": 1,
            "Last-Modified": "1970-01-02 00:00:00 GMT",
            "Checksum-Algorithm": "CRC32C",
            "Checksum": "01000000",
        },
    ]
    assert parsed["WAL-Ranges"] == [
        {"Timeline": 1, "Start-LSN": "0/28", "End-LSN": "0/50"},
        {"Timeline": 2, "Start-LSN": "0/50", "End-LSN": "0/5A"},
    ]
    empty = check_own_checksum(b"".join(manifest_lines(13, 7, [], [])))
    assert empty["Files"] == []
    assert "System-Identifier" not in empty
