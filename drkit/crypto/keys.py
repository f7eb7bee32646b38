"""The key hierarchy of docs/format.md, section 3: master keys by epoch, a lifetime key, and what is derived of them."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import google_crc32c
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from drkit.core.errors import KeyMissing

KEY_BYTES = 32
WRAP_BYTES = 40
_FILE_PREFIX = "DRKIT-KEY-1"

Entropy = Callable[[int], bytes]
"""Gives n random bytes fit for keys; `os.urandom` in production."""


def derive(ikm: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(ikm)


def wrap(kek: bytes, key: bytes) -> bytes:
    """AES key wrap (RFC 3394): deterministic, 40 bytes for a 32-byte key."""
    return aes_key_wrap(kek, key)


def unwrap(kek: bytes, wrapped: bytes) -> bytes | None:
    """The wrapped key, or None where `kek` is not the one that wrapped it (or the bytes were changed)."""
    try:
        return aes_key_unwrap(kek, wrapped)
    except (InvalidUnwrap, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Ring:
    """All keys of one repository that a slot opened. Immutable; `repr` shows no secret.

    repository: 16 bytes · masters: epoch -> 32 bytes · lifetime: 32 bytes.
    """

    repository: bytes
    masters: Mapping[int, bytes] = field(repr=False)
    lifetime: bytes = field(repr=False)

    @property
    def epoch(self) -> int:
        """The newest epoch: the one that new objects are sealed under."""
        return max(self.masters)

    def master(self, epoch: int) -> bytes:
        """Raises KeyMissing where no opened slot leads to this epoch."""
        try:
            return self.masters[epoch]
        except KeyError:
            raise KeyMissing(
                f"the key of epoch {epoch} is not known here",
                why=f"the slots that this key opens lead to the epochs {sorted(self.masters)}",
                cure="was the repository's key rotated? use a key file that opens the newest slot",
            ) from None

    def _from_master(self, epoch: int, label: str) -> bytes:
        return derive(self.master(epoch), salt=self.repository, info=label.encode())

    def wrap_key(self, epoch: int) -> bytes:
        return self._from_master(epoch, "drkit wrap")

    def wal_key(self, epoch: int) -> bytes:
        return self._from_master(epoch, "drkit wal")

    def successor_key(self, epoch: int) -> bytes:
        return self._from_master(epoch, "drkit successor")

    def key_id(self, epoch: int) -> str:
        return self._from_master(epoch, "drkit key id")[:8].hex()

    @property
    def fingerprint_key(self) -> bytes:
        return derive(self.lifetime, salt=self.repository, info=b"drkit fingerprint")

    @property
    def identity_key(self) -> bytes:
        return derive(self.lifetime, salt=self.repository, info=b"drkit identity")


def object_cipher(ring_repository: bytes, data_key: bytes, object_id: bytes, kind: int) -> AESGCM:
    """The cipher of one object; its nonces are frame numbers."""
    info = b"drkit object" + ring_repository + bytes([kind])
    return AESGCM(derive(data_key, salt=object_id, info=info))


def format_key_file(secret: bytes, comment: str) -> str:
    """The text of a key file: comment lines, then `DRKIT-KEY-1:<hex>:<CRC-32C>`."""
    lines = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*lines, f"{_FILE_PREFIX}:{secret.hex()}:{google_crc32c.value(secret):08x}", ""])


def parse_key_file(text: str, where: str) -> bytes:
    """The 32 bytes of a key file; raises KeyMissing naming `where` and what is wrong, never the content."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    cure = "the file holds one line DRKIT-KEY-1:<64 hex digits>:<8 hex digits>; `drkit key new` makes one"
    if len(lines) != 1 or lines[0].count(":") != 2 or not lines[0].upper().startswith(_FILE_PREFIX):
        raise KeyMissing("this is not a drkit key file", where=where, cure=cure)
    _, digits, check = lines[0].split(":")
    try:
        secret = binascii.unhexlify(digits)
    except (binascii.Error, ValueError):
        raise KeyMissing("the key is not hex", where=where, cure=cure) from None
    if len(secret) != KEY_BYTES or f"{google_crc32c.value(secret):08x}" != check.lower():
        raise KeyMissing(
            "the key file is damaged or mistyped",
            where=where,
            why="its length or check digits are wrong",
            cure="compare it with the copy that you keep elsewhere",
        )
    return secret
