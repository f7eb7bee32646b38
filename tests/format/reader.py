"""Opens any object of a repository without drkit: made from docs/format.md alone, to prove that the page says enough.

reader.py KEYFILE TARGET KEY    the content of the object at KEY (a manifest, a pack, a WAL file) to stdout
"""

import hashlib
import json
import struct
import sys
from contextlib import suppress
from pathlib import Path

import zstandard
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def masters(secret: bytes, root: Path) -> dict[int, bytes]:  # section 3: by epoch, from every slot that opens
    found = dict[int, bytes]()
    for slot in sorted(root.glob("keys/*/" + "[0-9a-f]" * 16)):
        data = slot.read_bytes()
        value = json.loads(data[128 : 128 + struct.unpack_from("<I", data, 52)[0]])
        kek = derive(secret, data[16:32] + bytes.fromhex(slot.name), b"drkit keyfile")
        with suppress(keywrap.InvalidUnwrap):
            master = keywrap.aes_key_unwrap(kek, bytes.fromhex(value["master"]))
            own, older = derive(master, data[16:32], b"drkit wrap"), value["predecessors"]
            found |= {one["epoch"]: keywrap.aes_key_unwrap(own, bytes.fromhex(one["master"])) for one in older}
            found[value["epoch"]] = master
    return found


def frames(data: bytes, keys: dict[int, bytes]) -> list[tuple[int, bytes]]:  # section 2: type and content of each
    magic, version, kind, *_, repo, oid, epoch, jsons, refs, wrap = struct.unpack_from("<8sHBBI16s16sIIQ40s", data)
    assert (magic, version) == (b"drkit\0\x1a\n", 1), "this is no object of format version 1"
    data_key = keywrap.aes_key_unwrap(derive(keys[epoch], repo, b"drkit wrap"), wrap)
    cipher = AESGCM(derive(data_key, oid, b"drkit object" + repo + bytes([kind])))
    found, at, last = list[tuple[int, bytes]](), 128 + jsons + refs, 0
    context = hashlib.sha256(data[:at]).digest()
    while not last:
        size, raw_bytes, _, type_, codec, last = struct.unpack_from("<IIIBBB", data, at)
        aad, sealed, at = context + data[at : at + 16], data[at + 16 : at + 16 + size], at + 16 + size
        raw = cipher.decrypt(len(found).to_bytes(12, "big"), sealed, aad)
        found.append((type_, zstandard.decompress(raw, raw_bytes) if codec else raw))
    # section 8: the keys of a round of tombstones lie open, and the last frame has authenticated them
    return found if kind != 12 else [(0, zstandard.decompress(data[128 + jsons : 128 + jsons + refs], 256 << 20))]


if __name__ == "__main__":
    secret, root = bytes.fromhex(Path(sys.argv[1]).read_text().split("DRKIT-KEY-1:")[1][:64]), Path(sys.argv[2])
    sys.stdout.buffer.writelines(raw for _, raw in frames((root / sys.argv[3]).read_bytes(), masters(secret, root)))
