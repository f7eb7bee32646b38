"""A target: a backend with a name, a medium and a site; whole objects in and out."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from drkit.crypto.container import Sealed
from storage_backends.api import Key, ObjectInfo, StorageBackend
from storage_backends.errors import StorageError

_FAR_BYTES = 64 << 10


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

    @property
    def far(self) -> bool:
        """Whether a request costs so much that it pays to have several under way."""
        return self.backend.traits.range_read_min_bytes >= _FAR_BYTES

    def prove(self) -> None:
        """Have the store asked early what the first create waits for; this does not wait, and errors come there."""
        prove = self.backend.traits.prove
        if prove is None:
            return

        def root() -> None:
            with suppress(StorageError):
                prove()

        threading.Thread(target=root, name=f"prove {self.name}", daemon=True).start()

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
