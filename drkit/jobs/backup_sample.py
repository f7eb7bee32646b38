"""Each backup rebuilds a sample of what it adopted: the next backup finds the damage, not the next restore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drkit.core.errors import DrkitError
from drkit.jobs.backup_copy import FileCopy
from drkit.jobs.means import Means
from drkit.pipeline.stager import Placed
from drkit.repository.content import ContentReader
from drkit.repository.layout import ClusterLayout
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.errors import StorageError

SAMPLE_EXTENTS = 4
_CACHE_BYTES = 16 << 20


def sample(copies: Iterable[FileCopy], means: Means, count: int = SAMPLE_EXTENTS) -> list[Placed]:
    """Some adopted extents, drawn at random."""
    adopted = [placed for copy in copies if copy.adopted for placed in copy.placed.values()]
    drawn = (int.from_bytes(means.entropy(8), "big") % len(adopted) for _ in range(count if adopted else 0))
    return [adopted[at] for at in sorted(set(drawn))]


def spoiled(
    placed: Sequence[Placed], targets: Iterable[Target], layout: ClusterLayout, chunk_bytes: int, means: Means
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
                reader.read([(one.map_id, one.index)])
        except (DrkitError, StorageError) as error:
            means.token.check()
            wrong[target.name] = str(error)
    return wrong
