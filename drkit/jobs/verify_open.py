"""With the key: what is stored must also open. The small kinds always, the bulk where a deep look is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from drkit.core.errors import Damage, DrkitError, KeyMissing
from drkit.crypto.container import open_object
from drkit.crypto.keys import Ring
from drkit.engines.postgres.timeline import parse_history
from drkit.engines.postgres.wal import WalKind, WalNameError, check_segment, parse_name
from drkit.pipeline.mapping import decode
from drkit.repository.layout import Kind
from drkit.repository.names import Place
from drkit.repository.scrub import Fault, Sound, Unsound, kind_in
from drkit.repository.target import Target
from drkit.repository.wal import open_wal
from storage_backends.api import Key

_ARCHIVED = (Kind.WAL, Kind.HISTORY, Kind.QUARANTINE)


@dataclass(frozen=True, slots=True)
class Opening:
    """deep: the bulk too. Thread-safe. Memory: an object, or a frame of WAL, for each thread."""

    ring: Ring
    deep: bool

    def check(self, target: Target, key: Key, place: Place, found: Sound) -> None:
        """Raises Unsound where an object whose digest holds does not open; StorageErrors as reads do.

        What is sealed under a key epoch that nobody here holds cannot be opened and is passed over.
        """
        if found.header is None or place.kind is None or (place.bulk and not self.deep):
            return
        try:
            if place.kind in _ARCHIVED:
                self._archived(target, key, place)
                return
            opened = open_object(
                self.ring, target.read(key), kind=kind_in(place), name=key, object_id=_object_id(place, found)
            )
            if place.kind is Kind.MAP:
                decode(opened.joined(), key)
        except KeyMissing:
            return
        except DrkitError as error:
            where = f"{target.where}: {key}"
            raise Unsound(
                Fault.FLIPPED, f"its digest holds and it does not open: {error.what}", where=where, why=error.why
            ) from error

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
