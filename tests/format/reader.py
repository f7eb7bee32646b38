"""Opens a repository without drkit: written from docs/format.md alone, to prove that the page says enough.

reader.py KEYFILE TARGET KEY            the content of the object at KEY (a WAL file) to stdout
reader.py KEYFILE TARGET KEY FOLDER     every file of the backup whose manifest is at KEY, into FOLDER
"""

import hashlib
import json
import struct
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

KEYFILE, ROOT, MASTERS = Path(sys.argv[1]), Path(sys.argv[2]), dict[int, bytes]()


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


@cache
def frames(key: str) -> list[tuple[int, bytes]]:  # section 2: type and content of each frame of an object
    data = (ROOT / key).read_bytes()
    magic, version, kind, *_, repo, oid, epoch, jsons, refs, wrap = struct.unpack_from("<8sHBBI16s16sIIQ40s", data)
    assert (magic, version) == (b"drkit\0\x1a\n", 0), "this is no object of format version 0"
    data_key = aes_key_unwrap(derive(MASTERS[epoch], repo, b"drkit wrap"), wrap)
    cipher = AESGCM(derive(data_key, oid, b"drkit object" + repo + bytes([kind])))
    found, at, last = list[tuple[int, bytes]](), 128 + jsons + refs, 0
    context = hashlib.sha256(data[:at]).digest()
    while not last:
        size, raw_bytes, _, type_, codec, last = struct.unpack_from("<IIIBBB", data, at)
        aad, sealed, at = context + data[at : at + 16], data[at + 16 : at + 16 + size], at + 16 + size
        raw = cipher.decrypt(len(found).to_bytes(12, "big"), sealed, aad)
        found.append((type_, zstandard.decompress(raw, raw_bytes) if codec else raw))
    return found


def joined(key: str, wanted: int = 0) -> bytes:
    return b"".join(raw for type_, raw in frames(key) if type_ == wanted)


def named(cluster: str, kind: str, oid: bytes) -> str:  # section 1: the key of a pack or map
    began = datetime.fromtimestamp(int.from_bytes(oid[:8], "big"), UTC)
    return f"{cluster}/{kind}/{began:%Y%m%dT%H%M%SZ}-{oid[8:12].hex()}/{oid[12:].hex()}"


def extent(cluster: str, map_id: bytes, index: int, chunk_bytes: int) -> bytes:  # section 5
    data, at, tables, out = joined(named(cluster, "maps", map_id)), 16, list[Any](), b""
    for row, count in zip(("<16sI4x40s", "<Q4I", "<32s4I", "<4I"), struct.unpack_from("<4I", data), strict=True):
        tables.append(list(struct.iter_unpack(row, data[at : (at := at + count * struct.calcsize(row))])))
    packs, places, (_, _, length, first, count) = tables[0], tables[1], tables[2][index]
    for chunk, chunks, frame, offset in tables[3][first : first + count]:
        raw, size = b"", min(chunks * chunk_bytes, length - chunk * chunk_bytes)
        if frame != 0xFFFFFFFF:
            raw = frames(named(cluster, "packs", packs[places[frame][1]][0]))[places[frame][2]][1]
        out += raw[offset : offset + size].ljust(size, b"\0")
    return out


def extract(manifest: str, folder: Path) -> None:  # section 6
    cluster, at = manifest.split("/manifests/")[0], 0
    head, maps, entries = json.loads(joined(manifest, 1)), joined(manifest, 2), joined(manifest, 3)
    while at < len(entries):
        type_, path_bytes, count = struct.unpack_from("<BxH80xI", entries, at)
        path, at = folder / entries[at + 88 : at + 88 + path_bytes].decode(), at + 88 + path_bytes
        places = list(struct.iter_unpack("<II", entries[at : (at := at + 8 * count)]))
        pieces = (extent(cluster, maps[16 * m :][:16], e, head["chunk_bytes"]) for m, e in places)
        path.mkdir(parents=True) if type_ == 2 else path.write_bytes(b"".join(pieces))


secret = bytes.fromhex(KEYFILE.read_text().split("DRKIT-KEY-1:")[1][:64])
for slot in sorted(ROOT.glob("keys/*/" + "[0-9a-f]" * 16)):  # section 3: the newest slot that opens comes last
    data = slot.read_bytes()
    value = json.loads(data[128 : 128 + struct.unpack_from("<I", data, 52)[0]])
    kek = derive(secret, data[16:32] + bytes.fromhex(slot.name), b"drkit keyfile")
    try:
        master = aes_key_unwrap(kek, bytes.fromhex(value["master"]))
    except InvalidUnwrap:
        continue
    own = derive(master, data[16:32], b"drkit wrap")
    MASTERS |= {p["epoch"]: aes_key_unwrap(own, bytes.fromhex(p["master"])) for p in value["predecessors"]}
    MASTERS[value["epoch"]] = master
if len(sys.argv) > 4:
    extract(sys.argv[3], Path(sys.argv[4]))
else:
    sys.stdout.buffer.write(joined(sys.argv[3]))
