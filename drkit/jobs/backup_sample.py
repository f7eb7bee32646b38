"""Each backup rebuilds a sample of what it adopted: the next backup finds the damage, not the next restore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drkit.core.errors import DrkitError
from drkit.jobs.backup_files import ADOPTED, Files
from drkit.jobs.means import Means
from drkit.repository.content import ContentReader
from drkit.repository.layout import ClusterLayout
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.errors import StorageError

SAMPLE_EXTENTS = 4
_CACHE_BYTES = 16 << 20


def sample(files: Files, means: Means, count: int = SAMPLE_EXTENTS) -> list[tuple[bytes, int]]:
    """(map id, extent) of some adopted extents, drawn at random."""
    among = files.adopted_extents
    drawn = {int.from_bytes(means.entropy(8), "big") % among for _ in range(count if among else 0)}
    if not drawn:
        return []
    adopted = (extent for row in files if row.state & ADOPTED for extent in row.extents)
    return [extent for number, extent in enumerate(adopted) if number in drawn]


def spoiled(
    placed: Sequence[tuple[bytes, int]],
    targets: Iterable[Target],
    layout: ClusterLayout,
    chunk_bytes: int,
    means: Means,
) -> dict[str, str]:
    """Rebuild the sample from each target alone; returns what is wrong, by target. Empty: it is all sound.

    Every frame is authenticated and every extent's digest checked. Memory: one extent and its frames.
    """
    wrong: dict[str, str] = {}
    ring = means.repository.ring
    for target in targets:
        reader = ContentReader(
            ring,
            layout,
            Sources([target], layout, ring),
            chunk_bytes=chunk_bytes,
            frame_cache_bytes=_CACHE_BYTES,
            map_cache_bytes=_CACHE_BYTES,
        )
        try:
            for one in placed:
                means.token.check()
                reader.read([one])
        except (DrkitError, StorageError) as error:
            means.token.check()
            wrong[target.name] = str(error)
    return wrong
