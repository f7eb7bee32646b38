"""A target: a backend with a name, a medium and a site; whole objects in and out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drkit.crypto.container import Sealed
from storage_backends.api import Key, ObjectInfo, StorageBackend


@dataclass(frozen=True, slots=True)
class Target:
    """Thread-safe as its backend is."""

    name: str
    backend: StorageBackend
    site: str
    medium: str

    @property
    def where(self) -> str:
        return f"target {self.name}, {self.backend.url}"

    def read(self, key: Key, start: int = 0, length: int | None = None) -> bytes:
        """An object's bytes, whole or a range; raises NotFound or what kept it from being read."""
        with self.backend.open(key, start, length) as reader:
            return reader.read()

    def write(self, key: Key, parts: Iterable[bytes], size_bytes: int) -> ObjectInfo:
        """Create an object; durable on return. Raises AlreadyExists, with the stored one untouched."""
        with self.backend.create(key, size_bytes) as upload:
            for part in parts:
                upload.write(part)
            return upload.commit()

    def put(self, key: Key, sealed: Sealed) -> ObjectInfo:
        return self.write(key, sealed.parts, sealed.size_bytes)
