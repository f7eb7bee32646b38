"""Gets every file of a backup out of a repository without drkit: upon `reader`, from docs/format.md alone.

python -m tests.format.extract KEYFILE TARGET MANIFEST FOLDER    into FOLDER, which need not be there
"""

import json
import struct
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tests.format.reader import frames, masters


class Backup:
    def __init__(self, secret: bytes, root: Path, manifest: str) -> None:
        self._root, self._cluster = root, manifest.split("/manifests/")[0]
        self._keys, self._manifest = masters(secret, root), manifest
        self._frames = cache(lambda key: frames((root / key).read_bytes(), self._keys))

    def _joined(self, key: str, wanted: int) -> bytes:
        return b"".join(raw for type_, raw in self._frames(key) if type_ == wanted)

    def _named(self, kind: str, oid: bytes) -> str:  # section 1: the key of a pack or map
        began = datetime.fromtimestamp(int.from_bytes(oid[:8], "big"), UTC)
        return f"{self._cluster}/{kind}/{began:%Y%m%dT%H%M%SZ}-{oid[8:12].hex()}/{oid[12:].hex()}"

    def _extent(self, map_id: bytes, index: int, chunk_bytes: int) -> bytes:  # section 5
        data, at, tables, out = self._joined(self._named("maps", map_id), 0), 16, list[Any](), b""
        for row, count in zip(("<16sI4x40s", "<Q4I", "<32s4I", "<4I"), struct.unpack_from("<4I", data), strict=True):
            tables.append(list(struct.iter_unpack(row, data[at : (at := at + count * struct.calcsize(row))])))
        packs, places, (_, _, length, first, count) = tables[0], tables[1], tables[2][index]
        for chunk, chunks, frame, offset in tables[3][first : first + count]:
            raw, size = b"", min(chunks * chunk_bytes, length - chunk * chunk_bytes)
            if frame != 0xFFFFFFFF:
                raw = self._frames(self._named("packs", packs[places[frame][1]][0]))[places[frame][2]][1]
            out += raw[offset : offset + size].ljust(size, b"\0")
        return out

    def extract(self, folder: Path) -> None:  # section 6
        head, maps, entries = (self._joined(self._manifest, type_) for type_ in (1, 2, 3))
        chunk_bytes, at = json.loads(head)["chunk_bytes"], 0
        while at < len(entries):
            type_, path_bytes, count = struct.unpack_from("<BxH80xI", entries, at)
            path, at = folder / entries[at + 88 : at + 88 + path_bytes].decode(), at + 88 + path_bytes
            places = list(struct.iter_unpack("<II", entries[at : (at := at + 8 * count)]))
            pieces = (self._extent(maps[16 * m :][:16], index, chunk_bytes) for m, index in places)
            path.mkdir(parents=True) if type_ == 2 else path.write_bytes(b"".join(pieces))


if __name__ == "__main__":
    key_file, target, manifest, folder = sys.argv[1:]
    secret = bytes.fromhex(Path(key_file).read_text().split("DRKIT-KEY-1:")[1][:64])
    Backup(secret, Path(target), manifest).extract(Path(folder))
