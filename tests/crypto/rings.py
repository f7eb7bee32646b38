"""Keys and randomness that are the same in every run of a test."""

from __future__ import annotations

import random

from drkit.crypto.container import DataKey, Sealed, Writer, canonical
from drkit.crypto.keys import Entropy, Ring

REPOSITORY = bytes(range(16))


def seeded(seed: int) -> Entropy:
    """Reproducible bytes in place of the system's randomness."""
    return random.Random(seed).randbytes


def ring(*epochs: int, seed: int = 1, repository: bytes = REPOSITORY) -> Ring:
    """A ring of the given epochs (1 where none is named)."""
    draw = seeded(seed)
    lifetime = draw(32)
    return Ring(repository, {epoch: draw(32) for epoch in epochs or (1,)}, lifetime)


def writer(kind: int, object_id: bytes, name: str = "", references: bytes = b"", *, keys: Ring | None = None) -> Writer:
    """Begin an object under a data key that `object_id` decides."""
    key = DataKey(keys or ring(), seeded(int.from_bytes(object_id, "big")))
    return key.writer(kind, object_id, canonical({"name": name}) if name else b"", references)


def finished(made: Writer) -> bytes:
    sealed: Sealed = made.finish()
    return sealed.joined()
