"""Maps and fingerprints read back from one target."""

from __future__ import annotations

from drkit.core.errors import Damage
from drkit.crypto.container import open_object
from drkit.crypto.keys import Ring
from drkit.pipeline.digests import Fingerprints
from drkit.pipeline.mapping import Map, decode
from drkit.pipeline.stager import decode_marks
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.target import Target
from storage_backends.api import Key


def load_map(ring: Ring, target: Target, layout: ClusterLayout, map_id: bytes) -> Map:
    """A map by its object id (16 bytes), opened and checked; raises Damage, KeyMissing or a StorageError."""
    key = layout.data(Kind.MAP, map_id)
    return open_map(ring, target.read(key), key, map_id, target.where)


def open_map(ring: Ring, data: bytes, key: Key, map_id: bytes, where: str) -> Map:
    """A map from the bytes of its object, checked; raises Damage or KeyMissing. where: the target, for messages."""
    opened = open_object(ring, data, kind=Kind.MAP, name=key, object_id=map_id)
    return decode(opened.joined(), f"{where}: {key}")


def load_marks(ring: Ring, target: Target, layout: ClusterLayout, map_id: bytes) -> list[Fingerprints]:
    """The fingerprints that belong to a map, one array for each of its extents."""
    key = layout.data(Kind.FINGERPRINTS, map_id)
    opened = open_object(ring, target.read(key), kind=Kind.FINGERPRINTS, name=key, object_id=map_id)
    try:
        return decode_marks(opened.joined())
    except (ValueError, IndexError) as error:
        raise Damage("fingerprints are not as the format says", where=f"{target.where}: {key}") from error
