"""Rounds of tombstones on one target, each with when it was stored (docs/format.md, section 8).

The keys lie open, as one Zstandard frame in the place of references: whoever can list a store knows the names of what
was there. The last frame authenticates them, so whoever deletes, adopts or brings something back reads with the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import zstandard

from drkit.core.errors import Damage, Failed
from drkit.crypto.container import open_object
from drkit.crypto.keys import Ring
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.names import place_of
from drkit.repository.scrub import examine
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import NotFound

MAX_NAMES_BYTES = 256 << 20
"""Of the keys of one round: a reader without the key cannot know who wrote it, and makes room for no more."""
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Round:
    """stored_at: by the target's clock · keys: of the objects that are to go."""

    key: Key
    stored_at: datetime
    keys: frozenset[str]


def read_rounds(target: Target, layout: ClusterLayout, ring: Ring) -> list[Round]:
    """All rounds, by key. Raises Damage where one does not open: nobody knows then what may still be used here.

    A round that vanishes while this reads was joined into another one: the listing begins anew.
    """
    return _each(target, layout, lambda key: read_round(target, key, ring))


def read_without_key(target: Target, layout: ClusterLayout, repository: bytes) -> frozenset[str]:
    """What has a tombstone, as all rounds say openly and their digests hold; nobody knows who wrote them.

    Good for telling what was expired from what was lost, and for leaving it away; whoever deletes, adopts or creates
    something needs `read_rounds`. Raises as that does.
    """

    def read(key: Key) -> frozenset[str]:
        place = place_of(key)
        if place is None:
            raise Damage("a round of tombstones has an impossible name", where=f"{target.where}: {key}")
        return unpack_names(examine(target, key, place, repository).references, f"{target.where}: {key}")

    return buried(_each(target, layout, read))


def _each(target: Target, layout: ClusterLayout, read: Callable[[Key], frozenset[str]]) -> list[Round]:
    for attempt in range(_ATTEMPTS):
        found = []
        try:
            for info in target.backend.list(layout.folder("tombstones")):
                found.append(Round(info.key, info.modified_at, read(info.key)))
            return found
        except NotFound:
            if attempt == _ATTEMPTS - 1:
                raise
    raise Damage("the rounds of tombstones change faster than they can be read", where=target.where)


def read_round(target: Target, key: Key, ring: Ring) -> frozenset[str]:
    """The keys of one round. Raises Damage, KeyMissing, NotFound and other StorageErrors."""
    opened = open_object(ring, target.read(key), kind=Kind.TOMBSTONE, name=key)
    return unpack_names(opened.references, f"{target.where}: {key}")


def pack_names(keys: Iterable[str]) -> bytes:
    """The open section's last part of a round. Memory: the keys. Raises Failed where they are more than one holds."""
    content = "".join(f"{key}\n" for key in sorted(set(keys))).encode("ascii")
    if len(content) > MAX_NAMES_BYTES:
        raise Failed("a round of tombstones cannot name so much", why=f"{len(content)} bytes of keys")
    return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(content)


def unpack_names(packed: bytes, where: str) -> frozenset[str]:
    """The keys of a round, from bytes of which nothing need be true: memory is bounded. Raises Damage."""
    try:
        size_bytes = zstandard.frame_content_size(packed)
        if not 0 <= size_bytes <= MAX_NAMES_BYTES:
            raise Damage("the keys of a round have an impossible size", where=where, why=f"{size_bytes} bytes")
        content = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size_bytes)
        return frozenset(content.decode("ascii").splitlines())
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise Damage("the keys of a round cannot be read", where=where, why=str(error)) from error


def buried(rounds: Sequence[Round]) -> frozenset[str]:
    """The keys of all objects that have a tombstone."""
    return frozenset[str]().union(*(one.keys for one in rounds))


def covered(rounds: Sequence[Round], by: datetime, empty_by: datetime) -> list[Key]:
    """Rounds that may be deleted: one that was stored later, and before `by`, names all that they name.

    `by` leaves who listed before the later one was there the time to read what they listed. empty_by: empty rounds
    keep an expirer from creating its own, and stay unless they were stored before that.
    """
    settled = sorted((one for one in rounds if one.stored_at < by), key=lambda one: (one.stored_at, one.key))
    gone = []
    for at, one in enumerate(settled):
        is_covered = any(one.keys <= later.keys for later in settled[at + 1 :])
        if is_covered and (one.keys or one.stored_at < empty_by):
            gone.append(one.key)
    return gone
