"""With the key: what is stored must also open. The small kinds always, the bulk where a deep look is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drkit.core.errors import Damage, DrkitError, KeyMissing
from drkit.core.scratch import Scratch
from drkit.crypto.container import authenticate_object, open_object
from drkit.crypto.keys import Ring
from drkit.engines.postgres.timeline import parse_history
from drkit.engines.postgres.wal import WalKind, WalNameError, check_segment, parse_name
from drkit.pipeline.mapping import decode
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.manifest_open import open_manifest
from drkit.repository.names import Place
from drkit.repository.scrub import Count, Fault, Sound, Unsound, examine, kind_in, uncounted
from drkit.repository.target import Target
from drkit.repository.wal import open_wal
from storage_backends.api import Key

_ARCHIVED = (Kind.WAL, Kind.HISTORY, Kind.QUARANTINE)


@dataclass(frozen=True, slots=True)
class Opening:
    """deep: the bulk too. Thread-safe. Memory: an object, or a frame of WAL or of a manifest, for each thread."""

    ring: Ring
    deep: bool

    def look(self, target: Target, key: Key, place: Place, repository: bytes, count: Count = uncounted) -> Sound:
        """Read an object whole, as `examine` does, and open what was read.

        Raises Unsound also where its digest holds and it does not open; StorageErrors as reads do. What is sealed
        under a key epoch that nobody here holds cannot be opened and is passed over.
        """
        data, sealed = bytearray(), Scratch()
        opens = place.kind is not None and (self.deep or not place.bulk)
        collects = opens and place.kind not in _ARCHIVED
        take: Callable[[bytes], object] = sealed.append if place.kind is Kind.MANIFEST else data.extend
        found = examine(target, key, place, repository, count=count, take=take if collects else None)
        if found.header is None or not opens:
            return found
        try:
            if place.kind in _ARCHIVED:
                self._archived(target, key, place)
            elif place.kind is Kind.MANIFEST and place.system is not None:
                open_manifest(self.ring, sealed, ClusterLayout(place.system), RunId.parse(place.last))
            else:
                self._open(data, key, place, found)
        except KeyMissing:
            return found
        except DrkitError as error:
            where = f"{target.where}: {key}"
            raise Unsound(
                Fault.FLIPPED, f"its digest holds and it does not open: {error.what}", where=where, why=error.why
            ) from error
        return found

    def _open(self, data: bytearray, key: Key, place: Place, found: Sound) -> None:
        """The frames of a pack are proven, and decompressed where a backup's files are rebuilt: they may be a GiB."""
        ident = _object_id(place, found)
        if place.kind is Kind.PACK and ident is not None:
            authenticate_object(self.ring, data, kind=kind_in(place), name=key, object_id=ident)
            return
        opened = open_object(self.ring, bytes(data), kind=kind_in(place), name=key, object_id=ident)
        if place.kind is Kind.MAP:
            decode(opened.joined(), key)

    def _archived(self, target: Target, key: Key, place: Place) -> None:
        file = place.last if place.kind is not Kind.QUARANTINE else place.last.rpartition("-")[0]
        whole = bytearray()
        with open_wal(self.ring, target, key, Kind(kind_in(place))) as found:
            try:
                name = parse_name(file, found.facts.segment_bytes)
            except WalNameError as error:
                raise Damage("its name is none of this segment size", where=key, why=str(error)) from error
            segment = name.kind in (WalKind.SEGMENT, WalKind.PARTIAL) and place.kind is Kind.WAL
            for number, piece in enumerate(found.pieces()):
                if number == 0 and segment:
                    check_segment(piece, name, found.facts.size_bytes, place.system)
                if name.kind is WalKind.HISTORY:
                    whole += piece
        if name.kind is WalKind.HISTORY:
            parse_history(name.timeline, bytes(whole))


def _object_id(place: Place, found: Sound) -> bytes | None:
    """Of kinds that have no name in their JSON."""
    return place.object_id if not found.json else None
